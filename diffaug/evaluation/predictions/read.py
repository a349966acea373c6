"""Predictions that someone else's training made, read from a CSV: one line an image, arm and seed."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffaug.configuration.settings import ARM_ROLES
from diffaug.errors import DataError
from diffaug.evaluation.experiment.trials import Trial
from diffaug.evaluation.predictions.lines import Lines, listed
from diffaug.evaluation.statistics.comparison import Role

PROBABILITY_PREFIX = "p_"
SUM_TOLERANCE = 0.01
WITHOUT_SYNTHETIC = re.compile(
    r"(?<![^\W_])(?:no|non|not|without|w/?o|(?<![.,])0(?:[.,]0+)?\s*%)[\s_-]*(?:(?:any|added|extra|more)[\s_-]+)*synthetic"
    r"|synthetic[\s_-]*free(?![^\W_])"
)
TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True)
class Predictions:
    """What a CSV of predictions says, ready to be summarised.

    Attributes:
        trials: One an arm and seed, in the order of the CSV.
        roles: Role of each arm.
        labels: True classes (N,), positions in `classes`.
        classes: Class names.
        ids: Names of the N test images.
    """

    trials: tuple[Trial, ...]
    roles: dict[str, Role]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    ids: tuple[str, ...]


def read_predictions(
    path: Path,
    *,
    classes: Sequence[str] | None = None,
    test_ids: Sequence[str] | None = None,
    labels: NDArray[np.int64] | None = None,
    ignored: Collection[str] = (),
) -> Predictions:
    """Reads and scores predictions.

    Columns: `file_name`, `arm` and `predicted`; where they are not known otherwise `label`, the true class; on request
    `seed` (0), `role` (real, claim or diagnosis) or `synthetic` (true or false), without which an arm of diffaug's own
    has its role there, any other arm with "synthetic" in its name is a claim, unless it says "no synthetic" or "without
    synthetic", and the rest are real; and `p_<class>`, the probability of each class. Others are ignored. Every value
    is text: the class "01" is not the class "1".

    Args:
        path: The CSV, UTF-8.
        classes: Class names (K,); none: those in `label`, sorted.
        test_ids: Names of the test images (N,), which a file name meets as a whole or, where only one of them has it,
            by its base name; none: the files that the CSV names.
        labels: True classes of the test images (N,), positions in `classes`; none: from `label`.
        ignored: Names of further images, lines about which do not count; only with `test_ids`.

    Raises:
        DataError: A column, value, line or image is missing, doubled, unknown, or contradicts another; or no arm is
            real, or none a claim.
        UsageError: There is no such file.
    """
    lines = Lines.read(path)
    ids = tuple(test_ids) if test_ids is not None else tuple(dict.fromkeys(map(_normal, lines.column("file_name"))))
    images = _positions(lines, (*ids, *ignored))
    if ignored:
        lines, images = Lines(path, lines.table[images < len(ids)]), images[images < len(ids)]
    names = tuple(classes) if classes is not None else tuple(sorted(set(lines.column("label"))))
    truth = _true_classes(lines, images, names, ids, labels)
    counts = np.bincount(truth[truth >= 0], minlength=len(names))
    missing = [name for name, count in zip(names, counts, strict=True) if not count]
    if missing:
        raise DataError(f"no test image of: {listed(missing)}", where=path, fix="add some, or take the class out")
    predicted = lines.convert("predicted", names.index, f"is none of the classes {listed(names)}")
    seeds = _seeds(lines)
    probabilities = _probabilities(lines, names)
    trials = []
    for (arm, seed), rows in _by_trial(lines, seeds).items():
        ordered = _one_line_an_image(lines, rows, images, ids, f"arm '{arm}', seed {seed}")
        trials.append(
            Trial.of(
                arm,
                seed,
                predicted=predicted[ordered],
                probabilities=_all_or_none(lines, ordered, probabilities),
                labels=truth,
                num_classes=len(names),
                seconds=0.0,
            )
        )
    return Predictions(tuple(trials), _roles(lines), truth, names, ids)


def _normal(name: str) -> str:
    return posixpath.normpath(name.replace("\\", "/"))


def _positions(lines: Lines, ids: Sequence[str]) -> NDArray[np.int64]:
    """The position in `ids` of each line's file, (L,)."""
    whole = {_normal(name): position for position, name in enumerate(ids)}
    by_base: dict[str, list[int]] = {}
    for name, position in whole.items():
        by_base.setdefault(posixpath.basename(name), []).append(position)

    def find(name: str) -> int:
        if _normal(name) in whole:
            return whole[_normal(name)]
        (position,) = by_base[posixpath.basename(_normal(name))]
        return position

    complaint = f"is no test image, nor the base name of just one; there are {len(ids):,}, such as {listed(ids)}"
    return lines.convert("file_name", find, complaint)


def _true_classes(
    lines: Lines,
    images: NDArray[np.int64],
    classes: tuple[str, ...],
    ids: Sequence[str],
    labels: NDArray[np.int64] | None,
) -> NDArray[np.int64]:
    """True class of each test image, (N,): as given, or from the column `label`, which must not contradict itself.

    It is -1 where neither says, of images that no line is about.
    """
    if labels is not None and "label" not in lines.table:
        return labels
    told = lines.convert("label", classes.index, f"is none of the classes {listed(classes)}")
    truth = np.full(len(ids), -1, np.int64) if labels is None else labels.copy()
    if labels is None:
        truth[images[::-1]] = told[::-1]  # the first line about an image counts
    wrong = np.flatnonzero(truth[images] != told)
    if len(wrong):
        first = int(wrong[0])
        known = classes[truth[images[first]]]
        raise DataError(
            f"{ids[images[first]]} is labelled '{classes[told[first]]}' here and '{known}' "
            f"{'in the study' if labels is not None else 'in an earlier line'}",
            where=lines.where(first),
            fix="give each image one label",
        )
    return truth


def _seeds(lines: Lines) -> NDArray[np.int64]:
    if "seed" not in lines.table:
        return np.zeros(len(lines.table), np.int64)
    return lines.convert("seed", _whole_number, "is not a whole number from 0 to 999999999")


def _whole_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError(text)
    return int(text)


def _by_trial(lines: Lines, seeds: NDArray[np.int64]) -> dict[tuple[str, int], NDArray[np.int64]]:
    """Positions of the lines of each arm and seed; every arm has the same seeds."""
    positions: dict[tuple[str, int], list[int]] = {}
    for position, key in enumerate(zip(lines.column("arm"), seeds.tolist(), strict=True)):
        positions.setdefault(key, []).append(position)
    arms, numbers = (dict.fromkeys(key[i] for key in positions) for i in (0, 1))
    lacking = [f"arm '{arm}' has no seed {seed}" for arm in arms for seed in numbers if (arm, seed) not in positions]
    if lacking:
        raise DataError(
            f"arms are compared seed by seed, and {listed(lacking)}",
            where=lines.path,
            fix="add these lines, or remove the seed from the other arms",
        )
    return {key: np.array(rows) for key, rows in positions.items()}


def _one_line_an_image(
    lines: Lines, rows: NDArray[np.int64], images: NDArray[np.int64], ids: Sequence[str], trial: str
) -> NDArray[np.int64]:
    """The positions of a trial's lines in the order of the test images, (N,)."""
    counts = np.bincount(images[rows], minlength=len(ids))
    if counts.max() > 1:
        image = int(counts.argmax())
        doubled = [str(lines.table.index[row]) for row in rows if images[row] == image]
        raise DataError(
            f"{trial}: {ids[image]} is predicted {counts[image]} times",
            where=f"{lines.path}, lines {listed(doubled)}",
            fix="keep one line an image, arm and seed",
        )
    absent = np.flatnonzero(counts == 0)
    if len(absent):
        raise DataError(
            f"{trial}: {len(absent):,} of {len(ids):,} test images have no prediction: "
            f"{listed([ids[image] for image in absent.tolist()])}",
            where=lines.path,
            fix="predict the same test images with every arm and seed",
        )
    return np.asarray(rows[np.argsort(images[rows])])


def _probabilities(lines: Lines, classes: Sequence[str]) -> NDArray[np.float64] | None:
    """Of each line and class (L, K), NaN where the field is empty; none: there are no such columns."""
    wanted = [f"{PROBABILITY_PREFIX}{name}" for name in classes]
    found = [name for name in lines.table.columns if name.startswith(PROBABILITY_PREFIX)]
    if not found:
        return None
    if set(found) != set(wanted):
        missing, foreign = set(wanted) - set(found), set(found) - set(wanted)
        problem = f"no column {listed(sorted(missing))}" if missing else f"no class for {listed(sorted(foreign))}"
        raise DataError(f"there is {problem}", where=lines.path, fix="give one column p_<class> for every class")
    texts = lines.table[wanted]
    values = texts.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    given = (texts != "").to_numpy()
    sums = values.sum(axis=1)
    bad = (given & ~((values >= 0) & (values <= 1))).any(axis=1) | (
        given.any(axis=1) & ~(abs(sums - 1) <= SUM_TOLERANCE)
    )
    if bad.any():
        first = int(bad.argmax())
        raise DataError(
            f"the probabilities {listed(list(texts.iloc[first]))} are not numbers from 0 to 1 that add up to 1",
            where=lines.where(first),
            fix="write one probability for each class: softmax outputs, not logits or percent",
        )
    return np.asarray(values / sums[:, None])


def _all_or_none(
    lines: Lines, rows: NDArray[np.int64], probabilities: NDArray[np.float64] | None
) -> NDArray[np.float64] | None:
    """Probabilities of a trial's images (N, K); none where it has none."""
    if probabilities is None:
        return None
    absent = np.isnan(probabilities[rows]).any(axis=1)
    if absent.any() and not absent.all():
        raise DataError(
            "the probabilities are empty here and not in other lines of the arm and seed",
            where=lines.where(int(rows[absent.argmax()])),
            fix="fill them in, or empty them all",
        )
    return None if absent.all() else probabilities[rows]


def _roles(lines: Lines) -> dict[str, Role]:
    roles: dict[str, Role] = {}
    for position, (arm, role) in enumerate(zip(lines.column("arm"), _told_roles(lines), strict=True)):
        if roles.setdefault(arm, role) != role:
            raise DataError(
                f"arm '{arm}' is {role} here and {roles[arm]} in an earlier line",
                where=lines.where(position),
                fix="give each arm one role",
            )
    if not {"real", "claim"} <= set(roles.values()):
        told = [f"'{arm}' is {role}" for arm, role in roles.items()]
        raise DataError(
            f"nothing to compare, as no arm is {'a claim' if 'real' in roles.values() else 'real'}: {listed(told)}",
            where=lines.path,
            fix="add the column role: real, claim or diagnosis",
        )
    return roles


def _told_roles(lines: Lines) -> Iterable[Role]:
    by_text: Mapping[str, Role] = {role: role for role in get_args(Role)}
    if "role" in lines.table:
        names = list(by_text)
        numbers = lines.convert("role", names.index, f"is none of {', '.join(names)}")
        return [by_text[names[number]] for number in numbers]
    if "synthetic" in lines.table:
        numbers = lines.convert("synthetic", lambda text: TRUTHS[text.casefold()], "is neither true nor false")
        return ["claim" if number else "real" for number in numbers]
    return [_role_of_name(arm) for arm in lines.column("arm")]


def _role_of_name(arm: str) -> Role:
    if arm in ARM_ROLES:
        return ARM_ROLES[arm]
    return "claim" if "synthetic" in WITHOUT_SYNTHETIC.sub("", arm.casefold()) else "real"
