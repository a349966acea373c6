"""The study: one directory that holds everything of one job."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from diffaug._version import __version__
from diffaug.errors import DamagedError, UsageError
from diffaug.files import locks
from diffaug.files.records import read_record, write_record
from diffaug.files.temporaries import is_temporary
from diffaug.runtime.distributed import current

DEFAULT_ROOT = Path("runs")
RECORD = "study.json"


@dataclass(frozen=True)
class StudyRecord:
    """What is recorded when a study is made: the data folder and the version of diffaug."""

    data: Path
    diffaug: str


_STUDY_RECORD = TypeAdapter(StudyRecord)


@dataclass(frozen=True)
class _Inside:
    """A place in the folder of a study."""

    name: str

    def __get__(self, study: Study, owner: object) -> Path:
        return study.path / self.name


@dataclass(frozen=True)
class Study:
    """Where the outputs of one job live. Of processes started together, the main one holds the locks for all."""

    path: Path

    catalog = _Inside("catalog")  # table and pixels of the images
    sources = _Inside("sources.json")  # size, times and hash of each file of the data folder when it was last read
    generator = _Inside("generator")
    chunks = _Inside("chunks")  # the parts of the pool, kept so that it can be extended
    pool = _Inside("pool")  # synthetic images with their manifest
    filters = _Inside("filters")  # the calibrated filters of the pool
    pool_report = _Inside("pool-report")  # figures and contact sheets of the pool
    evaluation = _Inside("evaluation")  # trials, summary and verdict
    predictions = _Inside("predictions")  # verdicts about predictions of other training code
    report = _Inside("report.html")
    journal = _Inside("journal.jsonl")  # the local record of everything logged
    config_file = _Inside("config.yaml")  # the resolved configuration

    @property
    def name(self) -> str:
        """Short name, for experiments and titles."""
        return self.path.resolve().name

    @property
    def record(self) -> StudyRecord:
        """What was recorded when the study was made."""
        return read_record(self.path / RECORD, _STUDY_RECORD)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other diffaug processes out while the block runs; raises UsageError if one is working."""
        with locks.exclusive_lock(self.path / ".lock") if current().is_main else nullcontext():
            yield

    @contextmanager
    def shared(self, *, optional: bool = False) -> Iterator[None]:
        """Shares the study, and keeps out those that need it alone; raises UsageError if one has it alone.

        Args:
            optional: Whether to continue where the file system has no locks.
        """
        with locks.shared_lock(self.path / ".lock", optional=optional) if current().is_main else nullcontext():
            yield

    @contextmanager
    def in_turn(self, *, optional: bool = False) -> Iterator[None]:
        """Lets processes that share the study run a block one after another, such as to write settings."""
        with locks.waiting_lock(self.path / ".turn.lock", optional=optional) if current().is_main else nullcontext():
            yield


def open_study(path: Path) -> Study:
    """Opens an existing study; raises UsageError if there is none."""
    if not (path / RECORD).is_file():
        fix = "make one with: diffaug fit DATA"
        if path.exists():
            fix = f"if it holds images: diffaug run {shlex.quote(str(path))}"
        raise UsageError("this is not a study", where=path, fix=fix)
    return Study(path)


def open_or_create_study(path: Path, data: Path) -> Study:
    """Opens the study at `path` for the images in `data`, or begins it.

    Raises:
        UsageError: The study belongs to other data, or the folder holds something else.
    """
    file = path / RECORD
    if path.resolve().is_relative_to(data.resolve()):
        raise UsageError(
            "the study folder is inside the data folder, where it would be read as a class",
            where=path,
            fix="run from another folder, or choose one outside with --study",
        )
    if file.is_file():
        try:
            owner = read_record(file, _STUDY_RECORD).data
        except DamagedError as error:
            what = "this file is not the record of a study"
            raise UsageError(what, where=file, fix="choose another --study") from error
        if owner.resolve() != data.resolve():
            raise UsageError(
                f"this study belongs to other data: {owner}",
                where=path,
                fix=f"choose another folder, such as --study {shlex.quote(f'{path}-2')}",
            )
    elif path.exists() and (not path.is_dir() or any(not is_temporary(item) for item in path.iterdir())):
        raise UsageError("the study folder is not empty and not a study", where=path, fix="choose another --study")
    else:
        write_record(file, _STUDY_RECORD, StudyRecord(data.resolve(), __version__))
    return Study(path)


def default_study_path(data: Path) -> Path:
    """`runs/<name of the data folder>`."""
    return DEFAULT_ROOT / (data.resolve().name or "study")
