"""`diffaug demo`: the whole job on bundled images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from diffaug.cli.options import augmenter_arguments, finish_evaluation, settings_options

DEFAULT_MINUTES = 2.0


@click.command()
@click.option("--study", type=click.Path(path_type=Path), default=Path("runs/demo"), help="Folder of the study.")
@settings_options("minutes", "images", "seeds", "updates")
def command(study: Path, as_json: bool, **options: Any) -> None:
    """Write scikit-learn's digits as long-tailed class folders and run the whole job on them.

    The training set has 100 images of the commonest class down to 5 of the rarest; all others are the test set.
    """
    from diffaug.augmenter import DiffusionAugmenter
    from diffaug.configuration.sources import resolve
    from diffaug.data.demo import write_long_tailed_digits

    arguments = augmenter_arguments(options)
    wanted = resolve(arguments["settings"], file=options["config"], recipe=options["recipe"]).config.diffusion
    if wanted.minutes is None and wanted.images_seen is None:
        arguments["settings"]["diffusion.minutes"] = DEFAULT_MINUTES
    data = write_long_tailed_digits(study.parent / f"{study.name}-images")
    augmenter = DiffusionAugmenter(study=study, **arguments)
    finish_evaluation(augmenter, augmenter.run(data), "demo", as_json)
