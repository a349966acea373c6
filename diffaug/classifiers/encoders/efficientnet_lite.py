"""EfficientNet-Lite0, a small network for mobile devices, as it was published by the authors of EfficientNet.

Tan and Le 2019 (arXiv 1905.11946), table 1, without squeeze-and-excitation and with ReLU6. Modules are named as in the
published weights, which were converted from TensorFlow: convolutions are padded as there.
"""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

STEM_CHANNELS, NUM_FEATURES = 32, 1280
NORM_EPSILON, NORM_MOMENTUM = 1e-3, 0.01
STAGES = (
    # blocks, kernel, stride of the first, expansion, output channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class EfficientNetLite0(nn.Module):
    """The network; its input is RGB, (pixels - 127) / 128, of any size."""

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, STEM_CHANNELS, 3, stride=2)
        self._bn0 = _norm(STEM_CHANNELS)
        self._blocks = nn.ModuleList()
        inputs = STEM_CHANNELS
        for count, kernel, first_stride, expansion, outputs in STAGES:
            for number in range(count):
                stride = 1 if number else first_stride
                self._blocks.append(InvertedResidual(inputs, outputs, kernel, stride, expansion))
                inputs = outputs
        self._conv_head = SameConv2d(inputs, NUM_FEATURES, 1)
        self._bn1 = _norm(NUM_FEATURES)
        self._fc: nn.Module = nn.Linear(NUM_FEATURES, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Float (N, 3, H, W) to logits (N, K)."""
        maps = functional.relu6(self._bn0(self._conv_stem(images)))
        for block in self._blocks:
            maps = block(maps)
        maps = functional.relu6(self._bn1(self._conv_head(maps)))
        outputs: Tensor = self._fc(maps.mean(dim=(2, 3)))
        return outputs

    def without_classifier(self) -> EfficientNetLite0:
        """This network, which from now on returns features (N, 1280)."""
        self._fc = nn.Identity()
        return self

    def fused(self) -> EfficientNetLite0:
        """A copy in evaluation mode, each normalization fused into the convolution before it."""
        network = copy.deepcopy(self).eval()
        for module in network.modules():
            for convolution, norm in FUSED_PAIRS:
                if hasattr(module, convolution):
                    fused = fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm))
                    setattr(module, convolution, fused)
                    setattr(module, norm, nn.Identity())
        return network


FUSED_PAIRS = (
    ("_conv_stem", "_bn0"),
    ("_conv_head", "_bn1"),
    ("_expand_conv", "_bn0"),
    ("_depthwise_conv", "_bn1"),
    ("_project_conv", "_bn2"),
)


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution and projection, beside a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv = SameConv2d(inputs, width, 1)
            self._bn0 = _norm(width)
        self._depthwise_conv = SameConv2d(width, width, kernel, stride=stride, groups=width)
        self._bn1 = _norm(width)
        self._project_conv = SameConv2d(width, outputs, 1)
        self._bn2 = _norm(outputs)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, images: Tensor) -> Tensor:
        """Float (N, inputs, H, W) to (N, outputs, H / stride, W / stride), rounded up."""
        maps = functional.relu6(self._bn0(self._expand_conv(images))) if self.expands else images
        maps = functional.relu6(self._bn1(self._depthwise_conv(maps)))
        projected: Tensor = self._bn2(self._project_conv(maps))
        return projected + images if self.has_shortcut else projected


class SameConv2d(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow's "same": an odd pixel goes to the bottom and to the right."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Float (N, inputs, H, W) to (N, outputs, H / stride, W / stride), rounded up."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (max(0, kernel - (size % stride or stride)) for size in images.shape[2:])
        if height == width and height % 2 == 0:
            return functional.conv2d(images, self.weight, self.bias, stride, height // 2, 1, self.groups)
        edges = (width // 2, width - width // 2, height // 2, height - height // 2)
        return functional.conv2d(functional.pad(images, edges), self.weight, self.bias, stride, 0, 1, self.groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=NORM_EPSILON, momentum=NORM_MOMENTUM)
