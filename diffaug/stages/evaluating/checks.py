"""What an evaluation refuses: classes without test images, and test images that a generator has seen."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from diffaug.classifiers.encoders.by_name import encoder_by_name
from diffaug.classifiers.library import classifier_by_name
from diffaug.data.catalog import Catalog
from diffaug.data.images import LabeledImages
from diffaug.data.layouts.entries import listed
from diffaug.data.leaks import Leak
from diffaug.diffusion.generator.files import read_rows, require_finished
from diffaug.errors import DataError
from diffaug.evaluation.experiment.experiment import require_every_class
from diffaug.files import storage
from diffaug.stages.generating.backgrounds import background_class
from diffaug.stages.generating.request import requested_targets
from diffaug.stages.job import Job

LEAKS = "leaked.json"


def require_test_images(catalog: Catalog) -> None:
    """Raises DataError if a class has no test image."""
    require_every_class(catalog.counts_by_name("test"), "test", catalog.root)


def require_known_classifier(job: Job) -> None:
    """Raises UsageError or MissingExtraError if the settings name a classifier that can't be trained."""
    classifier_by_name(job.config.evaluation)


def require_known_encoder(job: Job) -> None:
    """Raises UsageError or MissingExtraError if the settings name an encoder that is unknown or has no weights here."""
    if job.config.encoder != "auto":
        encoder_by_name(job.config.encoder, say=job.narrator.say)


def require_accepted_later(job: Job, catalog: Catalog) -> None:
    """Raises, before hours of training, for settings that a later stage would refuse."""
    require_known_classifier(job)
    require_known_encoder(job)
    requested_targets(job, catalog)
    background_class(job, catalog.images("train"))


def require_evaluable(job: Job, catalog: Catalog) -> None:
    """Raises, before a generator is trained, what `evaluate` would raise after it."""
    require_known_classifier(job)
    require_test_images(catalog)
    if storage.recorded_metadata(job.study.generator) is None:
        require_unseen(catalog.images("test"), list(catalog.leaks), drop=job.config.evaluation.drop_leaked)


def seen_test_images(job: Job, catalog: Catalog) -> list[Leak]:
    """The test images that the study's generator or its filters have seen."""
    leaks, tested = list(catalog.leaks), catalog.rows("test")
    if not job.study.generator.exists():
        return leaks
    require_finished(job.study.generator)
    rows = read_rows(job.study.generator)
    if rows is not None:
        leaks += same_pixels(tested["path"].tolist(), tested["pixel_sha256"].tolist(), rows)
    return leaks


def report_leaks(job: Job, leaks: Sequence[Leak]) -> None:
    """Records and reports the test images that are left out."""
    if leaks:
        file = job.study.evaluation / LEAKS
        named = {leak.test_id: {"seen_id": leak.seen_id, "how": leak.how} for leak in leaks}
        storage.write_json(file, named)
        job.narrator.warn(f"{len(named)} test images show what a training image shows and are left out: {file}")


def same_pixels(test_ids: Sequence[str], test_hashes: Sequence[str], rows: pd.DataFrame) -> list[Leak]:
    """Test images, with their `pixel_sha256`, whose pixels are among the seen ones, the rows of a generator."""
    seen = dict(zip(rows["pixel_sha256"], rows["id"], strict=True))
    pairs = zip(test_ids, test_hashes, strict=True)
    return [Leak(name, seen[sha256], "same pixels") for name, sha256 in pairs if sha256 in seen]


def require_unseen(test: LabeledImages, leaks: Sequence[Leak], *, drop: bool) -> LabeledImages:
    """The test images that were not seen; a DataError if any was and `drop` is false, or a class would lose all."""
    leaked = {leak.test_id for leak in leaks}
    if not leaked:
        return test
    named = listed(sorted({f"{leak.test_id} = {leak.seen_id}" for leak in leaks}))
    if not drop:
        raise DataError(
            f"{len(leaked)} of {len(test)} test images show what a training image shows, which would bias the result: "
            f"{named}",
            fix="leave them out of the test with --drop-leaked, in Python evaluate(drop_leaked=True); diffaug inspect "
            "shows them side by side: if they only look alike, --set data.near_duplicates=false",
        )
    rest = test.select(np.flatnonzero(~np.isin(test.ids, list(leaked))))
    lost = [name for name, count in rest.counts_by_name.items() if not count and test.counts_by_name[name]]
    if lost:
        raise DataError(
            f"all test images of class {', '.join(lost)} show what a training image shows: {named}",
            fix="add test images of the class that were never trained on",
        )
    return rest
