"""`diffaug evaluate`: does it help?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from diffaug.cli.options import (
    augmenter_arguments,
    evaluation_options,
    finish_evaluation,
    finish_predictions,
    settings_options,
)
from diffaug.errors import UsageError

OF_TRAININGS = ("seeds", "updates", "classifier", "arms", "thorough")


@click.command()
@click.argument("study", type=click.Path(path_type=Path), required=False)
@settings_options("seeds", "updates", "classifier")
@evaluation_options
@click.option(
    "--predictions",
    type=click.Path(path_type=Path),
    help="Judge this CSV of file_name, arm, predicted (and seed, label, role, p_CLASS) instead of training.",
)
def command(
    study: Path | None, predictions: Path | None, fail_under: float | None, as_json: bool, **options: Any
) -> None:
    """Train classifiers with and without the pool of STUDY, compare them on real test images, say what came of it.

    With --predictions your own training code has done that: STUDY gives the true classes, or the column label.
    """
    from diffaug.augmenter import DiffusionAugmenter
    from diffaug.stages.evaluating.predictions import judge_predictions

    unused = [f"--{name}" for name in OF_TRAININGS if predictions and options[name]]
    if unused:
        raise UsageError(f"{', '.join(unused)}: --predictions trains nothing", fix="leave out what is for trainings")
    if study is None:
        if predictions is None:
            raise UsageError("give a STUDY, or --predictions CSV", fix="diffaug evaluate runs/data")
        finish_predictions(judge_predictions(predictions), None, fail_under, as_json)
        return
    augmenter = DiffusionAugmenter.open(study, **augmenter_arguments(options))
    if predictions is not None:
        finish_predictions(augmenter.judge_predictions(predictions), study, fail_under, as_json)
    else:
        finish_evaluation(augmenter, augmenter.evaluate(), "evaluate", as_json, fail_under)
