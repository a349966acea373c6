"""What an evaluation of a study works on: its images, their features, its pools, and the pilot's pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from diffaug.classifiers.encoders.by_name import encoder_by_name
from diffaug.classifiers.encoders.cache import cached_features
from diffaug.classifiers.encoders.encoder import Encoder
from diffaug.classifiers.training_set import Classifier, Images
from diffaug.configuration.settings import Config
from diffaug.data.catalog import Catalog
from diffaug.data.images import LabeledImages
from diffaug.data.resize import median_side
from diffaug.errors import UsageError
from diffaug.evaluation.experiment.arms import ARMS, Arm
from diffaug.evaluation.experiment.experiment import (
    PILOT,
    TEST,
    TRAIN,
    UNLABELED,
    Experiment,
    PilotImages,
    require_trainable,
)
from diffaug.evaluation.experiment.training_task import TrainFunction
from diffaug.files import storage
from diffaug.stages.evaluating.pilot import PilotPool, pilot_pool
from diffaug.stages.job import Job
from diffaug.study import Study
from diffaug.synthesis.filters.scores import NON_FINITE
from diffaug.synthesis.pool.chunks import PNG, REASON, ChunkStore
from diffaug.synthesis.pool.pool import Pool, blind_classes, pool_facts

FEATURES = "features"


@dataclass(frozen=True)
class Learners:
    """What is trained: the user's own classifier or function, else what the settings name, and the encoder."""

    classifier: Classifier | None = None
    train_fn: TrainFunction | None = None
    encoder: Encoder | None = None


def learners_of(job: Job, catalog: Catalog, classifier: Classifier | None, train_fn: TrainFunction | None) -> Learners:
    """With the encoder of the settings, unless the training is the user's own, which it could not be compared with."""
    require_trainable(job.config.evaluation, classifier, train_fn)
    if classifier is not None or train_fn is not None:
        return Learners(classifier, train_fn)
    side = median_side([(height, width) for height, width, _ in catalog.pictures_of("train").shapes.tolist()])
    return Learners(encoder=encoder_by_name(job.config.encoder, job.device, image_side=side, say=job.narrator.say))


def experiment_of(
    job: Job,
    catalog: Catalog,
    test: LabeledImages,
    pools: Sequence[Pool],
    learners: Learners,
    *,
    stop_requested: Callable[[], bool],
) -> Experiment:
    """The experiment, with the features of all images where an arm needs them."""
    unlabeled = catalog.unlabeled_images()
    experiment = Experiment(
        train=catalog.images("train"),
        test=test,
        pools=[pool.images() for pool in pools],
        settings=job.config.evaluation,
        seed=job.config.seed,
        device=job.device,
        directory=job.study.evaluation,
        groups=catalog.seen_groups()[: len(catalog.rows("train"))],
        unfiltered=_unfiltered(job, pools),
        blind_classes=tuple(sorted({name for pool in pools for name in blind_classes(pool)})),
        unlabeled=unlabeled if len(unlabeled) else None,
        **vars(learners),
        stop_requested=stop_requested,
    )
    wanted = wants_pilot(job.config, experiment.arms, has_encoder=experiment.encoder is not None)
    pilot = pilot_pool(job, catalog) if wanted and any(map(len, experiment.pools)) else None
    if pilot is not None:
        experiment = _with_pilot(experiment, pilot)
    return _with_details(job, catalog, experiment)


def _unfiltered(job: Job, pools: Sequence[Pool]) -> list[LabeledImages]:
    """The images before the filters, if they are compared."""
    settings = job.config.evaluation
    names = settings.arms or (ARMS if settings.thorough else ())
    if not any(ARMS[name].synthetic == "unfiltered" for name in names):
        return []
    folders = [Study(pool.root.parent).chunks / pool_facts(pool.root).chunks for pool in pools]
    return [unfiltered_images(ChunkStore(folder), pool) for folder, pool in zip(folders, pools, strict=True)]


def wants_pilot(config: Config, arms: Sequence[Arm], *, has_encoder: bool) -> bool:
    """Whether the mix of an experiment with these arms is chosen on a pool of the pilot."""
    settings = config.evaluation
    if settings.quick and not has_encoder:
        return False
    is_open = settings.synthetic_fraction is None and any(config.advanced.synthetic_fraction_grid)
    return is_open and any(arm.depends_on_mix for arm in arms)


def _with_pilot(experiment: Experiment, pilot: PilotPool) -> Experiment:
    return replace(experiment, pilot=PilotImages(pilot.pool.images(), pilot.judged, blind_classes(pilot.pool)))


def _with_details(job: Job, catalog: Catalog, experiment: Experiment) -> Experiment:
    """With the features, and the images in more detail, of every set of images, where an arm needs them."""
    learners, encoder = {arm.learner for arm in experiment.arms}, experiment.encoder
    if encoder is None or learners == {"network"}:
        return experiment
    rows = catalog.rows("test")
    tested = np.flatnonzero(np.isin(rows["path"].to_numpy(), experiment.test.ids))
    pictures: dict[str, Images] = {
        TRAIN: catalog.pictures_of("train"),
        TEST: catalog.pictures_of("test").select(tested),
    }
    hashes: dict[str, list[str]] = {
        TRAIN: catalog.rows("train")["pixel_sha256"].tolist(),
        TEST: rows["pixel_sha256"].iloc[tested].tolist(),
    }
    if experiment.unlabeled is not None:
        pictures[UNLABELED] = catalog.pictures_of("unlabeled")
        hashes[UNLABELED] = catalog.rows("unlabeled")["pixel_sha256"].tolist()
    pictures |= {name: np.asarray(images.pixels) for name, images in experiment.synthetic_images.items()}
    experiment = replace(experiment, pictures=pictures if "fine-tuned" in learners else {})
    if "features" not in learners:
        return experiment
    folder = job.study.path / FEATURES
    features = {
        name: cached_features(encoder, images, hashes.get(name), folder, _progress(job, name))
        for name, images in pictures.items()
    }
    return replace(experiment, features=features)


def _progress(job: Job, name: str) -> Callable[[int, int], None]:
    kind = name if name in (TRAIN, TEST, UNLABELED) else "pilot's" if name == PILOT else "synthetic"
    return lambda done, total: job.narrator.progress(f"features of {kind} images", done, total)


def unfiltered_images(store: ChunkStore, pool: Pool) -> LabeledImages:
    """The first images that the generator made of each class, as many as the pool has, regardless of filters.

    A UsageError if the chunks were removed, a DamagedError if one was changed.
    """
    counts = {index: count for index, count in enumerate(np.bincount(pool.labels)) if count}
    columns = ["label", "class_index", "index", PNG]
    table = pd.concat([pd.DataFrame(columns=columns), *_candidates(store, counts)])
    shape = (*pool.image_size, pool.channels)
    pixels = [storage.decode_png(content, shape) for content in table[PNG]]
    return LabeledImages(
        np.stack(pixels) if pixels else np.empty((0, *shape), np.uint8),
        table["class_index"].to_numpy(np.int64),
        pool.classes,
        tuple(f"{label}/{index}" for label, index in zip(table["label"], table["index"], strict=True)),
    )


def _candidates(store: ChunkStore, counts: Mapping[int, int]) -> Iterator[pd.DataFrame]:
    for index, count in counts.items():
        left = count
        for number in sorted(store.finished(index)):
            chunk = store.read(index, number)
            taken = chunk[chunk[REASON] != NON_FINITE].head(left)
            left -= len(taken)
            yield taken
            if not left:
                break
        if left:
            raise UsageError(
                "the chunks of the pool, with the images before the filters, are gone",
                where=store.folder,
                fix="remove the arm 'real + unfiltered synthetic', or generate again with --overwrite",
            )
