"""Pairs of images that show the same, found by their keypoints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import DisjointSet

from diffaug.runtime.parallel import run_unordered
from diffaug.similarity.keypoints.compare import Agreement, Alignment, align, compare
from diffaug.similarity.keypoints.detect import one_native_thread
from diffaug.similarity.keypoints.table import KeypointTable, Pictures, Progress, threads_to_use
from diffaug.similarity.thresholds import DIFFERENCE, GAP, LEAST_CORRELATION, LEAST_CORRELATION_CLIPPED, LEAST_OVERLAP

Pairs = NDArray[np.int64]

COMPARED_AT_ONCE = 64  # rows
ROWS_WORTH_PROCESSES = 4000

ROWS_AT_ONCE = 64
CANDIDATES = 16
BEYOND = (40, 43)  # ranks of the images to compare with: beyond any usual number of copies of one image


@dataclass(frozen=True)
class Aligned:
    """An image that a row of keypoints can be laid on."""

    image: int
    mirrored: bool
    alignment: Alignment


@dataclass(frozen=True)
class Found:
    """What a row of keypoints can be laid on."""

    row: int
    near: list[Aligned]  # may show the same
    beyond: list[Aligned]  # lies farther off
    unlike: bool  # whether something that may show the same cannot be aligned


def matched_by_keypoints(pictures: Pictures, table: KeypointTable, progress: Progress = lambda done: None) -> Pairs:
    """Pairs (P, 2) of images that show the same, as many as join all of them."""
    joined = DisjointSet(range(table.count))
    pairs = [np.empty((0, 2), np.int64)]
    with one_native_thread(), ThreadPoolExecutor(threads_to_use()) as threads:
        found = _found(table, list(blocks_of_candidates(table)), progress)
        for start in range(0, len(found), COMPARED_AT_ONCE):
            some = found[start : start + COMPARED_AT_ONCE]
            same = list(threads.map(partial(_same, pictures, table, joined), some))
            pairs.extend(_joining(table, zip(some, same, strict=True), joined))
    return np.concatenate(pairs)


def _found(table: KeypointTable, blocks: Sequence[Candidates], progress: Progress) -> list[Found]:
    """What each row can be laid on, in the order of the rows; rows without anything are left out."""
    tasks = {number: partial(_aligned_block, table, block) for number, block in enumerate(blocks)}
    done, parts = 0, {}
    workers = None if len(table.images) >= ROWS_WORTH_PROCESSES else 1
    for number, part in run_unordered(tasks, num_workers=workers):
        parts[number] = part
        done += len(blocks[number].rows)
        progress(done * table.count // len(table.images))
    return list(chain.from_iterable(parts[number] for number in sorted(parts)))


def _aligned_block(table: KeypointTable, block: Candidates) -> list[Found]:
    parts = zip(block.rows.tolist(), block.images, block.mirrored, strict=True)
    return [found for row, images, mirrored in parts if (found := _aligned(table, row, images, mirrored)).near]


def _aligned(table: KeypointTable, row: int, images: NDArray[np.int64], mirrored: NDArray[np.bool_]) -> Found:
    either = [table.keypoints(row, mirror=mirror) for mirror in (False, True)]

    def tried(part: slice) -> list[Aligned]:
        pairs = zip(images[part].tolist(), mirrored[part].tolist(), strict=True)
        tries = ((image, flip, align(either[flip], table.keypoints(image))) for image, flip in pairs if image >= 0)
        return [Aligned(image, flip, found) for image, flip, found in tries if found]

    near = tried(slice(0, CANDIDATES))
    beyond = tried(slice(CANDIDATES, None)) if near else []
    return Found(row, near, beyond, len(near) < int(np.count_nonzero(images[:CANDIDATES] >= 0)))


def _joining(table: KeypointTable, found: Iterable[tuple[Found, list[int]]], joined: DisjointSet) -> list[Pairs]:
    """The pairs (1, 2) of a row's image and one that shows the same, of those that are not joined yet."""
    pairs = ((int(table.images[one.row]), image) for one, images in found for image in images)
    return [np.array([pair]) for pair in pairs if joined.merge(*pair)]


def _same(pictures: Pictures, table: KeypointTable, joined: DisjointSet, found: Found) -> list[int]:
    """The images that show the same as a row."""
    own = int(table.images[found.row])
    open_ = [one for one in found.near if not joined.connected(own, one.image)]
    if not open_:
        return []
    frame = table.frame(pictures, found.row)

    def agreement(one: Aligned) -> Agreement:
        query = np.ascontiguousarray(frame[:, ::-1]) if one.mirrored else frame
        return compare(query, table.frame(pictures, one.image), one.alignment.matrix)

    near, beyond = ([agreement(one) for one in ones] for ones in (found.near, found.beyond))
    several = len(near) + len(beyond) > 1
    differences = [one.difference_in_one if several else one.difference for one in (*near, *beyond)]
    largest = _largest_difference(differences, found.unlike)
    correlation = LEAST_CORRELATION if found.row < table.count else LEAST_CORRELATION_CLIPPED
    parts = zip(found.near, near, differences, strict=False)  # the last differences are those beyond
    same = {
        one.image
        for one, how, difference in parts
        if how.overlap > LEAST_OVERLAP and how.correlation > correlation and difference <= largest
    }
    return [one.image for one in open_ if one.image in same]


def _largest_difference(differences: Sequence[float], unlike: bool) -> float:
    """The largest difference up to which images show the same: from it to the next one there is a gap.

    Images that are merely alike, as parts on one background are, differ by more and more without any gap.

    `unlike` says whether some of the nearest images could not be aligned.
    """
    ordered = [*sorted(differences), 2.0 if unlike else 2 * DIFFERENCE]
    return max((low for low, high in pairwise(ordered) if low <= min(DIFFERENCE, GAP * high)), default=-1.0)


@dataclass(frozen=True)
class Candidates:
    """What rows of keypoints are compared with; -1 where there is nothing more."""

    rows: NDArray[np.int64]  # (Q,)
    images: NDArray[np.int64]  # (Q, 16 + 3), first what may show the same, then what to compare with
    mirrored: NDArray[np.bool_]  # (Q, 16 + 3), whether the row looks more like them when it is mirrored

    @property
    def near(self) -> NDArray[np.int64]:
        """What may show the same (Q, 16)."""
        return self.images[:, :CANDIDATES]


def blocks_of_candidates(table: KeypointTable) -> Iterator[Candidates]:
    """The candidates of each row that has keypoints."""
    base = table.signatures[0, : table.count].astype(np.float32).T
    empty = table.numbers[: table.count] == 0
    filled = np.flatnonzero(table.numbers)
    for start in range(0, len(filled), ROWS_AT_ONCE):
        rows = filled[start : start + ROWS_AT_ONCE]
        plain, mirrored = (signatures[rows].astype(np.float32) @ base for signatures in table.signatures)
        likeness = np.maximum(plain, mirrored)
        likeness[:, empty] = -np.inf
        likeness[np.arange(len(rows)), table.images[rows]] = -np.inf
        images = _chosen(likeness)
        yield Candidates(rows, images, np.take_along_axis(mirrored > plain, images, axis=1))


def _chosen(likeness: NDArray[np.float32]) -> NDArray[np.int64]:
    """Images (Q, 16 + 3) by likeness (Q, N): the first 16, then those at the ranks beyond or else the last ones."""
    kept = min(BEYOND[1], likeness.shape[1])
    nearest = np.argpartition(-likeness, kept - 1, axis=1)[:, :kept]
    values = np.take_along_axis(likeness, nearest, axis=1)
    order = np.lexsort((nearest, -values), axis=1)
    nearest, values = np.take_along_axis(nearest, order, axis=1), np.take_along_axis(values, order, axis=1)
    nearest[np.isneginf(values)] = -1
    last = (nearest >= 0).sum(axis=1)[:, None]
    ranks = last - np.arange(1, 1 + BEYOND[1] - BEYOND[0])
    beyond = np.where(ranks >= 0, np.take_along_axis(nearest, ranks.clip(0), axis=1), -1)
    near = np.full((len(nearest), CANDIDATES), -1)
    near[:, : min(CANDIDATES, kept)] = nearest[:, :CANDIDATES]
    return np.concatenate([near, beyond], axis=1)
