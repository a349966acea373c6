"""Training images as latents, of which each step draws anew."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffaug.data.images import LabeledImages
from diffaug.diffusion.latent.autoencoder import Encoded
from diffaug.diffusion.latent.cache import LatentCache
from diffaug.diffusion.network.denoiser import objective_of
from diffaug.diffusion.network.unet import NetworkConfig
from diffaug.diffusion.process.ddpm import Ddpm
from diffaug.diffusion.process.edm import Edm
from diffaug.diffusion.process.normalization import MIN_STD, Decoded, Normalization
from diffaug.diffusion.sampling.framing import Framing
from diffaug.diffusion.training.batches import MAX_MEMORY_FRACTION, TrainingData, UnlabeledPart
from diffaug.runtime import seeding
from diffaug.runtime.devices import free_bytes
from diffaug.runtime.parallel import Progress


@dataclass(frozen=True, kw_only=True)
class LatentData(TrainingData):
    """The training images for a network that sees latents. Their pixels are not kept.

    Copies are looked for among latents, since decoding samples would take longer than the training between two checks.
    What is near there is near in pixels: the decoder is a smooth map, and the fraction of copies among real images, to
    which that of samples is compared, is measured in the same way.

    Attributes:
        latents: Of the images, float16 (N + U, *shape), on the device, or beside it if memory is short.
        mirrored: Of the mirrored images, if these are trained on, too.
        latent_normalization: Of the latents of the labeled images.
    """

    cache: LatentCache
    latents: Encoded
    mirrored: Encoded | None
    latent_normalization: Normalization

    @classmethod
    def encode(
        cls,
        images: LabeledImages,
        device: str,
        cache: LatentCache,
        *,
        unlabeled: UnlabeledPart | None = None,
        mirrored: bool = False,
        progress: Progress = lambda done, total: None,
    ) -> LatentData:
        """Encodes what the cache does not hold. Images with boxes are not supported."""
        assert images.boxes is None
        beside = TrainingData.of(images, "cpu", unlabeled=unlabeled)
        pixels = beside.pixels.numpy()
        latents = cache.encode(pixels, progress)
        flipped = cache.encode(pixels[:, :, ::-1], progress) if mirrored else None
        normalization = normalization_of(latents, len(images))
        columns = [column for one in (latents, flipped) if one for column in one if column is not None]
        if sum(column.nbytes for column in columns) <= MAX_MEMORY_FRACTION * free_bytes(device):
            latents, flipped = _to_device(latents, device), flipped and _to_device(flipped, device)
        return cls(
            pixels=beside.pixels.new_empty(0, *pixels.shape[1:]),
            labels=beside.labels.to(device),
            draw_probabilities=beside.draw_probabilities,
            normalization=beside.normalization,
            label_probabilities=beside.label_probabilities,
            num_labeled=beside.num_labeled,
            cache=cache,
            latents=latents,
            mirrored=flipped,
            latent_normalization=normalization,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents."""
        return self.cache.codec.latent_shape

    @property
    def is_on_device(self) -> bool:
        """Whether the latents lie there, too."""
        return self.latents.mean.device == self.device

    def clean_images(self, positions: Tensor, mirrored: Tensor | None, seed: int, step: int) -> Tensor:
        """Latents drawn from the distributions of images; see `TrainingData.clean_images`."""
        mean, log_variance = self._at(self.latents, positions)
        if mirrored is not None and self.mirrored is not None:
            others, chosen = self._at(self.mirrored, positions), mirrored.to(self.device)[:, None, None, None]
            mean = torch.where(chosen, others.mean, mean)
            if log_variance is not None and others.log_variance is not None:
                log_variance = torch.where(chosen, others.log_variance, log_variance)
        if log_variance is not None:
            randomness = seeding.torch_generator(seed, "latents", step, device=self.device.type)
            noise = torch.randn(mean.shape, generator=randomness, device=self.device)
            mean = mean + (log_variance / 2).exp() * noise
        return self.latent_normalization.normalize(mean)

    def to_network(self, pixels: Tensor) -> Tensor:
        """Images uint8 (N, H, W, C) to the normalized means of their latents, float32 (N, *shape)."""
        mean = self.cache.encode(pixels.cpu().numpy()).mean
        return self.latent_normalization.normalize(mean.to(self.device).float())

    def to_pixels(self, images: Tensor) -> Decoded:
        """Normalized latents (N, *shape) to images uint8 (N, H, W, C)."""
        return self.cache.codec.decode(self.latent_normalization.denormalize(images.float()))

    def compared(self, pixels: Tensor) -> Tensor:
        """See `TrainingData.compared`; here latents are compared."""
        return self.to_network(pixels)

    def compared_samples(self, images: Tensor, framing: Framing) -> Tensor:
        """The samples themselves; what is not finite is no copy of anything."""
        return images.nan_to_num()

    def objective(self, network: NetworkConfig) -> Edm | Ddpm:
        """What a network is trained for; latents have no pixel levels, which DDPM's likelihood would count."""
        return objective_of(network)

    def _at(self, encoded: Encoded, positions: Tensor) -> Encoded:
        """Float32 on the device at positions int64 (B,) on the CPU."""
        where = positions.to(encoded.mean.device)
        columns = (None if column is None else column[where].to(self.device).float() for column in encoded)
        return Encoded(*columns)  # type: ignore[arg-type]


def normalization_of(latents: Encoded, count: int) -> Normalization:
    """Mean and deviation per channel of the latents that the first `count` images may have."""
    mean = latents.mean[:count].float()
    centers = mean.mean(dim=(0, 2, 3), keepdim=True)
    variance = (mean - centers).square().mean(dim=(0, 2, 3))
    if latents.log_variance is not None:
        variance = variance + latents.log_variance[:count].float().exp().mean(dim=(0, 2, 3))
    deviation = np.maximum(variance.sqrt().double().numpy(), MIN_STD)
    return Normalization(tuple(centers.flatten().tolist()), tuple(deviation.tolist()))


def _to_device(encoded: Encoded, device: str) -> Encoded:
    return Encoded(*(None if column is None else column.to(device) for column in encoded))  # type: ignore[arg-type]
