"""What a finished pool is like: quality and memorisation per class, and sheets to look at, in `pool-report/`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from diffaug.classifiers.encoders import Description
from diffaug.configuration.settings import Config
from diffaug.data.catalog import Catalog
from diffaug.data.images import LabeledImages
from diffaug.diffusion.generator.generator import Generator
from diffaug.evaluation.report.pool import QUALITY
from diffaug.files import storage
from diffaug.similarity.copies import GENERATED
from diffaug.similarity.distances import Described, small_pictures
from diffaug.stages.job import GENERATE_RUN, Job
from diffaug.synthesis.audit.membership import MembershipErrors, denoising_errors, pair
from diffaug.synthesis.audit.memorization import CheckedCandidates, PoolAudit, audit_pool
from diffaug.synthesis.audit.quality import Encoded, PoolQuality, measure_quality
from diffaug.synthesis.audit.sheets import accepted_sheet, nearest_sheet, rejected_sheet
from diffaug.synthesis.filters.calibrated import CalibratedJudge
from diffaug.synthesis.pool.pool import AUDIT, SUMMARY, Pool
from diffaug.synthesis.pool.train_split import TrainSplit


def describe_pool(
    job: Job, catalog: Catalog, generator: Generator, judge: CalibratedJudge, pool: Pool, *, rejected: pd.DataFrame
) -> PoolAudit:
    """Measures, draws, logs and tells what a pool is like.

    Args:
        job: The job; its run "generate" is open.
        catalog: Where the real images are.
        generator: What the pool was made with.
        judge: What it was filtered with.
        pool: The pool.
        rejected: The manifest of what was rejected: `label`, `class_index`, `origin`, `reason`, and `file`, empty
            where the picture was not kept.
    """
    real, synthetic = catalog.images("train"), pool.images()
    quality = _quality(judge, real, synthetic, job.config.seed)
    summary = storage.read_json(pool.root / SUMMARY)
    given_up = [label for label, outcome in summary.items() if outcome["accepted"] < outcome["wanted"]]
    candidates = _checked(pool.manifest, rejected, judge.copy_threshold, given_up)
    split, origins = TrainSplit.of(catalog, generator), tuple(pool.manifest["origin"])
    audit = _audit(job.config, split, generator, synthetic, candidates=candidates, origins=origins)
    folder = job.study.pool_report
    with storage.new_directory(folder, {"generator": generator.weights_sha256}) as staging:
        storage.write_json(staging / QUALITY, quality.to_dict())
        storage.write_json(staging / AUDIT, audit.to_dict())
        for name, sheet in _sheets(real, pool, synthetic, rejected).items():
            storage.write_bytes(staging / name, storage.png_bytes(sheet))
    _log(job, folder, quality, audit)
    _tell(job, quality, audit)
    return audit


def _quality(judge: CalibratedJudge, real: LabeledImages, synthetic: LabeledImages, seed: int) -> PoolQuality:
    encoded = judge.describe(real.pixels)
    nothing = Description(encoded.features[:0], encoded.log_probabilities[:0])
    described = judge.describe(synthetic.pixels) if len(synthetic) else nothing
    return measure_quality(
        Encoded(encoded.features, real.labels),
        Encoded(described.features, synthetic.labels),
        described.log_probabilities,
        real.classes,
        encoder=judge.encoder_name,
        seed=seed,
    )


def _described(split: TrainSplit, held: bool, *, mirrored: bool = False) -> Described:
    """A part of the training images as the audit compares them, with their mirror images too if asked."""
    part, groups = split.part(held), split.groups[split.held == held]
    views = [part.pixels, part.pixels[:, :, ::-1]] if mirrored else [part.pixels]
    features = np.concatenate([small_pictures(view) for view in views])
    return Described(features, np.tile(part.labels, len(views)), np.tile(groups, len(views)))


def _audit(
    config: Config,
    real: TrainSplit,
    generator: Generator,
    synthetic: LabeledImages,
    *,
    candidates: CheckedCandidates,
    origins: tuple[str, ...],
) -> PoolAudit:
    groups = np.full(len(synthetic), GENERATED, np.int64)
    return audit_pool(
        Described(small_pictures(synthetic.pixels), synthetic.labels, groups),
        origins,
        candidates,
        trained=_described(real, False, mirrored=config.diffusion.horizontal_flip),
        held=_described(real, True),
        errors=_membership(generator, real, config.seed) if real.held.any() else None,
        classes=synthetic.classes,
        seed=config.seed,
    )


def _checked(
    manifest: pd.DataFrame, rejected: pd.DataFrame, copy_threshold: float, given_up: Sequence[str]
) -> CheckedCandidates:
    """The candidates up to each class's last image, beyond which accepted ones are not recorded, if there are any.

    Of a class that was given up there are none, so all its candidates count. A copy is one whether or not the filter
    for copies is on, or another reason came first.
    """
    columns = ["class_index", "origin", "copy_ratio"]
    last = rejected["class_index"].map(manifest.groupby("class_index")["index"].max())
    looked_at = ~(rejected["index"] > last) | rejected["label"].isin(given_up)
    candidates = pd.concat([manifest[columns], rejected.loc[looked_at, columns]])
    return CheckedCandidates(
        (candidates["copy_ratio"] < copy_threshold).to_numpy(bool),
        candidates["class_index"].to_numpy(np.int64),
        candidates["origin"].to_numpy(str),
    )


def _membership(generator: Generator, real: TrainSplit, seed: int) -> MembershipErrors:
    held, trained = real.part(True), real.part(False)
    chosen = pair(held.labels, trained.labels, seed=seed)
    columns: list[Any] = []
    for part, positions in ((held, chosen.held), (trained, chosen.trained)):
        images = part.select(positions)
        pixels, labels = torch.from_numpy(np.array(images.pixels)), torch.from_numpy(images.labels)
        x0 = generator.normalization.to_network(pixels.to(generator.device))
        errors = denoising_errors(generator.denoiser, x0, labels.to(generator.device), seed=seed)
        columns += [errors, images.labels]
    return MembershipErrors(*columns)


def _sheets(
    real: LabeledImages, pool: Pool, synthetic: LabeledImages, rejected: pd.DataFrame
) -> dict[str, NDArray[np.uint8]]:
    """The sheets that there is something for, by file name."""
    sheets = {}
    if len(synthetic):
        position = {name: number for number, name in enumerate(real.ids)}
        nearest = real.pixels[[position[name] for name in pool.manifest["nearest"]]]
        sheets["accepted.png"] = accepted_sheet(synthetic)
        sheets["nearest.png"] = nearest_sheet(synthetic, np.asarray(nearest))
    kept = rejected[rejected["file"] != ""]
    if len(kept):
        pixels = np.stack([_read(pool, file) for file in kept["file"]])
        labels = kept["class_index"].to_numpy(np.int64)
        images = LabeledImages(pixels, labels, pool.classes, tuple(kept["file"]))
        sheets["rejected.png"] = rejected_sheet(images, tuple(kept["reason"]))
    return sheets


def _read(pool: Pool, file: str) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(storage.safe_join(pool.root, file).read_bytes())) as image:
        return np.asarray(image, dtype=np.uint8).reshape(*pool.image_size, pool.channels)


def _log(job: Job, folder: Path, quality: PoolQuality, audit: PoolAudit) -> None:
    figures = {f"quality/{name}": value for name, value in quality.metrics.items()}
    figures |= {f"audit/{name}": value for name, value in audit.metrics.items()}
    job.journal.log_metrics(GENERATE_RUN, figures)
    for file in (QUALITY, AUDIT):
        job.journal.log_artifact(GENERATE_RUN, folder / file)
    for sheet in sorted(folder.glob("*.png")):
        job.journal.log_image(GENERATE_RUN, sheet.stem, sheet)


def _tell(job: Job, quality: PoolQuality, audit: PoolAudit) -> None:
    columns = ["class", "images", "confirmed", "KID", "density", "coverage", "copies", "nearness"]
    rows = []
    for label, of_class in quality.classes.items():
        found = audit.classes[label]
        if not found.images and not found.copies.total:
            continue
        figures = (of_class.kid, of_class.density, of_class.coverage)
        nearness = found.distance_ratio.value if found.distance_ratio else None
        cells = [_said(of_class.confirmed, ".0%"), *(_said(figure, ".2f") for figure in figures)]
        rows.append([label, str(found.images), *cells, str(found.copies.count), _said(nearness, ".2f")])
    job.narrator.table(f"The pool, in features of {quality.encoder}", columns, rows)
    job.narrator.say(
        "confirmed: the classifiers that filter the pool agree, so with the off-class filter it is high; copies: of "
        "training images, among what was generated, not in the pool; nearness: distance to training images against "
        "that of images never trained on, 1 being no nearer"
    )
    for note in audit.notes:
        job.narrator.say(note)
    for reason in audit.reasons:
        job.narrator.warn(f"unsafe to publish: {reason}")


def _said(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
