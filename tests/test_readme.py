"""What the README shows works: its Python runs, its command lines parse, and CI runs its test command."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from diffaug.cli import cli
from diffaug.files import storage

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCED = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"^(?: {4}|\t).*$", re.MULTILINE)
SHELLS = ("bash", "sh", "shell", "console")
TRAIN_IMAGES = {"0": 24, "1": 12, "2": 8}
SMALL = {
    "DIFFAUG_DIFFUSION__IMAGES_SEEN": "2000",
    "DIFFAUG_DIFFUSION__BASE_CHANNELS": "16",
    "DIFFAUG_SYNTHESIS__NUM_INFERENCE_STEPS": "4",
    "DIFFAUG_EVALUATION__MAX_STEPS": "20",
    "DIFFAUG_EVALUATION__NUM_SEEDS": "3",
    "DIFFAUG_TRACKING__MLFLOW": "false",
}


def python_blocks() -> list[str]:
    return [code for language, code in FENCED.findall(README) if language == "python"]


def shell_lines() -> list[str]:
    """Lines of shell blocks, fenced or indented, continued ones joined and prompts removed."""
    fenced = [code for language, code in FENCED.findall(README) if language in SHELLS]
    indented = [line.strip() for line in INDENTED.findall(FENCED.sub("", README))]
    lines = "\n".join([*fenced, *indented]).replace("\\\n", " ").splitlines()
    return [line.strip().removeprefix("$ ") for line in lines]


def diffaug_commands() -> list[list[str]]:
    """The arguments of every call of diffaug in them."""
    calls: list[list[str]] = []
    for line in shell_lines():
        words: list[str] = []
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for word in [*lexer, ";"] if "diffaug" in line else []:
            if set(word) <= set(";&|<>()"):
                calls += [words[1:]] if words[:1] == ["diffaug"] else []
                words = []
            elif words or not re.match(r"[A-Z_]+=", word):
                words.append(word)
    return calls


def require_parsable(command: click.Command, arguments: list[str]) -> None:
    """Follows a command line through groups and options as click would, without running anything."""
    context = click.Context(command, info_name=command.name)
    values, rest, _ = command.make_parser(context).parse_args(list(arguments))
    if isinstance(command, click.Group) and rest:
        _, child, rest = command.resolve_command(context, rest)
        assert child is not None
        require_parsable(child, rest)
        return
    assert rest == [], f"{command.name} takes no {rest}"
    missing = [
        parameter.name
        for parameter in command.params
        if parameter.required and parameter.value_is_missing(parameter.consume_value(context, values)[0])
    ]
    assert "help" in values or not missing, f"{command.name} needs {missing}"


@pytest.mark.parametrize("arguments", diffaug_commands(), ids=shlex.join)
def test_command_line_parses(arguments: list[str]) -> None:
    require_parsable(cli, arguments)


@pytest.mark.parametrize(
    "arguments", [["fitt", "data"], ["fit", "data", "--minuets", "3"], ["fit"], ["fit", "a", "b"], ["recipes", "lss"]]
)
def test_a_wrong_command_line_would_be_noticed(arguments: list[str]) -> None:
    with pytest.raises((click.UsageError, AssertionError)):
        require_parsable(cli, arguments)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: Any) -> Path:
    """A working directory with a small data/train and data/test, and settings that keep the work short."""
    pixels, labels = digits
    for name, train in TRAIN_IMAGES.items():
        members = np.flatnonzero(labels == int(name))[: train + 10]
        for position, index in enumerate(members):
            split = "train" if position < train else "test"
            file = tmp_path / "data" / split / name / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(storage.png_bytes(pixels[index]))
    for name, value in SMALL.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.skipif(not python_blocks(), reason="the README has no Python yet")
def test_python_blocks_run_in_order(workplace: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "readme"}
    for number, block in enumerate(python_blocks(), start=1):
        # A time budget in the code is stronger than the environment's number of images.
        short = re.sub(r'time_budget=(?:"[^"]*"|[\d.]+)', 'time_budget="3s"', block)
        exec(compile(short, f"README.md, Python block {number}", "exec"), namespace)


@pytest.mark.skipif(not shell_lines(), reason="the README has no command lines yet")
def test_ci_runs_the_readmes_test_command() -> None:
    script = ROOT / ".ci" / "run"
    shown = subprocess.run([script, "--show"], capture_output=True, text=True, check=True).stdout.strip()

    assert os.access(script, os.X_OK)
    assert shown in shell_lines()
    assert "pip install" in shown and shown.endswith("pytest -n auto --dist worksteal")
    assert diffaug_commands()
