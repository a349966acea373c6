"""How each real image looks to the classifier that was not trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from diffaug.classifiers.encoders.trained import ClassifierOutput
from diffaug.data.splits import ALWAYS_TRAINED_ON
from diffaug.similarity.intervals import Estimate, Share, wilson_interval
from diffaug.synthesis.filters.scores import wrong_class_log_odds


@dataclass(frozen=True)
class HeldOut:
    """The real training images as the classifiers that left them out see them.

    Attributes:
        ids: Of the N images.
        labels: Class indices (N,).
        folds: (N,), the classifier that left each image out; `ALWAYS_TRAINED_ON` for those that none did.
        log_probabilities: (N, K), of that classifier; without meaning where there is none.
    """

    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    folds: NDArray[np.int64]
    log_probabilities: NDArray[np.float32]

    @property
    def is_judged(self) -> NDArray[np.bool_]:
        """Whether some classifier left the image out, (N,)."""
        return np.asarray(self.folds != ALWAYS_TRAINED_ON)

    @property
    def is_recognized(self) -> NDArray[np.bool_]:
        """Whether the classifier assigns the image to its own class, (N,); false where there is none."""
        return np.asarray((self.log_probabilities.argmax(axis=1) == self.labels) & self.is_judged)

    def recognized(self, label: int) -> Share:
        """The images of a class that are recognized, of those that were left out."""
        own = (self.labels == label) & self.is_judged
        return Share(int(self.is_recognized[own].sum()), int(own.sum()))

    def of_sources(self, sources: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The fold of each of these images by id, and whether it is recognized, both (M,).

        An unknown id, such as the empty one of samples, has the fold `ALWAYS_TRAINED_ON`.
        """
        position = {name: number for number, name in enumerate(self.ids)}
        found = np.array([position.get(source, -1) for source in sources], np.int64)
        folds = np.where(found < 0, ALWAYS_TRAINED_ON, self.folds[found])
        return folds, np.asarray(self.is_recognized[found] & (folds != ALWAYS_TRAINED_ON))

    @property
    def balanced_accuracy(self) -> float:
        """Mean share recognized, over the classes of which images were left out; 0 if there are none."""
        shares = [self.recognized(label) for label in np.unique(self.labels[self.is_judged])]
        return float(np.mean([share.value for share in shares])) if shares else 0.0

    def ranking(self, label: int) -> tuple[Estimate, float] | None:
        """Area under the ROC curve of telling the class from all others, and the p-value against chance.

        The interval is Wilson's for a fraction of the images of the class, which is conservative (see
        `MembershipErrors.score`); the p-value is of the one-sided test of Mann and Whitney (1947).
        """
        odds = -wrong_class_log_odds(self.log_probabilities, label)
        own, others = self.is_judged & (self.labels == label), self.is_judged & (self.labels != label)
        if not own.any() or not others.any():
            return None
        test = mannwhitneyu(odds[own], odds[others], alternative="greater")
        area = float(test.statistic / (own.sum() * others.sum()))
        return Estimate(area, *wilson_interval(area, int(own.sum()))), float(test.pvalue)


def judged_by(outputs: list[ClassifierOutput], folds: NDArray[np.int64]) -> NDArray[np.float32]:
    """Log-probabilities (N, K) of each image by the classifier of its fold; by the first one where it has none."""
    stacked = np.stack([one.log_probabilities for one in outputs])
    return np.asarray(stacked[np.where(folds == ALWAYS_TRAINED_ON, 0, folds), np.arange(len(folds))], np.float32)
