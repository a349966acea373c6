"""The experiment: every arm trained with the same seeds and the same number of updates, tested on the same images."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffaug.data.images import LabeledImages
from diffaug.errors import DataError
from diffaug.evaluation.arms import ARMS, TrainingInputs, concatenate, training_inputs
from diffaug.evaluation.trials import Trial, read_trial, write_trial
from diffaug.seeding import derive_seed
from diffaug.settings import EvaluationSettings
from diffaug.storage import fingerprint
from diffaug.synthesis.classifier import TrainingRecipe, default_updates, fit_classifier, predict_probabilities

PURPOSE = "evaluation"


def run_experiment(
    train: LabeledImages,
    test: LabeledImages,
    synthetic: LabeledImages,
    settings: EvaluationSettings,
    *,
    seed: int,
    device: str,
    directory: Path,
) -> Iterator[Trial]:
    """Trains arm after arm, seed after seed, and yields each trial once it is on disk.

    Seeds are the outer loop, so whatever is finished is paired. All arms of a seed share initial weights, random
    draws and shifts. A trial that is on disk for the same images and settings is read and not trained again.

    Args:
        train: Real training images, at least one a class.
        test: Real test images, at least one a class, none of them seen by the generator.
        synthetic: Synthetic images; may be empty or lack classes.
        settings: Arms, seeds, updates and weights.
        seed: Where the randomness begins.
        device: Where to train.
        directory: Folder of the evaluation; trials go into its `trials/`.

    Raises:
        DataError: A class has no training or no test image, or the sets differ in classes or shape.
    """
    _require_every_class(train, "training")
    _require_every_class(test, "test")
    for other in (test, synthetic):
        concatenate(train.select(np.arange(1)), other.select(np.arange(min(1, len(other)))))
    recipe = TrainingRecipe(
        updates=settings.updates or default_updates(len(train)),
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
    )
    real = [_hash(train), _hash(test)]
    with_synthetic = [*real, _hash(synthetic), settings.synthetic_weight]
    for number in range(settings.seeds):
        trial_seed = derive_seed(seed, PURPOSE, number)
        for arm in map(ARMS.__getitem__, settings.arms):
            content = with_synthetic if arm.uses_synthetic else real
            inputs = fingerprint([asdict(arm), asdict(recipe), trial_seed, device, content])
            trial = read_trial(directory, arm.name, number, inputs)
            if trial is None:
                started = time.perf_counter()
                learnt_from = training_inputs(arm, train, synthetic, settings.synthetic_weight)
                predicted = _train_and_predict(learnt_from, test, recipe, trial_seed, device)
                seconds = time.perf_counter() - started
                trial = Trial.of(
                    arm.name,
                    number,
                    predicted=predicted,
                    labels=test.labels,
                    num_classes=len(test.classes),
                    seconds=seconds,
                )
                write_trial(directory, trial, inputs)
            yield trial


def _train_and_predict(
    inputs: TrainingInputs, test: LabeledImages, recipe: TrainingRecipe, seed: int, device: str
) -> NDArray[np.int64]:
    model = fit_classifier(
        inputs.images,
        recipe=recipe,
        seed=seed,
        purpose=PURPOSE,
        draw_probabilities=inputs.draw_probabilities,
        loss_weights=inputs.loss_weights,
        log_prior=inputs.log_prior,
        device=device,
    )
    return np.asarray(predict_probabilities(model, test.pixels, device).argmax(axis=1), np.int64)


def _require_every_class(images: LabeledImages, split: str) -> None:
    missing = [name for name, count in images.counts_by_name.items() if not count]
    if missing:
        raise DataError(
            f"no {split} image of class {', '.join(missing)}: its recall can't be measured",
            fix="add images of the class, take the class out, or let diffaug split the data",
        )


def _hash(images: LabeledImages) -> str:
    """A name for the pixels and labels."""
    digest = hashlib.sha256(repr((images.classes, images.pixels.shape)).encode())
    digest.update(np.ascontiguousarray(images.labels).data)
    digest.update(np.ascontiguousarray(images.pixels).data)
    return digest.hexdigest()
