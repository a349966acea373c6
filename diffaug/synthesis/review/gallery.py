"""The images of a study as a reviewer sees them: real and synthetic ones of a class, and what the filters found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffaug.data.catalog import Catalog
from diffaug.files import storage
from diffaug.synthesis.decisions import ImageKey, Judgment
from diffaug.synthesis.pool.merging import manifest_columns
from diffaug.synthesis.pool.pool import Pool, blind_classes

Show = Literal["all", "undecided", "rejected", "disputed"]
SCORES = {
    "own_class_probability": "probability of its class",
    "own_class_p_value": "share of real images recognized as badly",
    "class_distance": "distance to its class",
    "class_distance_p_value": "share of real images as far off",
    "nearest_distance": "distance to the nearest real image",
    "copy_ratio": "that distance over the one to the next",
    "saturation": "share of black and white values",
}
"""What is shown of the filters, in words; other scores are shown by their names."""
WORST_ARE_HIGH = ("class_distance", "saturation")


@dataclass(frozen=True)
class SyntheticImage:
    """An image of the pool.

    Attributes:
        number: Its row in the manifest.
        nearest: Number of the real image that is most like it, if that is in the catalog, and `nearest_file` its file.
        judged: What each reviewer thinks of it.
    """

    number: int
    file: str
    label: str
    origin: str
    scores: Mapping[str, float]
    nearest: int | None
    nearest_file: str
    judged: Mapping[str, Judgment]


@dataclass(frozen=True)
class ReviewedClass:
    """A class with its numbers of images; `blind`: nothing shows that the synthetic ones belong to it."""

    name: str
    real: int
    synthetic: int
    reviewed: int
    rejected: int
    blind: bool


class Gallery:
    """The training images of a catalog, all images of a pool, and what was decided about these.

    A synthetic image is known by its row in the manifest, a real one by its position in `Catalog.seen_images`, where
    the unlabeled images follow those of the train split. A class is its position in `classes`.
    """

    def __init__(self, catalog: Catalog, pool: Pool) -> None:
        self.pool = pool.whole
        self.classes = pool.classes
        self.keys = self.pool.image_keys
        self._train = catalog.images("train")
        self._unlabeled = catalog.unlabeled()
        self._rows = self.pool.manifest
        self._real_ids = (*self._train.ids, *self._unlabeled[1])
        self._position = {name: number for number, name in enumerate(self._real_ids)}
        self._blind = blind_classes(self.pool)

    @cached_property
    def scores(self) -> dict[str, str]:
        """The scores of the filters in the manifest, with what each one is in words."""
        known = set(manifest_columns(()))
        numbers = self._rows.select_dtypes(["number"]).columns
        return {name: SCORES.get(name, name) for name in numbers if name not in known}

    def real_of(self, class_index: int) -> NDArray[np.int64]:
        """Numbers of the real images of a class, int64."""
        names = self._train.classes
        wanted = names.index(self.classes[class_index]) if self.classes[class_index] in names else -1
        return np.flatnonzero(self._train.labels == wanted).astype(np.int64)

    def synthetic_of(self, class_index: int) -> NDArray[np.int64]:
        """Numbers of the synthetic images of a class, int64."""
        return self.pool.indices_of(class_index)

    def rows(
        self,
        class_index: int,
        judged: Mapping[ImageKey, Mapping[str, Judgment]],
        *,
        reviewer: str = "",
        show: Show = "all",
        order: str = "",
    ) -> list[int]:
        """Numbers of the synthetic images of a class: those to `show` to a reviewer, the worst by a score first."""
        numbers = self.synthetic_of(class_index)
        if order in self.scores:
            values = self._rows[order].to_numpy(float)[numbers]
            numbers = numbers[np.argsort(-values if order in WORST_ARE_HIGH else values, kind="stable")]
        about = {number: judged.get(self.keys[number], {}) for number in numbers.tolist()}
        return [number for number, by_reviewer in about.items() if _is_shown(show, by_reviewer, reviewer)]

    def describe(
        self, numbers: Sequence[int], judged: Mapping[ImageKey, Mapping[str, Judgment]]
    ) -> list[SyntheticImage]:
        """What is known of some synthetic images."""
        found = []
        for number in numbers:
            row, key = self._rows.iloc[number], self.keys[number]
            scores = {name: float(row[name]) for name in self.scores if pd.notna(row[name])}
            nearest = self._position.get(row["nearest"])
            about = (str(row["label"]), str(row["origin"]), scores, nearest, str(row["nearest"]))
            found.append(SyntheticImage(number, key[0], *about, judged.get(key, {})))
        return found

    def counts(self, judged: Mapping[ImageKey, Mapping[str, Judgment]]) -> list[ReviewedClass]:
        """The classes in order."""
        found = []
        for index, name in enumerate(self.classes):
            here = [judged.get(self.keys[number], {}).values() for number in self.synthetic_of(index)]
            rejected = sum("reject" in one for one in here)
            sizes = len(self.real_of(index)), len(here)
            found.append(ReviewedClass(name, *sizes, sum(map(bool, here)), rejected, name in self._blind))
        return found

    def synthetic_png(self, number: int) -> bytes:
        """The file of a synthetic image; a DamagedError if it was changed."""
        return storage.png_bytes(self.pool.read(number))

    def real_png(self, number: int) -> bytes:
        """A real image as the generator sees it, at the size of the synthetic ones."""
        known = len(self._train)
        pixels = self._train.pixels[number] if number < known else self._unlabeled[0][number - known]
        return storage.png_bytes(np.asarray(pixels))


def _is_shown(show: Show, by_reviewer: Mapping[str, Judgment], reviewer: str) -> bool:
    match show:
        case "undecided":
            return reviewer not in by_reviewer
        case "rejected":
            return "reject" in by_reviewer.values()
        case "disputed":
            return len(set(by_reviewer.values())) > 1
    return True
