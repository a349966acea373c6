"""Networks by name, our own and timm's, their initial weights from a local file, and the recipe that trains them."""

from __future__ import annotations

import difflib
import importlib
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from diffaug.classifiers.fit import NetworkClassifier
from diffaug.classifiers.networks import Backbone, resnet_32, small_cnn
from diffaug.classifiers.training_set import TrainingRecipe, default_updates
from diffaug.configuration.evaluation import EvaluationSettings
from diffaug.errors import MissingExtraError, UsageError
from diffaug.files import storage

OWN_NETWORKS: dict[str, Backbone] = {"small-cnn": small_cnn, "resnet-32": resnet_32}
MIN_SIDE_PX = 16

QUICK_UPDATES = 200
BATCH_SIZE = {"adamw": 64, "sgd": 128}


def backbone_by_name(name: str, checkpoint: Path | None = None) -> Backbone:
    """The network `small-cnn`, `resnet-32` or `timm/NAME`, random or with the weights of a file; it can be pickled.

    A UsageError if the network is unknown or the file missing, a MissingExtraError if timm is not installed.
    """
    if checkpoint is not None and not checkpoint.is_file():
        raise UsageError("the checkpoint does not exist", where=checkpoint, fix="set evaluation.checkpoint to a file")
    library, _, model = name.partition("/")
    if library == "timm" and model:
        known = [f"timm/{other}" for other in import_timm().list_models()]
        _require_known(name.partition(".")[0], known)
        return partial(_timm_network, model, checkpoint)
    _require_known(name, [*OWN_NETWORKS, "timm/resnet18"])
    return OWN_NETWORKS[name] if checkpoint is None else partial(_pretrained, OWN_NETWORKS[name], checkpoint)


def import_timm() -> Any:
    """Timm; a MissingExtraError if it is not installed."""
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise MissingExtraError.of("timm", "networks") from error


def _pretrained(
    backbone: Backbone, checkpoint: Path, channels: int, num_classes: int, image_size: tuple[int, int]
) -> nn.Module:
    model = backbone(channels, num_classes, image_size)
    load_weights(model, checkpoint)
    return model


def _timm_network(
    name: str, checkpoint: Path | None, channels: int, num_classes: int, image_size: tuple[int, int]
) -> PreparedNetwork:
    """A network of timm for gray or RGB images; the checkpoint is for RGB images and any number of classes."""
    in_chans = channels if checkpoint is None else 3
    model = import_timm().create_model(name, pretrained=False, num_classes=num_classes, in_chans=in_chans)
    config, normalization = model.pretrained_cfg, None
    if checkpoint is not None:
        normalization = (config["mean"], config["std"])
        load_weights(model, checkpoint)
        if channels == 1:
            sum_input_channels(model)
    network = PreparedNetwork(model, _input_size(config, image_size), channels, normalization)
    _require_size(network, channels, image_size, name)
    return network


class PreparedNetwork(nn.Module):
    """A network behind a layer that resizes images in [-1, 1] to (h, w) px and normalizes them.

    `normalization` is the mean and standard deviation per RGB channel of images in [0, 1], averaged for gray images.
    None: the network takes [-1, 1].
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        network: nn.Module,
        size: tuple[int, int],
        channels: int,
        normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.size = size
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in normalization or ((0.5,) * 3, (0.5,) * 3))
        if channels == 1:
            mean, std = mean.mean(dim=1, keepdim=True), std.mean(dim=1, keepdim=True)
        self.register_buffer("scale", 0.5 / std, persistent=False)
        self.register_buffer("shift", (0.5 - mean) / std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Float (N, C, H, W) in [-1, 1] to logits (N, K)."""
        if images.shape[2:] != self.size:
            images = functional.interpolate(images, size=self.size, mode="bilinear", antialias=True)
        logits: Tensor = self.network(images * self.scale + self.shift)
        return logits


def sum_input_channels(model: nn.Module) -> None:
    """Makes a network for RGB images process gray ones, with the same output as for three equal channels."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.in_channels == 3:
            layer.weight = nn.Parameter(layer.weight.detach().sum(dim=1, keepdim=True))
            layer.in_channels = 1
            return
    raise UsageError("the network has no convolution of RGB images", where=type(model).__name__)


def _input_size(config: dict[str, Any], image_size: tuple[int, int]) -> tuple[int, int]:
    """Height and width that a network of timm is given: the images' own, unless it needs larger or fixed ones."""
    if config.get("fixed_input_size"):
        _, height, width = config["input_size"]
        return height, width
    least = config.get("min_input_size", (3, MIN_SIDE_PX, MIN_SIDE_PX))[1:]
    factor = max(1.0, *(needed / side for needed, side in zip(least, image_size, strict=True)))
    return round(factor * image_size[0]), round(factor * image_size[1])


def _require_size(network: PreparedNetwork, channels: int, image_size: tuple[int, int], name: str) -> None:
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, channels, *image_size))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UsageError(
            f"the network can't process images of {image_size[0]} x {image_size[1]} px: {error}",
            where=f"timm/{name}",
            fix="choose another network in evaluation.classifier, or larger images in data.image_size",
        ) from error


def _require_known(name: str, known: list[str]) -> None:
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    raise UsageError(
        f"unknown classifier '{name}'" + (f"; did you mean {', '.join(near)}?" if near else ""),
        where="evaluation.classifier",
        fix=f"choose {', '.join(OWN_NETWORKS)}, features or timm/NAME",
    )


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads weights; the last layer may differ in classes. A UsageError if they belong to another network."""
    own = model.state_dict()
    read = read_weights(path)
    differing = {name for name in own.keys() & read.keys() if own[name].shape != read[name].shape}
    head_tensors = {id(parameter) for parameter in last_layer(model).parameters()}
    head = {name for name, parameter in model.named_parameters() if id(parameter) in head_tensors}
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    wrong = sorted((own.keys() ^ read.keys()) - counters | differing - head)
    if wrong:
        raise UsageError(
            f"the checkpoint belongs to another network: {len(wrong)} of its tensors are missing, unknown or have "
            f"another shape, such as {wrong[0]}",
            where=path,
            fix="set evaluation.classifier to the network of the checkpoint, or remove evaluation.checkpoint",
        )
    dropped = head if differing else set()
    model.load_state_dict({name: tensor for name, tensor in read.items() if name not in dropped}, strict=False)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name of `.safetensors` or a state dict saved by torch. A UsageError if it holds something else."""
    unusable = partial(UsageError, where=path, fix="save model.state_dict() alone")
    try:
        is_safe = path.suffix == ".safetensors"
        content: Any = load_file(path) if is_safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        raise unusable("not a loadable weights file (only tensors are accepted)") from error
    tensors = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise unusable("the file holds more than the weights of a network")
    return dict(tensors)


def last_layer(model: nn.Module) -> nn.Module:
    """The last registered linear layer; without one, the last convolution. A UsageError if there is neither."""
    for kind in (nn.Linear, nn.Conv2d):
        layers = [layer for layer in model.modules() if isinstance(layer, kind)]
        if layers:
            return layers[-1]
    raise UsageError("the network has no linear layer", where=type(model).__name__, fix="remove evaluation.checkpoint")


def classifier_by_name(settings: EvaluationSettings) -> NetworkClassifier:
    """The network that the settings name.

    A UsageError if it is unknown or its file is missing, a MissingExtraError if it needs timm, which is not installed.
    """
    checkpoint = None if settings.checkpoint is None else Path(settings.checkpoint)
    backbone = backbone_by_name(settings.classifier, checkpoint)
    suffix = "" if checkpoint is None else f" {storage.sha256_file(checkpoint)[:12]}"
    return NetworkClassifier(backbone, settings.classifier + suffix)


def recipe_from_settings(settings: EvaluationSettings, num_train_images: int) -> TrainingRecipe:
    """The recipe of every arm, given the number of real training images."""
    default = default_updates(num_train_images)
    return TrainingRecipe(
        updates=settings.max_steps or (min(default, QUICK_UPDATES) if settings.quick else default),
        batch_size=BATCH_SIZE[settings.optimizer],
        optimizer=settings.optimizer,
        horizontal_flip=settings.horizontal_flip,
    )
