"""What an evaluation refuses: classes without test images, and test images that were seen in training."""

from collections.abc import Sequence

from diffaug.classifiers.by_name import classifier_by_name
from diffaug.data.catalog import Catalog
from diffaug.diffusion.generator.generator import Generator
from diffaug.evaluation.experiment.experiment import require_every_class
from diffaug.evaluation.experiment.leakage import Leak, near_copies, require_unseen, same_pixels
from diffaug.files import storage
from diffaug.stages.job import Job

LEAKS = "leaked.json"


def require_test_images(catalog: Catalog) -> None:
    """Raises DataError if a class has no test image."""
    require_every_class(catalog.counts_by_name("test"), "test", catalog.root)


def require_evaluable(job: Job, catalog: Catalog) -> None:
    """Raises, before a generator is trained, what `evaluate` would raise after it."""
    require_test_images(catalog)
    settings = job.config.evaluation
    if settings.classifier != "features":  # needs an encoder of the training images
        classifier_by_name(settings)
    if storage.recorded_metadata(job.study.generator) is None:
        require_unseen(catalog.images("test"), _near_copies(job, catalog), drop=settings.drop_leaked)


def seen_test_images(job: Job, catalog: Catalog) -> list[Leak]:
    """The test images that the study's generator or its filters have seen."""
    leaks, items = _near_copies(job, catalog), catalog.items("test")
    rows = Generator.load(job.study.generator, device="cpu").rows()
    if rows is not None:
        leaks += same_pixels([item.path for item in items], [item.pixel_sha256 for item in items], rows)
    return leaks


def report_leaks(job: Job, leaks: Sequence[Leak]) -> None:
    """Records and reports the test images that are left out."""
    if leaks:
        file = job.study.evaluation / LEAKS
        named = {leak.test_id: {"seen_id": leak.seen_id, "how": leak.how} for leak in leaks}
        storage.write_json(file, named)
        job.narrator.warn(f"{len(named)} test images were seen in training and are left out: {file}")


def _near_copies(job: Job, catalog: Catalog) -> list[Leak]:
    test, train = catalog.images("test"), catalog.images("train")
    return near_copies(test, train, catalog.groups("train"), device=job.device)
