"""The commands on the results of finished stages."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from diffaug.cli.options import (
    PATH,
    json_option,
    narration,
    note,
    options,
    print_result,
    quiet_option,
    quoted,
    study_argument,
    to_look_at,
)
from diffaug.errors import DamagedError

on_study = options(study_argument, quiet_option, json_option)


@click.command()
@on_study
def verify(study: Path) -> None:
    """Verify the checksums of the pool of STUDY; exit with code 3 if a file was changed, and name it."""
    from diffaug.synthesis.pool.pool import verify_pool

    problems = verify_pool(study)
    results = {"problems": [asdict(problem) for problem in problems]}
    if problems:
        listed = "".join(f"\n  {problem.what}: {problem.file}" for problem in problems)
        fix = f"restore these files from a copy, or make the pool again: diffaug generate {quoted(study)} --overwrite"
        error = DamagedError(f"{len(problems)} files of the pool are not as written{listed}", fix=fix)
        error.results = results
        raise error
    note("all files of the pool are as written")
    print_result("verify", study=study, results=results, next_step=f"diffaug evaluate {quoted(study)}")


@click.command()
@on_study
def report(study: Path) -> None:
    """Write the report of STUDY, one HTML file that opens offline."""
    from diffaug.augmenter import DiffusionAugmenter

    path = DiffusionAugmenter.open(study, **narration()).report()
    print_result("report", study=study, results={"report": str(path)}, next_step=to_look_at(path))


@click.command()
@on_study
def sync(study: Path) -> None:
    """Upload the events of STUDY that MLflow has not received, such as after an outage; each is sent once."""
    from diffaug.runtime.console import ConsoleNarrator, SilentNarrator
    from diffaug.stages.job import open_job
    from diffaug.study import open_study
    from diffaug.tracking.delivery import logged_links
    from diffaug.tracking.sender import send_all

    how = narration()
    narrator = ConsoleNarrator() if how["verbose"] else SilentNarrator()
    job = open_job(open_study(study), narrator, command=how["command"])
    sentences = send_all(job.study, job.config.tracking.model_copy(update={"mlflow": True}), narrator)
    for line in "\n".join(
        sentences or ["nothing to send: nothing is pending, or no tracker is installed"]
    ).splitlines():
        note(line)
    print_result("sync", study=study, results={"trackers": logged_links(job.study)})


@click.command()
@study_argument
@click.argument("out", type=PATH)
@click.option("--format", default="imagefolder", help="imagefolder, huggingface, webdataset, or the name of a plugin.")
@click.option("--only", type=click.Choice(["all", "synthetic"]), default="all", help="Omit the real images.")
@click.option(
    *("--split", "splits"),
    type=click.Choice(["train", "val", "test"]),
    multiple=True,
    help="Only this split; repeatable.  [default: all]",
)
@click.option(
    "--depth",
    type=click.Choice(["8", "source"]),
    default="8",
    show_default=True,
    help="Bits per value. source: 16-bit values as in the files, if those hold more than 8 bits.",
)
@click.option("--shard-size", type=click.IntRange(1), default=1000, help="Images per shard of webdataset.")
@click.option("--include-blind", is_flag=True, help="Export images, too, that nothing shows to belong to their class.")
@click.option("--overwrite", is_flag=True, help="Replace an older export in OUT.")
@quiet_option
@json_option
def export(study: Path, out: Path, **options: Any) -> None:
    """Write the real and synthetic images of STUDY to the folder OUT, for other libraries to load.

    Synthetic images become part of the train split. Test images stay in the test split.
    """
    from diffaug.augmenter import DiffusionAugmenter

    written = DiffusionAugmenter.open(study, **narration()).export(out, **options)
    results = {
        "out": str(written.path),
        "format": options["format"],
        "images": len(written),
        "counts": written.counts,
    }
    print_result("export", study=study, results=results, next_step=written.load)
