"""Help and `import diffaug` stay quick because they load none of the heavy libraries."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "albumentations", "mlflow", "pandas", "sklearn", "matplotlib")

PROBE = """
import contextlib, io, json, sys
import diffaug
loaded = {"import diffaug": sorted(set(sys.modules) & set(sys.argv[1:]))}
import click
from diffaug.cli import cli, main

def probe(group, path):
    helped(path)
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        probe(command, [*path, name]) if isinstance(command, click.Group) else helped([*path, name])

def helped(path):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main([*path, "--help"])
    assert "Usage: diffaug" in out.getvalue(), (path, out.getvalue())
    loaded[" ".join(["diffaug", *path, "--help"])] = sorted(set(sys.modules) & set(sys.argv[1:]))

probe(cli, [])
print(json.dumps(loaded))
"""


@pytest.fixture(scope="module")
def loaded() -> dict[str, list[str]]:
    """Heavy libraries that are loaded after each step of one fresh process, in its order."""
    probe = subprocess.run([sys.executable, "-c", PROBE, *HEAVY], capture_output=True, text=True, check=False)
    assert probe.returncode == 0, probe.stderr
    content: dict[str, list[str]] = json.loads(probe.stdout)
    return content


def test_every_command_was_asked(loaded: dict[str, list[str]]) -> None:
    for command in ("demo", "run", "inspect", "plan", "fit", "generate", "evaluate", "report", "recipes ls", "doctor"):
        assert f"diffaug {command} --help" in loaded


def test_nothing_heavy_is_loaded(loaded: dict[str, list[str]]) -> None:
    assert {step: libraries for step, libraries in loaded.items() if libraries} == {}
