"""Describes a finished pool in `pool-report/`: quality and memorization per class, and contact sheets."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffaug.classifiers.encoders.trained import ClassifierOutput
from diffaug.data.catalog import Catalog
from diffaug.data.images import LabeledImages, SeenImages
from diffaug.diffusion.generator.generator import Generator
from diffaug.files import storage
from diffaug.files.records import write_record
from diffaug.similarity.copies import GENERATED
from diffaug.similarity.distances import Described, small_pictures
from diffaug.stages.generating.preparing import held_out
from diffaug.stages.generating.request import seen_images
from diffaug.stages.job import GENERATE_RUN, Job
from diffaug.synthesis.audit.membership import MembershipErrors, pair
from diffaug.synthesis.audit.memorization import CheckedCandidates, PoolAudit, audit_pool
from diffaug.synthesis.audit.quality import POOL_QUALITY, QUALITY, LabeledFeatures, PoolQuality, measure_quality
from diffaug.synthesis.audit.sheets import accepted_sheet, masks_sheet, nearest_sheet, rejected_sheet
from diffaug.synthesis.filters.calibrated import CalibratedFilters
from diffaug.synthesis.pool.making import ChunkMaker
from diffaug.synthesis.pool.pool import AUDIT, Pool

Pixels = NDArray[np.uint8]


def describe_pool(job: Job, catalog: Catalog, maker: ChunkMaker, pool: Pool) -> PoolAudit:
    """Measures, draws, logs and narrates the properties of a pool that `maker` filled; the run "generate" is open."""
    real, synthetic, filters = catalog.images("train"), pool.images(), maker.filters
    job.narrator.progress("measuring the pool", 0, 4, "quality")
    quality = _quality(filters, real, synthetic, job.config.seed)
    job.narrator.progress("measuring the pool", 1, 4, "comparing with real images")
    audit = _audit(job, catalog, maker, pool, synthetic)
    job.narrator.progress("measuring the pool", 3, 4, "drawing sheets")
    folder = job.study.pool_report
    with storage.new_directory(folder, {"generator": maker.generator.weights_sha256}) as staging:
        write_record(staging / QUALITY, POOL_QUALITY, quality)
        audit.save(staging / AUDIT)
        sheets = _sheets(seen_images(job, catalog), pool, synthetic) | _mask_sheet(maker)
        for name, sheet in sheets.items():
            storage.write_bytes(staging / name, storage.png_bytes(sheet))
    job.narrator.progress("measuring the pool", 4, 4)
    _log(job, folder, quality, audit)
    _narrate(job, quality, audit)
    return audit


def _quality(filters: CalibratedFilters, real: LabeledImages, synthetic: LabeledImages, seed: int) -> PoolQuality:
    of_real = filters.predict(real.pixels)
    empty = ClassifierOutput(of_real.features[:0], of_real.log_probabilities[:0])
    of_synthetic = filters.predict(synthetic.pixels) if len(synthetic) else empty
    return measure_quality(
        LabeledFeatures(of_real.features, real.labels),
        LabeledFeatures(of_synthetic.features, synthetic.labels),
        of_synthetic.log_probabilities,
        real.classes,
        encoder=filters.encoder_name,
        seed=seed,
    )


def _audit(job: Job, catalog: Catalog, maker: ChunkMaker, pool: Pool, synthetic: LabeledImages) -> PoolAudit:
    images, is_held = catalog.images("train"), held_out(catalog, maker.generator)
    trained, held = images.select(np.flatnonzero(~is_held)), images.select(np.flatnonzero(is_held))
    seen, held_groups = _trained_on(job, catalog, is_held)
    flip, seed = job.config.diffusion.horizontal_flip, job.config.seed
    views = [seen.pixels, seen.pixels[:, :, ::-1]] if flip else [seen.pixels]
    return audit_pool(
        Described(small_pictures(synthetic.pixels), synthetic.labels, np.full(len(synthetic), GENERATED, np.int64)),
        tuple(pool.manifest["origin"]),
        check_candidates(pool, maker.copy_threshold),
        trained=Described(
            np.concatenate([small_pictures(view) for view in views]),
            np.tile(seen.labels, len(views)),
            np.tile(seen.groups, len(views)),
        ),
        held=Described(small_pictures(held.pixels), held.labels, held_groups),
        errors=_membership(maker.generator, held, trained, seed) if len(held) else None,
        classes=synthetic.classes,
        seed=seed,
    )


def _trained_on(job: Job, catalog: Catalog, is_held: NDArray[np.bool_]) -> tuple[SeenImages, NDArray[np.int64]]:
    """All images that the generator was trained on, unlabeled ones included, and the groups of those held out."""
    seen = seen_images(job, catalog)
    chosen = np.flatnonzero(~np.pad(is_held, (0, len(seen) - len(is_held))))
    pixels, ids = np.asarray(seen.pixels[chosen]), tuple(seen.ids[position] for position in chosen)
    return SeenImages(pixels, ids, seen.labels[chosen], seen.groups[chosen]), seen.groups[: len(is_held)][is_held]


def check_candidates(pool: Pool, copy_threshold: Callable[[int, str], float]) -> CheckedCandidates:
    """Checks the candidates of each class up to its last image; accepted ones beyond it are not recorded.

    `copy_threshold` is that of the filter, by class index and origin.

    All candidates of a class that was given up count, because it has no surplus. A candidate is a copy whether or not
    the copy filter is enabled or another filter rejected it first.
    """
    manifest, rejected = pool.manifest, pool.rejected
    columns = ["class_index", "origin", "copy_ratio"]
    candidates = manifest[columns]
    if rejected is not None:
        given_up = [label for label, summary in pool.summaries.items() if summary.accepted < summary.wanted]
        last = rejected["class_index"].map(manifest.groupby("class_index")["index"].max())
        counted = ~(rejected["index"] > last) | rejected["label"].isin(given_up)
        candidates = pd.concat([candidates, rejected.loc[counted, columns]])
    labels, origins = candidates["class_index"].to_numpy(np.int64), candidates["origin"].to_numpy(str)
    about = list(zip(labels.tolist(), origins.tolist(), strict=True))
    thresholds = {one: copy_threshold(*one) for one in dict.fromkeys(about)}
    copied = candidates["copy_ratio"].to_numpy(float) < np.array([thresholds[one] for one in about])
    return CheckedCandidates(copied, labels, origins)


def _membership(
    generator: Generator, held: LabeledImages, trained: LabeledImages, seed: int
) -> MembershipErrors | None:
    chosen_held, chosen_trained = pair(held.labels, trained.labels, seed=seed)
    held, trained = held.select(chosen_held), trained.select(chosen_trained)

    of_held, of_trained = (generator.denoising_errors(images, seed=seed) for images in (held, trained))
    if of_held is None or of_trained is None:
        return None
    return MembershipErrors(of_held, held.labels, of_trained, trained.labels)


def _sheets(real: SeenImages, pool: Pool, synthetic: LabeledImages) -> dict[str, Pixels]:
    sheets = {}
    if len(synthetic):
        position = {name: number for number, name in enumerate(real.ids)}
        nearest = real.pixels[[position[name] for name in pool.manifest["nearest"]]]
        sheets["accepted.png"] = accepted_sheet(synthetic)
        sheets["nearest.png"] = nearest_sheet(synthetic, np.asarray(nearest))
    kept = None if pool.rejected is None else pool.rejected[pool.rejected["file"] != ""]
    if kept is not None and len(kept):
        files, shape = tuple(kept["file"]), (*pool.image_size, pool.channels)
        paths = (storage.safe_join(pool.root, file) for file in files)
        pixels = np.stack([storage.read_png(*one, shape) for one in zip(paths, kept["sha256"], strict=True)])
        images = LabeledImages(pixels, kept["class_index"].to_numpy(np.int64), pool.classes, files)
        sheets["rejected.png"] = rejected_sheet(images, tuple(kept["reason"]))
    return sheets


def _mask_sheet(maker: ChunkMaker) -> dict[str, Pixels]:
    """The masks that transplants are made with, drawn around the objects, if there are any."""
    found = maker.backgrounds
    if found is None or maker.settings.transplant_fraction == 0 or not any(mask.any() for mask in found.masks.pixels):
        return {}
    return {"masks.png": masks_sheet(maker.sources, found.masks, found.drawn)}


def _log(job: Job, folder: Path, quality: PoolQuality, audit: PoolAudit) -> None:
    kinds = {"quality": quality.metrics, "audit": audit.metrics}
    figures = {f"{kind}/{name}": value for kind, metrics in kinds.items() for name, value in metrics.items()}
    job.journal.log_metrics(GENERATE_RUN, figures)
    for file in (QUALITY, AUDIT):
        job.journal.log_artifact(GENERATE_RUN, folder / file)
    for sheet in sorted(folder.glob("*.png")):
        job.journal.log_image(GENERATE_RUN, sheet.stem, sheet)


def _narrate(job: Job, quality: PoolQuality, audit: PoolAudit) -> None:
    columns = ["class", "images", "label agreement", "KID", "density", "coverage", "copies", "distance ratio"]
    rows = []
    for label, of_class in quality.classes.items():
        found = audit.classes[label]
        if found.images or found.copies.total:
            ratio = found.distance_ratio.value if found.distance_ratio else None
            figures = [_formatted(one, ".2f") for one in (of_class.kid, of_class.density, of_class.coverage)]
            agreement = _formatted(of_class.label_agreement, ".0%")
            rows.append(
                [label, str(found.images), agreement, *figures, str(found.copies.count), _formatted(ratio, ".2f")]
            )
    job.narrator.table(f"Pool, measured with features of {quality.encoder}", columns, rows)
    job.narrator.say(
        "label agreement: fraction that the filters' own classifiers assign to the class, so high for a filtered pool; "
        "copies: candidates that are copies of training images (rejected); distance ratio: distance to training images "
        "relative to images never trained on, 1 if equal"
    )
    for note in audit.notes:
        job.narrator.say(note)
    for reason in audit.reasons:
        job.narrator.warn(f"unsafe to publish: {reason}")


def _formatted(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)
