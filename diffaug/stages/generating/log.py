"""Narrates and logs how a pool is filled."""

from collections import Counter

from diffaug.data.catalog import Catalog
from diffaug.files.stage_records import StageState
from diffaug.stages.generating.describe_shortage import by_reason, fine_tuning, what_helps
from diffaug.stages.generating.preparing import PoolFilling
from diffaug.stages.job import GENERATE_RUN, Job
from diffaug.synthesis.filters.scores import OUT_OF_DISTRIBUTION, WRONG_CLASS
from diffaug.synthesis.pool.origins import CROSSED, SAMPLED, TRANSPLANT, VARIATION, Origin, expected_origins
from diffaug.synthesis.pool.pool import MANIFEST, SUMMARY, Pool
from diffaug.tracking.system import system_metrics

_COLUMNS: dict[Origin, str] = {
    SAMPLED: "sampled",
    VARIATION: "variations",
    TRANSPLANT: "transplants",
    CROSSED: "crossed",
}


def show_targets(job: Job, filling: PoolFilling, catalog: Catalog) -> None:
    """Shows how many images each class will get."""
    counts, maker = catalog.counts_by_name("train"), filling.maker
    material = {name: maker.material(number) for number, name in enumerate(maker.generator.classes)}
    expected = expected_origins(maker.settings, maker.chunk_size, filling.targets, material)
    shown = [one for one in _COLUMNS if one in (SAMPLED, VARIATION) or any(row[one] for row in expected.values())]
    rows = [
        [name, *map(str, (counts[name], *(made[one] for one in shown), counts[name] + sum(made.values())))]
        for name, made in expected.items()
    ]
    about = [f"{_COLUMNS[one]} (about)" for one in shown]
    job.narrator.table("Planned pool", ["class", "real", *about, "total"], rows)
    copied = [name for name in maker.generator.copied_classes if filling.targets.get(name)]
    if copied and not isinstance(job.config.synthesis.sampling_strategy, dict):
        job.narrator.warn(
            f"the generator repeats training images of {', '.join(copied)}: these classes get at most one synthetic "
            "image per real one, and stronger variations"
        )


def start_log(job: Job, state: StageState, filling: PoolFilling) -> None:
    """Starts the run in the journal."""
    settings = filling.maker.settings
    names = ("guidance_method", "guidance_scale", "solver", "num_inference_steps", "max_synthetic_ratio")
    params = {name: getattr(settings, name) for name in names}
    params["wanted"] = sum(filling.targets.values())
    job.start_run(GENERATE_RUN, state, name="generate", kind="generate", params=params)


def finish_log(job: Job, pool: Pool, *, advised: bool = True) -> None:
    """Logs the finished pool, and warns of classes that could not be filled, with advice unless it is the pilot's."""
    rejected: Counter[str] = Counter()
    short: dict[str, list[str]] = {}  # classes by advice, which is long and mostly the same for all
    metrics = {"accepted": float(len(pool))}
    for label, summary in pool.summaries.items():
        rejected.update(summary.rejected)
        metrics[f"accepted/{label}"] = float(summary.accepted)
        if summary.wanted and not summary.candidates:
            job.narrator.warn(
                f"class '{label}': none of {summary.wanted} images was made, since the generator was not trained on "
                f"the images and only varies them. {fine_tuning(job)}"
            )
        elif summary.accepted < summary.wanted:
            found = f"{label} {summary.accepted} of {summary.wanted} ({by_reason(summary.rejected)})"
            short.setdefault(f". {what_helps(job, summary.rejected)}" if advised else "", []).append(found)
    for advice, classes in short.items():
        job.narrator.warn(f"too few images passed the filters: {', '.join(classes)}{advice}")
    metrics |= {f"rejected/{reason}": float(count) for reason, count in rejected.items()}
    job.journal.log_metrics(GENERATE_RUN, metrics | system_metrics())
    job.journal.log_dataset(GENERATE_RUN, pool.root / MANIFEST, "pool", "synthetic")
    job.journal.log_artifact(GENERATE_RUN, pool.root / MANIFEST)
    job.journal.log_artifact(GENERATE_RUN, pool.root / SUMMARY)
    job.journal.end_run(GENERATE_RUN)
    rejections = f", {sum(rejected.values())} rejected ({by_reason(rejected)})" if rejected else ""
    job.narrator.say(f"pool of {len(pool)} images written to {pool.root}{rejections}")


def warn_uncalibrated(job: Job, filling: PoolFilling) -> None:
    """Names the classes with synthetic images that two of the filters could not be calibrated for."""
    calibrated = set(filling.maker.filters.wrong_class.labels.tolist())
    names = [merge.label for merge in filling.merges if merge.target and merge.class_index not in calibrated]
    if names and {WRONG_CLASS, OUT_OF_DISTRIBUTION} & set(job.config.synthesis.filters):
        job.narrator.warn(
            f"the filters '{WRONG_CLASS}' and '{OUT_OF_DISTRIBUTION}' were not applied to these classes, which have "
            f"no training image that could be left out for calibration: {', '.join(names)}"
        )
