"""Which images of a data set show the same: saved again, exposed otherwise, moved, turned, sheared, cropped, mirrored.

Such images must stay on one side of every split, or a test image is one that was trained on.

Images with structure are compared by keypoints: one vector per image gives a short list (`vocabulary`), matched
keypoints the movement that brings one image onto the other (`align`), and their pixels decide (`compare`). Small and
smooth images are compared as a whole (`whole_images`).
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from diffaug.similarity.keypoints.search import matched_by_keypoints
from diffaug.similarity.keypoints.table import describe_pictures
from diffaug.similarity.whole_images import matched_as_a_whole

FEW_KEYPOINTS, SMALL = 100, 64 * 64  # with fewer keypoints or px an image is also compared as a whole

Pictures = Sequence[NDArray[np.uint8]]
Progress = Callable[[int, int], None]


def near_duplicates(pictures: Pictures, progress: Progress | None = None) -> NDArray[np.int64]:
    """For each image the position of the first one that shows the same, which may be itself, int64 (N,).

    Pictures are whole upright images, uint8 (h, w, C), of any shapes, best not reduced below 128 px, nor much larger.
    `progress` is called with the number of images that are done, and of all.
    """
    pairs = matching_pairs(pictures, progress)
    graph = coo_matrix((np.ones(len(pairs)), pairs.T), shape=(len(pictures), len(pictures)))
    _, components = connected_components(graph, directed=False)
    _, first, picture = np.unique(components, return_index=True, return_inverse=True)
    return np.asarray(first[picture], np.int64)


def matching_pairs(pictures: Pictures, progress: Progress | None = None) -> NDArray[np.int64]:
    """Pairs (P, 2) of images that show the same, enough of them to join all that do."""
    count = len(pictures)
    if count < 2:
        return np.empty((0, 2), np.int64)
    report = progress or (lambda done, total: None)
    table = describe_pictures(pictures, lambda done: report(done // 2, count))
    areas = np.array([picture.shape[0] * picture.shape[1] for picture in pictures])
    chosen = np.flatnonzero((table.numbers[:count] < FEW_KEYPOINTS) | (areas < SMALL))

    def half_and(done: int) -> None:
        report((count + count * done // (count + len(chosen))) // 2, count)

    by_keypoints = matched_by_keypoints(pictures, table, half_and)
    pairs = np.concatenate([by_keypoints, matched_as_a_whole(pictures, chosen, lambda done: half_and(count + done))])
    report(count, count)
    return pairs
