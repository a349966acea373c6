"""What every stage of one job shares: the study, the settings, the narrator, the journal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from platform import python_version
from typing import Any

from diffaug._version import __version__
from diffaug.configuration.base import Settings
from diffaug.configuration.settings import OF_ONE_CALL, Config
from diffaug.configuration.sources import Resolved, resolve, to_yaml
from diffaug.configuration.yaml_files import parse_mapping
from diffaug.errors import DamagedError, Interrupted, UsageError
from diffaug.files import storage
from diffaug.files.stage_records import StageState, stage_settings
from diffaug.runtime.console import Narrator
from diffaug.runtime.distributed import current
from diffaug.study import Study
from diffaug.tracking.journal import Journal
from diffaug.tracking.sender import Sender

STUDY_RUN, FIT_RUN, GENERATE_RUN = "study", "fit", "generate"

MARK = "# sha256: "


@dataclass(frozen=True)
class Job:
    """One command at work on one study."""

    study: Study
    resolved: Resolved
    narrator: Narrator
    journal: Journal
    sender: Sender
    command: str  # what resumes the job after an interruption
    overwrite: bool = False  # whether a stage made with other settings may be replaced
    lasting: Config | None = None  # the settings to save in the study, where they are not those of the job

    @property
    def config(self) -> Config:
        """The settings."""
        return self.resolved.config

    @property
    def environment(self) -> dict[str, str]:
        """Device and software of the job, for the record."""
        software = f"diffaug {__version__}, torch {version('torch')}, Python {python_version()}"
        return {"device": self.device, "software": software}

    @property
    def device(self) -> str:
        """`cpu` or `cuda`, which must be there if it was requested."""
        import torch

        available = torch.cuda.is_available()
        if self.config.device == "cuda" and not available:
            raise UsageError("device 'cuda' was requested, but torch finds no CUDA device", fix="--device auto")
        return "cuda" if available and self.config.device != "cpu" else "cpu"

    def accept(self) -> None:
        """Begins the study, unless it has begun, and saves the settings, which a stage has found to be usable.

        Those of one call are not saved. The caller holds a lock; of processes that were started together, only the
        main one writes.
        """
        if not current().is_main:
            return
        self.study.begin()
        self.journal.refresh()
        text, file = to_yaml(self.lasting or self.config, without=OF_ONE_CALL), self.study.config_file
        is_new = self.journal.status(STUDY_RUN) is None
        if save_settings(file, text) or is_new:
            with self.journal.batch():
                if is_new:
                    self.journal.start_run(STUDY_RUN, name=self.study.name, tags={"diffaug.kind": "study"})
                self.journal.log_params(STUDY_RUN, {"seed": self.config.seed, "data": str(self.study.record.data)})
                self.journal.log_artifact(STUDY_RUN, file)
        self.sender.start_if_wanted()

    def start_run(
        self, key: str, state: StageState, *, name: str, kind: str, params: Mapping[str, Any], **tags: str
    ) -> None:
        """Begins a child run in the journal, or continues the one that an interrupted stage left open."""
        if state == "new" and self.journal.status(key) == "open":
            self.journal.end_run(key, "KILLED")
        tags = {"diffaug.kind": kind, **{f"diffaug.{tag}": value for tag, value in tags.items()}}
        self.journal.start_run(key, name=name, parent=STUDY_RUN, tags=tags, params=params)

    @contextmanager
    def sending(self) -> Iterator[list[str]]:
        """Sends the journal to the trackers in the block; at the end the list says how to view what was logged."""
        sentences: list[str] = []
        if not current().is_main:
            yield sentences
            return
        self.sender.start()
        try:
            yield sentences
        except BaseException as error:
            self.sender.flush(hurried=isinstance(error, Interrupted | KeyboardInterrupt))
            raise
        sentences += self.sender.flush()


def open_job(
    study: Study,
    narrator: Narrator,
    *,
    flags: Mapping[str, Any] | None = None,
    file: Path | None = None,
    recipe: str | None = None,
    command: str,
    overwrite: bool = False,
) -> Job:
    """Resolves the settings, with those of the study as the weakest source, and reports them; writes nothing."""
    kept = _settings_of(study, narrator, overwrite=overwrite)
    resolve_all = partial(resolve, flags, file=file, recipe=recipe, base=kept)
    resolved, lasting = resolve_all(), resolve_all(without=OF_ONE_CALL).config
    for warning in resolved.warnings:
        narrator.warn(warning)
    values = resolved.config.model_dump(mode="json")
    for key, origin in sorted(resolved.origins.items()):
        section, _, leaf = key.rpartition(".")
        narrator.say(f"setting {key} = {values[section][leaf] if section else values[leaf]} (from {origin})")
    sender = Sender(study, resolved.config.tracking, narrator)
    return Job(study, resolved, narrator, Journal(study.journal), sender, command, overwrite, lasting)


def _settings_of(study: Study, narrator: Narrator, *, overwrite: bool) -> dict[str, Any]:
    """The settings that a stage has accepted; for each stage that was begun, but for first answers, those of then.

    With `overwrite` damaged ones are none, with a warning.
    """
    if not study.has_begun:
        return {}
    stages = {
        "data": study.catalog,
        "diffusion": study.generator,
        "synthesis": study.pool,
        "evaluation": study.evaluation,
    }
    finished = [(folder / storage.DONE).exists() for section, folder in stages.items() if section != "data"]
    try:
        settings = saved_settings(study.config_file, required=any(finished))
    except DamagedError as error:
        if not overwrite:
            raise
        copied = copied_settings(study.config_file)
        lost = "the encoder, the trackers and all settings of stages that were not begun have their defaults, unless "
        lost += "this command sets them: give others as flags, or with --config FILE"
        narrator.warn(f"{error.what} ({study.config_file}); {lost if copied is None else 'its copy is used'}")
        settings = copied or {}
    known = {name: type(section).model_fields for name, section in Config() if isinstance(section, Settings)}
    for section, folder in stages.items():
        begun = stage_settings(folder)
        begun = {"seed": begun["seed"]} if begun.get("quick") else begun
        settings |= {"seed": begun["seed"]} if begun else {}
        settings.setdefault(section, {})
        for key, place in product(begun, (section, "advanced")):
            if key in known[place]:
                settings[place] = {**(settings.get(place) or {}), key: begun[key]}
    return settings


def copy_of(file: Path) -> Path:
    """Where the settings are kept once more, for the case that the file is damaged."""
    return file.with_name(f".{file.name}")


def save_settings(file: Path, text: str) -> bool:
    """Writes the settings, in place of whatever is there, and their copy; False if both are there already."""
    content = f"{text}{MARK}{storage.sha256_bytes(text.encode())}\n".encode()
    stale = [one for one in (copy_of(file), file) if not (storage.is_regular(one) and one.read_bytes() == content)]
    for one in stale:
        if one.is_dir():
            storage.discard_directory(one)
        storage.write_bytes(one, content)
    return bool(stale)


def copied_settings(file: Path) -> dict[str, Any] | None:
    """The settings of the copy; None if it is damaged, too."""
    with suppress(DamagedError):
        return saved_settings(copy_of(file), required=True)
    return None


def saved_settings(file: Path, *, required: bool) -> dict[str, Any]:
    """The settings that were saved; none if there is no file and none is required.

    Raises:
        DamagedError: They are gone, or were changed.
    """
    return parse_mapping(settings_text(file), where=file) if required or file.exists() else {}


def settings_text(file: Path) -> str:
    """The YAML that was saved.

    Raises:
        DamagedError: It is gone, or was changed.
    """
    text, mark, sha256 = storage.read_bytes(file).decode(errors="replace").rpartition(MARK)
    if not mark or storage.sha256_bytes(text.encode()) != sha256.strip():
        what = "the settings of the study were changed since diffaug wrote them; others are given as flags"
        raise DamagedError(what, where=file, fix=storage.REPAIR_HINT)
    return text
