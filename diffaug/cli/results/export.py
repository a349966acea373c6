"""`diffaug export`: the images for other libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from diffaug.cli.options import json_option, print_result, study_argument, typed_command


@click.command()
@study_argument
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--format",
    default="imagefolder",
    show_default=True,
    help="imagefolder, huggingface, webdataset, or one that a plugin adds.",
)
@click.option("--only", type=click.Choice(["all", "synthetic"]), default="all", help="Leave the real images out.")
@click.option(
    "--split",
    "splits",
    type=click.Choice(["train", "val", "test"]),
    multiple=True,
    help="Only this split; can be repeated.  [default: all]",
)
@click.option("--shard-size", type=click.IntRange(1), default=1000, help="webdataset: images a shard.")
@click.option("--overwrite", is_flag=True, help="Replace an older export in OUT.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing while working.")
@json_option
def command(study: Path, out: Path, as_json: bool, quiet: bool, **options: Any) -> None:
    """Write the real and synthetic images of STUDY to the folder OUT, for other libraries to load.

    Synthetic images become part of the train split; test images stay in the test split.
    """
    from diffaug.augmenter import DiffusionAugmenter

    augmenter = DiffusionAugmenter.open(study, command=typed_command(), verbose=not quiet)
    export = augmenter.export(out, **options)
    results = {"out": str(export.path), "format": options["format"], "images": len(export), "counts": export.counts}
    print_result("export", as_json, study=study, results=results, next_step=export.load)
