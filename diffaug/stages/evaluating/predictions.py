"""The verdict about predictions that other training code made."""

from collections.abc import Mapping
from pathlib import Path

from diffaug.data.catalog import Catalog
from diffaug.evaluation.predictions.read import Predictions, read_predictions
from diffaug.evaluation.verdict.result import EvaluationResult
from diffaug.evaluation.verdict.summarize import summarize
from diffaug.files import storage
from diffaug.stages.evaluating.checks import require_unseen, seen_test_images
from diffaug.stages.job import Job
from diffaug.synthesis.pool.pool import Pool


def evaluate_predictions(file: Path, *, job: Job | None = None, catalog: Catalog | None = None) -> EvaluationResult:
    """Compares the arms of a CSV, see `read_predictions` for its columns.

    With the job and catalog of a study, whose test images were predicted, the result is saved in its folder
    `predictions`. Without them, the CSV holds the true classes. A DataError if the study's generator was trained on
    test images.
    """
    if job is None or catalog is None:
        return _summarize(read_predictions(file), {}, {})
    test, train = catalog.images("test"), catalog.images("train")
    ignored: frozenset[str] = frozenset()
    if storage.committed_metadata(job.study.generator) is not None:
        leaks = seen_test_images(job, catalog)
        test = require_unseen(test, leaks, drop=job.config.evaluation.drop_leaked)
        ignored = frozenset(leak.test_id for leak in leaks)
        if ignored:
            job.narrator.warn(f"{len(ignored)} test images were seen in training; their lines are ignored")
    found = read_predictions(file, classes=catalog.classes, test_ids=test.ids, labels=test.labels, ignored=ignored)
    has_pool = storage.committed_metadata(job.study.pool) is not None
    synthetic = Pool.open(job.study.pool).counts_by_name if has_pool else {}
    result = _summarize(found, train.counts_by_name, synthetic)
    job.accept()
    result.save(job.study.predictions / f"{file.stem}-{storage.sha256_file(file)[:8]}.json")
    return result


def _summarize(
    found: Predictions, train_counts: Mapping[str, int], synthetic_counts: Mapping[str, int]
) -> EvaluationResult:
    return summarize(
        found.trials,
        roles=found.roles,
        train_counts=train_counts,
        synthetic_counts=synthetic_counts,
        test_labels=found.labels,
        classes=found.classes,
    )
