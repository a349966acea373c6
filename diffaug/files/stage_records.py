"""Whether the output of a stage is valid: what it was begun with, and whether it is finished.

A finished stage is looked at with all of its files, which are hashed unless they are known from before; see
`files.verification`.
"""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from diffaug.errors import DamagedError, UsageError
from diffaug.files import storage
from diffaug.files.records import read_signed_record, typed, write_signed_record

BEGUN = "BEGUN.json"

StageState = Literal["finished", "resumed", "new"]


@dataclass(frozen=True)
class StageRecord:
    """The settings, JSON-like, that a stage was begun with, and fingerprints of the inputs it works on."""

    settings: dict[str, Any]
    inputs: dict[str, str]


_STAGE_RECORD = TypeAdapter(StageRecord)


def begin_stage(
    directory: Path, settings: Mapping[str, Any], inputs: Mapping[str, str], *, overwrite: bool = False
) -> StageState:
    """Prepares the directory of a stage: keeps output that is still valid, clears the rest.

    Changed inputs make the output worthless, so it is cleared. Changed settings are the user's decision: they raise
    UsageError, as damaged files raise DamagedError, unless `overwrite`, which verifies every byte and clears both.
    "resumed" is returned if `directory` holds what an interrupted run left.
    """
    state = stage_state(directory, settings, inputs, overwrite=overwrite)
    if state == "new":
        storage.discard_directory(directory)
        write_signed_record(directory / BEGUN, _STAGE_RECORD, StageRecord(dict(settings), dict(inputs)))
    return state


def stage_state(
    directory: Path, settings: Mapping[str, Any], inputs: Mapping[str, str], *, overwrite: bool = False
) -> StageState:
    """What `begin_stage` would return or raise; writes nothing."""
    wanted, begun = StageRecord(dict(settings), dict(inputs)), None
    with _ignoring_damage(overwrite):
        begun = _read_stage(directory, storage.committed_metadata(directory, verify=overwrite))
    if begun is not None and begun.inputs == wanted.inputs:
        if not overwrite:
            require_same_settings(directory, begun.settings, settings)
        if begun == wanted:
            return "finished" if (directory / storage.DONE).is_file() else "resumed"
    return "new"


def finish_stage(directory: Path, metadata: Mapping[str, Any] | None = None, *, without: Collection[str] = ()) -> None:
    """Commits a stage's directory with the settings and inputs that it was begun with; see `commit_directory`."""
    begun = read_signed_record(directory / BEGUN, _STAGE_RECORD)
    storage.commit_directory(directory, {**vars(begun), **(metadata or {})}, without=without)


def stage_record(directory: Path) -> StageRecord | None:
    """What a stage's directory was begun with; None if there is no readable record. No other file is looked at."""
    with suppress(DamagedError):
        return _read_stage(directory, storage.recorded_metadata(directory))
    return None


def finished_record(directory: Path) -> StageRecord | None:
    """What a finished stage was begun with, whose files are looked at; None if it is not finished."""
    metadata = storage.committed_metadata(directory)
    return None if metadata is None else typed(metadata, _STAGE_RECORD, where=directory / storage.DONE)


def required_record(directory: Path) -> StageRecord:
    """What a finished stage was begun with; a DamagedError if that is not recorded."""
    return typed(storage.recorded_metadata(directory), _STAGE_RECORD, where=directory / storage.DONE)


def stage_settings(directory: Path) -> dict[str, Any]:
    """The settings of `stage_record`, empty if there is none."""
    record = stage_record(directory)
    return {} if record is None else record.settings


def is_stage_of(directory: Path, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> bool:
    """Whether a stage's directory was begun, or finished, with these settings on these inputs."""
    return stage_record(directory) == StageRecord(dict(settings), dict(inputs))


def _read_stage(directory: Path, metadata: Mapping[str, Any] | None) -> StageRecord | None:
    if metadata is not None:
        return typed(metadata, _STAGE_RECORD, where=directory / storage.DONE) if "settings" in metadata else None
    return read_signed_record(directory / BEGUN, _STAGE_RECORD) if (directory / BEGUN).exists() else None


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
            fix="use the same settings, add --overwrite to replace it, or use another study",
        )


def begin_extendable_stage(
    directory: Path,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    *,
    extendable: Collection[str],
    keep: Collection[str],
    overwrite: bool = False,
) -> None:
    """Like `begin_stage`, for a stage whose parts hold fingerprints of all they depend on, and their own hash.

    Settings in `extendable` may change; with `overwrite` others may too, and a damaged stage is replaced. Subfolders
    in `keep` hold the parts, which stay valid.
    """
    is_same = is_stage_of(directory, settings, inputs)
    if not (is_same or overwrite):
        require_extension(directory, settings, inputs, extendable)
    with _ignoring_damage(overwrite):
        storage.committed_metadata(directory, verify=overwrite)
        if is_same:
            return
    storage.clear_directory(directory, keep=keep)
    write_signed_record(directory / BEGUN, _STAGE_RECORD, StageRecord(dict(settings), dict(inputs)))


def require_extension(
    directory: Path, settings: Mapping[str, Any], inputs: Mapping[str, str], extendable: Collection[str]
) -> None:
    """Raises UsageError if a stage was begun on these inputs with settings that differ in more than `extendable`.

    A stage that failed before it kept anything may begin again with any settings.
    """
    begun = stage_record(directory)
    kept = any(path.is_file() and path.name != BEGUN for path in directory.rglob("*"))
    if begun is not None and begun.inputs == inputs and kept:
        before, after = (
            {name: value for name, value in one.items() if name not in extendable} for one in (begun.settings, settings)
        )
        require_same_settings(directory, before, after)


def is_finished(directory: Path, *, overwrite: bool = False) -> bool:
    """Whether a stage is finished.

    With `overwrite` every byte is verified, and a damaged stage counts as unfinished instead of raising DamagedError.
    """
    with _ignoring_damage(overwrite):
        return storage.committed_metadata(directory, verify=overwrite) is not None
    return False


def _ignoring_damage(overwrite: bool) -> suppress:
    return suppress(*([DamagedError] if overwrite else []))
