"""Pairs of images that show the same, found by their keypoints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import DisjointSet

from diffaug.runtime.parallel import run_unordered
from diffaug.similarity.keypoints.align import Alignment, align
from diffaug.similarity.keypoints.candidates import CANDIDATES, Candidates, blocks_of_candidates
from diffaug.similarity.keypoints.compare import Agreement, compare
from diffaug.similarity.keypoints.detect import one_native_thread
from diffaug.similarity.keypoints.table import KeypointTable, Pictures, Progress, threads_to_use
from diffaug.similarity.thresholds import DIFFERENCE, GAP, LEAST_CORRELATION, LEAST_CORRELATION_CLIPPED, LEAST_OVERLAP

Pairs = NDArray[np.int64]

COMPARED_AT_ONCE = 64  # rows
ROWS_WORTH_PROCESSES = 4000


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

    Args:
        differences: Those of all images that could be aligned.
        unlike: Whether some of the nearest images could not.
    """
    ordered = [*sorted(differences), 2.0 if unlike else 2 * DIFFERENCE]
    return max((low for low, high in pairwise(ordered) if low <= min(DIFFERENCE, GAP * high)), default=-1.0)
