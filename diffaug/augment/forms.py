"""The form of a real item, so that a synthetic one can take it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
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
class ImageForm:
    """What an image is held in.

    Attributes:
        kind: A PIL image, a NumPy array (HW or HWC) or a torch tensor (HW or CHW).
        mode: PIL's name of the channels: L, RGB or RGBA.
        size: Height and width in px.
        dtype: Of an array or tensor: uint8 in [0, 255] or floating in [0, 1]; None for PIL.
        channel_axis: Whether an array or tensor has one.
    """

    kind: Literal["pil", "numpy", "torch"]
    mode: str
    size: tuple[int, int]
    dtype: Any = None
    channel_axis: bool = True

    @classmethod
    def of(cls, image: Any) -> ImageForm | None:
        """The form of `image`, or None where pixels can't be brought into it."""
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
    def _of_array(cls, kind: Any, shape: tuple[int, ...], dtype: Any, image: Any) -> ImageForm | None:
        mode = MODE_OF_CHANNELS.get(1 if len(shape) == 2 else shape[2]) if len(shape) in (2, 3) else None
        floating = dtype.is_floating_point if kind == "torch" else dtype.kind == "f"
        if mode is None or not (floating or str(dtype).endswith("uint8")):
            return None
        if floating and not (float(image.min()) >= -1e-3 and float(image.max()) <= 1.001):
            return None
        return cls(kind, mode, (shape[0], shape[1]), dtype, len(shape) == 3)

    def convert(self, pixels: NDArray[np.uint8]) -> Any:
        """Brings uint8 pixels (H, W, C) into this form: channels, size, range and type."""
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert(self.mode)
        if picture.size != self.size[::-1]:
            picture = picture.resize(self.size[::-1], Image.Resampling.BICUBIC)
        if self.kind == "pil":
            return picture
        array = np.array(picture)
        if self.channel_axis and array.ndim == 2:
            array = array[..., None]
        return self._as_numpy(array) if self.kind == "numpy" else self._as_torch(array)

    def _as_numpy(self, array: NDArray[np.uint8]) -> NDArray[Any]:
        return array if self.dtype == np.uint8 else (array / 255).astype(self.dtype)

    def _as_torch(self, array: NDArray[np.uint8]) -> torch.Tensor:
        tensor = torch.from_numpy(array.transpose(2, 0, 1).copy() if array.ndim == 3 else array)
        return tensor if self.dtype == torch.uint8 else (tensor / 255).to(self.dtype)

    def fitting(self, image_size: tuple[int, int]) -> ImageForm:
        """This form for images of `image_size`: a clearly different aspect ratio is kept, at this short side.

        A transform scales and crops as it likes; it must only see images of the scale that it is used to. Where
        the ratios are close, as in sets of one size, the size stays, so that a transform without a crop works.
        """
        ratio, own_ratio = image_size[0] / image_size[1], self.size[0] / self.size[1]
        if max(ratio / own_ratio, own_ratio / ratio) <= SAME_ASPECT:
            return self
        scale = min(self.size) / min(image_size)
        return replace(self, size=(round(image_size[0] * scale), round(image_size[1] * scale)))

    def as_array(self) -> ImageForm:
        """This form as a uint8 array: HW if grey, else HWC."""
        return replace(self, kind="numpy", dtype=np.dtype(np.uint8), channel_axis=self.mode != "L")


@dataclass(frozen=True)
class ItemForm:
    """How a dataset returns an image with its label.

    Attributes:
        container: tuple, list, a named tuple's class, or dict.
        keys: Keys of image and label in a mapping, else None.
    """

    container: Any
    keys: tuple[str, str] | None

    @classmethod
    def of(cls, item: Any) -> ItemForm:
        """The form of `item`.

        Raises:
            UsageError: It holds something other than one image and one label.
        """
        if isinstance(item, tuple | list) and len(item) == 2:
            return cls(type(item), None)
        if isinstance(item, Mapping) and len(item) == 2:
            image = next((key for key in IMAGE_KEYS if key in item), None)
            label = next((key for key in LABEL_KEYS if key in item), None)
            if image is not None and label is not None:
                return cls(dict, (image, label))
        held = sorted(map(str, item)) if isinstance(item, Mapping) else type(item).__name__
        raise UsageError(
            f"the dataset's items are {held}, not one image and one label",
            fix="wrap the dataset so that an item is (image, label) or {'image': image, 'label': label}",
        )

    def split(self, item: Any) -> tuple[Any, Any]:
        """Image and label of an item."""
        first, second = self.keys or (0, 1)
        return item[first], item[second]

    def join(self, image: Any, label: Any) -> Any:
        """An item of this form."""
        if self.keys is not None:
            return dict(zip(self.keys, (image, label), strict=True))
        named = hasattr(self.container, "_fields")
        return self.container(image, label) if named else self.container((image, label))


@dataclass(frozen=True)
class TransformInput:
    """What a dataset hands to its own transform.

    Attributes:
        image: The image as handed over.
        by_keyword: Whether it was handed over as `image=`, in albumentations' way.
    """

    image: Any
    by_keyword: bool


class _ObservedError(Exception):
    """Ends the reading of an item once its transform was called."""


def observe_transform(dataset: Any, index: int) -> TransformInput | None:
    """What `dataset.transform` is called with for one item, or None where it is not called.

    The dataset stays as it is: a shallow copy gets a transform that notes its arguments and stops there.
    """
    calls: list[TransformInput] = []

    def note(*args: Any, **kwargs: Any) -> None:
        image = args[0] if args else kwargs.get("image")
        calls.append(TransformInput(image, by_keyword=not args))
        raise _ObservedError

    with suppress(Exception):  # a dataset that can't be copied or changed is not observed
        probe = copy.copy(dataset)
        probe.transform = note
        probe[index]
    return calls[0] if calls else None


def call_transform(transform: Callable[..., Any], image: Any, *, by_keyword: bool) -> Any:
    """Applies a transform in the way its dataset does."""
    return transform(image=image)["image"] if by_keyword else transform(image)


def label_like(label: int | str, example: Any) -> Any:
    """The label in the type of `example`: int, str, float, NumPy or torch scalar, or an array of one element.

    Raises:
        UsageError: `example` is no single label.
    """
    if isinstance(example, torch.Tensor) and example.numel() == 1:
        return torch.full_like(example, label)  # type: ignore[arg-type]
    if isinstance(example, np.ndarray) and example.size == 1:
        return np.full_like(example, label)
    if isinstance(example, np.generic):
        return example.dtype.type(label)
    if isinstance(example, int | float | str):
        return type(example)(label)
    raise UsageError(
        f"the dataset's items are labelled with {type(example).__name__}, not with one class index or name",
        fix="give the dataset a target_transform, which is then applied to synthetic labels too",
    )
