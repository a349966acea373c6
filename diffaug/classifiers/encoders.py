"""What turns pixels into features: a classifier of the user's own training images, or a network that is given."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from diffaug.classifiers.fit import TrainingRecipe, default_updates, fit_classifier, small_cnn
from diffaug.data.images import LabeledImages
from diffaug.errors import DataError, MissingExtraError
from diffaug.runtime.seeding import torch_global_seed

BATCH = 256
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Encoder(Protocol):
    """Turns images into feature vectors, deterministically.

    Attributes:
        name: Names the network and its weights; part of the fingerprint of whatever was made with it.
    """

    @property
    def name(self) -> str:
        """Network and weights."""
        ...

    def features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (N, H, W, C) to float32 (N, D)."""
        ...


@dataclass(frozen=True)
class Description:
    """What a classifier says of images.

    Attributes:
        features: float32 (N, D), its penultimate layer.
        log_probabilities: float32 (N, K) of the classes, as if all were equally frequent.
    """

    features: NDArray[np.float32]
    log_probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class ClassifierEncoder:
    """The classifier of `synthesis.classifier`, trained with balanced softmax and random shifts.

    Balanced softmax trains logits that the class frequencies are taken out of (Ren et al. 2020, arXiv 2007.10740,
    eq. 4), which is logit adjustment (Menon et al. 2021, arXiv 2007.07314, eq. 10) with temperature 1.

    Attributes:
        model: Float NCHW in [-1, 1] to logits (N, K); its last layer is linear.
        device: Where it is.
    """

    model: nn.Sequential
    device: str = "cpu"

    @classmethod
    def fit(
        cls,
        images: LabeledImages,
        *,
        seed: int,
        purpose: str = "encoder",
        device: str = "cpu",
        updates: int | None = None,
    ) -> ClassifierEncoder:
        """Trains one.

        Args:
            images: Real training images.
            seed: Decides weights and batches.
            purpose: Name of the stream of batches.
            device: Where to train.
            updates: Length of the training; none: by the number of images.
        """
        model = fit_classifier(
            images,
            recipe=TrainingRecipe(updates=updates or default_updates(len(images))),
            seed=seed,
            purpose=purpose,
            log_prior=np.log(np.maximum(images.class_counts, 1)),
            device=device,
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
        assert isinstance(model, nn.Sequential)
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
        return self.describe(pixels).features

    def describe(self, pixels: NDArray[np.uint8]) -> Description:
        """Features and class probabilities of uint8 (N, H, W, C) in one pass."""
        body, head = self._fused[:-1], self._fused[-1]
        features, logs = [], []
        with torch.inference_mode():
            for batch in _batches(pixels, self.device):
                features.append(body(batch))
                logs.append(head(features[-1]).log_softmax(dim=1))
        return Description(torch.cat(features).cpu().numpy(), torch.cat(logs).cpu().numpy())

    @cached_property
    def _fused(self) -> nn.Sequential:
        """The model with each batch norm made part of the convolution before it, which is a third faster on a CPU."""
        layers = (_fused(layer) if isinstance(layer, nn.Sequential) else layer for layer in self.model)
        return nn.Sequential(*layers).to(memory_format=torch.channels_last)


class ModuleEncoder:
    """Any torch module that turns a batch of images into vectors.

    Args:
        module: Float NCHW to (N, D) or (N, D, h, w), which is averaged over h and w. It is put in evaluation mode.
        name: What to call it; the hash of its weights is added.
        normalization: `symmetric`: [-1, 1]. `imagenet`: ImageNet's mean and deviation, and grey images become RGB.
        size: Side in px to resize images to; none: as they are.
        device: Where to run it.
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
        """uint8 (N, H, W, C) to float32 (N, D).

        Raises:
            DataError: The module returns no vectors.
        """
        with torch.inference_mode():
            outputs = [self.module(self._prepared(batch)) for batch in _batches(pixels, self._device)]
        if any(not isinstance(output, Tensor) or output.ndim not in (2, 4) for output in outputs):
            raise DataError("the encoder returns no vectors", where=self.name, fix="return a tensor (N, D)")
        vectors = [output.mean(dim=(2, 3)) if output.ndim == 4 else output for output in outputs]
        return torch.cat(vectors).float().cpu().numpy()

    def _prepared(self, batch: Tensor) -> Tensor:
        if self._size:
            batch = functional.interpolate(
                batch, size=(self._size, self._size), mode="bilinear", align_corners=False, antialias=True
            )
        if not self._imagenet:
            return batch
        mean, std = (torch.tensor(values, device=batch.device)[:, None, None] for values in _IMAGENET)
        return ((batch + 1) / 2 - mean) / std


_IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)


def timm_encoder(name: str, *, pretrained: bool = False, device: str = "cpu") -> ModuleEncoder:
    """A model of timm without its classifier, at the size that it was made for.

    Args:
        name: As in `timm.list_models()`.
        pretrained: Take its pretrained weights, which timm downloads; else random ones, always the same.
        device: Where to run it.

    Raises:
        MissingExtraError: timm is not installed.
    """
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError as error:
        raise MissingExtraError("timm is not installed", fix="pip install timm") from error
    with torch_global_seed(0, "timm encoder", name):
        model = timm.create_model(name, pretrained=pretrained, num_classes=0)
    return ModuleEncoder(
        model, name, normalization="imagenet", size=model.pretrained_cfg["input_size"][-1], device=device
    )


def _fused(block: nn.Sequential) -> nn.Sequential:
    convolution, norm, *others = block
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return nn.Sequential(fuse_conv_bn_eval(convolution, norm), *others)


def _named(name: str, module: nn.Module) -> str:
    digest = hashlib.sha256()
    for key, tensor in module.state_dict().items():  # one by one: tied weights share their memory
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return f"{name} {digest.hexdigest()[:12]}"


def _batches(pixels: NDArray[np.uint8], device: str) -> Iterator[Tensor]:
    """Batches of uint8 (N, H, W, C) as float NCHW in [-1, 1]; one, empty, where there is no image."""
    for start in range(0, max(1, len(pixels)), BATCH):
        batch = torch.from_numpy(np.array(pixels[start : start + BATCH])).to(device)
        yield batch.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
