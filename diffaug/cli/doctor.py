"""The command doctor: what is installed and what is missing."""

import importlib.metadata
import os
import platform
import re
from typing import Any

import click

from diffaug._version import __version__
from diffaug.cli.groups import echo
from diffaug.cli.options import answers_in_json, json_option, print_result

NOT_FOR_USERS = {"all", "dev", "benchmarks"}


@click.command()
@json_option
def doctor() -> None:
    """Show versions and devices, and how to install what is missing."""
    facts: dict[str, Any] = {"diffaug": __version__, "python": platform.python_version()}
    advice: list[str] = []
    for package, extra in _dependencies().items():
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "not installed"
            advice.append(f"{package} is missing: pip install 'diffaug[{extra}]'")
    providers = importlib.metadata.packages_distributions().get("albumentations", [])
    if len(set(providers)) > 1:
        advice.append(f"{' and '.join(providers)} overwrite each other's files: uninstall both, then install one")
    if facts["torch"] != "not installed":
        import torch

        from diffaug.classifiers.encoders.by_name import PACKAGED, has_packaged_encoder

        gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        facts |= {"cpu cores": os.cpu_count(), "torch threads": torch.get_num_threads(), "cuda devices": gpus or "none"}
        facts["encoder"] = PACKAGED if has_packaged_encoder() else "none; install one: pip install 'diffaug[encoder]'"
    if answers_in_json():
        print_result("doctor", study=None, results={"facts": facts, "advice": advice})
        return
    for name, value in facts.items():
        echo(f"{name:16} {value}")
    for sentence in advice:
        echo(f"advice: {sentence}")


def _dependencies() -> dict[str, str]:
    """The packages that diffaug needs or can use, each with the extra that installs it."""
    found: dict[str, str] = {}
    for requirement in importlib.metadata.requires("diffaug") or []:
        package = re.split(r"[^\w.-]", requirement)[0]
        extra = re.search(r"extra == ['\"](.+?)['\"]", requirement)
        if package != "diffaug" and (extra is None or extra[1] not in NOT_FOR_USERS):
            found.setdefault(package, extra[1] if extra else "all")
    return found
