"""The judge of the pool: trained and calibrated once on the real training images, then kept in a folder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor

from diffaug.classifiers.encoders import Description, Encoder
from diffaug.configuration.settings import SynthesisSettings
from diffaug.data.folds import ALWAYS_TRAINED_ON, assign_folds
from diffaug.data.images import LabeledImages
from diffaug.files import storage
from diffaug.similarity.copies import CopyDetector, Matches, copy_threshold, descriptor_maps
from diffaug.similarity.pool_duplicates import duplicate_thresholds, find_duplicates
from diffaug.synthesis.filters import scores as filters
from diffaug.synthesis.filters.crossfit import FoldModels, Seen, fit_fold_models, load_fold_models
from diffaug.synthesis.filters.protocol import Candidates, Judgement
from diffaug.synthesis.filters.scores import Calibration

STATE = "judge.safetensors"
VERSION = 3
SETTINGS = {"filters", "false_rejection_rate", "copy_false_positive_rate", "filter_max_steps"}
SCORES = (
    "own_class_probability",
    "own_class_p_value",
    "class_distance",
    "class_distance_p_value",
    "nearest_distance",
    "copy_ratio",
    "saturation",
)

State = dict[str, Tensor]


@dataclass(frozen=True)
class CalibratedJudge:
    """A `Judge` whose thresholds come from real images that its models were not trained on.

    Attributes:
        settings: Which filters are on, and how many real images each may reject.
        image_ids: Names of the training images.
        fingerprint: Of data, settings, seed, encoder and what was learnt.
        encoder_name: What to call the encoder beside figures that were taken with it.
        models: One classifier a fold; their scores are averaged.
        seen: What distances are measured to.
        off_class: Log-odds of real images against their own class.
        distance: Distances of real images to their own class.
        saturation_limits: float32 (K,).
        detector: Finds copies of training images.
        copy_threshold: The ratio below which an image is a copy.
        duplicate_thresholds: float32 (K,), distances below which two images of a class show the same.
        device: Where to compute.
    """

    settings: SynthesisSettings
    image_ids: tuple[str, ...]
    fingerprint: str
    encoder_name: str
    models: FoldModels
    seen: Seen
    off_class: Calibration
    distance: Calibration
    saturation_limits: NDArray[np.float32]
    detector: CopyDetector
    copy_threshold: float
    duplicate_thresholds: NDArray[np.float32]
    device: str

    @property
    def score_names(self) -> tuple[str, ...]:
        """Columns of the manifest."""
        return SCORES

    def __call__(self, candidates: Candidates) -> Judgement:
        """Judges candidates of one class, each by itself."""
        verdicts, scores, matches = self._assess(candidates.pixels, candidates.class_index)
        switched_on = {name: rejected for name, rejected in verdicts.items() if name in self.settings.filters}
        count = len(candidates.pixels)
        return Judgement(
            filters.first_reasons({filters.NON_FINITE: ~candidates.finite, **switched_on}, count),
            scores,
            matches.nearest,
            descriptor_maps(candidates.pixels, self.device).reshape(count, math.prod(self.detector.map_shape)),
        )

    def verdicts(self, candidates: Candidates) -> dict[str, NDArray[np.bool_]]:
        """What each filter that looks at one image alone says, bool (N,), whether it is switched on or not."""
        return self._assess(candidates.pixels, candidates.class_index)[0]

    def _assess(
        self, pixels: NDArray[np.uint8], label: int
    ) -> tuple[dict[str, NDArray[np.bool_]], dict[str, NDArray[np.float32]], Matches]:
        described = self.models.describe(pixels)
        log_odds = _mean([filters.off_class_log_odds(one.log_probabilities, label) for one in described])
        distances = _mean([self.seen.distances(fold, one.features, label) for fold, one in enumerate(described)])
        matches = self.detector.match(pixels)
        saturation = filters.saturation(pixels)
        share = self.settings.false_rejection_rate
        verdicts = {
            filters.CONSTANT: filters.constant(pixels),
            filters.SATURATED: saturation > self.saturation_limits[label],
            filters.OFF_CLASS: self.off_class.unusual(log_odds, label, share) & (log_odds > 0),
            filters.OUT_OF_DISTRIBUTION: self.distance.unusual(distances, label, share),
            filters.COPY: matches.ratios < self.copy_threshold,
        }
        scores = {
            "own_class_probability": np.exp(_mean([one.log_probabilities[:, label] for one in described])),
            "own_class_p_value": self.off_class.p_values(log_odds, label),
            "class_distance": distances,
            "class_distance_p_value": self.distance.p_values(distances, label),
            "nearest_distance": matches.distances,
            "copy_ratio": matches.ratios,
            "saturation": saturation,
        }
        return verdicts, scores, matches

    def describe(self, pixels: NDArray[np.uint8]) -> Description:
        """Features of uint8 (N, H, W, C) by the first fold's model, and the mean of all folds' log-probabilities."""
        described = self.models.describe(pixels)
        return Description(described[0].features, _mean([one.log_probabilities for one in described]))

    def duplicates(self, descriptors: NDArray[np.float32], class_index: int, known: int = 0) -> NDArray[np.bool_]:
        """Which images show the same as an earlier one of their class that is not a duplicate itself.

        Args:
            descriptors: float32 (N, F) in order, as in `Judgement.descriptors`.
            class_index: Their class.
            known: So many of the first ones are known to be no duplicates.

        Returns:
            bool (N,).
        """
        if filters.DUPLICATE not in self.settings.filters:
            return np.zeros(len(descriptors), np.bool_)
        maps = descriptors.reshape(len(descriptors), *self.detector.map_shape)
        return find_duplicates(maps, float(self.duplicate_thresholds[class_index]), known)


def prepare_judge(
    folder: Path,
    images: LabeledImages,
    groups: NDArray[np.int64],
    *,
    settings: SynthesisSettings,
    seed: int,
    device: str,
    encoder: Encoder | None = None,
) -> CalibratedJudge:
    """Loads the judge of these images, settings and seed, or trains it and keeps it.

    Where several processes train it at once, as the first jobs of an array do on a file system without locks, all go on
    with that of the first to finish: another machine's may differ by rounding, and its chunks would be of another pool.

    Args:
        folder: Where it is kept; a judge of anything else there is replaced.
        images: The real training images, at least one.
        groups: int64 (N,); images of one group or of equal pixels have the same number.
        settings: Which filters are on, and how many real images each may reject.
        seed: Decides folds, weights and batches.
        device: `cpu` or `cuda`.
        encoder: Gives the features; none: classifiers are trained on the images.

    Raises:
        DamagedError: A file in `folder` was changed since it was written.
    """
    preparation = _Preparation(images, groups, settings, seed, device, encoder)
    facts = {"judge": preparation.fingerprint()}
    detector = CopyDetector(images.pixels, groups, device)
    if storage.committed_facts(folder, verify=True) != facts:
        _keep(folder, facts, preparation.fit(detector))
    fingerprint = storage.fingerprint([facts, storage.sha256_file(folder / STATE)])
    return preparation.judge(load_file(folder / STATE), detector, fingerprint)


def _keep(folder: Path, facts: dict[str, str], state: State) -> None:
    """Commits what was learnt, unless another process did so meanwhile."""
    if storage.committed_facts(folder) == facts:
        return
    try:
        with storage.new_directory(folder, facts) as staging:
            storage.write_bytes(staging / STATE, save(state))
    except OSError:  # such as where the other one came between the look at the folder and the renaming
        if storage.committed_facts(folder) != facts:
            raise


@dataclass(frozen=True)
class _Preparation:
    """What `prepare_judge` is given."""

    images: LabeledImages
    groups: NDArray[np.int64]
    settings: SynthesisSettings
    seed: int
    device: str
    encoder: Encoder | None

    def fingerprint(self) -> str:
        """A name that changes with everything that the judge depends on."""
        arrays = (self.images.pixels, self.images.labels, self.groups)
        content = {
            "version": VERSION,
            "seed": self.seed,
            "encoder": self.encoder.name if self.encoder else "",
            "settings": self.settings.model_dump(mode="json", include=SETTINGS),
            "classes": self.images.classes,
            "ids": self.images.ids,
            "arrays": [[list(one.shape), storage.sha256_bytes(np.ascontiguousarray(one).tobytes())] for one in arrays],
        }
        return storage.fingerprint(content)

    def fit(self, detector: CopyDetector) -> State:
        """Everything of the judge that costs time, as tensors."""
        pixels, labels, num_classes = self.images.pixels, self.images.labels, len(self.images.classes)
        share = self.settings.copy_false_positive_rate
        folds = assign_folds(labels, self.groups, self.seed)
        updates = self.settings.filter_max_steps
        models = fit_fold_models(
            self.images, folds, seed=self.seed, device=self.device, encoder=self.encoder, updates=updates
        )
        copies = copy_threshold(detector, pixels, self.groups, share=share, seed=self.seed)
        maps = descriptor_maps(pixels, self.device)
        arrays = {
            **_calibrate(labels, folds, models.describe(pixels)),
            "saturation": filters.saturation_limits(filters.saturation(pixels), labels, num_classes),
            "copies": np.array([copies]),
            "duplicates": duplicate_thresholds(maps, labels, self.groups, num_classes, share),
        }
        tensors = {f"model.{name}": tensor for name, tensor in models.tensors.items()}
        return tensors | {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}

    def judge(self, state: State, detector: CopyDetector, fingerprint: str) -> CalibratedJudge:
        """The judge made of what `fit` returned."""
        arrays = {name: tensor.numpy() for name, tensor in state.items() if not name.startswith("model.")}
        weights = {name.removeprefix("model."): tensor for name, tensor in state.items() if name.startswith("model.")}
        folds = sum(name.startswith("seen.") for name in arrays) // 2
        labels = arrays["calibration.labels"]
        return CalibratedJudge(
            settings=self.settings,
            image_ids=self.images.ids,
            fingerprint=fingerprint,
            encoder_name=self.encoder.name if self.encoder else f"classifier of the training images, {fingerprint}",
            models=load_fold_models(weights, self.images, folds, device=self.device, encoder=self.encoder),
            seen=Seen(
                tuple(arrays[f"seen.{fold}.features"] for fold in range(folds)),
                tuple(arrays[f"seen.{fold}.labels"] for fold in range(folds)),
            ),
            off_class=Calibration(arrays["calibration.off-class"], labels),
            distance=Calibration(arrays["calibration.distance"], labels),
            saturation_limits=arrays["saturation"],
            detector=detector,
            copy_threshold=float(arrays["copies"][0]),
            duplicate_thresholds=arrays["duplicates"],
            device=self.device,
        )


def _calibrate(
    labels: NDArray[np.int64], folds: NDArray[np.int64], described: list[Description]
) -> dict[str, NDArray[Any]]:
    """Scores of every image that some model was not trained on, and what the models were trained on."""
    arrays: dict[str, NDArray[Any]] = {}
    log_odds, distances = np.zeros(len(labels), np.float32), np.zeros(len(labels), np.float32)
    trained = [folds != fold for fold in range(len(described))]
    seen = Seen(
        tuple(one.features[inside] for one, inside in zip(described, trained, strict=True)),
        tuple(labels[inside] for inside in trained),
    )
    for fold, one in enumerate(described):
        arrays |= {f"seen.{fold}.features": seen.features[fold], f"seen.{fold}.labels": seen.labels[fold]}
        for label in np.unique(labels[folds == fold]):
            left_out = (folds == fold) & (labels == label)
            log_odds[left_out] = filters.off_class_log_odds(one.log_probabilities[left_out], label)
            distances[left_out] = seen.distances(fold, one.features[left_out], label)
    calibrated = folds != ALWAYS_TRAINED_ON
    return arrays | {
        "calibration.labels": labels[calibrated],
        "calibration.off-class": log_odds[calibrated],
        "calibration.distance": distances[calibrated],
    }


def _mean(scores: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.asarray(np.mean(scores, axis=0), dtype=np.float32)
