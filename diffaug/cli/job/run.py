"""`diffaug run`: everything in one go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from diffaug.cli.options import (
    augmenter_arguments,
    data_argument,
    evaluation_options,
    finish_evaluation,
    settings_options,
    study_option,
)


@click.command()
@data_argument
@study_option
@settings_options("minutes", "images", "size", "strategy", "guidance", "steps", "seeds", "updates", "classifier")
@evaluation_options
def command(data: Path, study: Path | None, fail_under: float | None, as_json: bool, **options: Any) -> None:
    """Train a generator on DATA, fill up rare classes, measure the gain, write the report.

    DATA is one folder a class, or train/ val/ test/ of those, or a folder with a CSV of file_name,label.
    Stopped at any point, the same command goes on from there.
    """
    from diffaug.augmenter import DiffusionAugmenter

    augmenter = DiffusionAugmenter(study=study, **augmenter_arguments(options))
    finish_evaluation(augmenter, augmenter.run(data), "run", as_json, fail_under)
