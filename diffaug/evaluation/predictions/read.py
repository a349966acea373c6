"""Predictions of other training code, read from a CSV: one line per image, arm and seed."""

import posixpath
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffaug.configuration.arms import Role
from diffaug.data.layouts.entries import listed, sorted_classes
from diffaug.errors import DataError
from diffaug.evaluation.experiment.trials import Trial
from diffaug.evaluation.predictions.table import Table

PROBABILITY_PREFIX = "p_"
SUM_TOLERANCE = 0.01
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True)
class Predictions:
    """One trial per arm and seed, the role of each arm, and the true classes (N,) as positions in `classes`."""

    trials: tuple[Trial, ...]
    roles: dict[str, Role]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]


def read_predictions(
    path: Path,
    *,
    classes: Sequence[str] | None = None,
    test_ids: Sequence[str] | None = None,
    labels: NDArray[np.int64] | None = None,
    ignored: Collection[str] = (),
) -> Predictions:
    """Reads and scores predictions.

    Required columns: `file_name`, `arm`, `role` (baseline, candidate or ablation) and `predicted`; also `label`, the
    true class, unless `labels` are given. Optional columns: `seed` (default 0) and `p_<class>`, the probability of each
    class. Others are ignored. Every value is text: the class "01" is not the class "1".

    Args:
        path: The CSV, UTF-8.
        classes: Class names (K,). Default: those in `label`, in the order of `sorted_classes`.
        test_ids: Names of the test images (N,). A file name matches a whole name, or the base name of exactly one.
            Default: the file names in the CSV.
        labels: True classes of the test images (N,), positions in `classes`. Default: from `label`.
        ignored: Names of further images, whose lines are ignored; only with `test_ids`.

    Raises:
        DataError: A column, value, line, image or role is missing, doubled, unknown, or contradicts another.
    """
    table = Table.read(path)
    ids = tuple(test_ids) if test_ids is not None else tuple(table.column("file_name").map(_normal).unique())
    images = _positions(table, (*ids, *ignored))
    table, images = Table(path, table.text[images < len(ids)]), images[images < len(ids)]
    names = tuple(classes) if classes is not None else sorted_classes(table.column("label").unique())
    truth = _true_classes(table, images, names, ids, labels)
    probabilities = _probabilities(table, names)
    arms, predicted = table.column("arm").to_numpy(), table.codes("predicted", names)
    lines = pd.DataFrame({"arm": arms, "seed": _seeds(table), "image": images, "predicted": predicted})
    roles = _roles(table)
    _require_every_seed(table, lines)
    trials = []
    for (arm, seed), of_trial in lines.groupby(["arm", "seed"], sort=False)[["image", "predicted"]]:
        _require_one_line_per_image(table, of_trial["image"], ids, f"arm '{arm}', seed {seed}")
        ordered = of_trial.sort_values("image")
        trial = Trial.of(
            str(arm),
            int(str(seed)),
            predicted=ordered["predicted"].to_numpy(),
            probabilities=_all_or_none(table, ordered.index.to_numpy(), probabilities),
            labels=truth,
            num_classes=len(names),
            seconds=0.0,
        )
        trials.append(trial)
    return Predictions(tuple(trials), roles, truth, names)


def _normal(name: str) -> str:
    return posixpath.normpath(name.replace("\\", "/"))


def _positions(table: Table, ids: Sequence[str]) -> NDArray[np.int64]:
    """The position in `ids` of each line's file, (L,)."""
    whole = {_normal(name): position for position, name in enumerate(ids)}
    by_base: dict[str, list[int]] = {}
    for name, position in whole.items():
        by_base.setdefault(posixpath.basename(name), []).append(position)

    def find(name: str) -> int | None:
        same_base = by_base.get(posixpath.basename(_normal(name)), ())
        return whole.get(_normal(name), same_base[0] if len(same_base) == 1 else None)

    complaint = f"is neither a test image nor the base name of exactly one; there are {len(ids):,}, like {listed(ids)}"
    return table.convert("file_name", find, complaint)


def _true_classes(
    table: Table,
    images: NDArray[np.int64],
    classes: tuple[str, ...],
    ids: Sequence[str],
    labels: NDArray[np.int64] | None,
) -> NDArray[np.int64]:
    """True class of each test image, (N,): as given or from the column `label`; -1 where neither says anything."""
    truth = np.full(len(ids), -1, np.int64) if labels is None else labels.copy()
    if labels is None or "label" in table.text:
        stated = table.codes("label", classes)
        if labels is None:
            truth[images[::-1]] = stated[::-1]  # the first line about an image counts
        source = "in an earlier line" if labels is None else "in the study"
        table.require(
            truth[images] == stated,
            lambda line: (
                f"{ids[images[line]]} is labeled '{classes[stated[line]]}' here and "
                f"'{classes[truth[images[line]]]}' {source}"
            ),
            fix="give each image one label",
        )
    missing = [name for number, name in enumerate(classes) if number not in truth]
    if missing:
        raise DataError(f"no test image of: {listed(missing)}", where=table.path, fix="add some, or remove the class")
    return truth


def _seeds(table: Table) -> NDArray[np.int64]:
    def whole_number(text: str) -> int | None:
        return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None

    if "seed" not in table.text:
        return np.zeros(len(table.text), np.int64)
    return table.convert("seed", whole_number, "is not a whole number from 0 to 999999999")


def _require_every_seed(table: Table, lines: pd.DataFrame) -> None:
    present = pd.crosstab(lines["arm"], lines["seed"]) > 0
    lacking = [f"arm '{arm}' has no seed {seed}" for seed in present for arm in present.index[~present[seed]]]
    if lacking:
        raise DataError(
            f"arms are compared seed by seed, and {listed(lacking)}",
            where=table.path,
            fix="add these lines, or remove the seed from the other arms",
        )


def _require_one_line_per_image(table: Table, images: pd.Series, ids: Sequence[str], trial: str) -> None:
    doubled = images[images.duplicated(keep=False)]
    if len(doubled):
        same = doubled[doubled == doubled.iloc[0]]
        raise DataError(
            f"{trial}: {ids[same.iloc[0]]} is predicted {len(same)} times",
            where=f"{table.path}, lines {listed(map(str, table.text.index[same.index]))}",
            fix="keep one line per image, arm and seed",
        )
    absent = [ids[number] for number in np.setdiff1d(np.arange(len(ids)), images)]
    if absent:
        raise DataError(
            f"{trial}: {len(absent):,} of {len(ids):,} test images have no prediction: {listed(absent)}",
            where=table.path,
            fix="predict the same test images with every arm and seed",
        )


def _probabilities(table: Table, classes: Sequence[str]) -> NDArray[np.float64] | None:
    """Per line and class (L, K), NaN where the field is empty; None without such columns."""
    expected = [f"{PROBABILITY_PREFIX}{name}" for name in classes]
    found = [name for name in table.text.columns if name.startswith(PROBABILITY_PREFIX)]
    if not found:
        return None
    if set(found) != set(expected):
        missing, unknown = set(expected) - set(found), set(found) - set(expected)
        problem = f"no column {listed(missing)}" if missing else f"no class for {listed(unknown)}"
        raise DataError(f"there is {problem}", where=table.path, fix="give one column p_<class> for every class")
    texts = table.text[expected]
    values = texts.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    sums = values.sum(axis=1)
    valid = ((values >= 0) & (values <= 1)).all(axis=1) & (abs(sums - 1) <= SUM_TOLERANCE)
    table.require(
        valid | (texts == "").all(axis=1),
        lambda line: f"the probabilities {listed(texts.iloc[line])} are not numbers from 0 to 1 with the sum 1",
        fix="write one probability per class: softmax outputs, not logits or percent",
    )
    return np.asarray(values / sums[:, None])


def _all_or_none(
    table: Table, lines: NDArray[np.int64], probabilities: NDArray[np.float64] | None
) -> NDArray[np.float64] | None:
    """Probabilities of a trial's images (N, K); None if it has none."""
    if probabilities is None:
        return None
    of_trial = probabilities[lines]
    absent = np.isnan(of_trial).any(axis=1)
    if absent.all():
        return None
    Table(table.path, table.text.iloc[lines]).require(
        ~absent,
        lambda _: "the probabilities are empty here but not in other lines of the arm and seed",
        fix="fill them in, or leave all of them empty",
    )
    return of_trial


def _roles(table: Table) -> dict[str, Role]:
    codes = pd.Series(table.codes("role", ROLES))
    arms = table.column("arm").reset_index(drop=True)
    first = codes.groupby(arms).transform("first")
    table.require(
        codes == first,
        lambda line: f"arm '{arms[line]}' is {ROLES[codes[line]]} here and {ROLES[first[line]]} in an earlier line",
        fix="give each arm one role",
    )
    roles = {str(arm): ROLES[code] for arm, code in zip(arms, codes, strict=True)}
    for needed in ("baseline", "candidate"):
        if needed not in roles.values():
            stated = listed(f"'{arm}' is {role}" for arm, role in roles.items())
            raise DataError(
                f"nothing to compare: no arm is a {needed}; {stated}",
                where=table.path,
                fix="correct the column role: baseline, candidate or ablation",
            )
    return roles
