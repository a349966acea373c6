"""What a device needs to compute fast, and what it can do."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def use_fast_kernels(device: str) -> None:
    """On CUDA, for the whole process: TF32 for float32 products, and the fastest convolution for each shape."""
    if device.startswith("cuda"):
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True


@contextmanager
def repeatable_kernels() -> Iterator[None]:
    """A block, or as a decorator a function, whose convolutions on CUDA are chosen by shape alone, not by timing."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before


@contextmanager
def full_float32() -> Iterator[None]:
    """A block in which float32 products are not rounded to TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def computes_in_bfloat16(device: str) -> bool:
    """Whether it is a GPU with fast convolutions in bfloat16; on a CPU only measuring tells."""
    return device.startswith("cuda") and torch.cuda.get_device_capability() >= (8, 0)


def free_bytes(device: str) -> float:
    """Memory of a GPU that is free for tensors; for a CPU, where they lie already, infinite."""
    if not device.startswith("cuda"):
        return math.inf
    return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
