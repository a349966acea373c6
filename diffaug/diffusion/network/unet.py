"""A class-conditional UNet behind space-to-depth, for any image size."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import silu

from diffaug.diffusion.process.process import SIGMA_DATA

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)

MAX_GROUP_CHANNELS = 16
FOURIER_FEATURES = 64
HEAD_CHANNELS = 32
NUM_CONDITIONS = 9  # numbers that describe how an image was augmented, see `training.augmentation`


@dataclass(frozen=True)
class NetworkConfig:
    """The shape of a UNet.

    Attributes:
        image_size: Height and width in px; any, padded inside.
        channels: 1 gray, 3 RGB, 4 with an alpha channel.
        num_classes: Without the null class that stands for "no label".
        patch: Side of the squares that space-to-depth folds into channels; 1 folds nothing.
        channel_multipliers: Width of each level as a multiple of `base_channels`.
        blocks: Residual blocks per level on the way down; one more on the way up.
        conditions: Numbers that describe how an image was augmented; 0 without non-leaky augmentation.
        architecture: A UNet, or the `LocalNetwork` of one level that is conditioned on an image.
        noise_scale: Factor on the noise levels, see `noise_scale_of`.
    """

    image_size: tuple[int, int]
    channels: int
    num_classes: int
    patch: int
    base_channels: int
    channel_multipliers: tuple[int, ...]
    blocks: int
    dropout: float
    conditions: int = 0
    objective: str = "edm"
    architecture: Literal["unet", "local"] = "unet"
    noise_scale: float = 1.0

    @property
    def null_label(self) -> int:
        """The label that means "no label"."""
        return self.num_classes

    @property
    def stride(self) -> int:
        """Heights and widths are padded to a multiple of this."""
        return self.patch * int(2 ** (len(self.channel_multipliers) - 1))


class NoiseEmbedding(nn.Module):
    """Fourier features of the noise level, the class and the augmentation, joined by a two-layer network."""

    frequencies: Tensor

    def __init__(self, num_labels: int, conditions: int, width: int) -> None:
        super().__init__()
        frequencies = torch.exp(torch.linspace(math.log(0.5), math.log(200.0), FOURIER_FEATURES // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.noise = nn.Linear(FOURIER_FEATURES, width)
        self.label = nn.Embedding(num_labels, width)
        self.conditions = nn.Linear(conditions, width, bias=False) if conditions else None
        self.join = nn.Linear(width, width)

    def forward(self, c_noise: Tensor, labels: Tensor, conditions: Tensor | None) -> Tensor:
        """(N,), (N,) and (N, conditions) to (N, width); no conditions mean an image that was not augmented."""
        angles = c_noise[:, None] * self.frequencies
        features = torch.cat([angles.cos(), angles.sin()], dim=1)
        with torch.autocast(features.device.type, enabled=False):  # cheap, and coarse steps of the noise level hurt
            hidden = self.noise(features) + self.label(labels)
            if self.conditions is not None and conditions is not None:
                hidden = hidden + self.conditions(conditions)
            joined: Tensor = self.join(silu(hidden))
        return silu(joined)


class Dropout(nn.Module):
    """Element-wise dropout that on a CPU draws eight masks from one random number.

    torch draws one number per element, in one thread: a quarter of the training time at 8 px. The probability is
    rounded to a multiple of 1/256 below 1.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.dropped = min(255, round(256 * probability))

    def forward(self, x: Tensor) -> Tensor:
        """Sets elements to 0 in training and scales the others up; x is dense, of any shape."""
        if not (self.training and self.dropped):
            return x
        if x.is_cuda:
            return functional.dropout(x, self.dropped / 256)
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.uint8).as_strided(x.shape, x.stride()) >= self.dropped
        return x * (kept.to(x.dtype) * (256 / (256 - self.dropped)))


class ResidualBlock(nn.Module):
    """Two convolutions beside the identity; scaled and shifted between them by noise level and class (FiLM)."""

    def __init__(self, channels: int, dropout: float, norm: Callable[..., nn.Module] | None = None) -> None:
        super().__init__()
        norm = norm or _group_norm
        self.norm1 = norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = norm(channels, affine=False)
        self.dropout = Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor, film: Tensor) -> Tensor:
        """(N, C, h, w) and scale and shift (N, 2C, 1, 1) to (N, C, h, w)."""
        hidden = self.conv1(silu(self.norm1(x)))
        scale, shift = film.chunk(2, dim=1)
        hidden = silu(torch.addcmul(shift, self.norm2(hidden), 1 + scale))
        result: Tensor = x + self.conv2(self.dropout(hidden))
        return result


class SelfAttention(nn.Module):
    """Multi-head self-attention over all positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        most = max(1, channels // HEAD_CHANNELS)
        self.heads = max(heads for heads in range(1, most + 1) if channels % heads == 0)
        self.norm = _group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to the same shape."""
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).flatten(2).reshape(batch, 3, self.heads, channels // self.heads, height * width)
        query, key, value = qkv.transpose(3, 4).unbind(1)
        attended = functional.scaled_dot_product_attention(query, key, value)
        attended = attended.transpose(2, 3).reshape(batch, channels, height, width)
        result: Tensor = x + self.out(attended)
        return result


class FrequencySkip(nn.Module):
    """How much of each spatial frequency of a patch the mean takes from the noisy image, by noise level and class.

    EDM takes the share c_skip of all of x and lets the network add the rest (Karras et al. 2022, arXiv 2206.00364,
    eq. 7). A network narrower than a patch can't take the noise out of every frequency again. Here it can: the mean is
    c_skip (1 - g) x + c_out F with a gain g per frequency of the patch's cosine transform. 1 predicts the clean image
    directly (Li & He 2025, arXiv 2511.13720). For stationary Gaussian data the best linear denoiser within patches, a
    Wiener filter, is one of these.
    """

    transform: Tensor

    def __init__(self, config: NetworkConfig, embedding: int) -> None:
        super().__init__()
        self.channels = config.channels
        self.register_buffer("transform", cosine_transform(config.patch), persistent=False)
        self.gain = zeroed(nn.Linear(embedding, config.channels * config.patch**2))

    def forward(self, folded: Tensor, embedding: Tensor, c_noise: Tensor) -> Tensor:
        """What the skip adds to the output F, of folded c_in x (N, C P^2, h, w), in the same shape; 0 if untrained.

        With c_noise = ln(sigma) / 4, -g c_skip x / c_out is -g c_in x sigma_data / sigma.
        """
        batch, _, height, width = folded.shape
        with torch.autocast(folded.device.type, enabled=False):
            gains = self.gain(embedding.float()) * (-SIGMA_DATA * torch.exp(-4 * c_noise.float()))[:, None]
            side = len(self.transform)
            patches = folded.float().reshape(batch, self.channels, side, side, height, width)
            spectrum = _transformed(patches, self.transform)
            scaled = spectrum * gains.reshape(batch, self.channels, side, side, 1, 1)
            result = _transformed(scaled, self.transform.T)
        return result.reshape(folded.shape)


class UNet(nn.Module):
    """The network: noisy image, noise level and class in; two image-shaped values out, for mean and variance."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.base_channels * multiplier for multiplier in config.channel_multipliers]
        embedding = 2 * config.base_channels
        values = config.channels * config.patch**2

        block = partial(ResidualBlock, dropout=config.dropout)
        self.embedding = NoiseEmbedding(config.num_classes + 1, config.conditions, embedding)
        self.stem = nn.Conv2d(values, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        for level, width in enumerate(widths):
            if level:
                self.down.append(nn.Conv2d(widths[level - 1], width, 3, stride=2, padding=1))
            self.down.extend(block(width) for _ in range(config.blocks))
        self.middle1, self.attention, self.middle2 = block(widths[-1]), SelfAttention(widths[-1]), block(widths[-1])
        self.up = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            self.up.extend(block(width) for _ in range(config.blocks + 1))
            if level:
                # Convolving before the enlargement costs a quarter of convolving after it.
                self.up.append(nn.Conv2d(width, widths[level - 1], 3, padding=1))
        # One product for all blocks, in the order in which they are used, is faster than one for each.
        self.film_channels = [2 * part.conv1.out_channels for part in self.modules() if isinstance(part, ResidualBlock)]
        self.film = nn.Linear(embedding, sum(self.film_channels))
        self.norm = _group_norm(widths[0])
        self.head = zeroed(nn.Conv2d(widths[0], 2 * values, 3, padding=1))
        # What noise level and class alone tell, which is most of what there is to know of the variance.
        self.offset = zeroed(nn.Linear(embedding, 2 * config.channels))
        # No more channels than are folded can't carry all of the noise; what they miss would stay in the samples.
        self.skip = FrequencySkip(config, embedding) if values >= widths[0] else None

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor, conditions: Tensor | None = None) -> Tensor:
        """For arguments see `Denoiser`; returns (N, 2C, H, W), 0 for an untrained network."""
        height, width = x.shape[-2:]
        patches = folded(padded(x, self.config.stride), self.config.patch)
        embedding = self.embedding(c_noise, labels, conditions)
        films = iter(self.film(embedding)[:, :, None, None].split(self.film_channels, dim=1))
        hidden = self.stem(patches)
        skips = [hidden]
        for layer in self.down:
            hidden = layer(hidden, next(films)) if isinstance(layer, ResidualBlock) else layer(hidden)
            skips.append(hidden)
        hidden = self.middle2(self.attention(self.middle1(hidden, next(films))), next(films))
        for layer in self.up:
            if isinstance(layer, ResidualBlock):
                # The mean instead of both side by side: half the work of the convolution that follows.
                hidden = layer(torch.lerp(hidden, skips.pop(), 0.5), next(films))
            else:
                hidden = layer(hidden)
                # Autocast enlarges in float32 on CUDA, and `lerp` takes no two dtypes.
                hidden = functional.interpolate(hidden, scale_factor=2.0, mode="nearest").to(hidden.dtype)
        hidden = self.head(silu(self.norm(hidden)))
        if self.skip is not None:
            mean, log_variance = hidden.chunk(2, dim=1)
            hidden = torch.cat([mean + self.skip(patches, embedding, c_noise), log_variance], dim=1)
        unfolded = functional.pixel_shuffle(hidden, self.config.patch)[..., :height, :width]
        result: Tensor = unfolded + self.offset(embedding)[:, :, None, None]
        return result


def _transformed(patches: Tensor, transform: Tensor) -> Tensor:
    """Rows and then columns of patches (N, C, P, P, h, w), one after the other since that takes fewer operations."""
    rows = torch.einsum("fi,ncijhw->ncfjhw", transform, patches)
    return torch.einsum("gj,ncfjhw->ncfghw", transform, rows)


def cosine_transform(side: int) -> Tensor:
    """The orthonormal DCT-II of this many values, (side, side): frequencies times positions."""
    positions = torch.arange(side, dtype=torch.float64)
    basis = torch.cos(math.pi / side * (positions + 0.5) * positions[:, None]) * math.sqrt(2 / side)
    basis[0] /= math.sqrt(2)
    return basis.float()


def padded(images: Tensor, multiple: int) -> Tensor:
    """Images (N, C, H, W) whose sides are multiples; what is added goes on as the last pixels do."""
    below, right = (-length % multiple for length in images.shape[-2:])
    return functional.pad(images, (0, right, 0, below), mode="replicate") if below or right else images


def folded(images: Tensor, patch: int) -> Tensor:
    """Space-to-depth: squares of `patch` px as channels."""
    return functional.pixel_unshuffle(images, patch).contiguous(memory_format=torch.channels_last)


def _group_norm(channels: int, *, affine: bool = True) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // MAX_GROUP_CHANNELS), channels, affine=affine)


def zeroed(layer: Layer) -> Layer:
    """Zero weights: every block begins as the identity, which steadies the first steps."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
