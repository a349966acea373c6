"""All systems side by side: diffaug at about the size asked for, the peers at diffaug's size."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from measuring import random_images
from ours import Ours
from peers import PEERS, make_peer

SYSTEMS = (Ours.name, *PEERS)


class Contender(Protocol):
    """What the speed benchmarks time."""

    @property
    def parameters(self) -> int:
        """Size of the network."""

    def step(self, progress: float = 0.5) -> None:
        """One training step."""

    def evaluate(self, batch_size: int) -> None:
        """Runs the network once, without gradients."""

    def sample(self, labels: NDArray[np.int64], steps: int) -> NDArray[np.uint8]:
        """Samples one image for each label, uint8 (N, H, W, C)."""


def make_contenders(size: int, device: str, arguments: argparse.Namespace) -> dict[str, Contender]:
    """Every system for images of one size, diffaug first."""
    images = random_images(size)
    ours = Ours(images, parameters=arguments.parameters, batch_size=arguments.batch, device=device)
    made: dict[str, Contender] = {Ours.name: ours}
    for name in PEERS:
        made[name] = make_peer(name, images, parameters=ours.parameters, batch_size=arguments.batch, device=device)
    return made


def ratios(rows: Sequence[Mapping[str, Any]], speed: str) -> list[float]:
    """How many times faster diffaug is than the best peer, for each device and size.

    Args:
        rows: With `system`, `device`, `size` and the speed.
        speed: The column that counts.
    """
    cases = dict.fromkeys((row["device"], row["size"]) for row in rows)
    return [_ratio([row for row in rows if (row["device"], row["size"]) == case], speed) for case in cases]


def _ratio(rows: Sequence[Mapping[str, Any]], speed: str) -> float:
    ours = next(float(row[speed]) for row in rows if row["system"] == Ours.name)
    return ours / max(float(row[speed]) for row in rows if row["system"] != Ours.name)
