"""A tiny job, the states it goes through, and whether a disturbed command comes to the same end."""

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffaug.files import storage
from tests.faults.forks import Forks, Outcome, Try

SETTINGS = {
    "data.image_size": "8",
    "diffusion.images_seen": "16",
    "diffusion.batch_size": "8",
    "advanced.base_channels": "16",
    "advanced.pilot": "false",
    "advanced.checkpoint_seconds": "0.001",
    "advanced.chunk_size": "4",
    "synthesis.num_inference_steps": "2",
    "synthesis.filters": '["constant"]',
    "advanced.filter_max_steps": "2",
    "evaluation.arms": '["real only"]',
    "evaluation.num_seeds": "2",
    "evaluation.max_steps": "2",
    "evaluation.workers": "1",
    "evaluation.synthetic_fraction": "0.3",
    "encoder": "none",
    "tracking.mlflow": "false",
}
OTHER_TRAINING = ("--set", "diffusion.learning_rate=0.001")
OPTIONS = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]


@dataclass(frozen=True)
class Command:
    """A command, the state of the study in which it is run, and what is added when it is repeated."""

    before: str
    arguments: tuple[str, ...]
    again: tuple[str, ...] = ()


COMMANDS = {
    "fit": Command("new", ("fit", "images", "--study", "study", "--quiet", *OPTIONS)),
    "generate": Command("fit", ("generate", "study", "--quiet")),
    "evaluate": Command("generate", ("evaluate", "study", "--quiet")),
    "report": Command("evaluate", ("report", "study", "--quiet")),
    "export": Command("generate", ("export", "study", "out", "--quiet"), again=("--overwrite",)),
    "second generator": Command("generate", ("evaluate", "study", "--quiet", "--set", "evaluation.num_generators=2")),
    "run": Command("new", ("run", "images", "--study", "study", "--quiet", *OPTIONS)),
    "sync": Command("evaluate", ("sync", "study", "--quiet")),
    "evaluate again": Command("evaluate", ("evaluate", "study", "--quiet")),
    "fit anew": Command("generate", ("fit", "images", "--study", "study", "--quiet", "--overwrite", *OTHER_TRAINING)),
}
if importlib.util.find_spec("diffaug.cli.review"):
    COMMANDS["review"] = Command("generate", ("review", "study", "--no-browser", "--quiet"))
"""`fit`, `generate` and `evaluate` also name the states that they lead to. An export that was finished when a
disturbance came is replaced only with `--overwrite`."""


def known(tries: Mapping[str, int]) -> list[Any]:
    """The commands of a table as parameters; one that this diffaug does not have is skipped."""
    absent = pytest.mark.skip(reason="there is no such command")
    return [pytest.param(name, marks=() if name in COMMANDS else absent) for name in tries]


WARM_UP = [COMMANDS[name].arguments for name in COMMANDS if name not in ("run", "evaluate again", "fit anew", "review")]

IGNORED = (".lock", ".turn.lock", ".verified.json", "catalog-stamps.npy", "mlflow.db", "mlflow.db-wal", "mlflow.db-shm")
"""Ends of names of files that hold no results: locks, what was hashed when, and what is made from the journal."""
TIMES = re.compile(rb'(seconds(?:"?: "?|</dt><dd>))[-+.e0-9]+')
SIGNATURE = re.compile(rb'"fingerprint": "\w+"')
OF_TIMES = ("journal.jsonl", "review.csv")
"""Ends of names of files that hold times, and after an interruption one more run, or a decision once more: only their
presence is compared."""


def content_of(path: Path) -> bytes:
    """What is compared of a file: all but times and their signatures, and of `DONE.json` all but sizes and hashes."""
    content = b"" if path.name.endswith(OF_TIMES) else path.read_bytes()
    if path.name == storage.DONE:
        record = json.loads(content)
        content = json.dumps([record["metadata"], sorted(record["files"])]).encode()
    if path.suffix in (".json", ".md", ".html") and TIMES.search(content):
        return SIGNATURE.sub(b"", TIMES.sub(rb"\1", content))
    return content


def write_images(root: Path) -> None:
    """Two classes of gray images of 8 px, with test images."""
    random = np.random.default_rng(0)
    for split, counts in (("train", (6, 4)), ("test", (3, 3))):
        for position, (name, count) in enumerate(zip(("dark", "light"), counts, strict=True)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 90, (8, 8)) + 120 * position
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(content_of(path)).hexdigest()
    except (ValueError, TypeError, KeyError):
        return "damaged"


@dataclass(frozen=True)
class End:
    """What an undisturbed command leaves, sha256 by path, and its number of operations."""

    files: Mapping[str, str]
    count: int


class World:
    """A folder in which commands are tried, each time from a kept state."""

    def __init__(self, root: Path, forks: Forks) -> None:
        self._kept, self.folder = root / "kept", root / "work"
        self._forks = forks
        self._ends: dict[str, End] = {}
        write_images(self._kept / "new" / "images")
        for name in ("fit", "generate", "evaluate"):
            self.restore(COMMANDS[name].before)
            outcome = self.run(COMMANDS[name])
            assert outcome.code == 0, outcome.output
            shutil.copytree(self.folder, self._kept / name, symlinks=True)

    def restore(self, state: str) -> None:
        subprocess.run(["rm", "-rf", str(self.folder)], check=True)  # several times as fast as shutil
        subprocess.run(["cp", "-a", str(self._kept / state), str(self.folder)], check=True)

    def attempt(self, command: Command, **disturbance) -> Try:
        return Try(command.arguments, str(self.folder), **disturbance)

    def run(self, command: Command, **disturbance) -> Outcome:
        return self._forks.run(self.attempt(command, **disturbance))[0]

    def again(self, name: str, **disturbance) -> Outcome:
        """Repeats a command after a disturbance."""
        command = COMMANDS[name]
        return self.run(Command(command.before, command.arguments + command.again), **disturbance)

    def run_together(self, *tries: Try) -> list[Outcome]:
        return self._forks.run(*tries)

    def end_of(self, name: str) -> End:
        """What the command leaves when nothing disturbs it; the folder stays as it is."""
        if name not in self._ends:
            aside = self.folder.with_name("aside")
            self.folder.rename(aside)
            try:
                self._ends[name] = self._undisturbed(name)
            finally:
                shutil.rmtree(self.folder)
                aside.rename(self.folder)
        return self._ends[name]

    def _undisturbed(self, name: str) -> End:
        self.restore(COMMANDS[name].before)
        outcome = self.run(COMMANDS[name])
        assert outcome.code == 0, outcome.output
        return End(self.digests(), outcome.count)

    def digests(self) -> dict[str, str]:
        files = (path for path in sorted(self.folder.rglob("*")) if path.is_file() and not path.name.endswith(IGNORED))
        return {str(path.relative_to(self.folder)): _digest(path) for path in files}

    def difference_from(self, end: End, *, but: str = "") -> str:
        """How the folder differs from what the undisturbed command leaves, `but` for one file; empty if it does not."""
        files = self.digests()
        if names := (files.keys() ^ end.files.keys()) - {but}:
            return f"other files: {sorted(names)}"
        changed = sorted(path for path in files.keys() - {but} if files[path] != end.files[path])
        return f"other bytes: {changed}" if changed else ""

    def problem_after(self, name: str, struck: Outcome, codes: Sequence[int | None]) -> str:
        """Runs the plain command after a disturbed one; what is wrong with either, empty if nothing is."""
        if struck.has_traceback or struck.code not in codes:
            return f"exit code {struck.code}: {struck.output[-1500:]}"
        return self.problem_of(name, self.again(name))

    def problem_of(self, name: str, again: Outcome) -> str:
        """What is wrong with a plain command after a disturbance."""
        if again.has_traceback or again.code != 0:
            return f"the command again: exit code {again.code}: {again.output[-1500:]}"
        return self.difference_from(self.end_of(name))
