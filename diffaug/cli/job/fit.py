"""`diffaug fit`: train the generator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from diffaug.cli.options import augmenter_arguments, data_argument, print_result, quoted, settings_options, study_option


@click.command()
@data_argument
@study_option
@settings_options("minutes", "images", "size")
def command(data: Path, study: Path | None, as_json: bool, **options: Any) -> None:
    """Train a class-conditional generator on the images in DATA.

    Network, batch and length follow from the images and the device; sample grids appear in the study while it
    trains. Stopped by Ctrl-C, the same command goes on.
    """
    from diffaug.augmenter import DiffusionAugmenter

    augmenter = DiffusionAugmenter(study=study, **augmenter_arguments(options)).fit(data)
    generator = augmenter.generator_
    results = {"classes": list(generator.classes), "weights_sha256": generator.weights_sha256}
    path = augmenter.study.path
    print_result("fit", as_json, study=path, results=results, next_step=f"diffaug generate {quoted(path)}")
