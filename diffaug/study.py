"""The study: one directory that holds everything of one job.

It begins when a stage has something to keep. Before, the directory holds at most the catalog of the images that were
looked at, which binds its name to no data.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, overload

from pydantic import AfterValidator, TypeAdapter

from diffaug._version import __version__
from diffaug.errors import DamagedError, UsageError
from diffaug.files import locks, storage
from diffaug.files.records import read_signed_record, write_signed_record
from diffaug.files.temporaries import is_temporary
from diffaug.runtime.distributed import current
from diffaug.runtime.notebook import html_table

DEFAULT_ROOT = Path("runs")
RECORD, PILOT = "study.json", "pilot"  # the folder of the pilot's study
LOCK, TURN_LOCK = LOCKS = (".lock", ".turn.lock")


def _of_system(path: Path) -> Path:
    if b"\0" in os.fsencode(path):
        raise ValueError("a path has no NUL characters")
    return path


@dataclass(frozen=True)
class StudyRecord:
    """What is recorded when a study begins.

    Attributes:
        data: The data folder.
        diffaug: The version of diffaug.
        class_to_idx: Class name to label of the dataset whose images are in the data folder; None if it has no names,
            or the images were given as a folder.
    """

    data: Annotated[Path, AfterValidator(_of_system)]
    diffaug: str = __version__
    class_to_idx: dict[str, int] | None = None


STUDY_RECORD = TypeAdapter(StudyRecord)


@dataclass(frozen=True)
class _Inside:
    """A place in the folder of a study; of the class itself, the place without a folder."""

    name: str

    @overload
    def __get__(self, study: None, owner: object) -> _Inside: ...

    @overload
    def __get__(self, study: Study, owner: object) -> Path: ...

    def __get__(self, study: Study | None, owner: object) -> Path | _Inside:
        return self if study is None else study.path / self.name


@dataclass(frozen=True)
class Study:
    """Where the outputs of one job live. Of processes started together, the main one holds the locks for all.

    Attributes:
        planned: What `begin` records; None for a study that was opened as one.
    """

    path: Path
    planned: StudyRecord | None = field(default=None, compare=False)

    catalog = _Inside("catalog")  # table and pixels of the images
    generator = _Inside("generator")
    chunks = _Inside("chunks")  # the parts of the pool, kept so that it can be extended
    pool = _Inside("pool")  # synthetic images with their manifest
    filters = _Inside("filters")  # the calibrated filters of the pool
    review = _Inside("review.csv")  # what people decided about the images of the pool
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
        """What was recorded when the study began, or will be."""
        return self.planned or read_signed_record(self.path / RECORD, STUDY_RECORD)

    @property
    def has_begun(self) -> bool:
        """Whether this is a study of its data already."""
        owner = _owner(self.path)
        return owner is not None and (self.planned is None or owner.data == self.planned.data)

    @property
    def keeps_something(self) -> bool:
        """Whether a stage has kept something: a generator or a checkpoint of one, images, results."""
        kept = (self.generator / storage.DONE, self.chunks, self.pool, self.evaluation, self.predictions)
        return any(path.exists() for path in kept) or self.has_training

    @property
    def has_results(self) -> bool:
        """Whether a stage is finished."""
        return any((stage / storage.DONE).is_file() for stage in (self.generator, self.pool, self.evaluation))

    @property
    def has_training(self) -> bool:
        """Whether there is a generator, a pilot of one, or the beginning of either."""
        return self.has_pilot or any(
            (one / storage.DONE).exists() or any(one.glob("**/checkpoints/*")) for one in (self.generator, self._pilot)
        )

    @property
    def has_pilot(self) -> bool:
        """Whether the pilot is trained."""
        return (self._pilot / storage.DONE).exists()

    def _repr_html_(self) -> str:
        """The finished stages and where their results are, for a notebook."""
        stages = {"generator": self.generator, "pool": self.pool, "evaluation": self.evaluation}
        finished = {name: (folder / storage.DONE).is_file() for name, folder in stages.items()}
        rows = [[name, "finished" if finished[name] else "not finished", stages[name]] for name in stages]
        if self.report.is_file():
            rows.append(["report", "written", self.report])
        return html_table([f"study {self.name}", "", ""], rows)

    @property
    def _pilot(self) -> Path:
        return self.path / PILOT / self.generator.name

    def require_free(self) -> None:
        """Raises UsageError if the folder has become a study of other data."""
        if self.planned is not None:
            _require_free(self.path, self.planned.data)

    def begin(self) -> None:
        """Makes this a study of its data, unless it is one; what a failed attempt with other data left is removed.

        The caller holds a lock.

        Raises:
            UsageError: Another process has made it a study of other data meanwhile.
        """
        if self.planned is None or self.has_begun:
            return
        self.require_free()
        if (self.path / RECORD).exists():
            keep = [item.name for item in self.path.iterdir() if _is_of_looking(item)]
            storage.clear_directory(self.path, keep=keep)
        write_signed_record(self.path / RECORD, STUDY_RECORD, self.planned)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other diffaug processes out while the block runs; raises UsageError if one is working."""
        if not current().is_main:
            yield
            return
        with locks.exclusive_lock(self.path / LOCK):
            try:
                yield
            finally:
                self._leave_nothing()

    @contextmanager
    def shared(self, *, optional: bool = False) -> Iterator[None]:
        """Shares the study, and keeps out those that need it alone; raises UsageError if one has it alone.

        Args:
            optional: Whether to continue where the file system has no locks.
        """
        with locks.shared_lock(self.path / LOCK, optional=optional) if current().is_main else nullcontext():
            yield

    def _leave_nothing(self) -> None:
        """Removes the folder of a study that has not begun, if nothing but locks is in it."""
        if self.has_begun or not all(item.name in LOCKS for item in self.path.iterdir()):
            return
        with suppress(OSError):  # Windows keeps open files; another process may be waiting here
            for name in LOCKS:
                (self.path / name).unlink(missing_ok=True)
            self.path.rmdir()

    @contextmanager
    def in_turn(self, *, optional: bool = False) -> Iterator[None]:
        """Lets processes that share the study run a block one after another, such as to write settings."""
        with locks.waiting_lock(self.path / TURN_LOCK, optional=optional) if current().is_main else nullcontext():
            yield


def open_study(path: Path) -> Study:
    """Opens a study that has begun.

    Raises:
        UsageError: There is none.
        DamagedError: Its record is gone.
    """
    if not (path / RECORD).exists():
        if Study(path).has_results:
            raise _lost_record(path)
        fix = "make one with: diffaug fit DATA"
        if path.exists():
            is_looked_at = (path / Study.catalog.name).exists()
            quoted = shlex.quote(str(path))
            fix = f"{fix} --study {quoted}" if is_looked_at else f"if it holds images: diffaug run {quoted}"
        raise UsageError("this is not a study", where=path, fix=fix)
    return Study(path)


def plan_study(path: Path, data: Path, class_to_idx: Mapping[str, int] | None = None) -> Study:
    """The study at `path` for the images in `data`, which has begun or can begin there; writes nothing.

    `class_to_idx` numbers the classes of the dataset that the images came from.

    Raises:
        UsageError: The study belongs to other data, the folder holds something else, or `data` is a study.
    """
    _require_no_study(data)
    if path.resolve().is_relative_to(data.resolve()):
        raise UsageError(
            "the study folder is inside the data folder, where it would be read as a class",
            where=path,
            fix="run from another folder, or choose one outside with --study",
        )
    _require_free(path, data)
    planned = StudyRecord(data.resolve(), class_to_idx=None if class_to_idx is None else dict(class_to_idx))
    study = Study(path, planned)
    return Study(path) if study.has_begun else study


def _require_no_study(data: Path) -> None:
    """Raises UsageError if the folder given for images is a study."""
    if not (data / RECORD).is_file():
        return
    try:
        images = read_signed_record(data / RECORD, STUDY_RECORD).data
    except DamagedError:  # a file of that name among the images
        return
    again, quoted = shlex.quote(str(images)), shlex.quote(str(data))
    fix = f"go on with it: diffaug run {again} --study {quoted}; or read its results: diffaug report {quoted}"
    raise UsageError("this is a study, not a folder of images", where=data, fix=fix)


def _require_free(path: Path, data: Path) -> None:
    """Raises UsageError if the folder belongs to other data or is no study."""
    owner = _owner(path)
    if owner is not None:
        if owner.data.resolve() != data.resolve() and Study(path).keeps_something:
            fix = f"choose another folder, such as --study {shlex.quote(f'{path}-2')}"
            raise UsageError(f"this study belongs to other data: {owner.data}", where=path, fix=fix)
    elif path.exists() and (not path.is_dir() or not all(map(_is_of_looking, path.iterdir()))):
        raise UsageError("the study folder is not empty and not a study", where=path, fix="choose another --study")


def _owner(path: Path) -> StudyRecord | None:
    """The record of the study; None if it has not begun."""
    file = path / RECORD
    if not file.exists():
        if Study(path).has_results:
            raise _lost_record(path)
        return None
    try:
        return read_signed_record(file, STUDY_RECORD)
    except DamagedError as error:
        if Study(path).keeps_something:
            raise
        what = "this file is not the record of a study"
        raise UsageError(what, where=file, fix="choose another --study") from error


def _lost_record(path: Path) -> DamagedError:
    return DamagedError("the record of the study is missing", where=path / RECORD, fix=storage.REPAIR_HINT)


def _is_of_looking(item: Path) -> bool:
    """Whether this is what looking at images leaves: a catalog and what lies beside it, locks, temporaries."""
    return item.name.startswith(Study.catalog.name) or item.name in LOCKS or is_temporary(item)


def default_study_path(data: Path) -> Path:
    """`runs/<name of the data folder>`."""
    return DEFAULT_ROOT / (data.resolve().name or "study")
