"""What the peers share: memory, sizes, precision and the order of a step; a library fills in the rest."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from diffaug.data.images import LabeledImages
from diffaug.runtime import seeding

TOLERANCE = 0.10
ROUND_WIDTH = 16
MAX_GRADIENT_NORM = 1.0
SAMPLED_TOGETHER = 100
PROBED_STEPS = 2

Candidate = tuple[int, Callable[[], nn.Module]]
"""Width of the first level, and what makes the network."""


@dataclass(frozen=True)
class Recipe:
    """Settings of one peer.

    Attributes:
        multipliers: Width of each level as a multiple of the first one's.
        learning_rate: Peak, or constant.
        batch_size: Images a step.
    """

    multipliers: tuple[int, ...]
    learning_rate: float
    batch_size: int


class Peer(ABC):
    """A library's network, loop and sampler on one set of images.

    Args:
        images: Square training images.
        recipe: Shape and optimiser settings.
        parameters: Size of the network, met within 10 %.
        device: `cpu` or `cuda`.
        seed: Decides initial weights and batches; noise and dropout are the library's own.
    """

    package: ClassVar[str]
    """What to install."""

    follows_budget: ClassVar[bool]
    """Whether the learning rate depends on the length of the training."""

    def __init__(self, images: LabeledImages, recipe: Recipe, *, parameters: int, device: str, seed: int = 0) -> None:
        self.recipe, self.device, self.classes = recipe, device, images.classes
        self.size, self.channels = images.pixels.shape[1], images.pixels.shape[-1]
        multiple = 2 ** (len(recipe.multipliers) - 1)
        self.padded_size = self.size + -self.size % multiple
        self._pixels = self._padded(torch.from_numpy(np.array(images.pixels)).permute(0, 3, 1, 2)).to(device)
        self._labels = torch.from_numpy(np.array(images.labels)).to(device)
        with seeding.torch_global_seed(seed, "peer weights"):
            self.width, self.network = _sized(self._candidates(), parameters)
        self.network.to(device)
        self.parameters = _count(self.network)
        self._random = seeding.torch_generator(seed, "peer batches")
        self._use_faster_layout()
        self._prepare()

    def step(self, progress: float = 0.5) -> None:
        """One training step, from drawing the batch to the moving average.

        Args:
            progress: Share of the training that has passed.
        """
        chosen = torch.randint(len(self._labels), (self.recipe.batch_size,), generator=self._random).to(self.device)
        self.network.train()
        with self._precision():
            loss = self._loss(self._pixels[chosen].float() / 255, self._labels[chosen])
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRADIENT_NORM)
        self._update(progress)

    @torch.no_grad()
    def evaluate(self, batch_size: int) -> None:
        """Runs the network once."""
        self.network.eval()
        x = torch.zeros(batch_size, self.channels, self.padded_size, self.padded_size, device=self.device)
        index = torch.zeros(batch_size, dtype=torch.int64, device=self.device)
        with self._precision():
            self._forward(x, index, index)

    @torch.no_grad()
    def sample(self, labels: NDArray[np.int64], steps: int) -> NDArray[np.uint8]:
        """Samples one image for each label with the averaged weights.

        Returns:
            uint8 (N, H, W, C).
        """
        batches = torch.split(torch.from_numpy(labels).to(self.device), SAMPLED_TOGETHER)
        with self._precision():
            images = torch.cat([self._sample(batch, steps).float() for batch in batches])
        margin = (self.padded_size - self.size) // 2
        inner = images[..., margin : margin + self.size, margin : margin + self.size]
        pixels = (inner.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        return np.ascontiguousarray(pixels.cpu().numpy())

    def _padded(self, pixels: Tensor) -> Tensor:
        before = (self.padded_size - self.size) // 2
        after = self.padded_size - self.size - before
        return functional.pad(pixels.float(), (before, after, before, after), mode="replicate").to(torch.uint8)

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast("cuda", torch.bfloat16) if self.device == "cuda" else nullcontext()

    def _use_faster_layout(self) -> None:
        formats = (torch.contiguous_format, torch.channels_last)
        self.network.to(memory_format=min(formats, key=self._seconds_in))

    def _seconds_in(self, layout: torch.memory_format) -> float:
        self.network.to(memory_format=layout)
        x = torch.zeros(self.recipe.batch_size, self.channels, self.padded_size, self.padded_size, device=self.device)
        index = torch.zeros(len(x), dtype=torch.int64, device=self.device)
        times = []
        for _ in range(1 + PROBED_STEPS):
            began = time.perf_counter()
            with self._precision():
                output = self._forward(x, index, index)
            output.square().mean().backward()  # type: ignore[no-untyped-call]
            if self.device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        self.network.zero_grad(set_to_none=True)
        return min(times[1:])

    @abstractmethod
    def _candidates(self) -> Iterator[Candidate]:
        """Networks of growing width."""

    @abstractmethod
    def _prepare(self) -> None:
        """Makes optimiser, moving average and noise process."""

    @abstractmethod
    def _forward(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """The network's output for (N, C, H, W), (N,) and (N,)."""

    @abstractmethod
    def _loss(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """The loss of images in [0, 1] (N, C, H, W)."""

    @abstractmethod
    def _update(self, progress: float) -> None:
        """Optimiser and moving average."""

    @abstractmethod
    def _sample(self, labels: Tensor, steps: int) -> Tensor:
        """Images in about [0, 1] (N, C, H, W)."""


def _sized(candidates: Iterable[Candidate], parameters: int) -> tuple[int, nn.Module]:
    """Of the candidates near enough to a number of parameters the one with the roundest width."""
    near: list[tuple[int, int, Candidate]] = []
    for width, make in candidates:
        with torch.device("meta"):
            distance = _count(make()) - parameters
        if abs(distance) <= TOLERANCE * parameters:
            near.append((-math.gcd(width, ROUND_WIDTH), abs(distance), (width, make)))
        if distance > 2 * parameters:
            break
    if not near:
        raise ValueError(f"no shape has {parameters} parameters within {TOLERANCE:.0%}")
    width, make = min(near, key=lambda one: one[:2])[-1]
    return width, make()


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
