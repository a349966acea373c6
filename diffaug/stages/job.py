"""What every stage of one job shares: the study, the settings, and who is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any, Self

from diffaug._version import __version__
from diffaug.configuration.settings import ARM_NAMES, Config
from diffaug.configuration.sources import Resolved, resolve, to_yaml
from diffaug.configuration.yaml_files import read_yaml
from diffaug.errors import UsageError
from diffaug.files import storage
from diffaug.runtime.console import Narrator
from diffaug.study import StageState, Study, stage_settings
from diffaug.tracking.journal import Journal
from diffaug.tracking.sender import Sender

STUDY_RUN, GENERATE_RUN = "study", "generate"


@dataclass(frozen=True)
class Job:
    """One command at work on one study.

    Attributes:
        study: Where everything is kept.
        resolved: The settings and where they came from.
        narrator: Tells a person.
        journal: The local record of everything logged.
        command: What to type, or call, to go on after an interruption.
        overwrite: Whether a stage made with other settings may be replaced.
    """

    study: Study
    resolved: Resolved
    narrator: Narrator
    journal: Journal
    command: str
    overwrite: bool = False

    @property
    def config(self) -> Config:
        """The settings."""
        return self.resolved.config

    @property
    def environment(self) -> dict[str, str]:
        """What the job is computed with, for the record."""
        software = f"diffaug {__version__}, torch {version('torch')}, Python {python_version()}"
        return {"device": self.device, "software": software}

    @property
    def device(self) -> str:
        """`cpu` or `cuda`.

        Raises:
            UsageError: CUDA was asked for and there is none.
        """
        import torch

        available = torch.cuda.is_available()
        if self.config.device == "cuda" and not available:
            raise UsageError("device 'cuda' was asked for and torch sees no CUDA device", fix="--device auto")
        return "cuda" if available and self.config.device != "cpu" else "cpu"

    def current(self) -> Self:
        """The job with the journal as it is now: others who share the study may have written in it."""
        return replace(self, journal=Journal(self.study.journal))

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
        """Sends the journal to the trackers while a stage works.

        Yields:
            A list that holds, at the end, how to look at what was logged.
        """
        sentences: list[str] = []
        sender = Sender(self.study, self.config.tracking, self.narrator)
        sender.start()
        try:
            yield sentences
        finally:
            sentences += sender.flush()


def open_job(
    study: Study,
    narrator: Narrator,
    *,
    flags: Mapping[str, Any] | None = None,
    file: Path | None = None,
    recipe: str | None = None,
    command: str,
    overwrite: bool = False,
    record: bool = True,
) -> Job:
    """Resolves the settings, with those of the study as the weakest source, saves and announces them.

    Args:
        study: The study.
        narrator: Tells a person.
        flags: Settings by dotted key.
        file: A YAML file of settings.
        recipe: Name or path of a recipe.
        command: How to go on after an interruption.
        overwrite: Whether a stage made with other settings may be replaced.
        record: Whether to write settings and journal, for which the caller must hold a lock.

    Raises:
        UsageError: An unknown or impossible setting.
    """
    resolved = resolve(flags, file=file, recipe=recipe, base=_settings_of(study))
    journal = Journal(study.journal)
    if record:
        storage.write_text(study.config_file, to_yaml(resolved.config))
        _log_study(study, journal, resolved.config.seed)
    values = resolved.config.model_dump(mode="json")
    for key, origin in sorted(resolved.origins.items()):
        section, _, leaf = key.rpartition(".")
        narrator.say(f"setting {key} = {values[section][leaf] if section else values[leaf]} (from {origin})")
    return Job(study, resolved, narrator, journal, command, overwrite)


def _log_study(study: Study, journal: Journal, seed: int) -> None:
    if journal.status(STUDY_RUN) is None:
        journal.start_run(STUDY_RUN, name=study.name, tags={"diffaug.kind": "study"})
    journal.log_params(STUDY_RUN, {"seed": seed, "data": study.facts["data"]})
    journal.log_artifact(STUDY_RUN, study.config_file)


NOT_SETTINGS = {"off_class_confidence", "encoder", "synthetic_weight", "trained", "further_pools"}
"""Recorded with a stage or by an older version, and no settings now."""


def _settings_of(study: Study) -> dict[str, Any]:
    """The settings saved in the study; where a stage was begun, those that it was begun with.

    A command that was refused because of other settings has saved them: the same command as before must still work.
    """
    settings = read_yaml(study.config_file) if study.config_file.is_file() else {}
    stages = {
        "data": study.catalog,
        "diffusion": study.generator,
        "synthesis": study.pool,
        "evaluation": study.evaluation,
    }
    for section, folder in stages.items():
        begun = stage_settings(folder)
        settings |= {"seed": begun["seed"]} if begun else {}
        merged = {**(settings.get(section) or {}), **begun}
        settings[section] = {key: merged[key] for key in merged.keys() - {"seed"} - NOT_SETTINGS}
    if not set(settings["evaluation"].get("arms") or ()) <= set(ARM_NAMES):
        del settings["evaluation"]["arms"]  # those of an older version
    return settings
