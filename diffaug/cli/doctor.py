"""`diffaug doctor`: is everything here?"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from typing import Any

import click

from diffaug._version import __version__
from diffaug.cli.options import json_option

REQUIRED = (
    *("torch", "torchvision", "numpy", "pandas", "pillow", "scikit-learn", "safetensors", "scipy", "pyarrow"),
    *("pydantic", "pyyaml", "click", "rich", "jinja2", "matplotlib"),
)
OPTIONAL = {"albumentations": "albumentations", "mlflow": "mlflow"}


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Versions, devices, what is missing and how to get it."""
    facts, advice = examine()
    if as_json:
        click.echo(json.dumps({"schema_version": 1, "command": "doctor", "facts": facts, "advice": advice}))
        return
    for name, value in facts.items():
        click.echo(f"{name:16} {value}")
    for sentence in advice:
        click.echo(f"advice: {sentence}")


def examine() -> tuple[dict[str, Any], list[str]]:
    """Facts about this installation, and what to do about each that is wrong."""
    facts: dict[str, Any] = {"diffaug": __version__, "python": platform.python_version()}
    advice: list[str] = []
    for package in (*REQUIRED, *OPTIONAL):
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "not installed"
            advice.append(f"{package} is missing: pip install 'diffaug[{OPTIONAL.get(package, 'all')}]'")
    providers = importlib.metadata.packages_distributions().get("albumentations", [])
    if len(set(providers)) > 1:
        advice.append(f"{' and '.join(providers)} overwrite each other's files: uninstall both, then install one")
    if facts["torch"] != "not installed":
        facts |= _devices()
    return facts, advice


def _devices() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"cpu cores": os.cpu_count(), "torch threads": torch.get_num_threads(), "cuda devices": gpus or "none"}
