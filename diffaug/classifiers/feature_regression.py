"""Regularized logistic regression on frozen features, the fastest classifier."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from diffaug.runtime.seeding import numpy_generator

LEAST_SHARE = 0.1  # of the mean variance, added to each feature's; of 0, 0.1, 0.25 and 1 the best by cross-validation
# on the training images of digits, neu-lt and flowers: without it features that hardly vary there blow up elsewhere
DEFAULT_REGULARIZATION = 0.03
REGULARIZATIONS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)  # falling: each fit begins at the one before it
MAX_ITERATIONS, TOLERANCE = 300, 1e-5
MOST_IMAGES = 1500  # to choose by; all of rare classes and as many of each of the others
PURPOSE = "feature regression"
LEAST_LOG_PROBABILITY = -15.0  # a class that a part of the images lacks costs this much

Floats = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True)
class FeatureRegression:
    """Logistic regression on standardized features with a penalty on the squared weights.

    Attributes:
        regularization: Weight of half of the sum of squared weights against the sum of the losses, for features scaled
            so that an image has length 1 on average.
        class_weighted: Whether all classes count the same in the loss. Otherwise they count by their images, and a log
            prior takes their frequencies out of the predictions (Menon et al. 2021, arXiv 2007.07314, eq. 9).
    """

    regularization: float = DEFAULT_REGULARIZATION
    class_weighted: bool = False

    def fit_predict(
        self, features: Floats, targets: Floats, log_prior: Floats | None, others: Floats
    ) -> NDArray[np.float32]:
        """Class probabilities, float32 (M, K), of other images; 0 for a class without training images.

        Args:
            features: Of the training images (N, D).
            targets: Soft label times importance (N, K).
            log_prior: Added to the logits in the loss only (K,). Without effect if `class_weighted`.
            others: Features of the other images (M, D).
        """
        space, model = self._fitted(features, targets)
        logs = model.log_probabilities(space.project(others), log_prior)
        return np.asarray(softmax(logs, axis=1), np.float32)

    def linear_layer(
        self, features: Floats, targets: Floats, log_prior: Floats | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weights (D, K) and biases (K,) of the logits whose probabilities `fit_predict` returns, but never zero."""
        space, model = self._fitted(features, targets)
        logs = model.log_probabilities(space.of_axes(), log_prior)
        logs = np.where(np.isfinite(logs), logs, logs[0].max() + LEAST_LOG_PROBABILITY)
        weights = (logs[1:] - logs[0]) / space.scale[:, None]
        biases = logs[0] - space.mean @ weights
        return np.asarray(weights, np.float32), np.asarray(biases, np.float32)

    def _fitted(self, features: Floats, targets: Floats) -> tuple[_Space, _Model]:
        space = _Space.of(features, targets.sum(axis=1))
        model = _Model(self.class_weighted)
        model.fit(space.project(features), targets, self.regularization)
        return space, model


@dataclass(frozen=True)
class MeasuredRegression:
    """How well a regression predicts images that it was not fitted to."""

    how: str  # what it is, for a table
    regression: FeatureRegression
    mean: float  # balanced accuracy
    sd: float  # its standard error
    loss: float  # cross-entropy, mean over classes, which decides


def choose_regression(
    features: Floats, labels: NDArray[np.int64], folds: NDArray[np.int64], num_classes: int
) -> tuple[FeatureRegression, tuple[MeasuredRegression, ...]]:
    """The regularization and weighting with the lowest loss on left-out folds, and the figures of all that were tried.

    The loss counts all classes the same and hardly depends on a single image, as accuracy in a class of four does.
    Beyond a weaker regularization that is worse, none is tried. Without a fold it is the default, and nothing is tried.

    `features` (N, D) and `labels` (N,) are those of the training images, `folds` int64 (N,) the fold of each; negative:
    in no fold, always fitted.
    """
    sample = _balanced_sample(labels, MOST_IMAGES)
    rows = _Space.of(features[sample], np.ones(len(sample))).project(features[sample])
    parts = _Parts(rows, labels[sample], folds[sample], num_classes)
    if not (parts.folds >= 0).any():
        return FeatureRegression(), ()
    measured = [one for weighted in (False, True) for one in parts.measured(weighted)]
    return min(measured, key=lambda one: one.loss).regression, tuple(measured)


@dataclass(frozen=True)
class _Parts:
    """Projected features (N, D) with labels and folds (N,)."""

    rows: NDArray[np.float32]
    labels: NDArray[np.int64]
    folds: NDArray[np.int64]
    num_classes: int

    def measured(self, class_weighted: bool) -> Iterator[MeasuredRegression]:
        """The figures of one regularization after another, until one is worse."""
        models = {fold: _Model(class_weighted) for fold in np.unique(self.folds[self.folds >= 0]).tolist()}
        best = np.inf
        for regularization in REGULARIZATIONS:
            regression = FeatureRegression(regularization, class_weighted)
            logs = np.concatenate([self._left_out(model, fold, regression) for fold, model in models.items()])
            labels = np.concatenate([self.labels[self.folds == fold] for fold in models])
            loss, (mean, error) = _balanced_loss(logs, labels), balanced_accuracy(logs.argmax(axis=1) == labels, labels)
            how = f"{'class-weighted' if class_weighted else 'balanced softmax'}, penalty {regularization:g}"
            yield MeasuredRegression(how, regression, mean, error, loss)
            if loss > best:
                return
            best = loss

    def _left_out(self, model: _Model, fold: int, regression: FeatureRegression) -> NDArray[np.float64]:
        """Log-probabilities of equally frequent classes (M, K) of a fold, after fitting the others."""
        fitted, counts = self.folds != fold, np.bincount(self.labels[self.folds != fold], minlength=self.num_classes)
        model.fit(self.rows[fitted], np.eye(self.num_classes)[self.labels[fitted]], regression.regularization)
        logs = model.log_probabilities(self.rows[~fitted], np.log(np.maximum(counts, 1)))
        return np.asarray(log_softmax(logs, axis=1), np.float64)


def balanced_accuracy(right: NDArray[np.bool_], labels: NDArray[np.int64]) -> tuple[float, float]:
    """The mean over classes of the share of right predictions (N,), and its standard error.

    The error is computed with one more right and one more wrong prediction in each class (Laplace): by counts alone a
    class that is right four times in four would have none.
    """
    classes = np.unique(labels)
    shares = np.array([right[labels == label].mean() for label in classes])
    counts = np.array([(labels == label).sum() for label in classes])
    smoothed = (shares * counts + 1) / (counts + 2)
    error = np.sqrt((smoothed * (1 - smoothed) / counts).sum()) / len(classes)
    return float(shares.mean()), float(error)


def _balanced_loss(logs: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    own = np.maximum(logs[np.arange(len(labels)), labels], LEAST_LOG_PROBABILITY)
    return float(np.mean([-own[labels == label].mean() for label in np.unique(labels)]))


def _balanced_sample(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Rising positions of about `count` images: all of rare classes, and as many of each of the others."""
    every = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    of_class = [numpy_generator(0, PURPOSE, number).permutation(one) for number, one in enumerate(every)]
    most = max(map(len, of_class), default=0)
    while most > 1 and sum(min(len(one), most) for one in of_class) > count:
        most -= 1
    return np.sort(np.concatenate([one[:most] for one in of_class]))


@dataclass(frozen=True)
class _Space:
    """Standardized features, rotated into as many dimensions as there are images if there are fewer of them.

    A penalized solution lies in the span of the images, so the rotation changes nothing but the time.
    """

    mean: NDArray[Any]
    scale: NDArray[Any]
    axes: NDArray[np.float32] | None

    @classmethod
    def of(cls, features: Floats, weights: NDArray[Any]) -> _Space:
        mean = np.average(features, axis=0, weights=weights)
        variance = np.average((features - mean) ** 2, axis=0, weights=weights)
        scale = np.sqrt((variance + LEAST_SHARE * variance.mean()) * len(mean)) + np.finfo(np.float32).tiny
        space = cls(mean, scale, None)
        if len(features) >= len(mean):
            return space
        return cls(mean, scale, np.linalg.qr(space.project(features).T)[0])

    def of_axes(self) -> NDArray[np.float32]:
        """The origin of the standardized features, and one step along each of them, rotated."""
        points = np.eye(len(self.mean) + 1, len(self.mean), -1, np.float32)
        return points if self.axes is None else np.asarray(points @ self.axes, np.float32)

    def project(self, features: Floats) -> NDArray[np.float32]:
        rows = np.asarray((features - self.mean) / self.scale, np.float32)
        return rows if self.axes is None else np.asarray(rows @ self.axes, np.float32)


class _Model:
    """A regression that begins at its last solution when it is fitted again."""

    def __init__(self, class_weighted: bool) -> None:
        self.class_weighted = class_weighted
        self._regression = LogisticRegression(max_iter=MAX_ITERATIONS, tol=TOLERANCE, warm_start=True)
        self._classes = np.empty(0, np.int64)
        self._num_classes = 0

    def fit(self, rows: NDArray[np.float32], targets: Floats, regularization: float) -> None:
        totals = targets.sum(axis=0)
        self._classes, self._num_classes = np.flatnonzero(totals), len(totals)
        if len(self._classes) < 2:
            return
        if self.class_weighted:
            targets = targets * (totals.sum() / len(self._classes) / np.where(totals > 0, totals, 1))
        positions, labels = np.nonzero(targets)
        self._regression.set_params(C=1 / regularization)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the weakest penalties may go on for long, to no avail
            self._regression.fit(rows[positions], labels, sample_weight=targets[positions, labels])

    def log_probabilities(self, rows: NDArray[np.float32], log_prior: Floats | None) -> NDArray[np.float64]:
        """Log-probabilities (M, K) up to a constant per image; minus infinity for a class that was not fitted."""
        logs = np.full((len(rows), self._num_classes), -np.inf)
        logs[:, self._classes] = self._logits(rows)
        # Intercepts are not penalized, so they absorb whatever is added to the logits in the loss:
        # the fit with a prior equals the fit without, minus the prior, exactly.
        if log_prior is not None and not self.class_weighted:
            logs[:, self._classes] -= log_prior[self._classes]
        return logs

    def _logits(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Logits of the fitted classes (M, L); scikit-learn has one of the second of two classes alone."""
        if len(self._classes) < 2:
            return np.zeros((len(rows), len(self._classes)))
        logits = np.asarray(self._regression.decision_function(rows), np.float64)
        return logits if logits.ndim == 2 else np.column_stack([np.zeros(len(rows)), logits])
