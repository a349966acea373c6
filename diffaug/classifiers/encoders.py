"""Encoders of images into features: a classifier of the user's own training images, or a given network."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from diffaug.classifiers.batches import network_inputs
from diffaug.classifiers.fit import fit_network
from diffaug.classifiers.library import import_timm
from diffaug.classifiers.networks import small_cnn
from diffaug.classifiers.training_set import TrainingRecipe, TrainingSet, default_updates
from diffaug.data.images import LabeledImages
from diffaug.errors import DataError
from diffaug.runtime.seeding import torch_global_seed

IMAGENET_MEAN_AND_STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Encoder(Protocol):
    """Turns images into feature vectors, deterministically."""

    @property
    def name(self) -> str:
        """Names the network and its weights; part of the fingerprint of everything made with it."""

    def features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (N, H, W, C) to float32 (N, D)."""


@dataclass(frozen=True)
class ClassifierOutput:
    """Features, float32 (N, D), and log-probabilities of equally frequent classes, float32 (N, K)."""

    features: NDArray[np.float32]
    log_probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class ClassifierEncoder:
    """A `small_cnn` trained with balanced softmax and random shifts.

    Balanced softmax removes the class frequencies from the logits (Ren et al. 2020, arXiv 2007.10740, eq. 4). It equals
    logit adjustment (Menon et al. 2021, arXiv 2007.07314, eq. 10) with temperature 1. The model maps float NCHW in
    [-1, 1] to logits (N, K); its last layer is linear.
    """

    model: nn.Sequential
    device: str = "cpu"

    @classmethod
    def fit(
        cls, images: LabeledImages, *, seed: int, purpose: str, device: str = "cpu", updates: int | None = None
    ) -> ClassifierEncoder:
        """Trains one on real images; `updates` defaults to a number chosen from the number of images."""
        model = fit_network(
            TrainingSet.real_only(images, np.log(np.maximum(images.class_counts, 1))),
            recipe=TrainingRecipe(updates=updates or default_updates(len(images))),
            seed=seed,
            purpose=purpose,
            device=device,
            exact=True,
        )
        assert isinstance(model, nn.Sequential)
        return cls(model, device)

    @classmethod
    def load(
        cls, weights: dict[str, Tensor], image_shape: tuple[int, int, int], num_classes: int, device: str = "cpu"
    ) -> ClassifierEncoder:
        """Rebuilds one from `weights` for images of (H, W, C)."""
        height, width, channels = image_shape
        model = small_cnn(channels, num_classes, (height, width))
        model.load_state_dict(weights)
        return cls(model.eval().to(device).to(memory_format=torch.channels_last), device)

    @property
    def weights(self) -> dict[str, Tensor]:
        """All tensors by name, on the CPU."""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()}

    @property
    def name(self) -> str:
        """The kind of network and the hash of its weights."""
        return _named("classifier", self.model)

    def features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (N, H, W, C) to float32 (N, D)."""
        return self.predict(pixels).features

    def predict(self, pixels: NDArray[np.uint8]) -> ClassifierOutput:
        """Features and class probabilities of uint8 (N, H, W, C) in one pass."""
        body, head = self._fused[:-1], self._fused[-1]
        features, logs = [], []
        with torch.inference_mode():
            for batch in network_inputs(pixels, self.device):
                features.append(body(batch))
                logs.append(head(features[-1]).log_softmax(dim=1))
        return ClassifierOutput(torch.cat(features).cpu().numpy(), torch.cat(logs).cpu().numpy())

    @cached_property
    def _fused(self) -> nn.Sequential:
        """The model with each batch norm fused into the convolution before it: a third faster on a CPU."""
        layers = (_fused(layer) if isinstance(layer, nn.Sequential) else layer for layer in self.model)
        return nn.Sequential(*layers).to(memory_format=torch.channels_last)


class ModuleEncoder:
    """Any torch module that maps a batch of images to vectors.

    Args:
        module: Float NCHW to (N, D) or (N, D, h, w), which is averaged over h and w. It is put in evaluation mode.
        name: Its name, to which the hash of its weights is added.
        normalization: `symmetric`: [-1, 1]. `imagenet`: ImageNet's mean and deviation, and gray images become RGB.
        size: Side in px to resize images to. Default: no resizing.
    """

    def __init__(
        self,
        module: nn.Module,
        name: str,
        *,
        normalization: Literal["symmetric", "imagenet"] = "symmetric",
        size: int | None = None,
        device: str = "cpu",
    ) -> None:
        self.module = module.eval().to(device)
        self.name = _named(name, module) + f" {normalization} {size or 'as is'}"
        self._imagenet = normalization == "imagenet"
        self._size = size
        self._device = device

    def features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (N, H, W, C) to float32 (N, D); a DataError if the module returns something else than vectors."""
        with torch.inference_mode():
            outputs = [self.module(self._prepared(batch)) for batch in network_inputs(pixels, self._device)]
        if any(not isinstance(output, Tensor) or output.ndim not in (2, 4) for output in outputs):
            raise DataError("the encoder does not return vectors", where=self.name, fix="return a tensor (N, D)")
        vectors = [output.mean(dim=(2, 3)) if output.ndim == 4 else output for output in outputs]
        return torch.cat(vectors).float().cpu().numpy()

    def _prepared(self, batch: Tensor) -> Tensor:
        if self._size:
            batch = functional.interpolate(batch, size=(self._size, self._size), mode="bilinear", antialias=True)
        if not self._imagenet:
            return batch
        constants = torch.tensor(IMAGENET_MEAN_AND_STD, device=batch.device)[:, :, None, None]
        return ((batch + 1) / 2 - constants[0]) / constants[1]


def timm_encoder(name: str, *, pretrained: bool = False, device: str = "cpu") -> ModuleEncoder:
    """A network of timm without its classifier, at its native size; a MissingExtraError if timm is not installed.

    With `pretrained`, timm downloads its weights; otherwise they are random, but always the same.
    """
    timm = import_timm()
    with torch_global_seed(0, "timm encoder", name):
        model = timm.create_model(name, pretrained=pretrained, num_classes=0)
    size = model.pretrained_cfg["input_size"][-1]
    return ModuleEncoder(model, name, normalization="imagenet", size=size, device=device)


def _fused(block: nn.Sequential) -> nn.Sequential:
    convolution, norm, *others = block
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return nn.Sequential(fuse_conv_bn_eval(convolution, norm), *others)


def _named(name: str, module: nn.Module) -> str:
    digest = hashlib.sha256()
    for key, tensor in module.state_dict().items():  # one by one: tied weights cannot be serialized together
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return f"{name} {digest.hexdigest()[:12]}"
