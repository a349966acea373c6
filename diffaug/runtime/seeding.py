"""Every random number is a function of (seed, purpose, index), so resuming needs a counter and no generator state."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, purpose: str, *index: int | str) -> int:
    """A 63-bit seed that is stable over machines, processes and Python versions."""
    text = "\x1f".join([str(seed), purpose, *map(str, index)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def numpy_generator(seed: int, purpose: str, *index: int | str) -> np.random.Generator:
    """A NumPy generator for one purpose."""
    return np.random.Generator(np.random.Philox(derive_seed(seed, purpose, *index)))


def torch_generator(seed: int, purpose: str, *index: int | str, device: str = "cpu") -> torch.Generator:
    """A torch generator for one purpose on `device`."""
    import torch

    return torch.Generator(device=device).manual_seed(derive_seed(seed, purpose, *index))


@contextmanager
def torch_global_seed(seed: int, purpose: str, *index: int | str) -> Iterator[None]:
    """Seeds torch's global generators, of the CPU and the current GPU, in the block; for initialization and dropout."""
    import torch

    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        derived = derive_seed(seed, purpose, *index)
        torch.default_generator.manual_seed(derived)
        if devices:
            torch.cuda.manual_seed(derived)  # `torch.manual_seed` would seed all GPUs, which nobody restores
        yield


def seed_worker(worker_id: int) -> None:
    """`worker_init_fn` for a DataLoader: gives NumPy and `random` a stream per worker and epoch."""
    import random

    import torch

    worker_seed = torch.initial_seed() % 2**32
    np.random.seed(worker_seed)  # noqa: NPY002  (the legacy global is what third-party transforms read)
    random.seed(worker_seed)
