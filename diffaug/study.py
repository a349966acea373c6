"""The study: one directory that holds everything of one job, and whether each stage's output is valid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diffaug.errors import DamagedError, UsageError
from diffaug.files import locks, storage
from diffaug.files.temporaries import is_temporary

DEFAULT_ROOT = Path("runs")
BEGUN = "BEGUN.json"

StageState = Literal["finished", "resumed", "new"]


@dataclass(frozen=True)
class Study:
    """Where the outputs of one job live."""

    path: Path

    @property
    def name(self) -> str:
        """Short name, for experiments and titles."""
        return self.path.resolve().name

    @property
    def catalog(self) -> Path:
        """Table and pixels of the images."""
        return self.path / "catalog"

    @property
    def generator(self) -> Path:
        """The trained generator."""
        return self.path / "generator"

    @property
    def chunks(self) -> Path:
        """What the pool is put together from, kept so that it can be extended."""
        return self.path / "chunks"

    @property
    def pool(self) -> Path:
        """Synthetic images with their manifest."""
        return self.path / "pool"

    @property
    def judge(self) -> Path:
        """The calibrated filters of the pool."""
        return self.path / "judge"

    @property
    def pool_report(self) -> Path:
        """What the pool is like: figures and sheets."""
        return self.path / "pool-report"

    @property
    def evaluation(self) -> Path:
        """Trials, summary and verdict."""
        return self.path / "evaluation"

    @property
    def predictions(self) -> Path:
        """What came of predictions that other training code made."""
        return self.path / "predictions"

    @property
    def report(self) -> Path:
        """The report, one HTML file."""
        return self.path / "report.html"

    @property
    def journal(self) -> Path:
        """The local record of everything logged."""
        return self.path / "journal.jsonl"

    @property
    def config_file(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def facts(self) -> dict[str, Any]:
        """What was recorded when the study was made: the data folder and diffaug's version."""
        return dict(storage.read_json(self.path / "study.json"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other diffaug processes out while the block runs.

        Raises:
            UsageError: Another process is working in the study.
        """
        with locks.exclusive_lock(self.path / ".lock"):
            yield

    @contextmanager
    def shared(self, *, optional: bool = False) -> Iterator[None]:
        """Keeps out those who want the study to themselves; others may share it.

        Args:
            optional: Whether to go on where the file system has no locks.

        Raises:
            UsageError: Another process has it to itself.
        """
        with locks.shared_lock(self.path / ".lock", optional=optional):
            yield

    @contextmanager
    def in_turn(self, *, optional: bool = False) -> Iterator[None]:
        """A block that those who share the study run one after another, such as to write settings or the journal."""
        with locks.waiting_lock(self.path / ".turn.lock", optional=optional):
            yield


def open_study(path: Path) -> Study:
    """Opens an existing study.

    Raises:
        UsageError: There is none at `path`.
    """
    if not (path / "study.json").is_file():
        fix = "make one with: diffaug fit DATA" if not path.exists() else f"if it holds images: diffaug run {path}"
        raise UsageError("this is not a study", where=path, fix=fix)
    return Study(path)


def open_or_create_study(path: Path, data: Path) -> Study:
    """Opens the study at `path` for the images in `data`, or begins it.

    Raises:
        UsageError: The study belongs to other data, or the folder holds something else.
    """
    from diffaug._version import __version__

    record = path / "study.json"
    if path.resolve().is_relative_to(data.resolve()):
        raise UsageError(
            "the study would lie among the images, where it would be read as a class",
            where=path,
            fix="run from another folder, or choose one outside with --study",
        )
    if record.is_file():
        owner = _owner(record)
        if owner.resolve() != data.resolve():
            raise UsageError(
                f"this study belongs to other data: {owner}",
                where=path,
                fix=f"choose another folder, such as --study {path}-2",
            )
    elif path.exists() and (not path.is_dir() or any(not is_temporary(item) for item in path.iterdir())):
        raise UsageError("the study folder is not empty and not a study", where=path, fix="choose another --study")
    else:
        storage.write_json(record, {"data": str(data.resolve()), "diffaug": __version__})
    return Study(path)


def _owner(record: Path) -> Path:
    """The data folder that a study was made for."""
    content = storage.read_json(record)
    if not isinstance(content, dict) or "data" not in content:
        raise UsageError("this file is not a study's record", where=record, fix="choose another --study")
    return Path(content["data"])


def default_study_path(data: Path) -> Path:
    """`runs/<name of the data folder>`."""
    return DEFAULT_ROOT / (data.resolve().name or "study")


def begin_stage(
    directory: Path, settings: Mapping[str, Any], inputs: Mapping[str, str], *, overwrite: bool = False
) -> StageState:
    """Makes a stage's directory ready: keeps what fits, clears what does not.

    Inputs that changed make the output worthless, so it is cleared. Settings that changed are the user's
    decision, so they raise.

    Args:
        directory: The stage's directory; what is in it belongs to the stage.
        settings: What the stage is asked to do, JSON-like.
        inputs: Fingerprints of what it works on.
        overwrite: Clear it too when it was made with other settings or is damaged.

    Returns:
        "finished"; or "resumed", when `directory` holds what an interrupted run left; or "new".

    Raises:
        UsageError: It was begun with other settings, and `overwrite` is false.
        DamagedError: It was finished, its files changed since, and `overwrite` is false.
    """
    record = _stage_record(directory, overwrite)
    if record.get("inputs") == dict(inputs):
        if not overwrite:
            require_same_settings(directory, record["settings"], settings)
        if record["settings"] == dict(settings):
            return "finished" if (directory / storage.DONE).is_file() else "resumed"
    storage.discard_directory(directory)
    storage.write_json(directory / BEGUN, {"settings": dict(settings), "inputs": dict(inputs)})
    return "new"


def finish_stage(directory: Path, facts: Mapping[str, Any] | None = None) -> None:
    """Commits a stage's directory with the settings and inputs that it was begun with."""
    begun = storage.read_json(directory / BEGUN)
    storage.commit_directory(directory, {**begun, **(facts or {})})


def stage_settings(directory: Path) -> dict[str, Any]:
    """The settings that a directory was made with; none where there is none, or its record is damaged."""
    return dict(_stage_record(directory, overwrite=True).get("settings", {}))


def is_stage_of(directory: Path, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> bool:
    """Whether a stage's directory was begun, or finished, with these settings on these inputs."""
    record = _stage_record(directory, overwrite=True)
    return (record.get("settings"), record.get("inputs")) == (dict(settings), dict(inputs))


def _stage_record(directory: Path, overwrite: bool) -> dict[str, Any]:
    """What the stage was begun with; nothing where it was not begun, or is damaged and may be replaced."""
    try:
        finished = storage.committed_facts(directory)
        if finished and overwrite and {"changed", "missing"} & set(storage.changes_since_commit(directory).values()):
            return {}
        if finished is None and (directory / BEGUN).is_file():
            return dict(storage.read_json(directory / BEGUN))
    except DamagedError:
        if not overwrite:
            raise
        return {}
    return finished or {}


def require_same_settings(directory: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises UsageError, naming each difference, when `directory` was made with other settings."""
    differing = [
        f"{key} {stored.get(key)!r} -> {wanted.get(key)!r}"
        for key in sorted(set(stored) | set(wanted))
        if stored.get(key) != wanted.get(key)
    ]
    if differing:
        raise UsageError(
            f"made with other settings: {'; '.join(differing)}",
            where=directory,
            fix="use the same settings, add --overwrite to replace it, or choose another --study",
        )
