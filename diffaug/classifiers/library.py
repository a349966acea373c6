"""Networks by name: our own, the CIFAR ResNet of the literature, torchvision's and timm's; nothing is downloaded."""

from __future__ import annotations

import copy
import difflib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffaug.classifiers.encoders import IMAGENET_MEAN, IMAGENET_STD
from diffaug.classifiers.fit import Backbone, small_cnn
from diffaug.classifiers.weights import load_weights
from diffaug.errors import MissingExtraError, UsageError

RESNET_32_WIDTHS = (16, 32, 64)
RESNET_32_BLOCKS = 5
SIDES = (16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 240, 256, 288, 300, 320, 384, 448, 512)
AUXILIARY_HEADS = {"inception_v3": ("AuxLogits.",), "googlenet": ("aux1.", "aux2.")}


def backbone_of(name: str, weights: Path | None = None) -> Backbone:
    """The network of a name, as something that can be pickled.

    Args:
        name: `small-cnn`, `resnet-32`, `torchvision/NAME` (classification models) or `timm/NAME`.
        weights: File of trained weights to begin with, `.safetensors`, `.pt` or `.pth`; none: random ones.

    Raises:
        UsageError: There is no network of this name, or no such file.
        MissingExtraError: timm is asked for and not installed.
    """
    if weights is not None and not weights.is_file():
        raise UsageError("there is no file of weights", where=weights, fix="set evaluation.checkpoint to a local file")
    library, _, model = name.partition("/")
    if library in ("torchvision", "timm") and model:
        import torchvision

        known = (
            torchvision.models.list_models(module=torchvision.models) if library == "torchvision" else _timm_models()
        )
        _require_known(name.partition(".")[0], [f"{library}/{other}" for other in known])
        return LibraryBackbone("torchvision" if library == "torchvision" else "timm", model, weights)
    _require_known(name, [*OWN, "torchvision/resnet18", "timm/resnet18"])
    return OWN[name] if weights is None else PretrainedBackbone(OWN[name], weights)


def resnet_32(channels: int, num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    """The CIFAR ResNet of He et al. 2016 (arXiv 1512.03385, section 4.2) with n = 5 and shortcuts of option A.

    Args:
        channels: 1 or 3.
        num_classes: Number of logits.
        image_size: Height and width in px; any, 32 in the paper.
    """
    layers: list[nn.Module] = [_convolution(channels, RESNET_32_WIDTHS[0]), nn.ReLU(inplace=True)]
    inputs = RESNET_32_WIDTHS[0]
    for width in RESNET_32_WIDTHS:
        for number in range(RESNET_32_BLOCKS):
            layers.append(ResidualBlock(inputs, width, stride=2 if width > inputs and not number else 1))
            inputs = width
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, num_classes))
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    return model


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut without parameters: every second pixel, new channels zero (option A).

    Args:
        inputs: Channels of the input.
        width: Channels of the output, at least `inputs`.
        stride: Of the first convolution and of the shortcut.
    """

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _convolution(inputs, width, stride), nn.ReLU(inplace=True), _convolution(width, width)
        )
        self.stride = stride
        self.new_channels = width - inputs

    def forward(self, images: Tensor) -> Tensor:
        """Float (N, inputs, H, W) to (N, width, H / stride, W / stride)."""
        before, after = self.new_channels // 2, self.new_channels - self.new_channels // 2
        shortcut = functional.pad(images[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, after))
        return functional.relu(self.residual(images) + shortcut)


def _convolution(inputs: int, width: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width))


OWN: dict[str, Backbone] = {"small-cnn": small_cnn, "resnet-32": resnet_32}


@dataclass(frozen=True)
class PretrainedBackbone:
    """A backbone that begins with the weights of a file.

    Attributes:
        backbone: Makes the network.
        weights: The file.
    """

    backbone: Backbone
    weights: Path

    def __call__(self, channels: int, num_classes: int, image_size: tuple[int, int]) -> nn.Module:
        """Makes the network.

        Raises:
            UsageError: The weights can't be read or are of another network.
        """
        model = self.backbone(channels, num_classes, image_size)
        load_weights(model, self.weights)
        return model


@dataclass(frozen=True)
class LibraryBackbone:
    """A model of torchvision or timm that takes grey and small images too.

    Attributes:
        library: Which of them.
        name: The model's name there.
        weights: File of weights of the model for RGB images, of any number of classes; none: random ones.
    """

    library: Literal["torchvision", "timm"]
    name: str
    weights: Path | None = None

    def __call__(self, channels: int, num_classes: int, image_size: tuple[int, int]) -> nn.Module:
        """Makes the network.

        Raises:
            UsageError: The weights can't be read or are of another network, or it takes images of no usual size.
        """
        model = self._rgb_model(num_classes)
        if self.weights is not None:
            load_weights(model, self.weights, ignored=AUXILIARY_HEADS.get(self.name, ()))
        if channels == 1:
            take_grey(model)
        size = least_size(model, channels, image_size, self.name)
        return PreparedNetwork(model, size, channels, imagenet=self.weights is not None)

    def _rgb_model(self, num_classes: int) -> nn.Module:
        if self.library == "timm":
            timm_model: nn.Module = _timm().create_model(self.name, pretrained=False, num_classes=num_classes)
            return timm_model
        import torchvision

        options = {"aux_logits": False, "init_weights": True} if self.name in AUXILIARY_HEADS else {}
        model: nn.Module = torchvision.models.get_model(self.name, weights=None, num_classes=num_classes, **options)
        return model


class PreparedNetwork(nn.Module):
    """A network behind what brings our images, in [-1, 1], to the size and range that it expects.

    Args:
        network: Float (N, C, h, w) to logits.
        size: (h, w) in px.
        channels: C, 1 or 3.
        imagenet: It expects images normalised by ImageNet's mean and deviation; for grey ones, by their averages.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, size: tuple[int, int], channels: int, *, imagenet: bool) -> None:
        super().__init__()
        self.network = network
        self.size = size
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        mean, std = (values.mean(dim=1, keepdim=True) if channels == 1 else values for values in (mean, std))
        self.register_buffer("scale", 0.5 / std if imagenet else torch.ones(()), persistent=False)
        self.register_buffer("shift", (0.5 - mean) / std if imagenet else torch.zeros(()), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Float (N, C, H, W) in [-1, 1] to logits (N, K)."""
        if images.shape[2:] != self.size:
            images = functional.interpolate(
                images, size=self.size, mode="bilinear", align_corners=False, antialias=True
            )
        logits: Tensor = self.network(images * self.scale + self.shift)
        return logits


def take_grey(model: nn.Module) -> None:
    """Makes a network for RGB images take grey ones, with the output that it has for them as three equal channels."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.in_channels == 3:
            layer.weight = nn.Parameter(layer.weight.detach().sum(dim=1, keepdim=True))
            layer.in_channels = 1
            return
    raise UsageError("the network has no convolution of RGB images", where=type(model).__name__)


def least_size(model: nn.Module, channels: int, image_size: tuple[int, int], name: str) -> tuple[int, int]:
    """The images' own size or, if the network can't take it, the next larger one, or one that it is bound to.

    Raises:
        UsageError: The network takes no size up to 512 px.
    """
    probe = copy.deepcopy(model).to("meta").eval()
    for size in _sizes(image_size):
        try:
            with torch.no_grad():
                probe(torch.zeros(2, channels, *size, device="meta"))
        except (RuntimeError, ValueError, AssertionError, TypeError):
            continue
        return size
    raise UsageError(f"the network takes no image of up to {SIDES[-1]} px", where=name)


def _sizes(image_size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    yield image_size
    height, width = image_size
    shorter = min(image_size)
    for side in SIDES:
        if side > shorter:
            yield round(height * side / shorter), round(width * side / shorter)
    yield from zip(SIDES, SIDES, strict=True)


def _require_known(name: str, known: list[str]) -> None:
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    raise UsageError(
        f"there is no classifier {name}" + (f"; near it are: {', '.join(near)}" if near else ""),
        where="evaluation.classifier",
        fix=f"choose {', '.join(OWN)}, features, torchvision/NAME or timm/NAME",
    )


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise MissingExtraError("timm is not installed", fix="pip install timm") from error


def _timm_models() -> list[str]:
    return list(_timm().list_models())
