"""Which images show the same, and which split each image of a table goes to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffaug.data.catalog import GroupProposal
from diffaug.data.layouts.entries import PAGE, Entry
from diffaug.data.layouts.groups import GroupRule, confirmation, groups_of, propose_group_rule
from diffaug.data.reading.pictures import Pictures
from diffaug.data.splits import choose_test, units_of
from diffaug.runtime.parallel import Progress


def pictures_shown(paths: Sequence[str], pictures: Pictures, progress: Progress | None) -> list[str]:
    """For each image the path of the first one that shows nearly the same picture; empty if no other one does."""
    from diffaug.similarity.near_duplicates import near_duplicates

    first = near_duplicates(pictures.small(), progress)
    repeated = np.bincount(first, minlength=len(first))[first] > 1
    return [paths[at] if again else "" for at, again in zip(first.tolist(), repeated.tolist(), strict=True)]


def join_pictures(usable: pd.DataFrame, pairs: Iterable[tuple[str, str]]) -> pd.Series[str]:
    """The column picture once the images of each pair of paths, and all that show the same as they, are one picture."""
    picture = usable["picture"].where(usable["picture"] != "", usable["path"]).set_axis(usable["path"])
    for one, other in pairs:
        first, second = sorted((picture[one], picture[other]))
        picture[picture == second] = first
    alone = ~picture.duplicated(keep=False)
    return picture.mask(alone, "").set_axis(usable.index)


def assign_splits(usable: pd.DataFrame, *, test_fraction: float | None, seed: int) -> pd.Series[str]:
    """The split of each usable image; empty if it is unlabeled and belongs together with a test or validation image.

    Labeled images stay in the splits that the layout gives. No unit is cut by the test split that is made here.

    `usable` has the columns of `splits` and the split that the layout gives, empty where it gives none. The
    `test_fraction` of each class is held out; None if the data has a test split.
    """
    units, split = units_of(usable), usable["split"].where(usable["split"] != "", "train")
    if test_fraction is not None:
        free = ((split == "train") & ~_shares(units, split, "val")).to_numpy()
        rows = usable.loc[free, ["path", "label", "group"]]
        held_out = choose_test(rows, units[free], test_fraction=test_fraction, seed=seed)
        split[split.index[free][held_out]] = "test"
    return split.mask((split == "unlabeled") & (_shares(units, split, "test") | _shares(units, split, "val")), "")


def keep_together(usable: pd.DataFrame) -> pd.Series[str]:
    """The splits once test images that belong together with a training image are training images too."""
    units, split = units_of(usable), usable["split"]
    return split.mask((split == "test") & _shares(units, split, "train"), "train")


def _shares(units: NDArray[np.int64], split: pd.Series[str], other: str) -> NDArray[np.bool_]:
    """Whether each image belongs together with an image of another split."""
    return np.isin(units, np.unique(units[(split == other).to_numpy()]))


def rule_of_names(entries: Sequence[Entry]) -> GroupRule | None:
    """The rule that file names suggest; None if there is none, or the images have groups already."""
    return None if any(entry.group for entry in entries) else propose_group_rule(entries)


def propose_groups(rule: GroupRule, usable: pd.DataFrame) -> GroupProposal:
    """A rule with what is known of usable images, of which the columns path and picture are needed."""
    shown = usable["picture"].where(usable["picture"] != "", usable["path"])
    pictures = np.asarray(pd.factorize(shown)[0], np.int64)
    files = (path.partition(PAGE)[0] for path in usable["path"])
    confirmed = confirmation(groups_of(files, rule.pattern), pictures)
    return GroupProposal(rule.pattern, rule.groups, rule.evidence, confirmed.is_strong)
