"""`diffaug plan`: what fit would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from diffaug.cli.options import (
    augmenter_arguments,
    data_argument,
    in_study,
    print_result,
    settings_options,
    study_option,
)


@click.command()
@data_argument
@study_option
@settings_options("minutes", "images", "size")
def command(data: Path, study: Path | None, as_json: bool, **options: Any) -> None:
    """Say what fit would do with DATA, measured on this machine; nothing is trained."""
    from diffaug.augmenter import DiffusionAugmenter

    augmenter = DiffusionAugmenter(study=study, **augmenter_arguments(options)).attach(data)
    plan = augmenter.plan()
    results = {**plan.to_dict(), "expected_seconds": plan.expected_seconds}
    next_step = in_study("fit", data, study)
    print_result("plan", as_json, study=augmenter.study.path, results=results, next_step=next_step)
