"""Autoencoders of diffusers, read from the disk alone: safetensors, no downloads, no code of the folder."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from diffaug.diffusion.latent.autoencoder import Encoded
from diffaug.diffusion.latent.folder import AutoencoderFolder
from diffaug.errors import MissingExtraError, UsageError

EXTRA = "pretrained"
TILE = 512  # px; larger images are encoded and decoded in overlapping tiles by AutoencoderKL, so that memory is bounded
PROBE = 64  # px


class DiffusersAutoencoder(ABC):
    """What autoencoders of diffusers have in common; see `Autoencoder`."""

    def __init__(self, folder: AutoencoderFolder, device: str) -> None:
        self.module = _loaded(folder, device)
        config = self.module.config
        self.image_channels, self.latent_channels = _channels(config, folder)
        self.stride = self._stride(config)
        self.scale, self.shift = config.scaling_factor, config.shift_factor or 0.0
        _require_working(self, folder)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        device: torch.device = next(self.module.parameters()).device
        return device

    @abstractmethod
    def encode(self, images: Tensor) -> Encoded:
        """See `Autoencoder.encode`."""

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """See `Autoencoder.decode`."""
        decoded: Tensor = self.module.decode(latents / self.scale + self.shift).sample
        return decoded

    @abstractmethod
    def _stride(self, config: Any) -> int:
        """Pixels per latent, along each side."""


class KlAutoencoder(DiffusersAutoencoder):
    """AutoencoderKL: latents have a distribution (Rombach et al. 2022, arXiv 2112.10752)."""

    def __init__(self, folder: AutoencoderFolder, device: str) -> None:
        super().__init__(folder, device)
        self.module.tile_sample_min_size, self.module.tile_latent_min_size = TILE, TILE // self.stride
        self.module.enable_tiling()

    @torch.no_grad()
    def encode(self, images: Tensor) -> Encoded:
        """See `Autoencoder.encode`."""
        posterior = self.module.encode(images).latent_dist
        return Encoded((posterior.mean - self.shift) * self.scale, posterior.logvar + 2 * math.log(abs(self.scale)))

    def _stride(self, config: Any) -> int:
        return int(2 ** (len(config.block_out_channels) - 1))


class TinyAutoencoder(DiffusersAutoencoder):
    """AutoencoderTiny: latents are certain."""

    @torch.no_grad()
    def encode(self, images: Tensor) -> Encoded:
        """See `Autoencoder.encode`."""
        return Encoded((self.module.encode(images).latents - self.shift) * self.scale, None)

    def _stride(self, config: Any) -> int:
        return int(2 ** (len(config.encoder_block_out_channels) - 1))


def _loaded(folder: AutoencoderFolder, device: str) -> Any:
    """The module in float32 for inference; a UsageError unless the files are exactly its weights."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the hub's library is imported
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import diffusers
    except ImportError as error:
        raise MissingExtraError.of("diffusers", EXTRA) from error
    kind = getattr(diffusers, folder.class_name)
    try:
        with _without_warnings(diffusers.utils.logging):
            module, found = kind.from_pretrained(
                folder.path,
                local_files_only=True,
                use_safetensors=True,
                variant=folder.variant or None,
                output_loading_info=True,
            )
    except Exception as error:  # whatever a damaged file makes libraries raise
        reason = str(error).strip().partition("\n")[0]
        what = f"the autoencoder can't be loaded: {reason}"
        raise UsageError(what, where=folder.path, fix="copy the folder again, all files whole") from error
    wrong = sorted({*found["missing_keys"], *found["unexpected_keys"]})
    if wrong:
        what = f"the weights are not those of config.json: {len(wrong)} are missing or unknown, such as {wrong[0]}"
        raise UsageError(what, where=folder.path, fix="copy config.json and weights from the same model")
    with _without_warnings(diffusers.utils.logging):
        module = module.to(device=device, dtype=torch.float32, memory_format=torch.channels_last)
    return module.eval().requires_grad_(False)


@contextmanager
def _without_warnings(logging: Any) -> Iterator[None]:
    """A block in which diffusers does not warn of what is checked here, or is of no account."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _channels(config: Any, folder: AutoencoderFolder) -> tuple[int, int]:
    if config.in_channels not in (1, 3) or config.out_channels != config.in_channels:
        what = f"the autoencoder takes {config.in_channels} channels and makes {config.out_channels}"
        raise UsageError(what, where=folder.path, fix="give one of gray or RGB images")
    return config.in_channels, config.latent_channels


def _require_working(autoencoder: DiffusersAutoencoder, folder: AutoencoderFolder) -> None:
    """A UsageError if a gray image does not come back in its size and finite."""
    side = max(PROBE, 2 * autoencoder.stride)
    image = torch.zeros(1, autoencoder.image_channels, side, side, device=autoencoder.device)
    mean = autoencoder.encode(image).mean
    decoded = autoencoder.decode(mean)
    if decoded.shape != image.shape or not decoded.isfinite().all():
        what = f"an image of {side} px becomes latents {tuple(mean.shape[1:])} and then {tuple(decoded.shape[1:])}"
        finite = "" if decoded.isfinite().all() else ", not all of it finite"
        raise UsageError(
            f"{what}{finite}", where=folder.path, fix="give an autoencoder that makes images of equal size"
        )
