"""The format of real items, which synthetic ones take."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from diffaug.augment.labels import LABEL_KEYS, Columns
from diffaug.errors import UsageError

IMAGE_KEYS = ("image", "img", "pixel_values")
MODE_OF_CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}
PIL_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "I;16", "I;16L", "I;16B")
BICUBIC = Image.Resampling.BICUBIC
SAME_ASPECT = 1.15


@dataclass(frozen=True)
class ImageFormat:
    """The type and layout of an image.

    Attributes:
        mode: Pillow's name of the channels.
        size: Height and width in px.
        dtype: Of an array or tensor: uint8, uint16, or floating in [0, 1]; None for PIL.
        channel_axis: Where an array or tensor has its channels, 0 (CHW) or 2 (HWC); None if it has no such axis.
        levels: Values of black and white in an image of more than 8 bits.
        tensor_class: Of a tensor that is more than that, as `tv_tensors.Image`.
    """

    kind: Literal["pil", "numpy", "torch"]
    mode: str
    size: tuple[int, int]
    dtype: Any = None
    channel_axis: int | None = 2
    levels: tuple[float, float] = (0, 2**16 - 1)
    tensor_class: type | None = None

    @classmethod
    def of(cls, image: Any) -> ImageFormat | None:
        """The format of `image`, or None if pixels can't be converted to it."""
        if isinstance(image, Image.Image):
            return cls("pil", image.mode, (image.height, image.width)) if image.mode in PIL_MODES else None
        if not isinstance(image, np.ndarray | torch.Tensor):
            return None
        array_class: Any = type(image)
        form = _layout(array_class, image.dtype, tuple(image.shape))
        is_beyond = form is not None and form.is_floating and not (image.min() >= -1e-3 and image.max() <= 1.001)
        return None if is_beyond else form

    @cached_property
    def is_floating(self) -> bool:
        """Whether values are floating, in [0, 1]."""
        return bool(getattr(self.dtype, "is_floating_point", getattr(self.dtype, "kind", "") == "f"))

    @cached_property
    def is_deep(self) -> bool:
        """Whether it has more than 8 bits of whole numbers."""
        return self.mode.startswith("I") or str(self.dtype).endswith("uint16")

    @cached_property
    def is_usual(self) -> bool:
        """Whether transforms take images of this format: gray, RGB or RGBA of 8 bits or floats, in the usual layout."""
        is_layout = self.kind == "pil" or self.channel_axis in (None, 0 if self.kind == "torch" else 2)
        return is_layout and self.mode in MODE_OF_CHANNELS.values() and not self.is_deep

    def convert(self, pixels: NDArray[np.uint8]) -> Any:
        """Converts uint8 pixels (H, W, C) to channels, size, range and type of this format."""
        if self.kind == "pil":
            picture = self._picture(pixels)
            return self._deep_picture(picture) if self.is_deep else picture
        is_alike = (pixels.shape[:2], MODE_OF_CHANNELS.get(pixels.shape[-1])) == (self.size, self.mode)
        array = pixels if is_alike else np.asarray(self._picture(pixels)).reshape(*self.size, -1)
        if self.channel_axis != 2:
            array = array[..., 0] if self.channel_axis is None else array.transpose(2, 0, 1)
        return self._array(array) if self.kind == "numpy" else self._tensor(array)

    def _picture(self, pixels: NDArray[np.uint8]) -> Image.Image:
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        mode = "L" if self.is_deep and self.kind == "pil" else self.mode
        if mode == "HSV":  # which only RGB can be converted to
            picture = picture.convert("RGB")
        if picture.mode != mode:
            picture = picture.convert(mode, palette=Image.Palette.ADAPTIVE) if mode == "P" else picture.convert(mode)
        if picture.size != self.size[::-1]:
            picture = picture.resize(self.size[::-1], Image.Resampling.NEAREST if mode in "1P" else BICUBIC)
        return picture

    def _deep(self, array: NDArray[Any]) -> NDArray[np.uint16]:
        low, high = self.levels
        return np.asarray(np.rint(low + array * ((high - low) / 255)).clip(0, 2**16 - 1), np.uint16)

    def _deep_picture(self, picture: Image.Image) -> Image.Image:
        values = self._deep(np.asarray(picture, np.float64))
        return Image.fromarray(
            values.astype(np.int32 if self.mode == "I" else ">u2" if self.mode == "I;16B" else "<u2")
        )

    def _array(self, array: NDArray[np.uint8]) -> NDArray[Any]:
        if self.is_deep:
            return self._deep(array)
        return (array / 255).astype(self.dtype) if self.is_floating else array.copy()

    def _tensor(self, array: NDArray[np.uint8]) -> torch.Tensor:
        tensor = torch.from_numpy(self._deep(array) if self.is_deep else np.array(array, order="C"))
        if self.is_floating:
            tensor = (tensor / 255).to(self.dtype)
        return tensor if self.tensor_class is None else tensor.as_subclass(self.tensor_class)

    def fitting(self, image_size: tuple[int, int]) -> ImageFormat:
        """This format for images of `image_size`: a clearly different aspect ratio is kept, at this short side."""
        ratio, own_ratio = image_size[0] / image_size[1], self.size[0] / self.size[1]
        if max(ratio / own_ratio, own_ratio / ratio) <= SAME_ASPECT:
            return self  # so that a transform without a crop works
        scale = min(self.size) / min(image_size)
        return replace(self, size=(round(image_size[0] * scale), round(image_size[1] * scale)))


@lru_cache(maxsize=1024)  # most images of a set share one
def _layout(array_class: type, dtype: Any, shape: Any) -> ImageFormat | None:
    """The format of arrays or tensors of this shape, a tuple, whatever their values; None if they are no images."""
    is_tensor = issubclass(array_class, torch.Tensor)
    tensor_class = array_class if is_tensor and array_class is not torch.Tensor else None
    form = ImageFormat("torch" if is_tensor else "numpy", "L", shape[:2], dtype, None, tensor_class=tensor_class)
    if not (form.is_floating or str(dtype).endswith(("uint8", "uint16"))) or len(shape) not in (2, 3):
        return None
    if len(shape) == 2:
        return form
    height_axes = {0: shape[1:], 2: shape[:2]}  # by the axis of channels
    possible = [axis for axis in ((0, 2) if is_tensor else (2, 0)) if shape[axis] in MODE_OF_CHANNELS]
    if not possible:
        return None
    axis = max(possible, key=lambda axis: min(height_axes[axis]))  # of (3, 4, 4), three are the channels
    return replace(form, mode=MODE_OF_CHANNELS[shape[axis]], size=height_axes[axis], channel_axis=axis)


def image_and_label_keys(sample: Any, columns: Columns = (None, None)) -> tuple[Any, Any] | None:
    """Where a sample holds image and label: positions or names; None if it is no such sample.

    `columns` are their names in a dataset that says so, see `columns_of`.
    """
    if isinstance(sample, Mapping):
        return _keys_among(sample, columns)
    if isinstance(sample, tuple | list) and len(sample) > 1:
        named = _keys_among(fields := getattr(sample, "_fields", ()), columns)  # of a named tuple, in whatever order
        return (0, 1) if named is None else (fields.index(named[0]), fields.index(named[1]))
    return None


def _keys_among(names: Collection[Any], columns: Columns) -> tuple[Any, Any] | None:
    usual = ((columns[0], *IMAGE_KEYS), (columns[1], *LABEL_KEYS))
    image, label = (next((key for key in keys if key is not None and key in names), None) for keys in usual)
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
