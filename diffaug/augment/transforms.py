"""A torchvision transform that replaces images by those of a pool."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from diffaug.augment.formats import ImageFormat, image_and_label_keys, rebuilt, what_is_held
from diffaug.augment.lookup import (
    NAME,
    OnProblem,
    PoolLookup,
    checked_class_to_idx,
    must_skip,
    pool_path,
    replaceable_format,
    usable_pool,
)
from diffaug.data.labels import UnknownLabelError, plain_label
from diffaug.errors import UsageError
from diffaug.synthesis.pool.pool import Pool


class SyntheticReplace(v2.Transform):  # type: ignore[misc]
    """Replaces an image by a random synthetic one of its own class.

        transform = v2.Compose([SyntheticReplace("runs/data", p=0.3), v2.RandomCrop(28)])
        image, label = transform(image, label)

    Takes one sample or, like MixUp and CutMix, a batch (N, C, H, W) with its N labels, where each image is replaced
    independently. A sample is (image, label, ...), as several arguments or one tuple or list, or a mapping with them
    under names such as "image" and "label". Everything but the image passes through.

    An image is PIL, or a tensor or `tv_tensors.Image` (C, H, W), uint8 or floating in [0, 1]. The synthetic one takes
    its type, size, channels and device. An image whose class has no synthetic images is kept. The model is never run:
    images are read from the pool, which each process opens itself. Random numbers come from torch's global generator.

    Args:
        pool: A pool, or the path of one or of its study.
        p: Probability of replacing, in [0, 1].
        class_to_idx: Class name to label of your dataset, as in `dataset.class_to_idx`. Default: that of the dataset
            that the pool was made from. Class names as labels need none, nor do classes 0 to 9 or fewer.
        on_unknown_label: What to do with a label, or a name in `class_to_idx`, that is not a class of the pool.
        on_annotations: What to do with boxes, masks and further images, which would no longer match a replaced image:
            `tv_tensors` that are not empty, and PIL images. "skip" keeps the sample unchanged.
        include_blind: Whether images are used of classes, too, that nothing shows them to belong to. The evaluation
            does not use them.

    Raises:
        UsageError: There is no pool, an argument is invalid, or a call gets a sample that it can't replace.
    """

    def __init__(
        self,
        pool: Pool | str | os.PathLike[str],
        p: float = 0.3,
        *,
        class_to_idx: Mapping[str, int] | None = None,
        on_unknown_label: OnProblem = "error",
        on_annotations: OnProblem = "error",
        include_blind: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise UsageError(f"p must be at least 0 and at most 1, not {p!r}", where=NAME)
        for name, reaction in {"on_unknown_label": on_unknown_label, "on_annotations": on_annotations}.items():
            if reaction not in ("error", "skip"):
                raise UsageError(f"{name} must be 'error' or 'skip', not {reaction!r}", where=NAME)
        self.pool = str(pool_path(pool))
        self.p = p
        self.class_to_idx = checked_class_to_idx(class_to_idx)
        self.on_unknown_label, self.on_annotations = on_unknown_label, on_annotations
        self.include_blind = include_blind
        self._lookup = PoolLookup(self.pool, self.class_to_idx, include_blind=include_blind)
        usable_pool(Pool.open(self.pool), include_blind=include_blind)  # a wrong path fails here and not in a worker
        PoolLookup(self.pool, self.class_to_idx, include_blind=True).require_known_names(on_unknown_label)

    def forward(self, *inputs: Any) -> Any:
        """The sample with its image replaced, or unchanged."""
        sample = inputs if len(inputs) > 1 else inputs[0]
        parts, image_at, label_at = _parts(sample)
        image = parts[image_at]
        others = [part for key, part in parts.items() if key != image_at]
        if must_skip({type(leaf).__name__ for leaf in _annotations(others)}, self.on_annotations):
            return sample
        form = replaceable_format(image)
        chosen = self._choose(_labels(image, parts[label_at]))
        if not chosen:
            return sample
        parts[image_at] = self._replaced(image, form, chosen)
        return rebuilt(type(sample), parts)

    def _choose(self, labels: list[Any]) -> dict[int, int]:
        """Position in the batch of each image to replace, and position in the pool of its replacement."""
        chosen = {}
        for position, (label, draw) in enumerate(zip(labels, torch.rand(len(labels)).tolist(), strict=True)):
            candidates = self._lookup.candidates(label, self.on_unknown_label)
            if draw < self.p and len(candidates):
                chosen[position] = int(candidates[int(torch.randint(len(candidates), ()))])
        return chosen

    def _replaced(self, image: Any, form: ImageFormat, chosen: dict[int, int]) -> Any:
        """The image or the batch, with the chosen images replaced by those of the pool."""
        synthetic = {position: form.convert(self._lookup.read(index)) for position, index in chosen.items()}
        if not isinstance(image, torch.Tensor):
            return synthetic[0]
        replaced = image.clone()  # keeps type and device
        batch = replaced if image.ndim == 4 else replaced[None]
        for position, pixels in synthetic.items():
            batch[position] = pixels
        return replaced


def _parts(sample: Any) -> tuple[dict[Any, Any], Any, Any]:
    """The parts of a sample, and the keys of image and label."""
    keys = image_and_label_keys(sample)
    if keys is None:
        what = f"image and label are needed to choose a synthetic image, but only {what_is_held(sample)} was passed"
        fix = "call it with (image, label); the transform= of a dataset only gets the image"
        raise UsageError(what, where=NAME, fix=fix)
    return dict(sample if isinstance(sample, Mapping) else enumerate(sample)), *keys


def _annotations(part: Any) -> Iterator[Any]:
    """The annotations of an image in a part of its sample."""
    if isinstance(part, Mapping | tuple | list):
        for inner in part.values() if isinstance(part, Mapping) else part:
            yield from _annotations(inner)
    elif isinstance(part, Image.Image) or (isinstance(part, tv_tensors.TVTensor) and part.numel()):
        yield part


def _labels(image: Any, label: Any) -> list[Any]:
    """One label per image."""
    if not (isinstance(image, torch.Tensor) and image.ndim == 4):
        return [label]
    rows = list(label.tolist() if hasattr(label, "tolist") else label) if np.ndim(label) else []
    try:
        if len(rows) == len(image):
            return [plain_label(row) if isinstance(row, list) else row for row in rows]  # one-hot, or (N, 1)
    except UnknownLabelError:
        pass
    what = f"a batch of {len(image)} images needs as many labels, not shape {np.shape(label)}"
    raise UsageError(what, where=NAME, fix="place it before MixUp and CutMix, which mix labels")
