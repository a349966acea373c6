"""Which unlabeled images are used, and how much each counts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffaug.data.domain import Describe, Shown, domain_weights
from diffaug.data.leaks import copied_by
from diffaug.data.reading.pictures import Pixels
from diffaug.data.splits import units_of

SHOWS_HELD_OUT = "they show a test or val image"
REPEATS = "their pixels are those of a training image or of each other"
FOREIGN = "they are unlike the labeled images"

MakeDescription = Callable[[Shown], Describe | None]
"""What tells foreign images from others, given the labeled ones; None if nothing can."""


def leave_out(usable: pd.DataFrame, chosen: pd.Series[bool], reason: str) -> None:
    """Takes the chosen rows out of use; the reason completes "left out because"."""
    usable.loc[chosen, ["split", "left_out"]] = "", reason


def repeated_pixels(usable: pd.DataFrame) -> pd.Series[bool]:
    """Unlabeled rows with the pixels of a training image or of an earlier unlabeled one."""
    split = usable["split"]
    in_turn = pd.concat([usable[split == "train"], usable[split == "unlabeled"]])
    repeated = in_turn.duplicated("pixel_sha256").reindex(usable.index, fill_value=False)
    return repeated & (split == "unlabeled")


def showing_held_out(order: pd.DataFrame, pixels: Pixels, unlabeled: slice, *, device: str) -> NDArray[np.int64]:
    """The unlabeled rows, by position in `order`, that are copies of a test or validation image.

    The search for near-duplicates has found most of them. This is what an evaluation checks, in the other direction: an
    image among unlabeled ones that show the same is found, too.
    """
    held = np.flatnonzero(order["split"].isin(["test", "val"]).to_numpy())
    found = copied_by(pixels[unlabeled], pixels[held], units_of(order.iloc[held]), device=device)
    return np.array([int(unlabeled.start) + position for position in sorted(found)], np.int64)


def weigh(
    describe: Describe | None, labeled: Shown, units: NDArray[np.int64], unlabeled: Shown
) -> tuple[NDArray[np.float64], str]:
    """The weight of each unlabeled image, float64 (U,) in [0, 1], and what it was measured by; empty if it was not."""
    if describe is None:
        return np.ones(len(unlabeled.pixels)), ""
    own, others = describe(labeled, unlabeled)
    return domain_weights(own, units, others, describe.limits), describe.name
