"""What every encoder does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Images = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]
"""Images uint8 (h, w, C) of any sizes, C being 1 or 3, such as an array (N, H, W, C) or the pictures of a catalog."""


class Encoder(Protocol):
    """Turns images into feature vectors, deterministically."""

    @property
    def name(self) -> str:
        """Names the network, its weights and how it is given images; part of the fingerprint of all made with it."""

    def features(self, images: Images) -> NDArray[np.float32]:
        """Images of any size to float32 (N, D)."""
