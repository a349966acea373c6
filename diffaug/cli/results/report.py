"""`diffaug report`: write the report again."""

from __future__ import annotations

from pathlib import Path

import click

from diffaug.cli.options import json_option, print_result, quoted, study_argument, typed_command


@click.command()
@study_argument
@json_option
def command(study: Path, as_json: bool) -> None:
    """Write the report of STUDY, one HTML file that opens offline."""
    from diffaug.augmenter import DiffusionAugmenter

    path = DiffusionAugmenter.open(study, command=typed_command()).report()
    print_result("report", as_json, study=study, results={"report": str(path)}, next_step=f"open {quoted(path)}")
