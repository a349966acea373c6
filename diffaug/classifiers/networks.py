"""Our own networks for small images."""

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

SMALL_CNN_WIDTHS = (24, 48, 96, 128)
AVERAGED_ABOVE_PX = 128
STRIDED_ABOVE_PX = 40
POOLED_AT_ONCE_ABOVE_PX = 20
RESNET_32_WIDTHS = (16, 32, 64)
RESNET_32_BLOCKS = 5

Backbone = Callable[[int, int, tuple[int, int]], nn.Module]
"""Makes a network from (channels, number of classes, (height, width)): float NCHW in [-1, 1] to logits (N, K)."""


def small_cnn(channels: int, num_classes: int, image_size: tuple[int, int]) -> nn.Sequential:
    """A plain convolutional network with about 0.17 M parameters and 2 to 13 M multiplications per image.

    Images above 128 px are averaged down first, and strided convolutions bring large ones to 21 to 40 px, so that the
    cost hardly depends on the size, which is at least 4 px.
    """
    size = min(image_size)
    layers: list[nn.Module] = []
    while size > AVERAGED_ABOVE_PX:
        layers.append(nn.AvgPool2d(2))
        size //= 2
    if size <= STRIDED_ABOVE_PX:
        layers.append(_activated_convolution(channels, SMALL_CNN_WIDTHS[0]))
    while size > STRIDED_ABOVE_PX:
        width = SMALL_CNN_WIDTHS[0] if size <= 2 * STRIDED_ABOVE_PX else SMALL_CNN_WIDTHS[0] // 2
        layers.append(_activated_convolution(channels, width, stride=2))
        channels, size = width, (size + 1) // 2
    for number, (inputs, outputs) in enumerate(pairwise(SMALL_CNN_WIDTHS)):
        if number or size > POOLED_AT_ONCE_ABOVE_PX:
            layers.append(nn.MaxPool2d(2))
        layers.append(_activated_convolution(inputs, outputs))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(SMALL_CNN_WIDTHS[-1], num_classes))


def resnet_32(channels: int, num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    """The CIFAR ResNet of He et al. 2016 (arXiv 1512.03385, section 4.2), n = 5, option A; images of any size."""
    layers: list[nn.Module] = [*_convolution(channels, RESNET_32_WIDTHS[0]), nn.ReLU(inplace=True)]
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
    """Two convolutions beside a shortcut without parameters: every second pixel, zeros for new channels (option A)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *_convolution(inputs, width, stride), nn.ReLU(inplace=True), *_convolution(width, width)
        )
        self.stride = stride
        self.new_channels = width - inputs

    def forward(self, images: Tensor) -> Tensor:
        """Float (N, inputs, H, W) to (N, width, H / stride, W / stride)."""
        before, after = self.new_channels // 2, self.new_channels - self.new_channels // 2
        shortcut = functional.pad(images[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, after))
        return functional.relu(self.residual(images) + shortcut)


def _activated_convolution(inputs: int, width: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(*_convolution(inputs, width, stride), nn.ReLU(inplace=True))


def _convolution(inputs: int, width: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width)
