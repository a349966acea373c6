"""Filters whose thresholds come from the real training images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from diffaug.classifiers.encoders.trained import ClassifierOutput
from diffaug.diffusion.process.normalization import Decoded
from diffaug.similarity.copies import CopyDetector, Matches, descriptor_maps
from diffaug.similarity.distances import find_duplicates
from diffaug.synthesis.filters import scores
from diffaug.synthesis.filters.crossfit import FoldModels, ReferenceFeatures
from diffaug.synthesis.filters.held_out import HeldOut, judged_by
from diffaug.synthesis.filters.scores import Calibration

SCORES = (
    *("own_class_probability", "own_class_p_value", "class_distance", "class_distance_p_value"),
    *("nearest_distance", "copy_ratio", "saturation"),
)


@dataclass(frozen=True)
class FilterResult:
    """What the filters found for N candidates.

    `reasons` are empty for accepted ones, `scores` are float32 (N,) by name, `nearest` are int64 (N,) positions in
    `image_ids`, and `descriptors`, float32 (N, F), are the input of `duplicates`.
    """

    reasons: tuple[str, ...]
    scores: dict[str, NDArray[np.float32]]
    nearest: NDArray[np.int64]
    descriptors: NDArray[np.float32]


@dataclass(frozen=True)
class Recognition:
    """Mean share of the held-out images of a class that classifiers recognize; None for kinds that were not tried.

    Attributes:
        networks: Trained on the training images.
        encoder: Linear classifiers on the features of a pretrained encoder.
    """

    networks: float | None
    encoder: float | None


@dataclass(frozen=True)
class CalibratedFilters:
    """Decides which candidates enter the pool, calibrated on real images that the models were not trained on.

    Filters are deterministic, and each candidate is filtered by itself.
    """

    enabled: tuple[str, ...]
    false_rejection_rate: float  # largest fraction of real images of a class that a calibrated filter may reject
    image_ids: tuple[str, ...]
    fingerprint: str  # of data, settings, seed, encoder and everything learned
    encoder_name: str
    models: FoldModels
    references: ReferenceFeatures
    held_out: HeldOut
    recognition: Recognition
    wrong_class: Calibration  # log-odds of real images against their own class
    distance: Calibration  # distances of real images to their own class
    farthest: NDArray[np.float32]  # (folds,), absolute distance beyond which an image is like no real one at all
    saturation_limits: NDArray[np.float32]
    detector: CopyDetector
    copy_threshold: float  # distance ratio below which an image is a copy
    duplicate_thresholds: NDArray[np.float32]  # (K,), distances below which two images of a class are duplicates
    device: str
    score_names: ClassVar = SCORES

    def __call__(
        self, candidates: Decoded, class_index: int, *, copied: tuple[Matches, float] | None = None
    ) -> FilterResult:
        """Filters candidates of one class; non-finite ones are rejected whatever is enabled.

        `copied` says what they are most like, and the ratio below which they are copies, where whole images are not to
        be compared; `nearest` are then positions in what they were compared with.
        """
        rejected, found, matches = self._assess(candidates.pixels, class_index, copied)
        enabled = {name: mask for name, mask in rejected.items() if name in self.enabled}
        count = len(candidates.pixels)
        return FilterResult(
            scores.first_reasons({scores.NON_FINITE: ~candidates.finite, **enabled}, count),
            found,
            matches.nearest,
            descriptor_maps(candidates.pixels, self.device).reshape(count, math.prod(self.detector.map_shape)),
        )

    def rejections(
        self, pixels: NDArray[np.uint8], class_index: int, *, copied: tuple[Matches, float] | None = None
    ) -> dict[str, NDArray[np.bool_]]:
        """What each filter of single images rejects, bool (N,), whether it is enabled or not."""
        return self._assess(pixels, class_index, copied)[0]

    def _assess(
        self, pixels: NDArray[np.uint8], label: int, copied: tuple[Matches, float] | None = None
    ) -> tuple[dict[str, NDArray[np.bool_]], dict[str, NDArray[np.float32]], Matches]:
        outputs = self.models.predict(pixels)
        log_odds = _mean([scores.wrong_class_log_odds(one.log_probabilities, label) for one in outputs])
        distances = _mean([self.references.distances(fold, one.features, label) for fold, one in enumerate(outputs)])
        matches, threshold = copied or (self.detector.match(pixels), self.copy_threshold)
        saturation = scores.saturation(pixels)
        is_far_off = self._is_far_off(outputs, label)
        rate = self.false_rejection_rate
        rejected = {
            scores.CONSTANT: scores.constant(pixels),
            scores.SATURATED: saturation > self.saturation_limits[label],
            scores.WRONG_CLASS: self.wrong_class.unusual(log_odds, label, rate) & (log_odds > 0),
            scores.OUT_OF_DISTRIBUTION: self.distance.unusual(distances, label, rate) | is_far_off,
            scores.COPY: matches.ratios < threshold,
        }
        values = (
            np.exp(_mean([one.log_probabilities[:, label] for one in outputs])),
            self.wrong_class.p_values(log_odds, label),
            distances,
            self.distance.p_values(distances, label),
            matches.distances,
            matches.ratios,
            saturation,
        )
        return rejected, dict(zip(SCORES, values, strict=True)), matches

    def _is_far_off(self, outputs: list[ClassifierOutput], label: int) -> NDArray[np.bool_]:
        """Whether images are farther from the class than any held-out real image from its own, bool (N,)."""
        relative = [
            self.references.distances(fold, one.features, label, scores.absolute_distances) / self.farthest[fold]
            for fold, one in enumerate(outputs)
        ]
        return np.asarray(_mean(relative) > 1)

    def predict(self, pixels: NDArray[np.uint8]) -> ClassifierOutput:
        """For uint8 (N, H, W, C): features of the first fold's model, mean log-probabilities of all folds."""
        outputs = self.models.predict(pixels)
        return ClassifierOutput(outputs[0].features, _mean([one.log_probabilities for one in outputs]))

    def keeps_class(
        self, pixels: NDArray[np.uint8], sources: Sequence[str], class_index: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether the source of each variation is recognized, and whether the variation then still is, both (N,).

        The classifier that was not trained on the source judges both. A source that all were trained on is not
        recognized.
        """
        recognized = self.held_out.of_sources(sources)[1]
        return recognized, recognized & (self.assigned(pixels, sources) == class_index)

    def assigned(self, pixels: NDArray[np.uint8], sources: Sequence[str]) -> NDArray[np.int64]:
        """The class of each image (N,) by the classifier that was not trained on its source; the first if all were."""
        folds, _ = self.held_out.of_sources(sources)
        return np.asarray(judged_by(self.models.predict(pixels), folds).argmax(axis=1), np.int64)

    def duplicates(self, descriptors: NDArray[np.float32], class_index: int, known: int = 0) -> NDArray[np.bool_]:
        """Marks images that show the same as an earlier image of the class that is no duplicate itself, bool (N,).

        The float32 (N, F) are `FilterResult.descriptors` in order; the first `known` are known to be no duplicates.
        """
        if scores.DUPLICATE not in self.enabled:
            return np.zeros(len(descriptors), np.bool_)
        maps = descriptors.reshape(len(descriptors), *self.detector.map_shape)
        return find_duplicates(maps, float(self.duplicate_thresholds[class_index]), known)


def _mean(values: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.asarray(np.mean(values, axis=0), dtype=np.float32)
