"""Trains and calibrates the filters once per training set and keeps them in a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor

from diffaug.classifiers.encoders.encoder import Encoder
from diffaug.classifiers.encoders.trained import ClassifierOutput
from diffaug.configuration.settings import SynthesisSettings
from diffaug.data.images import LabeledImages, SeenImages
from diffaug.data.splits import ALWAYS_TRAINED_ON, assign_folds
from diffaug.files import storage
from diffaug.similarity.copies import CopyDetector, copy_threshold, descriptor_maps
from diffaug.similarity.distances import duplicate_thresholds
from diffaug.similarity.thresholds import COPY_FALSE_POSITIVE_RATE
from diffaug.synthesis.filters import scores
from diffaug.synthesis.filters.calibrated import CalibratedFilters, Recognition
from diffaug.synthesis.filters.crossfit import (
    ClassifierFolds,
    FoldModels,
    ProbeFolds,
    ReferenceFeatures,
    fit_fold_models,
    load_fold_models,
)
from diffaug.synthesis.filters.held_out import HeldOut, judged_by
from diffaug.synthesis.filters.scores import Calibration

STATE = "filters.safetensors"
VERSION = 2

FAR_OFF = 1.25
"""Distance of an image that is like no real one, in shares of that of the farthest held-out real image.

At 1 it rejects all noise and no held-out image of made defects, and half of the noise and none of digits; the rest is a
margin for classes with few images, set by hand.
"""

LEAST_HELD_OUT = 10  # images of all classes, by whose distances another one is far off

State = dict[str, Tensor]
NamedProgress = Callable[[str, int, int], None]
"""Called with the name of a step, what of it is done, and all of it."""


def prepare_filters(
    folder: Path,
    images: LabeledImages,
    groups: NDArray[np.int64],
    *,
    settings: SynthesisSettings,
    seed: int,
    device: str,
    encoder: Encoder | None = None,
    only_if_better: bool = False,
    seen: SeenImages | None = None,
    max_steps: int | None = None,
    progress: NamedProgress = lambda what, done, total: None,
) -> CalibratedFilters:
    """Loads the filters of these images, settings and seed, or trains and keeps them.

    If several processes train them at once, as the first jobs of an array do on a file system without locks, all use
    those of the first to finish: another machine's may differ by rounding, and its chunks would belong to another pool.

    Args:
        folder: Where they are kept.
        images: The training images.
        groups: Of the training images, (N,).
        settings: Which filters, and how many real images they may reject.
        seed: Decides folds and initial weights.
        device: Where they compute.
        encoder: Has linear classifiers on its features judge images, instead of networks trained on the images.
        only_if_better: Whether the encoder is used only if these recognize more of the held-out images.
        seen: All images that a copy may show, the training images first. None: the training images.
        max_steps: Of each network. None: by the number of images.
        progress: Told which step is how far.
    """
    known = seen or SeenImages(images.pixels, images.ids, images.labels, groups)
    preparation = _Preparation(images, groups, known, settings, seed, device, encoder, only_if_better, max_steps)
    record = {"filters": preparation.fingerprint()}
    detector = CopyDetector(known.pixels, known.groups, device)
    if storage.committed_metadata(folder, verify=True) != record:
        _keep(folder, record, preparation.fit(detector, progress))
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
    seen: SeenImages
    settings: SynthesisSettings
    seed: int
    device: str
    encoder: Encoder | None
    only_if_better: bool
    max_steps: int | None

    def fingerprint(self) -> str:
        arrays = (self.images.pixels, self.images.labels, self.groups, self.seen.pixels, self.seen.groups)
        content = {
            "version": VERSION,
            "seed": self.seed,
            "encoder": self.encoder.name if self.encoder else "",
            "only_if_better": self.only_if_better,
            "settings": self.settings.model_dump(mode="json", include={"filters", "false_rejection_rate"}),
            "max_steps": self.max_steps,
            "classes": self.images.classes,
            "ids": self.seen.ids,
            "arrays": [[list(one.shape), storage.sha256_bytes(np.ascontiguousarray(one).tobytes())] for one in arrays],
        }
        return storage.fingerprint(content)

    def fit(self, detector: CopyDetector, progress: NamedProgress) -> State:
        pixels, labels, num_classes = self.images.pixels, self.images.labels, len(self.images.classes)
        folds = assign_folds(labels, self.groups, self.seed)
        tried = self._candidates(folds, progress)
        best = max(tried, key=lambda one: one.held_out.balanced_accuracy)
        own_groups = self.seen.groups[: len(labels)]
        copies = copy_threshold(
            detector,
            pixels,
            own_groups,
            share=COPY_FALSE_POSITIVE_RATE,
            seed=self.seed,
            progress=partial(progress, "calibrating the filters"),
        )
        maps = descriptor_maps(pixels, self.device)
        arrays = {
            **_calibration(labels, folds, best.outputs),
            "held_out.folds": folds,
            "held_out.log_probabilities": best.held_out.log_probabilities,
            "recognition": np.array([_recognition(tried, kind) for kind in (ClassifierFolds, ProbeFolds)]),
            "saturation": scores.saturation_limits(scores.saturation(pixels), labels, num_classes),
            "copies": np.array([copies]),
            "duplicates": duplicate_thresholds(maps, labels, self.groups, num_classes, COPY_FALSE_POSITIVE_RATE),
        }
        tensors = {f"model.{name}": tensor for name, tensor in best.models.tensors.items()}
        return tensors | {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}

    def _candidates(self, folds: NDArray[np.int64], progress: NamedProgress) -> list[_Candidate]:
        """Networks first, so that they are taken if the encoder is no better."""
        kinds = [None, self.encoder] if self.encoder is None or self.only_if_better else [self.encoder]
        fitted = [
            fit_fold_models(
                self.images,
                folds,
                seed=self.seed,
                device=self.device,
                encoder=encoder,
                max_steps=self.max_steps,
                progress=partial(progress, "training the filters"),
            )
            for encoder in dict.fromkeys(kinds)
        ]
        candidates = []
        for models in fitted:
            outputs = models.predict(self.images.pixels)
            held_out = HeldOut(self.images.ids, self.images.labels, folds, judged_by(outputs, folds))
            candidates.append(_Candidate(models, outputs, held_out))
        return candidates

    def load(self, state: State, detector: CopyDetector, fingerprint: str) -> CalibratedFilters:
        arrays = {name: tensor.numpy() for name, tensor in state.items() if not name.startswith("model.")}
        weights = {name.removeprefix("model."): tensor for name, tensor in state.items() if name.startswith("model.")}
        folds = sum(name.startswith("references.") for name in arrays) // 2
        labels = arrays["calibration.labels"]
        encoder = self.encoder if "model.weights" in state else None  # of probes
        networks_recognize, probes_recognize = (None if value < 0 else float(value) for value in arrays["recognition"])
        return CalibratedFilters(
            enabled=self.settings.filters,
            false_rejection_rate=self.settings.false_rejection_rate,
            image_ids=self.seen.ids,
            fingerprint=fingerprint,
            encoder_name=encoder.name if encoder else f"classifier of the training images, {fingerprint}",
            models=load_fold_models(weights, self.images, folds, device=self.device, encoder=encoder),
            references=ReferenceFeatures(
                tuple(arrays[f"references.{fold}.features"] for fold in range(folds)),
                tuple(arrays[f"references.{fold}.labels"] for fold in range(folds)),
            ),
            held_out=HeldOut(
                self.images.ids,
                self.images.labels,
                arrays["held_out.folds"],
                arrays["held_out.log_probabilities"],
            ),
            recognition=Recognition(networks_recognize, probes_recognize),
            wrong_class=Calibration(arrays["calibration.wrong-class"], labels),
            distance=Calibration(arrays["calibration.distance"], labels),
            farthest=arrays["farthest"],
            saturation_limits=arrays["saturation"],
            detector=detector,
            copy_threshold=float(arrays["copies"][0]),
            duplicate_thresholds=arrays["duplicates"],
            device=self.device,
        )


@dataclass(frozen=True)
class _Candidate:
    """Classifiers, what they say of the training images, and what each says of those that it left out."""

    models: FoldModels
    outputs: list[ClassifierOutput]
    held_out: HeldOut


def _recognition(tried: list[_Candidate], kind: type) -> float:
    """Mean share of a class recognized by candidates of a kind; -1 if it was not tried."""
    return max((one.held_out.balanced_accuracy for one in tried if isinstance(one.models, kind)), default=-1.0)


def _calibration(
    labels: NDArray[np.int64], folds: NDArray[np.int64], outputs: list[ClassifierOutput]
) -> dict[str, NDArray[Any]]:
    """Scores of every image that some model was not trained on, and the features that each model was trained on."""
    arrays: dict[str, NDArray[Any]] = {}
    log_odds, distances, absolute = np.zeros((3, len(labels)), np.float32)
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
            absolute[left_out] = references.distances(fold, one.features[left_out], label, scores.absolute_distances)
    calibrated = folds != ALWAYS_TRAINED_ON
    return arrays | {
        "calibration.labels": labels[calibrated],
        "calibration.wrong-class": log_odds[calibrated],
        "calibration.distance": distances[calibrated],
        "farthest": np.array([_farthest(absolute[folds == fold]) for fold in range(len(outputs))], np.float32),
    }


def _farthest(distances: NDArray[np.float32]) -> float:
    """Distance that is too far, from those of held-out images; infinite if these are too few to say."""
    return FAR_OFF * float(distances.max()) if len(distances) >= LEAST_HELD_OUT else np.inf
