"""What an autoencoder does. The network belongs to a library, which an entry point names."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from diffaug.diffusion.latent.folder import AutoencoderFolder
from diffaug.errors import UsageError

ENTRY_POINT_GROUP = "diffaug.autoencoders"
"""Entry points are named as `_class_name` in `config.json`; they map (AutoencoderFolder, device) to an Autoencoder."""


class Encoded(NamedTuple):
    """The Gaussian distribution of the latents of images, each (N, C, h, w); no variance: latents are certain."""

    mean: Tensor
    log_variance: Tensor | None


class Autoencoder(Protocol):
    """A frozen network between images and latents, which is deterministic.

    Latents are scaled so that their deviation is about 1.
    """

    @property
    def image_channels(self) -> int:
        """1 gray, 3 RGB."""

    @property
    def latent_channels(self) -> int:
        """C of the latents."""

    @property
    def stride(self) -> int:
        """Side in px of the square that becomes one latent position. Image sides must be multiples of it."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def encode(self, images: Tensor) -> Encoded:
        """Images float (N, image_channels, H, W) in [-1, 1] to their latents (N, C, H / stride, W / stride)."""

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (N, C, h, w) to images float (N, image_channels, h * stride, w * stride), about in [-1, 1]."""


def open_autoencoder(folder: AutoencoderFolder, device: str) -> Autoencoder:
    """Loads an autoencoder to `device`.

    Raises:
        UsageError: Its class is unknown, or its files are not what they should be.
        MissingExtraError: The library that has the class is not installed.
    """
    opened: Autoencoder = require_known(folder).load()(folder, device)
    return opened


def require_known(folder: AutoencoderFolder) -> EntryPoint:
    """What opens an autoencoder of this class; a UsageError if the class is unknown."""
    points = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if folder.class_name not in points:
        what = f"the folder holds a {folder.class_name}, which is no autoencoder that diffaug can use"
        raise UsageError(what, where=folder.path, fix=f"give a folder of one of: {', '.join(sorted(points))}")
    return points[folder.class_name]
