"""Refusal to test on images that a generator, or the encoder behind its filters, has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffaug.data.entries import listed
from diffaug.data.images import LabeledImages
from diffaug.errors import DataError
from diffaug.similarity.copies import COPY_RATIO, CopyDetector

MEND = (
    "take them out of the test images, train a generator without them, "
    "or leave them out: --set evaluation.drop_leaked=true"
)


@dataclass(frozen=True)
class Leak:
    """A test image that was seen.

    Attributes:
        test_id: Its name.
        seen_id: The training image that it shows.
        how: Whether the pixels are the same, or it is the same picture cropped, mirrored or compressed.
    """

    test_id: str
    seen_id: str
    how: Literal["same pixels", "near copy"]

    def __str__(self) -> str:
        return f"{self.test_id} = {self.seen_id}"


def same_pixels(test_ids: Sequence[str], test_hashes: Sequence[str], rows: pd.DataFrame) -> list[Leak]:
    """Test images whose very pixels were seen.

    Args:
        test_ids: Names of the test images.
        test_hashes: Their `pixel_sha256`.
        rows: What was seen, trained on or held out: columns `id` and `pixel_sha256`, as `Generator.rows` has them.
    """
    seen = dict(zip(rows["pixel_sha256"], rows["id"], strict=True))
    pairs = zip(test_ids, test_hashes, strict=True)
    return [Leak(name, seen[sha256], "same pixels") for name, sha256 in pairs if sha256 in seen]


def near_copies(
    test: LabeledImages, seen: LabeledImages, groups: NDArray[np.int64], *, device: str = "cpu"
) -> list[Leak]:
    """Test images that show the same as one that was seen, but for crops, mirroring, compression or small changes.

    An image counts when its distance to the nearest seen image is under a third of that to the next one of another
    group (Gu et al. 2023, arXiv 2310.02664): pictures that are merely alike have several neighbours.

    Args:
        test: The test images, of the size of `seen`.
        seen: What was seen, at least one image.
        groups: int64 (M,); images of one group or of equal pixels have the same number.
        device: Where to compute.
    """
    matches = CopyDetector(seen.pixels, groups, device).match(test.pixels)
    copies = np.flatnonzero(matches.ratios < COPY_RATIO)
    return [Leak(test.ids[image], seen.ids[matches.nearest[image]], "near copy") for image in copies]


def require_unseen(test: LabeledImages, leaks: Sequence[Leak], *, drop: bool) -> LabeledImages:
    """The test images that nothing has seen.

    Args:
        test: All test images.
        leaks: Those that were seen.
        drop: Whether to leave them out; else they are an error. How many were: the difference in length.

    Raises:
        DataError: There are leaks and `drop` is false, or a class would lose all of its test images.
    """
    leaked = {leak.test_id for leak in leaks}
    if not leaked:
        return test
    named = listed(sorted({str(leak) for leak in leaks}))
    if not drop:
        raise DataError(
            f"{len(leaked)} of {len(test)} test images were seen by the generator or its filters, which would flatter "
            f"the result: {named}",
            fix=MEND,
        )
    rest = test.select(np.array([i for i, name in enumerate(test.ids) if name not in leaked], np.int64))
    lost = [name for name, count in rest.counts_by_name.items() if not count and test.counts_by_name[name]]
    if lost:
        raise DataError(
            f"all test images of class {', '.join(lost)} were seen by the generator or its filters: {named}",
            fix="add test images of the class that were never trained on",
        )
    return rest
