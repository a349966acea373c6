"""What a training draws on besides labeled images: unlabeled ones, and an earlier generator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from diffaug.classifiers.encoders.by_name import encoder_by_name, typical_side
from diffaug.classifiers.encoders.trained import ClassifierEncoder
from diffaug.classifiers.feature_regression import choose_regression
from diffaug.classifiers.pseudo_labels import PseudoLabels, pseudo_labels
from diffaug.data.catalog import Catalog
from diffaug.data.layouts.entries import Split, listed
from diffaug.data.splits import assign_folds
from diffaug.diffusion.generator.files import EARLIER, HELD_OUT, TRAINED
from diffaug.diffusion.generator.warm_start import (
    EarlierGenerator,
    network_like,
    require_same_kind,
    share_taken,
    take_weights,
)
from diffaug.diffusion.latent.folder import AutoencoderFolder
from diffaug.diffusion.planning.planning import Plan
from diffaug.diffusion.planning.sources import InitialWeights, UnlabeledPlan
from diffaug.diffusion.training.batches import Holdout, UnlabeledPart
from diffaug.diffusion.training.training import TrainingState
from diffaug.errors import DataError, UsageError
from diffaug.files import storage
from diffaug.files.stage_records import stage_record
from diffaug.runtime.distributed import current
from diffaug.similarity.near_duplicates import near_duplicates
from diffaug.stages.job import Job

PSEUDO_LABELS, EARLIER_ROWS = "pseudo-labels.parquet", "earlier.parquet"
PURPOSE = "pseudo-labels"
CONTINUED_RATE = 1 / 3
"""Of the learning rate of a training from random weights. Chosen by hand."""


def stage_inputs(job: Job, catalog: Catalog) -> dict[str, str]:
    """Fingerprints of what a training works on. What is gone by now counts as it was when the training began."""
    settings, begun = job.config.diffusion, stage_record(job.study.generator)
    sources: dict[str, tuple[str, Callable[[str], str]]] = {}
    if settings.init is not None:
        sources["init"] = settings.init, lambda path: EarlierGenerator.open(path).weights_sha256
    takes_latents = settings.route == "latent" or (settings.route == "auto" and not settings.pipeline)
    if settings.autoencoder is not None and takes_latents:
        sources["autoencoder"] = settings.autoencoder, lambda path: AutoencoderFolder.find(path).sha256
    if settings.pipeline and settings.prompts and "{" not in settings.prompts:  # a table; its route says if it is gone
        sources["prompts"] = settings.prompts, _hash_of_table
    inputs = {"catalog": catalog.fingerprint}
    for name, (path, hash_of) in sources.items():
        is_gone = begun is not None and name in begun.inputs and not Path(path).exists()
        inputs[name] = begun.inputs[name] if begun is not None and is_gone else hash_of(path)
    return inputs


def _hash_of_table(path: str) -> str:
    return storage.sha256_file(Path(path)) if Path(path).is_file() else ""


def with_sources(job: Job, plan: Plan, catalog: Catalog) -> Plan:
    """The plan with the unlabeled images and the earlier generator that the settings name.

    Raises:
        UsageError: The earlier generator is of another kind, see `require_same_kind` and `network_like`.
        DataError: It has seen a test image.
    """
    settings, labeled = job.config.diffusion, len(catalog.rows("train"))
    weights = catalog.rows("unlabeled")["weight"].to_numpy(np.float64)
    plan = replace(plan, unlabeled=UnlabeledPlan.of(weights, labeled, settings))
    if settings.init is None:
        return plan
    if plan.unet is None:
        raise UsageError(
            f"--init: the route '{plan.route}' trains no network that could continue", fix="leave --init out"
        )
    earlier = EarlierGenerator.open(settings.init)
    channels, objective = plan.network.channels, settings.objective
    require_same_kind(earlier, channels=channels, objective=objective, intensity=catalog.intensity)
    require_unseen_by(earlier, catalog, job)
    is_set = settings.preset is not None or job.config.advanced.base_channels is not None
    network = network_like(earlier, plan.network, is_set=is_set)
    known = [name for name in catalog.classes if name in earlier.classes]
    initial = InitialWeights(
        settings.init,
        earlier.weights_sha256,
        len(known),
        tuple(name for name in catalog.classes if name not in known),
        share_taken(network, earlier, catalog.classes),
        plan.learning_rate,
    )
    rate = plan.learning_rate if settings.learning_rate else CONTINUED_RATE * plan.learning_rate
    return replace(plan, unet=network, learning_rate=rate, initial=initial)


def require_unseen_by(earlier: EarlierGenerator, catalog: Catalog, job: Job) -> None:
    """Raises a DataError if the earlier generator has seen a test image.

    With `evaluation.drop_leaked` the evaluation leaves out test images with the same pixels. It can't know of images
    that only show nearly the same picture, which are found if the earlier study is whole.
    """
    tested, drop = catalog.rows("test"), job.config.evaluation.drop_leaked
    equal = set(tested["path"][tested["pixel_sha256"].isin(earlier.rows["pixel_sha256"])])
    alike = shown_again(earlier, catalog, job) - equal
    if alike or (equal and not drop):
        what = f"--init: the generator has seen what {len(equal | alike)} of {len(tested)} test images show"
        fix = "leave --init out"
        if not alike:
            fix += ", or leave these images out of the test with --set evaluation.drop_leaked=true"
        raise DataError(f"{what}: {listed(equal | alike)}", where=earlier.folder, fix=fix)


def shown_again(earlier: EarlierGenerator, catalog: Catalog, job: Job, split: Split = "test") -> set[str]:
    """Paths of the images of a split that show nearly the same picture as one that the earlier study trained on."""
    folder = earlier.folder.parent / "catalog"
    if not job.config.data.near_duplicates or not (folder / storage.DONE).is_file():
        return set()
    before, own = Catalog.load(folder), catalog.pictures_of(split)
    seen = [*before.pictures_of("train"), *before.pictures_of("unlabeled")]
    said = f"comparing {split} images with what the earlier generator has seen"
    picture = near_duplicates([*own, *seen], lambda done, total: job.narrator.progress(said, done, total))
    is_shown = np.isin(picture[: len(own)], picture[len(own) :])
    return set(catalog.rows(split)["path"][is_shown])


def begin_from_earlier(plan: Plan, state: TrainingState, classes: tuple[str, ...], folder: Path) -> None:
    """Gives a new state the weights of the earlier generator, if there is one and no checkpoint has them.

    What it has seen is kept in `folder`, beside the checkpoints.

    Raises:
        DataError: It was changed since the training was planned.
    """
    if plan.initial is None or any(folder.glob("checkpoints/*")):
        return
    earlier = EarlierGenerator.open(plan.initial.generator)
    if earlier.weights_sha256 != plan.initial.weights_sha256:
        what = "--init: the generator was trained again since this training was planned"
        raise DataError(what, where=earlier.folder, fix="repeat the command with --overwrite")
    take_weights(state.denoiser, earlier.weights(), earlier.classes, classes)
    state.averaged.load_state_dict(state.denoiser.state_dict())
    if current().is_main:
        storage.write_parquet(folder / EARLIER_ROWS, earlier.rows)


def unlabeled_part(job: Job, plan: Plan, holdout: Holdout, folder: Path) -> UnlabeledPart | None:
    """The unlabeled images as the plan wants them; pseudo-labels are kept in `folder`, so that a training resumes.

    All processes take part; the main one makes the labels.
    """
    if plan.unlabeled is None or holdout.unlabeled is None:
        return None
    if not plan.unlabeled.pseudo_labels:
        return UnlabeledPart(holdout.unlabeled, plan.unlabeled.share)
    file, group = folder / PSEUDO_LABELS, current()
    with group.main_first():
        if group.is_main and not file.is_file():
            job.narrator.say(f"labeling {len(holdout.unlabeled)} unlabeled images ...")
            storage.write_parquet(file, _as_table(_predicted(job, holdout), holdout))
    table = storage.read_parquet(file, ("id", "label", "weight"))
    labels = PseudoLabels(table["label"].to_numpy(np.int64), table["weight"].to_numpy(np.float64))
    return UnlabeledPart(holdout.unlabeled, plan.unlabeled.share, labels)


def _predicted(job: Job, holdout: Holdout) -> PseudoLabels:
    """What a classifier of the trained images says, as sure as it is: one on features of the encoder, if there is one.

    Held-out images are not among the trained ones, so that a generator learns nothing of them through the labels.
    """
    assert holdout.unlabeled is not None
    trained, others, seed = holdout.trained, holdout.unlabeled.pixels, job.config.seed
    side = typical_side(trained.pixels)
    encoder = encoder_by_name(job.config.encoder, job.device, image_side=side, say=job.narrator.say)
    if encoder is None:
        classifier = ClassifierEncoder.fit(trained, seed=seed, purpose=PURPOSE, device=job.device)
        return pseudo_labels(np.exp(classifier.predict(others).log_probabilities), threshold=0)
    features, num_classes = encoder.features(trained.pixels), len(trained.classes)
    folds = assign_folds(trained.labels, holdout.groups[: len(trained)], seed)
    regression, _ = choose_regression(features, trained.labels, folds, num_classes)
    prior, targets = np.log(np.maximum(trained.class_counts, 1)), np.eye(num_classes)[trained.labels]
    return pseudo_labels(regression.fit_predict(features, targets, prior, encoder.features(others)), threshold=0)


def _as_table(labels: PseudoLabels, holdout: Holdout) -> pd.DataFrame:
    assert holdout.unlabeled is not None
    return pd.DataFrame({"id": holdout.unlabeled.ids, "label": labels.labels, "weight": labels.weights})


def seen_rows(catalog: Catalog, holdout: Holdout, plan: Plan, folder: Path) -> pd.DataFrame:
    """One row per image that the generator has seen, see `write_generator`; `folder` is that of the training."""
    rows, held = catalog.table.rename(columns={"path": "id"}), holdout.held.ids
    unlabeled = () if plan.unlabeled is None or holdout.unlabeled is None else holdout.unlabeled.ids
    rows = rows[rows["id"].isin([*holdout.trained.ids, *held, *unlabeled])]
    rows = rows.assign(part=np.where(rows["id"].isin(held), HELD_OUT, TRAINED))
    if plan.initial is None:
        return rows
    earlier = storage.read_parquet(folder / EARLIER_ROWS, ("id", "pixel_sha256"))
    new = ~earlier["pixel_sha256"].isin(rows["pixel_sha256"])
    ids = plan.initial.generator + ": " + earlier["id"]
    return pd.concat([rows, earlier.assign(id=ids, part=EARLIER, label="")[new]])
