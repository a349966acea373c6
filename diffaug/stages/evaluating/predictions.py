"""The verdict about predictions that other training code made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from diffaug.data.catalog import Catalog
from diffaug.evaluation.experiment.leakage import require_unseen
from diffaug.evaluation.predictions.read import Predictions, read_predictions
from diffaug.evaluation.verdict.result import EvaluationResult, summarize
from diffaug.files import storage
from diffaug.stages.evaluating.evaluate import seen_test_images
from diffaug.stages.job import Job
from diffaug.synthesis.pool.pool import Pool


def judge_predictions(file: Path, *, job: Job | None = None, catalog: Catalog | None = None) -> EvaluationResult:
    """Compares the arms of a CSV; see `read_predictions` for its columns.

    Args:
        file: The CSV.
        job: Whose test images were predicted; the result is kept in the study's folder `predictions`. None: the CSV
            says the true classes itself.
        catalog: The study's images; given with it.

    Raises:
        DataError: See `read_predictions`; or the study's generator has seen test images.
        UsageError: There is no such file.
    """
    if job is None or catalog is None:
        return _judge(read_predictions(file))
    test, train = catalog.images("test"), catalog.images("train")
    ignored: frozenset[str] = frozenset()
    if storage.committed_facts(job.study.generator) is not None:
        leaks = seen_test_images(job, catalog)
        test = require_unseen(test, leaks, drop=job.config.evaluation.drop_leaked)
        ignored = frozenset(leak.test_id for leak in leaks)
        if ignored:
            job.narrator.warn(f"{len(ignored)} test images were seen in training: lines about them are left out")
    found = read_predictions(
        file,
        classes=catalog.classes,
        test_ids=test.ids,
        labels=test.labels,
        ignored=ignored,
    )
    has_pool = storage.committed_facts(job.study.pool) is not None
    synthetic = Pool.open(job.study.pool).images().counts_by_name if has_pool else {}
    result = _judge(found, train.counts_by_name, synthetic)
    storage.write_json(job.study.predictions / f"{file.stem}-{storage.sha256_file(file)[:8]}.json", result.to_dict())
    return result


def _judge(
    found: Predictions, train_counts: Mapping[str, int] | None = None, synthetic_counts: Mapping[str, int] | None = None
) -> EvaluationResult:
    return summarize(
        found.trials,
        roles=found.roles,
        train_counts=train_counts or {},
        synthetic_counts=synthetic_counts or {},
        test_labels=found.labels,
        classes=found.classes,
    )
