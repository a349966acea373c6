"""What to do about a damaged part of a study, and what a stage takes back if it refuses its settings."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import TypeAdapter

from diffaug.data.catalog import ABOUT
from diffaug.errors import DamagedError, DataError, DiffaugError, MissingExtraError, UsageError
from diffaug.files import storage
from diffaug.files.naming import naming
from diffaug.files.records import typed, write_signed_record
from diffaug.files.stage_records import BEGUN, required_record
from diffaug.runtime.distributed import current
from diffaug.stages.former import bring_back_former, has_former
from diffaug.stages.job import copy_of
from diffaug.study import PILOT, RECORD, STUDY_RECORD, Study, StudyRecord

MADE_BY = {
    "catalog": "inspect",
    "generator": "fit",
    PILOT: "fit",
    RECORD: "fit",
    "filters": "generate",
    "pool": "generate",
    "pool-report": "generate",
    "config.yaml": "fit",
}
"""The command that makes each part; `evaluate` makes all others."""
_CLASS_TO_IDX = TypeAdapter(dict[str, int] | None)
LOOSE = ("chunks", "journal.jsonl", "features", "tracking")
"""What a command does without, and makes anew."""

REFUSALS = (UsageError, DataError, MissingExtraError)


@contextmanager
def telling_remedies(study: Study) -> Iterator[None]:
    """Adds to a DamagedError in the block the command that makes the damaged part of the study anew.

    An OSError that names no file gets the folder of the study.
    """
    try:
        with naming(study.path):
            yield
    except DamagedError as error:
        if error.where is not None and error.fix in (None, storage.REPAIR_HINT):
            error.fix = remedy(study, Path(error.where))
        raise


def remedy(study: Study, where: Path) -> str:
    """What to do about a damaged file or folder of a study."""
    root, where = study.path.resolve(), where.resolve()
    if not where.is_relative_to(root) or where == root:
        return storage.REPAIR_HINT
    part, quoted = where.relative_to(root).parts[0], shlex.quote(str(study.path))
    if part in LOOSE:
        return f"restore it from a copy, or remove it: rm -r {shlex.quote(str(where))}"
    command = MADE_BY.get(part, "evaluate")
    if part in ("config.yaml", RECORD) and not study.has_training:
        command = "evaluate"
    of_stages = " from the copy that diffaug keeps" if part == "config.yaml" else ""
    given = f"{shlex.quote(_data_of(study))} --study {quoted}" if command in ("fit", "inspect") else quoted
    return f"restore it from a copy, or make it anew{of_stages}: diffaug {command} {given} --overwrite"


def _data_of(study: Study) -> str:
    with suppress(DiffaugError):
        return str(study.record.data)
    with suppress(DiffaugError, KeyError, TypeError):
        return str(storage.read_json(study.catalog / ABOUT)["root"])
    return "DATA"


def repair_record(path: Path, data: Path | None = None, class_to_idx: Mapping[str, int] | None = None) -> None:
    """Writes the record of a study that keeps something anew, if it was changed or is gone.

    What is not given is taken from the stages, as far as they are whole.

    Raises:
        UsageError: The catalog of the study is of other data.
    """
    study = Study(path)
    with suppress(DamagedError):
        if not path.is_dir() or not study.keeps_something or study.has_begun:
            return
    images: Path | None = None
    with suppress(DamagedError, KeyError, ValueError):  # ValueError: no path of this system
        images = Path(required_record(study.catalog).inputs["root"]).resolve()
    if images is not None and data is not None and images != data.resolve():
        fix = f"choose another folder, such as --study {shlex.quote(f'{path}-2')}"
        raise UsageError(f"this study belongs to other data: {images}", where=path, fix=fix)
    data = images or data
    with suppress(DamagedError):
        known = (storage.recorded_metadata(study.pool) or {}).get("dataset_class_to_idx")
        class_to_idx = class_to_idx or typed(known, _CLASS_TO_IDX, where=study.pool / storage.DONE)
    if data is not None:
        storage.discard_directory(path / RECORD)
        record = StudyRecord(data.resolve(), class_to_idx=None if class_to_idx is None else dict(class_to_idx))
        write_signed_record(path / RECORD, STUDY_RECORD, record)


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
