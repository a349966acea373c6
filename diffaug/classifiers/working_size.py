"""From which size on the classes can be told apart: cross-validation on training images, at rising sizes."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeClassifierCV
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from diffaug.classifiers.patch_features import patch_features
from diffaug.data.resize import SizeChoice, SizeScore, fit_to_size
from diffaug.runtime.seeding import derive_seed, numpy_generator

SIDES = (32, 48, 64, 96, 128, 192, 256)  # px, short side
CLEARLY_SMALLER = 0.9  # of the largest size; between them there is nothing to measure
MOST_IMAGES = 1_000
MOST_PIXELS = 2**25  # of all images together at the largest size: 512 of 256 x 256 px
LEAST_UNITS = 3  # images of a class that do not belong together
FOLDS = 5
RIDGE_ALPHAS = np.logspace(0, 5, 11)
ERRORS_ABOVE_CHANCE = 2

LoadAt = Callable[[NDArray[np.int64], int], NDArray[np.uint8]]


def choose_working_size(
    load_at: LoadAt,
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    *,
    median_side: int,
    seed: int = 0,
    sides: Sequence[int] = SIDES,
    seconds: float = 60.0,
) -> SizeChoice:
    """Takes the smallest size within one standard error of the best (Breiman et al. 1984).

    The classifier is ridge regression on `patch_features` of the image at this size and at all smaller ones, so that a
    size is better only by what it adds. Classes of fewer than three images that do not belong together are left out.
    The result depends on the data and the seed alone, unless the time is up.

    Args:
        load_at: From positions in `labels`, int64 (M,), and a short side in px to whole images of that size and of the
            set's shape, uint8 (M, H, W, C). Called for the largest size only.
        labels: Class index of each training image, int64 (N,).
        groups: Images of one group share a number and a fold, int64 (N,).
        median_side: The median short side of the images in px; no larger size is measured.
        seed: Chooses images, patches and folds.
        sides: Sizes to compare, rising.
        seconds: No further size is begun if it would end later than this.
    """
    largest = min(median_side, sides[-1])
    if largest <= sides[0]:
        return _unmeasured(f"the images are {median_side} px and at most {sides[0]} px needs no choice")
    eligible = _of_large_classes(labels, groups)
    if len(np.unique(labels[eligible])) < 2:
        return _unmeasured(f"fewer than two classes have {LEAST_UNITS} training images or groups")
    height, width = load_at(eligible[:1], largest).shape[1:3]
    chosen = _balanced_sample(eligible, labels, min(MOST_IMAGES, MOST_PIXELS // (height * width)), seed)
    sample = _Sample(load_at(chosen, largest), labels[chosen], groups[chosen], seed)
    measured = [side for side in sides if side < CLEARLY_SMALLER * largest] + [largest]
    return _decide(sample.scores(measured, seconds), measured, sample.labels)


def smallest_within_one_error(scores: Sequence[SizeScore]) -> SizeScore:
    """The smallest size that reaches the best score less its standard error."""
    best = _best(scores)
    return next(score for score in scores if score.balanced_accuracy >= best.balanced_accuracy - best.standard_error)


def _unmeasured(why: str) -> SizeChoice:
    return SizeChoice(None, (), 0, f"not measured: {why}")


def _of_large_classes(labels: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of the images of classes that have enough groups."""
    enough = [label for label in np.unique(labels) if len(np.unique(groups[labels == label])) >= LEAST_UNITS]
    return np.flatnonzero(np.isin(labels, enough))


def _balanced_sample(
    positions: NDArray[np.int64], labels: NDArray[np.int64], count: int, seed: int
) -> NDArray[np.int64]:
    """About `count` of the positions, rising: all of rare classes, and as many of each of the others."""
    shuffled = numpy_generator(seed, "working size").permutation(positions)
    of_class = [shuffled[labels[shuffled] == label] for label in np.unique(labels[positions])]
    most = max(map(len, of_class))
    while most > LEAST_UNITS and sum(min(len(one), most) for one in of_class) > count:
        most -= 1
    return np.sort(np.concatenate([one[:most] for one in of_class]))


@dataclass(frozen=True)
class _Sample:
    """The images that are compared, uint8 (N, H, W, C), at the largest size."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    seed: int

    def scores(self, sides: Sequence[int], seconds: float) -> tuple[SizeScore, ...]:
        """The score of each size, rising, as far as the time goes."""
        features: list[NDArray[np.float32]] = []
        scores: list[SizeScore] = []
        began = started = time.monotonic()
        for side, larger in pairwise([*sides, sides[-1]]):
            features.append(patch_features(self._at(side), self.seed))
            scores.append(SizeScore(side, *self._accuracy(np.concatenate(features, axis=1))))
            now = time.monotonic()
            if now - began + (now - started) * (larger / side) ** 2 > seconds:
                break
            started = now
        return tuple(scores)

    def _at(self, side: int) -> NDArray[np.uint8]:
        height, width = self.images.shape[1:3]
        scale = side / min(height, width)
        image_size = round(height * scale), round(width * scale)
        return np.stack([fit_to_size(image, image_size) for image in self.images])

    def _accuracy(self, features: NDArray[np.float32]) -> tuple[float, float]:
        """Cross-validated balanced accuracy, and its standard error.

        The error is that of independent groups, with one more right and one more wrong in each class (Laplace): by
        counts alone a rare class that is right four times in four would have none.
        """
        right = self._predicted(features) == self.labels
        classes = np.unique(self.labels)
        accuracies = np.array([right[self.labels == label].mean() for label in classes])
        units = np.array([len(np.unique(self.groups[self.labels == label])) for label in classes])
        smoothed = (accuracies * units + 1) / (units + 2)
        error = np.sqrt((smoothed * (1 - smoothed) / units).sum()) / len(classes)
        return float(accuracies.mean()), float(error)

    def _predicted(self, features: NDArray[np.float32]) -> NDArray[np.int64]:
        """The class of each image, int64 (N,), by a classifier that saw no image of its group."""
        folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=derive_seed(self.seed, "size folds") % 2**32)
        predicted = np.empty_like(self.labels)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a class may have fewer images than there are folds
            parts = list(folds.split(features, self.labels, self.groups))
        for trained, tested in parts:
            scaler = StandardScaler().fit(features[trained])
            classifier = RidgeClassifierCV(RIDGE_ALPHAS, class_weight="balanced")
            classifier.fit(scaler.transform(features[trained]), self.labels[trained])
            if len(tested):
                predicted[tested] = classifier.predict(scaler.transform(features[tested]))
        return predicted


def _decide(scores: tuple[SizeScore, ...], sides: Sequence[int], labels: NDArray[np.int64]) -> SizeChoice:
    best, chosen, classes = _best(scores), smallest_within_one_error(scores), len(np.unique(labels))
    how = f"{FOLDS}-fold cross-validation on {len(labels)} training images of {classes} classes"
    rest = [side for side in sides if side > scores[-1].side]
    untried = f"; not measured for lack of time: {', '.join(map(str, rest))} px" if rest else ""
    if best.balanced_accuracy < 1 / classes + ERRORS_ABOVE_CHANCE * best.standard_error:
        return SizeChoice(None, scores, len(labels), f"no size tells the classes apart in {how}{untried}")
    rank = "best size" if chosen == best else f"smallest size within one standard error of the best, {best.side} px,"
    return SizeChoice(chosen.side, scores, len(labels), f"{chosen.side} px is the {rank} in {how}{untried}")


def _best(scores: Sequence[SizeScore]) -> SizeScore:
    return max(scores, key=lambda score: score.balanced_accuracy)
