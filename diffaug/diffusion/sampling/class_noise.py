"""The random numbers of sample i of class c, which depend on (seed, c, i) alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffaug.runtime import seeding


@dataclass(frozen=True)
class ClassNoise:
    """The noise of a batch of one class; that of image i depends on (seed, purpose, class, i) alone."""

    seed: int
    purpose: str
    class_index: int
    indices: Sequence[int]
    shape: tuple[int, int, int]
    device: torch.device

    def at(self, *step: int) -> Tensor:
        """The noise of step k, or without a step what sampling begins with; standard normal (N, C, H, W)."""
        streams = (seeding.numpy_generator(self.seed, self.purpose, self.class_index, i, *step) for i in self.indices)
        drawn = [stream.standard_normal(self.shape, dtype=np.float32) for stream in streams]
        return torch.from_numpy(np.array(drawn, np.float32).reshape(-1, *self.shape)).to(self.device)
