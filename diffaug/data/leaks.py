"""Test images that show a training image: what an evaluation refuses."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffaug.runtime.parallel import in_threads, one_thread_each

How = Literal["same pixels", "near copy", "same group"]


@dataclass(frozen=True)
class Leak:
    """A test image that was seen, and the training image with the same content."""

    test_id: str
    seen_id: str
    how: How


def copied_by(
    test: NDArray[np.uint8], seen: NDArray[np.uint8], groups: NDArray[np.int64], *, device: str = "cpu"
) -> dict[int, int]:
    """Positions of test images (N, H, W, C) that are copies of a seen one (M, H, W, C), with the position of that one.

    The distance of a copy to the nearest seen image is below a third of the distance to the next one of another group
    (Gu et al. 2023, arXiv 2310.02664): images that are merely similar have several neighbors. Seen images of one group
    or with equal pixels share a number in `groups`, int64 (M,).
    """
    from diffaug.similarity.copies import QUERIES_AT_ONCE, CopyDetector
    from diffaug.similarity.thresholds import COPY_RATIO

    if not len(test) or not len(seen):
        return {}
    starts, found = range(0, len(test), QUERIES_AT_ONCE), dict[int, int]()
    with one_thread_each():  # operations are so small that the threads of torch would mostly wait for each other
        detector = CopyDetector(seen, groups, device)
        blocks = (test[start : start + QUERIES_AT_ONCE] for start in starts)
        matched = (in_threads if device == "cpu" else map)(detector.match, blocks)
        for start, matches in zip(starts, matched, strict=True):
            for image in np.flatnonzero(matches.ratios < COPY_RATIO).tolist():
                found[start + image] = int(matches.nearest[image])
    return found


def shared(test: pd.DataFrame, train: pd.DataFrame) -> list[Leak]:
    """Test images with the pixels, picture or group of a training image, each once; rows as in a catalog's table."""
    leaks: dict[str, Leak] = {}
    kinds: tuple[tuple[str, How], ...] = (
        ("pixel_sha256", "same pixels"),
        ("picture", "near copy"),
        ("group", "same group"),
    )
    for column, how in kinds:
        codes, texts = pd.factorize(pd.concat([test[column], train[column]]))
        tested, trained = codes[: len(test)], codes[len(test) :]
        first = np.full(len(texts), len(train))
        np.minimum.at(first, trained, np.arange(len(train)))
        is_seen = (first < len(train)) & np.asarray(texts != "")
        for position in np.flatnonzero(is_seen[tested]).tolist():
            path = test["path"].iloc[position]
            leaks.setdefault(path, Leak(path, train["path"].iloc[first[tested[position]]], how))
    return list(leaks.values())
