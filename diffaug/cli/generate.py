"""`diffaug generate`: fill the pool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from diffaug.cli.options import augmenter_arguments, print_result, settings_options, study_argument


@click.command()
@study_argument
@settings_options("strategy", "guidance", "steps")
def command(study: Path, as_json: bool, **options: Any) -> None:
    """Sample what the rare classes of STUDY lack, filter it, and keep it as PNG with a manifest."""
    from diffaug.augmenter import DiffusionAugmenter

    pool = DiffusionAugmenter.open(study, **augmenter_arguments(options)).generate()
    counts = {name: len(pool.indices_of(index)) for name, index in pool.class_to_idx.items()}
    results = {"pool": str(pool.root), "images": len(pool), "by_class": counts}
    print_result("generate", as_json, study=study, results=results, next_step=f"diffaug evaluate {study}")
