"""`diffaug generate`: fill the pool."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from diffaug.cli.options import augmenter_arguments, print_result, quoted, settings_options, study_argument
from diffaug.errors import UsageError


@click.command()
@study_argument
@click.option("--more", type=click.IntRange(min=1), multiple=True, help="Add this many images to a finished pool.")
@click.option("--class", "classes", multiple=True, metavar="NAME", help="The class that --more is for.")
@click.option("--shard", metavar="K/N", default=None, help="Compute part K of N and leave, for job arrays.")
@settings_options("strategy", "guidance", "steps")
def command(
    study: Path, more: tuple[int, ...], classes: tuple[str, ...], shard: str | None, as_json: bool, **options: Any
) -> None:
    """Sample what the rare classes of STUDY lack, filter it, and keep it as PNG with a manifest.

    The same command in several terminals, or under torchrun, fills one pool together. Stopped at any point, it goes on.
    """
    from diffaug.augmenter import DiffusionAugmenter

    additions = _additions(more, classes)
    if shard is not None:
        if additions:
            raise UsageError(
                "--shard can't be combined with --more", fix=f"diffaug generate {quoted(study)} --more ..."
            )
        number, parts = _shard(shard)
        augmenter = DiffusionAugmenter.open(study, record=False, **augmenter_arguments(options))
        missing = augmenter.generate_shard(number, parts)
        results: dict[str, Any] = {"shard": shard, "missing": missing}
        next_step = f"when all {parts} shards are done: diffaug generate {quoted(study)}"
        print_result("generate", as_json, study=study, results=results, next_step=next_step)
        return
    pool = DiffusionAugmenter.open(study, **augmenter_arguments(options)).generate(more=additions or None)
    counts = {name: len(pool.indices_of(index)) for name, index in pool.class_to_idx.items()}
    results = {"pool": str(pool.root), "images": len(pool), "by_class": counts}
    print_result("generate", as_json, study=study, results=results, next_step=f"diffaug evaluate {quoted(study)}")


def _additions(more: tuple[int, ...], classes: tuple[str, ...]) -> dict[str, int]:
    """Each `--more` with its `--class`, in the order given."""
    if len(more) != len(classes) or len(set(classes)) < len(classes):
        fix = "give each --more its own --class: --more 500 --class NAME"
        raise UsageError(f"{len(more)} times --more and {len(set(classes))} names after --class", fix=fix)
    return dict(zip(classes, more, strict=True))


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match:
        raise UsageError(f"can't read the shard '{text}'", where="--shard", fix="--shard 3/8 is the third of eight")
    return int(match[1]), int(match[2])
