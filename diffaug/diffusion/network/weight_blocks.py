"""All weights of a network in one block of memory.

Optimiser and moving average then touch one tensor instead of one for each layer; the many small operations took about a
tenth of a training step on a CPU.
"""

from __future__ import annotations

import torch
from torch import nn

ALIGNMENT = 16
"""Parameters begin at multiples of this many elements, 64 bytes in float32, as fast kernels want them."""


def join_weights(module: nn.Module) -> nn.Parameter:
    """Moves a module's parameters and their gradients into one block each, in which they stay.

    Values and memory formats are kept. Gradients must not be replaced from then on: zero them with
    `zero_grad(set_to_none=False)`.

    Args:
        module: On its device and in its memory format for good; all of one dtype, and all trained or none.

    Returns:
        The block (L,), zero between the parameters; its `grad` holds theirs, none where they are not trained.
    """
    parameters = list(module.parameters())
    starts = [0]
    for parameter in parameters:
        starts.append(starts[-1] - (-parameter.numel() // ALIGNMENT) * ALIGNMENT)
    block = nn.Parameter(parameters[0].new_zeros(starts[-1]), requires_grad=parameters[0].requires_grad)
    block.grad = torch.zeros_like(block) if block.requires_grad else None
    for parameter, start in zip(parameters, starts, strict=False):
        shape, strides = parameter.shape, parameter.stride()
        parameter.data = block.data.as_strided(shape, strides, start).copy_(parameter.data)
        if block.grad is not None:
            parameter.grad = block.grad.as_strided(shape, strides, start)
    return block
