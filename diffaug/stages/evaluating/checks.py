"""What an evaluation refuses: classes without test images, and test images that were seen in training."""

from collections.abc import Sequence

from diffaug.classifiers.by_name import classifier_by_name
from diffaug.classifiers.encoders.by_name import encoder_by_name
from diffaug.data.catalog import Catalog
from diffaug.data.leaks import Leak
from diffaug.diffusion.generator.generator import Generator
from diffaug.evaluation.experiment.experiment import require_every_class
from diffaug.evaluation.experiment.leakage import require_unseen, same_pixels
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
    require_test_images(catalog)
    settings = job.config.evaluation
    require_known_classifier(job)
    if storage.recorded_metadata(job.study.generator) is None:
        require_unseen(catalog.images("test"), list(catalog.leaks), drop=settings.drop_leaked)


def seen_test_images(job: Job, catalog: Catalog) -> list[Leak]:
    """The test images that the study's generator or its filters have seen."""
    leaks, tested = list(catalog.leaks), catalog.rows("test")
    if not job.study.generator.exists():
        return leaks
    rows = Generator.load(job.study.generator, device="cpu").rows()
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
