"""What a device needs to compute fast."""

from __future__ import annotations

import torch


def use_fast_kernels(device: str) -> None:
    """On CUDA: TF32 for float32 products, and the fastest convolution for each shape, of which there are few.

    Both are settings of the whole process; results differ in the last digits, as they do from GPU to GPU.
    """
    if device.startswith("cuda"):
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
