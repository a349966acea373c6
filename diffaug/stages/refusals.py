"""What a stage takes back if it refuses its settings after it has begun, so that the next command works as before."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffaug.errors import DataError, MissingExtraError, UsageError
from diffaug.files import storage
from diffaug.files.stage_records import BEGUN
from diffaug.runtime.distributed import current
from diffaug.stages.fitting.former import bring_back_former, has_former
from diffaug.stages.saved_settings import copy_of
from diffaug.study import PILOT, Study

REFUSALS = (UsageError, DataError, MissingExtraError)


@contextmanager
def taking_back(study: Study) -> Iterator[None]:
    """Restores the saved settings, and what each stage was begun with, if the block raises a refusal.

    So it does with a finished generator that the block has begun to replace. What was kept meanwhile stays: a
    checkpoint, chunks, trials. The caller holds a lock.
    """
    pilot = Study(study.path / PILOT)
    begun = [folder / BEGUN for folder in (study.generator, pilot.generator, study.pool, study.evaluation)]
    before = {file: _content(file) for file in (study.config_file, copy_of(study.config_file), *begun)}
    had_former = has_former(study)
    try:
        yield
    except REFUSALS:
        if current().is_main:
            with study.in_turn(optional=True):
                if has_former(study) and not had_former:
                    bring_back_former(study)
                for file, content in before.items():
                    if _content(file) != content:
                        _take_back(study, file, content)
        raise


def _take_back(study: Study, file: Path, content: bytes | None) -> None:
    if file.parent in (study.path, study.evaluation):  # the trials of an evaluation hold with any settings
        if content is None:
            file.unlink()
        else:
            storage.write_bytes(file, content)
    elif not (file.with_name(storage.DONE).exists() or any(file.parent.glob("**/checkpoints/*"))):
        storage.discard_directory(file.parent)


def _content(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None
