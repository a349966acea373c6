"""Test images that a generator, or the encoder behind its filters, has seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffaug.data.images import LabeledImages
from diffaug.data.layouts.entries import listed
from diffaug.errors import DataError
from diffaug.similarity.copies import CopyDetector
from diffaug.similarity.thresholds import COPY_RATIO


@dataclass(frozen=True)
class Leak:
    """A test image that was seen, and the training image with the same content."""

    test_id: str
    seen_id: str
    how: Literal["same pixels", "near copy"]


def same_pixels(test_ids: Sequence[str], test_hashes: Sequence[str], rows: pd.DataFrame) -> list[Leak]:
    """Test images, with their `pixel_sha256`, whose pixels are among the seen ones, the rows of `Generator.rows`."""
    seen = dict(zip(rows["pixel_sha256"], rows["id"], strict=True))
    pairs = zip(test_ids, test_hashes, strict=True)
    return [Leak(name, seen[sha256], "same pixels") for name, sha256 in pairs if sha256 in seen]


def near_copies(
    test: LabeledImages, seen: LabeledImages, groups: NDArray[np.int64], *, device: str = "cpu"
) -> list[Leak]:
    """Test images with the content of an image that was seen, up to crops, mirroring, compression or small changes.

    An image counts if its distance to the nearest seen image is below a third of the distance to the next one of
    another group (Gu et al. 2023, arXiv 2310.02664): images that are merely similar have several neighbors. Seen images
    of one group or with equal pixels share a number in `groups`, int64 (M,).
    """
    matches = CopyDetector(seen.pixels, groups, device).match(test.pixels)
    copies = np.flatnonzero(matches.ratios < COPY_RATIO)
    return [Leak(test.ids[image], seen.ids[matches.nearest[image]], "near copy") for image in copies]


def require_unseen(test: LabeledImages, leaks: Sequence[Leak], *, drop: bool) -> LabeledImages:
    """The test images that were not seen; a DataError if any was and `drop` is false, or a class would lose all."""
    leaked = {leak.test_id for leak in leaks}
    if not leaked:
        return test
    named = listed(sorted({f"{leak.test_id} = {leak.seen_id}" for leak in leaks}))
    if not drop:
        raise DataError(
            f"{len(leaked)} of {len(test)} test images were seen by the generator or its filters, which would bias the "
            f"result: {named}",
            fix="remove them from the test images, train a generator without them, or leave them out: "
            "--set evaluation.drop_leaked=true",
        )
    rest = test.select(np.flatnonzero(~np.isin(test.ids, list(leaked))))
    lost = [name for name, count in rest.counts_by_name.items() if not count and test.counts_by_name[name]]
    if lost:
        raise DataError(
            f"all test images of class {', '.join(lost)} were seen by the generator or its filters: {named}",
            fix="add test images of the class that were never trained on",
        )
    return rest
