import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "albumentations", "mlflow", "pandas", "sklearn", "matplotlib")
PROBE = """
import contextlib, io, json, sys
import diffaug
loaded = {"import diffaug": sorted(set(sys.modules) & set(sys.argv[1:]))}
from diffaug.cli import COMMANDS, main

for command in ("", *COMMANDS, "recipes list", "recipes show", "recipes copy"):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main([*command.split(), "--help"])
    assert "Usage: diffaug" in out.getvalue(), (command, out.getvalue())
    loaded[command] = sorted(set(sys.modules) & set(sys.argv[1:]))
print(json.dumps(loaded))
"""


@pytest.mark.e2e
def test_nothing_heavy_is_loaded_by_an_import_or_the_help_of_any_command() -> None:
    probe = subprocess.run([sys.executable, "-c", PROBE, *HEAVY], capture_output=True, text=True, check=False)
    assert probe.returncode == 0, probe.stderr
    loaded: dict[str, list[str]] = json.loads(probe.stdout)
    assert len(loaded) > 12
    assert {step: libraries for step, libraries in loaded.items() if libraries} == {}
