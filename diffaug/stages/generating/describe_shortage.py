"""Why a pool lacks images, and what to do."""

import shlex
from collections import Counter
from collections.abc import Mapping

from diffaug.files import storage
from diffaug.stages.generating.describe_power import longer_training
from diffaug.stages.job import Job
from diffaug.synthesis.filters.scores import COPY, DUPLICATE, OUT_OF_DISTRIBUTION, WRONG_CLASS
from diffaug.synthesis.pool.pool import Pool


def why_no_images(job: Job, pool: Pool | None) -> str:
    """Why a pool has no images, or there is no pool, with the command that helps."""
    study = shlex.quote(str(job.study.path))
    if pool is None:
        run = f"run {shlex.quote(str(job.study.record.data))} --study"
        command = "generate" if storage.recorded_metadata(job.study.generator) else run
        return f"There are no synthetic images yet. To get some: diffaug {command} {study}"
    if len(pool.whole):
        return f"Reviewers reject all images of the pool. To look again: diffaug review {study}"
    asked = [summary for summary in pool.summaries.values() if summary.wanted]
    if not asked:
        return "The pool holds no image, since none was asked for."
    rejected = sum((Counter(summary.rejected) for summary in asked), Counter[str]())
    if not rejected:
        return f"The pool holds no image, since the generator was not trained on the images. {fine_tuning(job)}"
    return f"The pool holds no image: none passed the filters ({by_reason(rejected)}). {what_helps(job, rejected)}"


def what_helps(job: Job, rejected: Mapping[str, int]) -> str:
    """Why the filter that rejected most did so, probably, and what to do."""
    reason = max(rejected, key=lambda name: rejected[name], default="")
    study = shlex.quote(str(job.study.path))
    if reason == COPY:
        return (
            "The generator repeats training images, which happens with few of them; ask for fewer: "
            f"diffaug generate {study} --set synthesis.max_synthetic_ratio=1 --overwrite"
        )
    if reason == DUPLICATE:
        return (
            "The generator makes the same image again and again; ask for fewer: "
            f"diffaug generate {study} --set synthesis.max_synthetic_ratio=1 --overwrite"
        )
    causes = {
        WRONG_CLASS: "The generator mixes up classes, probably because it was trained too briefly",
        OUT_OF_DISTRIBUTION: "The images are unlike real ones, probably because the generator was trained too briefly",
    }
    cause = causes.get(reason, "The generator has not learned to make images, probably for want of training")
    return f"{cause}; train longer: {longer_training(job)}"


def fine_tuning(job: Job) -> str:
    """The commands that train the generator on the images."""
    study, data = shlex.quote(str(job.study.path)), shlex.quote(str(job.study.record.data))
    fit = f"diffaug fit {data} --study {study} --route pipeline --overwrite"
    return f"Fine-tune it: {fit}, then diffaug generate {study} --overwrite"


def by_reason(counts: Mapping[str, int]) -> str:
    """Numbers of rejected candidates with the filters that rejected them."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "none was generated"
