"""MixUp and CutMix of a real image with a synthetic partner, and the soft label of the mixture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from diffaug.augment.lookup import OnProblem, PoolLookup
from diffaug.data.labels import SHOWN, Label, UnknownLabelError, match_name, plain_label
from diffaug.data.layouts.entries import listed
from diffaug.errors import UsageError

Method = Literal["mixup", "cutmix"]
PartnerClass = Label | Mapping[Any, Any] | None


@dataclass(frozen=True)
class Mixture:
    """How an image is mixed with its partner.

    Attributes:
        kept: Weight of the image itself in the soft label, in [0, 1]; without a box, that of its pixels, too.
        box: The part that the partner fills: top, left, bottom and right as fractions of height and width.
    """

    kept: float
    box: tuple[float, ...] = ()

    @classmethod
    def drawn(cls, method: Method, kept: float, center: tuple[float, float], size: tuple[int, int]) -> Self:
        """The mixture of a draw `kept` ~ Beta(alpha, alpha); CutMix also takes a uniform center in [0, 1).

        MixUp: Zhang et al. 2018, arXiv 1710.09412, section 2. CutMix: Yun et al. 2019, arXiv 1905.04899, equations 1
        and 2; as there, what the border cuts off from the box counts for the image itself.
        """
        if method == "mixup":
            return cls(kept)
        part = math.sqrt(1 - kept)
        starts = [max(0, round(length * (place - part / 2))) for place, length in zip(center, size, strict=True)]
        ends = [min(length, round(length * (place + part / 2))) for place, length in zip(center, size, strict=True)]
        filled = (ends[0] - starts[0]) * (ends[1] - starts[1])
        height, width = size
        box = (starts[0] / height, starts[1] / width, ends[0] / height, ends[1] / width)
        return cls(1 - filled / (height * width), box)

    def apply(self, image: Any, partner: Any) -> Any:
        """The mixture of two images of one type: PIL, array HW or HWC, tensor HW or CHW; uint8 or floating."""
        if self == REPLACED:
            return partner
        if isinstance(image, Image.Image):
            return Image.fromarray(self.apply(np.asarray(image), np.asarray(partner)))
        is_tensor = isinstance(image, torch.Tensor)
        if self.box:
            mixed = image.clone() if is_tensor else image.copy()
            region = self._region(tuple(image.shape[-2:] if is_tensor else image.shape[:2]))
            place = (..., *region) if is_tensor else region
            mixed[place] = partner[place]
            return mixed
        mixed = self.kept * image + (1 - self.kept) * partner
        if is_tensor:
            return (mixed if image.is_floating_point() else mixed.round()).to(image.dtype)
        return (mixed if image.dtype.kind == "f" else mixed.round()).astype(image.dtype)

    def _region(self, size: tuple[int, ...]) -> tuple[slice, slice]:
        top, left, bottom, right = (round(edge * length) for edge, length in zip(self.box, size * 2, strict=True))
        return slice(top, bottom), slice(left, right)


REPLACED = Mixture(0.0)  # nothing is left of the image


class Mixer:
    """Finds synthetic partners for images by label, and makes soft labels.

    Args:
        lookup: The pool, with the labels of the dataset.
        partner_class: A class from which all partners come; or a mapping of class to the class of its partners, where a
            class that is not named has its own. None: each image's own class. Classes are given as of
            `diffaug.data.labels.class_of`.

    Raises:
        UsageError: A class has no label, or is no class of the pool, or has no images there.
    """

    def __init__(self, lookup: PoolLookup, partner_class: PartnerClass) -> None:
        self._lookup, where = lookup, lookup.where
        self.partner_class = self._named(partner_class)
        self.class_to_idx = dict(lookup.class_to_idx)
        named = self.partner_class
        for name in {named} if isinstance(named, str) else set((named or {}).values()):
            if match_name(name, list(self.class_to_idx)) is None:
                what = f"the partners' class {name!r} has no label in class_to_idx"
                raise UsageError(what, where=where, fix="add it there, or choose another partner_class")
            if not len(lookup.candidates(name, "error")):
                what = f"the pool has no images of the partners' class {name!r}"
                raise UsageError(what, where=where, fix="choose another partner_class, or generate images of it")

    def candidates(self, label: Any, on_unknown: OnProblem) -> NDArray[np.int64]:
        """Positions in the pool of the possible partners of an image with this label; none of an unknown, skipped one.

        Raises:
            UsageError: As of `PoolLookup.candidates`; or the label, though skipped there, has no place in soft labels.
        """
        own = self._lookup.candidates(label, on_unknown)
        self.index_of(label)
        if self.partner_class is None:
            return own
        if isinstance(self.partner_class, str):
            return self._lookup.candidates(self.partner_class, "error")
        try:
            name = self._lookup.class_of(label)
        except UnknownLabelError:
            return own
        partner = self.partner_class.get(name)
        return own if partner is None else self._lookup.candidates(partner, "error")

    def soft_label(self, label: Any, pool_index: int | None = None, kept: float = 1.0) -> NDArray[np.float32]:
        """Float32 (K,) that sums to 1: `kept` for the label, and the rest for the class of the partner."""
        soft = np.zeros(max(self.class_to_idx.values()) + 1, np.float32)
        soft[self.index_of(label)] = kept if pool_index is not None else 1
        if pool_index is not None:
            pool = self._lookup.pool
            soft[self.index_of(pool.classes[pool.labels[pool_index]])] += 1 - kept
        return soft

    def index_of(self, label: Any) -> int:
        """The label as an index of the dataset's classes."""
        plain = plain_label(label)
        names = list(self.class_to_idx)
        name = match_name(plain, names) if isinstance(plain, str) else None
        index = self.class_to_idx[name] if name is not None else plain
        if isinstance(index, int) and index in self.class_to_idx.values():
            return index
        what = f"label {plain!r} has no place in a soft label of the classes {listed(names, shown=SHOWN)}"
        fix = "pass class_to_idx=dataset.class_to_idx with all classes of the dataset"
        raise UnknownLabelError(what, where=self._lookup.where, fix=fix)

    def _named(self, given: PartnerClass) -> str | dict[str, str] | None:
        if given is None:
            return None
        if isinstance(given, Mapping):
            return {self._lookup.class_of(own): self._lookup.class_of(partner) for own, partner in given.items()}
        return self._lookup.class_of(given)


def require_mixing(method: Any, alpha: Any, where: str) -> None:
    """Raises UsageError unless these are a method and the parameter of a Beta distribution."""
    if method not in ("mixup", "cutmix"):
        raise UsageError(f"method must be 'mixup' or 'cutmix', not {method!r}", where=where)
    if not isinstance(alpha, Real) or isinstance(alpha, bool) or not 0 < float(alpha) < math.inf:
        raise UsageError(f"alpha must be a number above 0, not {alpha!r}", where=where, fix="1.0 draws uniformly")
