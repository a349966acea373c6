"""Test images that a generator, or the encoder behind its filters, has seen."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from diffaug.data.images import LabeledImages
from diffaug.data.layouts.entries import listed
from diffaug.data.leaks import Leak
from diffaug.errors import DataError


def same_pixels(test_ids: Sequence[str], test_hashes: Sequence[str], rows: pd.DataFrame) -> list[Leak]:
    """Test images, with their `pixel_sha256`, whose pixels are among the seen ones, the rows of `Generator.rows`."""
    seen = dict(zip(rows["pixel_sha256"], rows["id"], strict=True))
    pairs = zip(test_ids, test_hashes, strict=True)
    return [Leak(name, seen[sha256], "same pixels") for name, sha256 in pairs if sha256 in seen]


def require_unseen(test: LabeledImages, leaks: Sequence[Leak], *, drop: bool) -> LabeledImages:
    """The test images that were not seen; a DataError if any was and `drop` is false, or a class would lose all."""
    leaked = {leak.test_id for leak in leaks}
    if not leaked:
        return test
    named = listed(sorted({f"{leak.test_id} = {leak.seen_id}" for leak in leaks}))
    if not drop:
        raise DataError(
            f"{len(leaked)} of {len(test)} test images show what a training image shows, which would bias the result: "
            f"{named}",
            fix="leave them out of the test with --drop-leaked, in Python evaluate(drop_leaked=True); diffaug inspect "
            "shows them side by side: if they only look alike, set data.near_duplicates=false",
        )
    rest = test.select(np.flatnonzero(~np.isin(test.ids, list(leaked))))
    lost = [name for name, count in rest.counts_by_name.items() if not count and test.counts_by_name[name]]
    if lost:
        raise DataError(
            f"all test images of class {', '.join(lost)} show what a training image shows: {named}",
            fix="add test images of the class that were never trained on",
        )
    return rest
