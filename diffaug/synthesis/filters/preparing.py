"""Trains and calibrates the filters once per training set and keeps them in a folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor

from diffaug.classifiers.encoders import ClassifierOutput, Encoder
from diffaug.configuration.settings import SynthesisSettings
from diffaug.data.images import LabeledImages
from diffaug.data.splits import ALWAYS_TRAINED_ON, assign_folds
from diffaug.files import storage
from diffaug.similarity.copies import CopyDetector, copy_threshold, descriptor_maps
from diffaug.similarity.pool_duplicates import duplicate_thresholds
from diffaug.similarity.thresholds import COPY_FALSE_POSITIVE_RATE
from diffaug.synthesis.filters import scores
from diffaug.synthesis.filters.calibrated import CalibratedFilters
from diffaug.synthesis.filters.crossfit import ReferenceFeatures, fit_fold_models, load_fold_models
from diffaug.synthesis.filters.scores import Calibration

STATE = "filters.safetensors"
VERSION = 1

State = dict[str, Tensor]


def prepare_filters(
    folder: Path,
    images: LabeledImages,
    groups: NDArray[np.int64],
    *,
    settings: SynthesisSettings,
    seed: int,
    device: str,
    encoder: Encoder | None = None,
    max_steps: int | None = None,
) -> CalibratedFilters:
    """Loads the filters of these images, settings and seed, or trains and keeps them.

    If several processes train them at once, as the first jobs of an array do on a file system without locks, all use
    those of the first to finish: another machine's may differ by rounding, and its chunks would belong to another pool.
    """
    preparation = _Preparation(images, groups, settings, seed, device, encoder, max_steps)
    record = {"filters": preparation.fingerprint()}
    detector = CopyDetector(images.pixels, groups, device)
    if storage.committed_metadata(folder, verify=True) != record:
        _keep(folder, record, preparation.fit(detector))
    fingerprint = storage.fingerprint([record, storage.sha256_file(folder / STATE)])
    return preparation.load(load_file(folder / STATE), detector, fingerprint)


def _keep(folder: Path, record: dict[str, str], state: State) -> None:
    """Commits the learned state, unless another process has done so meanwhile."""
    if storage.committed_metadata(folder) == record:
        return
    try:
        with storage.new_directory(folder, record) as staging:
            storage.write_bytes(staging / STATE, save(state))
    except OSError:  # such as when the other process commits between the check and the renaming
        if storage.committed_metadata(folder) != record:
            raise


@dataclass(frozen=True)
class _Preparation:
    images: LabeledImages
    groups: NDArray[np.int64]
    settings: SynthesisSettings
    seed: int
    device: str
    encoder: Encoder | None
    max_steps: int | None

    def fingerprint(self) -> str:
        arrays = (self.images.pixels, self.images.labels, self.groups)
        content = {
            "version": VERSION,
            "seed": self.seed,
            "encoder": self.encoder.name if self.encoder else "",
            "settings": self.settings.model_dump(mode="json", include={"filters", "false_rejection_rate"}),
            "max_steps": self.max_steps,
            "classes": self.images.classes,
            "ids": self.images.ids,
            "arrays": [[list(one.shape), storage.sha256_bytes(np.ascontiguousarray(one).tobytes())] for one in arrays],
        }
        return storage.fingerprint(content)

    def fit(self, detector: CopyDetector) -> State:
        pixels, labels, num_classes = self.images.pixels, self.images.labels, len(self.images.classes)
        folds = assign_folds(labels, self.groups, self.seed)
        models = fit_fold_models(
            self.images, folds, seed=self.seed, device=self.device, encoder=self.encoder, max_steps=self.max_steps
        )
        copies = copy_threshold(detector, pixels, self.groups, share=COPY_FALSE_POSITIVE_RATE, seed=self.seed)
        maps = descriptor_maps(pixels, self.device)
        arrays = {
            **_calibration(labels, folds, models.predict(pixels)),
            "saturation": scores.saturation_limits(scores.saturation(pixels), labels, num_classes),
            "copies": np.array([copies]),
            "duplicates": duplicate_thresholds(maps, labels, self.groups, num_classes, COPY_FALSE_POSITIVE_RATE),
        }
        tensors = {f"model.{name}": tensor for name, tensor in models.tensors.items()}
        return tensors | {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}

    def load(self, state: State, detector: CopyDetector, fingerprint: str) -> CalibratedFilters:
        arrays = {name: tensor.numpy() for name, tensor in state.items() if not name.startswith("model.")}
        weights = {name.removeprefix("model."): tensor for name, tensor in state.items() if name.startswith("model.")}
        folds = sum(name.startswith("references.") for name in arrays) // 2
        labels = arrays["calibration.labels"]
        return CalibratedFilters(
            enabled=self.settings.filters,
            false_rejection_rate=self.settings.false_rejection_rate,
            image_ids=self.images.ids,
            fingerprint=fingerprint,
            encoder_name=self.encoder.name if self.encoder else f"classifier of the training images, {fingerprint}",
            models=load_fold_models(weights, self.images, folds, device=self.device, encoder=self.encoder),
            references=ReferenceFeatures(
                tuple(arrays[f"references.{fold}.features"] for fold in range(folds)),
                tuple(arrays[f"references.{fold}.labels"] for fold in range(folds)),
            ),
            wrong_class=Calibration(arrays["calibration.wrong-class"], labels),
            distance=Calibration(arrays["calibration.distance"], labels),
            saturation_limits=arrays["saturation"],
            detector=detector,
            copy_threshold=float(arrays["copies"][0]),
            duplicate_thresholds=arrays["duplicates"],
            device=self.device,
        )


def _calibration(
    labels: NDArray[np.int64], folds: NDArray[np.int64], outputs: list[ClassifierOutput]
) -> dict[str, NDArray[Any]]:
    """Scores of every image that some model was not trained on, and the features that each model was trained on."""
    arrays: dict[str, NDArray[Any]] = {}
    log_odds, distances = np.zeros(len(labels), np.float32), np.zeros(len(labels), np.float32)
    trained = [folds != fold for fold in range(len(outputs))]
    references = ReferenceFeatures(
        tuple(one.features[inside] for one, inside in zip(outputs, trained, strict=True)),
        tuple(labels[inside] for inside in trained),
    )
    for fold, one in enumerate(outputs):
        arrays[f"references.{fold}.features"] = references.features[fold]
        arrays[f"references.{fold}.labels"] = references.labels[fold]
        for label in np.unique(labels[folds == fold]):
            left_out = (folds == fold) & (labels == label)
            log_odds[left_out] = scores.wrong_class_log_odds(one.log_probabilities[left_out], label)
            distances[left_out] = references.distances(fold, one.features[left_out], label)
    calibrated = folds != ALWAYS_TRAINED_ON
    return arrays | {
        "calibration.labels": labels[calibrated],
        "calibration.wrong-class": log_odds[calibrated],
        "calibration.distance": distances[calibrated],
    }
