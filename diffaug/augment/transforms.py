"""A torchvision transform that looks images up in a pool."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from diffaug.augment.forms import IMAGE_KEYS, ImageForm
from diffaug.augment.labels import LABEL_KEYS
from diffaug.augment.lookup import NAME, OnProblem, PoolLookup, must_skip, pool_path, replaceable_form
from diffaug.errors import UsageError
from diffaug.synthesis.pool.pool import Pool


class SyntheticReplace(v2.Transform):  # type: ignore[misc]
    """Replaces an image by a random synthetic one of its own class.

        transform = v2.Compose([SyntheticReplace("runs/data", p=0.3), v2.RandomCrop(28)])
        image, label = transform(image, label)

    Takes one item or, like MixUp and CutMix, a batch (N, C, H, W) with its N labels, each image of which is
    decided for itself. A sample is (image, label, ...), as several arguments or one tuple or list, or a mapping
    with them under names such as "image" and "label". All but the image passes through.

    An image is PIL, or a tensor or `tv_tensors.Image` (C, H, W), uint8 or floating in [0, 1]. The synthetic one
    takes its type, size, channels and device. An image whose class has no synthetic images stays. The model is
    never run: images are read from the pool, which each process opens for itself. Random numbers are those of
    torch's global generator.

    Args:
        pool: A pool, or the path of one or of its study.
        p: Probability of replacing, in [0, 1].
        class_to_idx: Class name to label index of your dataset; none: labels are indices into the pool's classes.
            Class names are understood in any case.
        on_unknown_label: What to do about a label that is not among the pool's classes.
        on_annotations: What to do about boxes, masks and further images, which would no longer fit a replaced
            image: `tv_tensors` that are not empty, and PIL images. "skip" leaves the sample as it is.

    Raises:
        UsageError: When built: there is no pool, or an argument is wrong. When called: label or image are missing
            or unknown, the image is normalised already, or there are annotations.
    """

    def __init__(
        self,
        pool: Pool | str | os.PathLike[str],
        p: float = 0.3,
        *,
        class_to_idx: Mapping[str, int] | None = None,
        on_unknown_label: OnProblem = "error",
        on_annotations: OnProblem = "error",
    ) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise UsageError(f"p must be at least 0 and at most 1, not {p!r}", where=NAME)
        for name, reaction in (("on_unknown_label", on_unknown_label), ("on_annotations", on_annotations)):
            if reaction not in ("error", "skip"):
                raise UsageError(f"{name} must be 'error' or 'skip', not {reaction!r}", where=NAME)
        self.pool = str(pool_path(pool))
        self.p = p
        self.class_to_idx = None if class_to_idx is None else dict(class_to_idx)
        self.on_unknown_label = on_unknown_label
        self.on_annotations = on_annotations
        self._lookup = PoolLookup(self.pool, self.class_to_idx)
        Pool.open(self.pool)  # a wrong path is said here and not in a worker

    def forward(self, *inputs: Any) -> Any:
        """The sample with its image replaced, or as it is."""
        sample = inputs if len(inputs) > 1 else inputs[0]
        parts, image_at, label_at = _parts(sample)
        image = parts[image_at]
        others = [part for key, part in parts.items() if key != image_at]
        if must_skip({type(leaf).__name__ for leaf in _annotations(others)}, self.on_annotations):
            return sample
        form = replaceable_form(image)
        chosen = self._choose(_labels(image, parts[label_at]))
        if not chosen:
            return sample
        parts[image_at] = self._replaced(image, form, chosen)
        return _joined(parts, sample)

    def _choose(self, labels: list[Any]) -> dict[int, int]:
        """Position in the batch of each image to replace, with that in the pool of the image to use."""
        chosen = {}
        for position, (label, draw) in enumerate(zip(labels, torch.rand(len(labels)).tolist(), strict=True)):
            candidates = self._lookup.candidates(label, self.on_unknown_label)
            if draw < self.p and len(candidates):
                chosen[position] = int(candidates[int(torch.randint(len(candidates), ()))])
        return chosen

    def _replaced(self, image: Any, form: ImageForm, chosen: dict[int, int]) -> Any:
        """The image, or those of the batch, with the pool's in place of the chosen ones."""
        synthetic = {position: form.convert(self._lookup.read(index)) for position, index in chosen.items()}
        if not isinstance(image, torch.Tensor):
            return synthetic[0]
        replaced = image.clone()  # keeps type and device
        batch = replaced if image.ndim == 4 else replaced[None]
        for position, pixels in synthetic.items():
            batch[position] = pixels
        return replaced


def _parts(sample: Any) -> tuple[dict[Any, Any], Any, Any]:
    """What a sample holds, and the keys of image and label in it."""
    if isinstance(sample, tuple | list) and len(sample) > 1:
        return dict(enumerate(sample)), 0, 1
    if isinstance(sample, Mapping):
        image_at, label_at = (next((key for key in keys if key in sample), None) for keys in (IMAGE_KEYS, LABEL_KEYS))
        if image_at is not None and label_at is not None:
            return dict(sample), image_at, label_at
    held = sorted(map(str, sample)) if isinstance(sample, Mapping) else type(sample).__name__
    raise UsageError(
        f"image and label are needed to choose a synthetic image, not {held} alone",
        where=NAME,
        fix="call it with (image, label); the transform= of a dataset gets the image only",
    )


def _joined(parts: dict[Any, Any], sample: Any) -> Any:
    """The parts in the container that they came in."""
    if isinstance(sample, Mapping):
        return parts
    container = type(sample)
    return container(*parts.values()) if hasattr(container, "_fields") else container(parts.values())


def _annotations(part: Any) -> Iterator[Any]:
    """Everything in a part of a sample that belongs to the pixels of its image."""
    if isinstance(part, Mapping | tuple | list):
        for inner in part.values() if isinstance(part, Mapping) else part:
            yield from _annotations(inner)
    elif isinstance(part, Image.Image) or (isinstance(part, tv_tensors.TVTensor) and part.numel()):
        yield part


def _labels(image: Any, label: Any) -> list[Any]:
    """One label an image."""
    if not (isinstance(image, torch.Tensor) and image.ndim == 4):
        return [label]
    if np.ndim(label) != 1 or len(label) != len(image):
        raise UsageError(
            f"a batch of {len(image)} images needs as many labels, not {np.shape(label)}",
            where=NAME,
            fix="place it before MixUp and CutMix, which make several labels of one",
        )
    return list(label.tolist() if isinstance(label, torch.Tensor) else label)
