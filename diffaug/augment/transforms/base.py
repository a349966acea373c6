"""What the torchvision transforms share: finding the parts of a sample, and changing single images of a batch."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from diffaug.augment.formats import image_and_label_keys, rebuilt, what_is_held
from diffaug.augment.lookup import OnProblem, PoolLookup, must_skip, replaceable_format, usable_pool
from diffaug.augment.transforms.mixing import REPLACED, Mixture
from diffaug.data.labels import UnknownLabelError, plain_label
from diffaug.errors import UsageError
from diffaug.synthesis.pool.pool import Pool

Chosen = dict[int, tuple[int, Mixture]]
"""By position in the batch: the position in the pool of an image, and how it is mixed in."""


class FromPool(v2.Transform, ABC):  # type: ignore[misc]
    """Changes images with the help of those in a pool, each with probability `p`."""

    def __init__(self, lookup: PoolLookup, p: float, on_annotations: OnProblem, include_blind: bool) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise UsageError(f"p must be at least 0 and at most 1, not {p!r}", where=lookup.where)
        require_reaction("on_annotations", on_annotations, lookup.where)
        usable_pool(Pool.open(lookup.path), include_blind=include_blind)  # a wrong path fails here and not in a worker
        self.pool, self.p = lookup.path, p
        self.on_annotations, self.include_blind = on_annotations, include_blind
        self._lookup = lookup

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # reads files
    def forward(self, *inputs: Any) -> Any:
        """The sample with its image changed, or unchanged."""
        sample, where = inputs if len(inputs) > 1 else inputs[0], self._lookup.where
        parts, image_at, key_at = self._parts(sample)
        image, key = parts[image_at], parts[key_at]
        stale = {type(leaf).__name__ for at, part in parts.items() if at != image_at for leaf in _annotations(part)}
        form = None if must_skip(stale, self.on_annotations, where) else replaceable_format(image, where)
        keys = _one_per_image(image, key, where) if _is_batch(image) else [key]
        chosen = self._choose(keys, form.size) if form else {}
        if form and chosen:
            synthetic = {place: form.convert(self._lookup.read(index)) for place, (index, _) in chosen.items()}
            parts[image_at] = _changed(image, synthetic, chosen)
        parts[key_at] = self._relabeled(key, keys, chosen, is_batch=_is_batch(image))
        is_same = parts[image_at] is image and parts[key_at] is key
        return sample if is_same else rebuilt(type(sample), parts)

    def _parts(self, sample: Any) -> tuple[dict[Any, Any], Any, Any]:
        """The parts of a sample, and the keys of the image and of what chooses the synthetic one."""
        keys = image_and_label_keys(sample)
        if keys is None:
            what = f"image and label are needed to choose a synthetic image, but only {what_is_held(sample)} was passed"
            fix = "call it with (image, label); the transform= of a dataset only gets the image"
            raise UsageError(what, where=self._lookup.where, fix=fix)
        return dict(items_of(sample)), *keys

    @abstractmethod
    def _candidates(self, key: Any) -> NDArray[np.int64]:
        """Positions in the pool of the images that an image with this key may get."""

    def _mixture(self, size: tuple[int, int]) -> Mixture:
        """How the next image of this height and width is mixed with a synthetic one."""
        return REPLACED

    def _relabeled(self, label: Any, labels: list[Any], chosen: Chosen, *, is_batch: bool) -> Any:
        """The label after the change, or the labels of a batch, of which `labels` has one per image."""
        return label

    def _choose(self, keys: list[Any], size: tuple[int, int]) -> Chosen:
        chosen = {}
        for position, (key, draw) in enumerate(zip(keys, torch.rand(len(keys)).tolist(), strict=True)):
            candidates = self._candidates(key)
            if draw < self.p and len(candidates):
                index = int(candidates[int(torch.randint(len(candidates), ()))])
                chosen[position] = (index, self._mixture(size))
        return chosen


def require_reaction(name: str, reaction: Any, where: str) -> None:
    """Raises UsageError unless this is what an argument named `on_...` may be."""
    if reaction not in ("error", "skip"):
        raise UsageError(f"{name} must be 'error' or 'skip', not {reaction!r}", where=where)


def items_of(sample: Any) -> Any:
    """Each part of a sample with its name or position."""
    return sample.items() if isinstance(sample, Mapping) else enumerate(sample)


def _annotations(part: Any) -> Iterator[Any]:
    """The annotations of an image in a part of its sample."""
    if isinstance(part, Mapping | tuple | list):
        for inner in part.values() if isinstance(part, Mapping) else part:
            yield from _annotations(inner)
    elif isinstance(part, Image.Image) or (isinstance(part, tv_tensors.TVTensor) and part.numel()):
        yield part


def _is_batch(image: Any) -> bool:
    return isinstance(image, torch.Tensor) and image.ndim == 4


def _changed(image: Any, synthetic: Mapping[int, Any], chosen: Chosen) -> Any:
    """The image or the batch, with each synthetic image mixed in as it was chosen."""
    if not isinstance(image, torch.Tensor):
        return chosen[0][1].apply(image, synthetic[0])
    changed = image.clone()  # keeps type and device
    batch = changed if _is_batch(image) else changed[None]
    for position, pixels in synthetic.items():
        batch[position] = chosen[position][1].apply(batch[position], pixels.to(image.device))
    return changed


def _one_per_image(images: torch.Tensor, keys: Any, where: str) -> list[Any]:
    """One label or path per image of a batch."""
    rows = list(keys.tolist() if hasattr(keys, "tolist") else keys) if np.ndim(keys) else []
    try:
        if len(rows) == len(images):
            return [plain_label(row) if isinstance(row, list) else row for row in rows]  # one-hot, or (N, 1)
    except UnknownLabelError:
        pass
    what = f"a batch of {len(images)} images needs as many labels or paths, not shape {np.shape(keys)}"
    raise UsageError(what, where=where, fix="place it before MixUp and CutMix, which mix labels")
