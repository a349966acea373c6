"""The stage that fills the pool."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffaug import storage
from diffaug.data.catalog import Catalog
from diffaug.data.images import LabeledImages
from diffaug.diffusion.artifact import Generator
from diffaug.diffusion.grids import contact_sheet
from diffaug.pipeline.job import Job
from diffaug.study import StageState, begin_stage, finish_stage
from diffaug.synthesis.classifier import TrainingRecipe, default_updates, fit_classifier, predict_probabilities
from diffaug.synthesis.filters import ClassScorer
from diffaug.synthesis.generation import SUMMARY, fill_pool, finish_pool
from diffaug.synthesis.pool import MANIFEST, Pool
from diffaug.synthesis.targets import resolve_targets

RUN = "generate"
SHEET_COLUMNS = 8
SHEET_FILE = "samples.png"


def generate_pool(job: Job, catalog: Catalog, generator: Generator) -> Pool:
    """Fills the study's pool, goes on with one that was stopped, or opens the finished one.

    Raises:
        UsageError: The sampling strategy is impossible, the pool was begun with other settings, or autoguidance
            has no guide.
    """
    folder, settings = job.study.pool, job.config.synthesis
    generator.require_guide(settings.guidance)
    images = catalog.images("train")
    targets = resolve_targets(
        images.counts_by_name, settings.sampling_strategy, max_synthetic_ratio=settings.max_synthetic_ratio
    )
    stored = {"seed": job.config.seed, **settings.model_dump(mode="json")}
    inputs = {"catalog": catalog.fingerprint, "generator": generator.weights_sha256}
    state = begin_stage(folder, stored, inputs, overwrite=job.overwrite)
    if state == "finished":
        job.narrator.say(f"pool: finished already, kept ({folder})")
        return Pool.open(folder)
    _show_targets(job, images, targets)
    _start_log(job, state, targets)
    _fill(job, generator, _class_scorer(job, images), targets)
    facts = finish_pool(folder, generator, targets)
    finish_stage(folder, facts)
    pool = Pool.open(folder)
    _finish_log(job, pool)
    return pool


def _class_scorer(job: Job, images: LabeledImages) -> ClassScorer:
    """A classifier of the real training images, with the class frequencies taken out of its logits."""
    job.narrator.say("training the classifier that finds off-class samples ...")
    device = job.device
    model = fit_classifier(
        images,
        recipe=TrainingRecipe(updates=default_updates(len(images))),
        seed=job.config.seed,
        purpose="off-class scorer",
        log_prior=np.log(np.maximum(images.class_counts, 1)),
        device=device,
    )

    def score(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return predict_probabilities(model, pixels, device=device)

    return score


def _show_targets(job: Job, images: LabeledImages, targets: dict[str, int]) -> None:
    counts = images.counts_by_name
    rows = [[name, str(counts[name]), str(added), str(counts[name] + added)] for name, added in targets.items()]
    job.narrator.table("What will be generated", ["class", "real", "synthetic", "together"], rows)


def _fill(job: Job, generator: Generator, scorer: ClassScorer, targets: dict[str, int]) -> None:
    rejected: Counter[str] = Counter()
    records = fill_pool(
        job.study.pool, generator, scorer, targets=targets, settings=job.config.synthesis, seed=job.config.seed
    )
    for record in records:
        rejected.update(record.rejected)
        detail = f"{record.total_accepted} images, {sum(rejected.values())} rejected"
        job.narrator.progress("generating", record.total_accepted, record.total_wanted, detail)


def _start_log(job: Job, state: StageState, targets: dict[str, int]) -> None:
    settings = job.config.synthesis
    job.start_run(
        RUN,
        state,
        name="generate",
        kind="generate",
        params={
            "guidance": settings.guidance,
            "guidance_scale": settings.guidance_scale,
            "solver": settings.solver,
            "num_inference_steps": settings.num_inference_steps,
            "max_synthetic_ratio": settings.max_synthetic_ratio,
            "wanted": sum(targets.values()),
        },
    )


def _finish_log(job: Job, pool: Pool) -> None:
    summary: dict[str, dict[str, Any]] = storage.read_json(pool.root / SUMMARY)
    rejected: Counter[str] = Counter()
    for label, outcome in summary.items():
        rejected.update(outcome["rejected"])
        if outcome["accepted"] < outcome["wanted"]:
            job.narrator.warn(
                f"class '{label}': only {outcome['accepted']} of {outcome['wanted']} images passed the filters "
                f"({_by_reason(outcome['rejected'])})"
            )
    accepted = {f"accepted/{label}": float(outcome["accepted"]) for label, outcome in summary.items()}
    counts = {f"rejected/{reason}": float(count) for reason, count in rejected.items()}
    job.journal.log_metrics(RUN, {"accepted": float(len(pool)), **accepted, **counts})
    job.journal.log_dataset(RUN, pool.root / MANIFEST, f"{job.study.name}-pool", "synthetic")
    job.journal.log_artifact(RUN, pool.root / MANIFEST)
    job.journal.log_artifact(RUN, pool.root / SUMMARY)
    if len(pool):
        file = job.study.path / SHEET_FILE
        storage.write_bytes(file, storage.png_bytes(_sheet(pool)))
        job.journal.log_image(RUN, "pool", file)
    job.journal.end_run(RUN)
    job.sync()
    rejections = f", {sum(rejected.values())} rejected ({_by_reason(rejected)})" if rejected else ""
    job.narrator.say(f"pool of {len(pool)} images written to {pool.root}{rejections}")


def _sheet(pool: Pool) -> NDArray[np.uint8]:
    """One row a class with its first images: as generated, not chosen. Classes with too few for a row are left out."""
    rows = [pool.indices_of(index)[:SHEET_COLUMNS] for index in range(len(pool.classes))]
    columns = max(map(len, rows))
    return contact_sheet(np.stack([pool.read(i) for row in rows if len(row) == columns for i in row]), columns)


def _by_reason(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "none were even sampled"
