"""`diffaug evaluate`: does it help?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from diffaug.cli.options import augmenter_arguments, finish_evaluation, settings_options, study_argument


@click.command()
@study_argument
@settings_options("seeds", "updates")
def command(study: Path, as_json: bool, **options: Any) -> None:
    """Train classifiers with and without the pool of STUDY, compare them on real test images, say what came of it."""
    from diffaug.augmenter import DiffusionAugmenter

    augmenter = DiffusionAugmenter.open(study, **augmenter_arguments(options))
    finish_evaluation(augmenter, augmenter.evaluate(), "evaluate", as_json)
