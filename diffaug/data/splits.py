"""Which image is for training, for testing, or in which fold, so that no model is tested on what it was trained on.

Images are rows of a table with the columns path, label, group, pixel_sha256 and picture. Rows that share a group,
pixels or a picture, unless it is empty, belong together: they stay on one side of every split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from diffaug.runtime.seeding import derive_seed, numpy_generator

FOLDS = 3
ALWAYS_TRAINED_ON = -1
SHARED = ("group", "pixel_sha256", "picture")


def units_of(rows: pd.DataFrame) -> NDArray[np.int64]:
    """The number of the unit of each row, int64 (N,): rows that belong together, also through others, share one."""
    from scipy.sparse.csgraph import connected_components  # slow to import

    pairs = [_repeats(rows[column]) for column in SHARED]
    if not any(map(len, pairs)):
        return np.arange(len(rows))
    joined = np.concatenate(pairs)
    graph = coo_array((np.ones(len(joined), np.bool_), joined.T), shape=(len(rows), len(rows)))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _repeats(column: pd.Series[str]) -> NDArray[np.int64]:
    """The positions of each text that was there before, unless it is empty, and where it was first, int64 (M, 2)."""
    codes, texts = pd.factorize(column)
    positions = np.arange(len(codes))
    first = np.full(len(texts), len(codes))
    np.minimum.at(first, codes, positions)
    again = (first[codes] < positions) & (np.asarray(texts != "")[codes])
    return np.column_stack([positions[again], first[codes[again]]])


def choose_test(rows: pd.DataFrame, units: NDArray[np.int64], *, test_fraction: float, seed: int) -> NDArray[np.bool_]:
    """Which rows are held out for testing, bool (N,), stratified by class.

    The units of a class are ranked by a hash of (seed, group or path) and the first ones taken, so that adding
    an image moves at most a few others. Every class keeps something to train on, and gives at least one
    image to the test unless all its images are one unit.
    """
    totals = rows["label"].value_counts()
    wanted = {str(label): held_out_count(int(total), test_fraction) for label, total in totals.items()}
    draw = _Draw(rows, units, wanted, seed, "test split")
    # Rare classes first: they have the fewest units to choose from.
    for label in sorted(wanted, key=lambda name: (totals[name], name)):
        draw.take(label)
        if not draw.held(label):
            draw.take_smallest(label)
    return draw.chosen[draw.unit_of_row]


def choose_holdout(
    rows: pd.DataFrame, units: NDArray[np.int64], *, fraction: float, smallest: int, seed: int
) -> NDArray[np.bool_]:
    """Which training rows a generator is not trained on, bool (N,), to watch it for copying.

    Taken as in `choose_test`, but only from classes that can spare some: the share is never exceeded, not even
    to keep a unit whole, so a class of few or large units may give nothing. Nor does one below `smallest`.
    """
    totals = rows["label"].value_counts()
    givers = {str(name): int(total) for name, total in totals.items() if fraction and total >= smallest}
    wanted = {name: max(1, round(total * fraction)) for name, total in givers.items()}
    draw = _Draw(rows, units, wanted, seed, "holdout")
    for label in sorted(wanted):
        draw.take(label)
    return draw.chosen[draw.unit_of_row]


def held_out_count(total: int, test_fraction: float) -> int:
    """Images that a class of `total` gives to the test when groups don't interfere."""
    return min(max(1, round(total * test_fraction)), total - 1)


def images_needed(train_images: int, test_fraction: float) -> int:
    """Smallest class that leaves `train_images` for training once a test split is taken."""
    total = train_images
    while total - held_out_count(total, test_fraction) < train_images:
        total += 1
    return total


def assign_folds(labels: NDArray[np.int64], groups: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The fold whose model each image is left out of, int64 (N,); dealt from the rarest class on, groups stay whole.

    `ALWAYS_TRAINED_ON` where that would leave a class without any image: all of it is one group or in one fold.
    """
    counts = np.bincount(labels)
    fold_of: dict[int, int] = {}
    for label in sorted(np.flatnonzero(counts).tolist(), key=lambda label: (counts[label], label)):
        shuffled = numpy_generator(seed, "folds", label).permutation(np.unique(groups[labels == label]))
        for group in shuffled.tolist():
            fold_of.setdefault(group, len(fold_of) % FOLDS)
    folds = np.array([fold_of[group] for group in groups.tolist()], dtype=np.int64)
    confined = [label for label in np.flatnonzero(counts) if len(set(folds[labels == label].tolist())) == 1]
    folds[np.isin(groups, groups[np.isin(labels, confined)])] = ALWAYS_TRAINED_ON
    return folds


class _Draw:
    """Takes whole units, in the order of a hash, while no class gives more images than wanted."""

    def __init__(
        self, rows: pd.DataFrame, units: NDArray[np.int64], wanted: Mapping[str, int], seed: int, purpose: str
    ) -> None:
        codes, labels = pd.factorize(rows["label"], sort=True)
        self._labels = np.asarray(labels, object)
        _, self.unit_of_row = np.unique(units, return_inverse=True)
        number = int(self.unit_of_row.max(initial=-1)) + 1
        shape = number, len(self._labels)
        ones = np.ones(len(rows), np.int64)
        self._counts: csr_array = coo_array((ones, (self.unit_of_row, codes)), shape=shape).tocsr()
        self._members = self._counts.tocsc()
        names = _names(rows, self.unit_of_row)
        seeds = np.fromiter((derive_seed(seed, purpose, name) for name in names), np.int64, number)
        self._rank = np.empty(number, np.int64)
        self._rank[np.argsort(seeds, kind="stable")] = np.arange(number)
        self._wanted = np.array([wanted.get(str(label), 0) for label in self._labels], np.int64)
        self._held = np.zeros(len(self._labels), np.int64)
        self._totals = np.bincount(codes, minlength=len(self._labels))
        self.chosen = np.zeros(number, np.bool_)

    def held(self, label: str) -> int:
        """Images of a class that were taken so far."""
        return int(self._held[self._column(label)])

    def take(self, label: str) -> None:
        """Takes units with this class."""
        column = self._column(label)
        for unit in self._units(column):
            if self._held[column] >= self._wanted[column]:
                return
            classes, counts = self._content(unit)
            if not self.chosen[unit] and (self._held[classes] + counts <= self._wanted[classes]).all():
                self._take(unit)

    def take_smallest(self, label: str) -> None:
        """Takes the smallest unit with this class that can go while each of its classes keeps a training image."""
        left = self._totals - self._held
        spare = []
        for unit in self._units(self._column(label)):
            classes, counts = self._content(unit)
            if not self.chosen[unit] and (left[classes] > counts).all():
                spare.append((int(counts.sum()), unit))
        if spare:
            self._take(min(spare, key=lambda pair: pair[0])[1])

    def _take(self, unit: int) -> None:
        classes, counts = self._content(unit)
        self.chosen[unit] = True
        self._held[classes] += counts

    def _column(self, label: str) -> int:
        return int(np.flatnonzero(self._labels == label)[0])

    def _units(self, column: int) -> Iterator[int]:
        begin, end = self._members.indptr[column : column + 2]
        found = self._members.indices[begin:end]
        yield from found[np.argsort(self._rank[found])].tolist()

    def _content(self, unit: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        begin, end = self._counts.indptr[unit : unit + 2]
        return self._counts.indices[begin:end], self._counts.data[begin:end]


def _names(rows: pd.DataFrame, unit_of_row: NDArray[np.int64]) -> list[str]:
    """A name for each unit: that of its first group, or else path, in alphabetical order."""
    names: dict[int, str] = {}
    columns = (unit_of_row.tolist(), *(rows[column].to_numpy(object) for column in ("group", "path")))
    for unit, group, path in zip(*columns, strict=True):
        name = f"group {group}" if group else f"path {path}"
        names[unit] = min(names.get(unit, name), name)
    return [names[unit] for unit in range(len(names))]
