"""The format of real items, which synthetic ones take."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from diffaug.augment.labels import LABEL_KEYS
from diffaug.errors import UsageError

IMAGE_KEYS = ("image", "img", "pixel_values")
MODE_OF_CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}
SAME_ASPECT = 1.15


@dataclass(frozen=True)
class ImageFormat:
    """The type and layout of an image.

    Arrays are HW or HWC and tensors HW or CHW, uint8 in [0, 255] or floating in [0, 1].
    """

    kind: Literal["pil", "numpy", "torch"]
    mode: str  # PIL's name of the channels: L, RGB or RGBA
    size: tuple[int, int]  # height and width in px
    dtype: Any = None  # None for PIL
    channel_axis: bool = True  # whether an array or tensor has one

    @classmethod
    def of(cls, image: Any) -> ImageFormat | None:
        """The format of `image`, or None if pixels can't be converted to it."""
        if isinstance(image, Image.Image):
            known = image.mode in MODE_OF_CHANNELS.values()
            return cls("pil", image.mode, (image.height, image.width)) if known else None
        if isinstance(image, np.ndarray):
            return cls._of_array("numpy", image.shape, image.dtype, image)
        if isinstance(image, torch.Tensor):
            shape = (*image.shape[1:], image.shape[0]) if image.ndim == 3 else tuple(image.shape)
            return cls._of_array("torch", shape, image.dtype, image)
        return None

    @classmethod
    def _of_array(cls, kind: Any, shape: tuple[int, ...], dtype: Any, image: Any) -> ImageFormat | None:
        mode = MODE_OF_CHANNELS.get(1 if len(shape) == 2 else shape[2]) if len(shape) in (2, 3) else None
        floating = dtype.is_floating_point if kind == "torch" else dtype.kind == "f"
        if mode is None or not (floating or str(dtype).endswith("uint8")):
            return None
        if floating and not (float(image.min()) >= -1e-3 and float(image.max()) <= 1.001):
            return None
        return cls(kind, mode, (shape[0], shape[1]), dtype, len(shape) == 3)

    def convert(self, pixels: NDArray[np.uint8]) -> Any:
        """Converts uint8 pixels (H, W, C) to channels, size, range and type of this format."""
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert(self.mode)
        if picture.size != self.size[::-1]:
            picture = picture.resize(self.size[::-1], Image.Resampling.BICUBIC)
        if self.kind == "pil":
            return picture
        array = np.array(picture)
        if self.channel_axis and array.ndim == 2:
            array = array[..., None]
        if self.kind == "numpy":
            return array if self.dtype == np.uint8 else (array / 255).astype(self.dtype)
        tensor = torch.from_numpy(array.transpose(2, 0, 1).copy() if array.ndim == 3 else array)
        return tensor if self.dtype == torch.uint8 else (tensor / 255).to(self.dtype)

    def fitting(self, image_size: tuple[int, int]) -> ImageFormat:
        """This format for images of `image_size`: a clearly different aspect ratio is kept, at this short side."""
        ratio, own_ratio = image_size[0] / image_size[1], self.size[0] / self.size[1]
        if max(ratio / own_ratio, own_ratio / ratio) <= SAME_ASPECT:
            return self  # so that a transform without a crop works
        scale = min(self.size) / min(image_size)
        return replace(self, size=(round(image_size[0] * scale), round(image_size[1] * scale)))


def image_and_label_keys(sample: Any) -> tuple[Any, Any] | None:
    """Where a sample holds image and label: positions or names; None if it is no such sample."""
    if isinstance(sample, Mapping):
        return _keys_among(sample)
    if isinstance(sample, tuple | list) and len(sample) > 1:
        named = _keys_among(fields := getattr(sample, "_fields", ()))  # of a named tuple, in whatever order
        return (0, 1) if named is None else (fields.index(named[0]), fields.index(named[1]))
    return None


def _keys_among(names: Collection[Any]) -> tuple[Any, Any] | None:
    image, label = (next((key for key in keys if key in names), None) for keys in (IMAGE_KEYS, LABEL_KEYS))
    return None if image is None or label is None else (image, label)


def rebuilt(container: Any, parts: Mapping[Any, Any]) -> Any:
    """The parts, by position or name, in a container: tuple, list, a named tuple's class, or a mapping's."""
    if issubclass(container, Mapping):
        return dict(parts)
    return container(*parts.values()) if hasattr(container, "_fields") else container(parts.values())


def what_is_held(sample: Any) -> str:
    """The keys of a mapping, or the type and length of anything else, for a message."""
    if isinstance(sample, Mapping):
        return str(sorted(map(str, sample)))
    length = f" of {len(sample)}" if isinstance(sample, tuple | list) else ""
    return f"{type(sample).__name__}{length}"


class _ObservedError(Exception):
    """Ends the reading of an item once its transform is called."""


def observe_transform(dataset: Any, index: int, name: str = "transform") -> tuple[Any, bool] | None:
    """What the transform of this name gets for one item, and whether by keyword; None if it is not called.

    The dataset is not changed: a shallow copy gets a transform that records its arguments and stops there.
    """
    calls: list[tuple[Any, bool]] = []

    def record(*args: Any, **kwargs: Any) -> None:
        calls.append((args[0] if args else kwargs.get("image"), not args))
        raise _ObservedError

    with suppress(Exception):  # a dataset that can't be copied or changed is not observed
        probe = copy.copy(dataset)
        setattr(probe, name, record)
        probe[index]
    return calls[0] if calls else None


def label_like(label: int | str, example: Any) -> Any:
    """The label in the type of `example`: int, str, float, a NumPy or torch scalar, or an array or list of one element.

    A one-hot example makes a one-hot label, of as many elements.
    """
    if isinstance(example, torch.Tensor | np.ndarray | list) and _size(example) > 1:
        return _one_hot_like(label, example)
    if isinstance(example, list) and example:
        return [label_like(label, example[0])]
    if isinstance(example, torch.Tensor) and example.numel() == 1:
        return torch.full_like(example, label)  # type: ignore[arg-type]
    if isinstance(example, np.ndarray) and example.size == 1:
        return np.full(example.shape, label, None if isinstance(label, str) else example.dtype)
    if isinstance(example, np.generic):
        return example.dtype.type(label)
    if isinstance(example, int | float | str):
        return type(example)(label)
    what = f"the dataset's labels are of type {type(example).__name__}, not one class index or name"
    raise UsageError(what, fix="set the dataset's target_transform, which is also applied to synthetic labels")


def plain(label: Any) -> Any:
    """A label as plain Python numbers, texts and lists."""
    return label.tolist() if hasattr(label, "tolist") else label


def _size(example: Any) -> int:
    return example.numel() if isinstance(example, torch.Tensor) else int(np.size(example))


def _one_hot_like(label: int | str, example: Any) -> Any:
    if not isinstance(label, int) or len(getattr(example, "shape", (1,))) != 1 or not 0 <= label < len(example):
        raise UsageError(f"class {label!r} has no place in one-hot labels like {example}", fix="return class indices")
    if isinstance(example, list):
        return [type(value)(position == label) for position, value in enumerate(example)]
    made = torch.zeros_like(example) if isinstance(example, torch.Tensor) else np.zeros_like(example)
    made[label] = 1
    return made
