"""`diffaug inspect`: what is in the folder."""

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
@settings_options("size")
def command(data: Path, study: Path | None, as_json: bool, **options: Any) -> None:
    """Read the images in DATA: counts by class and split, unreadable files, duplicates, leaks between splits."""
    from diffaug.augmenter import DiffusionAugmenter
    from diffaug.stages.catalog import show_catalog

    augmenter = DiffusionAugmenter(study=study, **augmenter_arguments(options)).attach(data)
    catalog = augmenter.inspect()
    show_catalog(augmenter.job, catalog)
    unusable = catalog.table.loc[catalog.table["verdict"] != "ok", ["path", "verdict", "note"]].astype(str)
    if len(unusable):
        augmenter.job.narrator.table("Unusable files", list(unusable.columns), unusable.to_numpy().tolist())
    counts = catalog.counts()
    verdicts = {str(verdict): int(count) for verdict, count in catalog.table["verdict"].value_counts().items()}
    results = {
        "counts": {str(split): {str(name): int(n) for name, n in counts[split].items()} for split in counts},
        "image_size": list(catalog.image_size),
        "channels": catalog.channels,
        "verdicts": verdicts,
        "problems": catalog.problems,
        "unusable": unusable.to_dict("records"),
    }
    next_step = in_study("run", data, study)
    print_result("inspect", as_json, study=augmenter.study.path, results=results, next_step=next_step)
