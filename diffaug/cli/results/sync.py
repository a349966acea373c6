"""`diffaug sync`: send what trackers have not had."""

from __future__ import annotations

from pathlib import Path

import click

from diffaug.cli.options import json_option, print_result, study_argument, typed_command


@click.command()
@study_argument
@json_option
def command(study: Path, as_json: bool) -> None:
    """Send to MLflow what STUDY recorded while it could not be reached; nothing is sent twice."""
    from diffaug.runtime.console import ConsoleNarrator
    from diffaug.stages.job import open_job
    from diffaug.study import open_study
    from diffaug.tracking.channel import logged_links
    from diffaug.tracking.sender import send_all

    job = open_job(open_study(study), ConsoleNarrator(), command=typed_command(), record=False)
    sentences = send_all(job.study, job.config.tracking.model_copy(update={"mlflow": True}), job.narrator)
    click.echo("\n".join(sentences or ["nothing to send: nothing was recorded, or no tracker is installed"]), err=True)
    print_result("sync", as_json, study=study, results={"trackers": logged_links(job.study)}, next_step="")
