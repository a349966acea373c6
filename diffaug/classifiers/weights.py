"""Trained weights from a local file, for a network to begin with; nothing but tensors is read from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from diffaug.errors import UsageError


def load_weights(model: nn.Module, path: Path, ignored: tuple[str, ...] = ()) -> None:
    """Gives a network the weights of a file; its last layer stays random where the file is of other classes.

    Args:
        model: Changed in place.
        path: `.safetensors`, or what torch saved of a state dict.
        ignored: Beginnings of names of weights in the file that are not needed.

    Raises:
        UsageError: The file can't be read, or is of another network.
    """
    own = model.state_dict()
    read = {name: tensor for name, tensor in read_weights(path).items() if not name.startswith(ignored)}
    differing = {name for name in own.keys() & read.keys() if own[name].shape != read[name].shape}
    head_tensors = {id(parameter) for parameter in last_layer(model).parameters()}
    head = {name for name, parameter in model.named_parameters() if id(parameter) in head_tensors}
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    wrong = sorted((own.keys() ^ read.keys()) - counters | differing - head)
    if wrong:
        raise UsageError(
            f"these weights are of another network: {len(wrong)} of its tensors are missing, unknown or of another "
            f"shape, the first of them {wrong[0]}",
            where=path,
            fix="name the network they were trained for in evaluation.classifier, or leave out evaluation.checkpoint",
        )
    dropped = head if differing else set()
    model.load_state_dict({name: tensor for name, tensor in read.items() if name not in dropped}, strict=False)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name, from a file in which nothing but tensors is read.

    Raises:
        UsageError: It is no such file.
    """
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged pickle raises is not to be foreseen
        raise UsageError(
            "this is no file of weights that can be read safely", where=path, fix="save model.state_dict() alone"
        ) from error
    tensors = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise UsageError(
            "this file holds more than the weights of a network", where=path, fix="save model.state_dict() alone"
        )
    return dict(tensors)


def last_layer(model: nn.Module) -> nn.Module:
    """The last linear layer, in the order in which layers were registered; without one, the last convolution.

    Raises:
        UsageError: There is neither.
    """
    for kind in (nn.Linear, nn.Conv2d):
        layers = [layer for layer in model.modules() if isinstance(layer, kind)]
        if layers:
            return layers[-1]
    raise UsageError("the network has no linear layer", where=type(model).__name__, fix="set evaluation.finish to none")
