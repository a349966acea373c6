"""The command review: people look through a pool on a local page."""

from dataclasses import asdict
from pathlib import Path

import click

from diffaug.cli.groups import echo
from diffaug.cli.options import json_option, note, options, print_result, quiet_option, quoted, study_argument


@click.command()
@options(study_argument)
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the page.  [default: 8765, or a free one]")
@click.option("--browser/--no-browser", default=True, show_default=False, help="Whether to open the page.")
@quiet_option
@json_option
def review(study: Path, port: int | None, browser: bool) -> None:
    """Look through the pool of STUDY on a local page, and reject images by hand.

    The page shows synthetic images beside real ones of their class. A blind test tells how well people can tell them
    apart. Decisions are lines of STUDY/review.csv. Rejected images are left out of trainings, evaluations and exports;
    to undo a decision, press U on the page or delete its line. Ctrl-C ends the page.
    """
    from diffaug.stages.review import review_study
    from diffaug.study import open_study

    summary = review_study(open_study(study), port=port, browser=browser, say=lambda text: echo(text, err=True))
    for sentence in summary.sentences() or ["nothing was decided"]:
        note(sentence)
    print_result("review", study=study, results=asdict(summary), next_step=f"diffaug evaluate {quoted(study)}")
