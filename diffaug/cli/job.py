"""The commands that run stages of a job, and how some of them end."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffaug.cli.options import (
    PATH,
    answers_in_json,
    augmenter_arguments,
    evaluation_options,
    given_settings,
    in_study,
    note,
    options_on_images,
    print_result,
    quoted,
    settings_options,
    study_argument,
    to_look_at,
)
from diffaug.cli.verdict import print_verdict
from diffaug.errors import QualityGateError, UsageError
from diffaug.runtime.distributed import current
from diffaug.study import RECORD, Study

if TYPE_CHECKING:
    from diffaug.augmenter import DiffusionAugmenter
    from diffaug.data.catalog import Catalog
    from diffaug.evaluation.verdict.result import EvaluationResult

TRAINING = (
    *("diffusion.minutes", "diffusion.images_seen", "diffusion.init"),
    *("diffusion.route", "diffusion.autoencoder", "diffusion.pipeline"),
)
DATA = (
    *("data.image_size", "data.layout", "data.label_column", "data.group_by", "data.unlabeled"),
    "data.masks",
)
SYNTHESIS = (
    *("synthesis.sampling_strategy", "synthesis.guidance_scale", "synthesis.num_inference_steps"),
    "synthesis.mask_from",
)
EVALUATION = ("evaluation.num_seeds", "evaluation.max_steps", "evaluation.classifier", "evaluation.drop_leaked")


def _augmenter(study: Path | None, options: Mapping[str, Any]) -> DiffusionAugmenter:
    from diffaug.augmenter import DiffusionAugmenter

    return DiffusionAugmenter(study=study, **augmenter_arguments(options))


def _opened(study: Path, options: Mapping[str, Any]) -> DiffusionAugmenter:
    from diffaug.augmenter import DiffusionAugmenter

    return DiffusionAugmenter.open(study, **augmenter_arguments(options))


LITTLE_TO_GAIN = (
    "The demo shows the whole job on small digits. Training on the real images alone gets 96 % of them right, so that "
    "synthetic images have little to add. The verdict says whether they do."
)


@click.command()
@click.option("--study", type=PATH, default=Path("runs/demo"), help="Folder of the study.")
@settings_options("diffusion.minutes", "diffusion.images_seen", "evaluation.num_seeds", "evaluation.max_steps")
def demo(study: Path, **options: Any) -> None:
    """Write scikit-learn's digits as long-tailed class folders and run the whole job on them.

    The training set has 100 images of the most common class and 5 of the rarest. All other images are the test set.
    """
    from diffaug.data.demo import write_long_tailed_digits

    if current().is_main:
        note(LITTLE_TO_GAIN)
    with current().main_first():
        data = write_long_tailed_digits(study.parent / f"{study.name}-images")
    augmenter = _augmenter(study, {**options, "recipe": options["recipe"] or "demo"})
    _finish("demo", augmenter.run(data), augmenter)


@click.command()
@options_on_images(*TRAINING, *DATA, *SYNTHESIS, *EVALUATION)
@evaluation_options
def run(data: Path, study: Path | None, fail_under: float | None, **options: Any) -> None:
    """Train a generator on DATA, fill up the rare classes, measure the gain and write the report.

    DATA holds class folders, splits of them, or images with a table of their labels. After an interruption, the same
    command resumes.
    """
    augmenter = _augmenter(study, options)
    _finish("run", augmenter.run(data), augmenter, fail_under=fail_under)


@click.command()
@options_on_images(*DATA)
@click.option("--html", type=PATH, default=None, help="Page of images to write.  [default: runs/NAME-inspect.html]")
def inspect(data: Path, study: Path | None, html: Path | None, **options: Any) -> None:
    """Show what is in DATA: how it is read, classes, splits, sizes, groups, duplicates, leaks, unreadable files.

    The page shows images beside what classifiers and the generator will see of them, and near-duplicates.
    """
    from diffaug.stages.catalog import results_of, show_catalog

    augmenter = _augmenter(study, options).attach(data)
    catalog = augmenter.inspect()
    show_catalog(augmenter.job, catalog)
    unusable = catalog.table.loc[catalog.table["status"] != "ok", ["path", "status", "note"]].astype(str)
    if len(unusable):
        augmenter.job.narrator.table("Unusable files", list(unusable.columns), unusable.to_numpy().tolist())
    results = {**results_of(catalog), "page": _write_page(html, augmenter, catalog)}
    if catalog.refusal is not None:
        raise catalog.refusal.error(results)
    next_step = _after_inspect(catalog, data, study, options)
    print_result("inspect", study=augmenter.study.path, results=results, next_step=next_step)


def _after_inspect(catalog: Catalog, data: Path, study: Path | None, options: Mapping[str, Any]) -> str:
    """The run with groups that are confirmed and without leaks; while a class has no test image, another look."""
    if not catalog.counts()["test"].all():
        return in_study("inspect", data, study, options)
    command = in_study("run", data, study, options)
    if catalog.proposal and catalog.proposal.confirmed:
        command += f" --group-by {shlex.quote(catalog.proposal.pattern)}"
    return command + (" --drop-leaked" if catalog.leaks else "")


def _write_page(html: Path | None, augmenter: DiffusionAugmenter, catalog: Catalog) -> str | None:
    """Writes the page of images; where its default place can't be written, that is only said."""
    from diffaug.evaluation.report.contact_sheet import write_contact_sheet
    from diffaug.stages.catalog import facts_of

    study, job = augmenter.study.path, augmenter.job
    path = html or study.with_name(f"{study.name}-inspect.html")
    try:
        write_contact_sheet(path, catalog, facts=facts_of(catalog), seed=job.config.seed)
    except OSError as error:
        if html is not None:
            raise UsageError(f"the page can't be written: {error.strerror}", where=path, fix="--html FILE") from error
        job.narrator.warn(
            f"no page of images was written to {path} ({error.strerror}); --html FILE writes it elsewhere"
        )
        return None
    note(f"images, and what is seen of them: {path}")
    return str(path)


@click.command()
@options_on_images(*TRAINING, *DATA)
def plan(data: Path, study: Path | None, **options: Any) -> None:
    """Show what fit would do with DATA and how long it would take, measured on this machine."""
    augmenter = _augmenter(study, options).attach(data)
    training = augmenter.plan()
    results = {**asdict(training), "expected_seconds": training.expected_seconds}
    print_result("plan", study=augmenter.study.path, results=results, next_step=in_study("fit", data, study, options))


@click.command()
@options_on_images(*TRAINING, *DATA)
@click.option("--finish", is_flag=True, help="End a training that was interrupted where it is.")
def fit(data: Path, study: Path | None, finish: bool, **options: Any) -> None:
    """Train a class-conditional generator on the images in DATA.

    Network, batch size and training length are chosen from the images and the device. Sample grids appear in the
    study during training. After Ctrl-C, the same command resumes, and with --finish it keeps what was learned.
    """
    augmenter = _augmenter(study, options).fit(data, finish=finish)
    generator, path = augmenter.generator_, augmenter.study.path
    results = {"classes": list(generator.classes), "weights_sha256": generator.weights_sha256}
    print_result("fit", study=path, results=results, next_step=f"diffaug generate {quoted(path)}")


def _class_count(text: str) -> tuple[str, int]:
    """A class and a number of images; the name of the class may contain `=`."""
    label, separator, count = text.rpartition("=")
    if not separator or not re.fullmatch(r"[1-9]\d*", count):
        raise UsageError(f"--more {text}: this is not CLASS=COUNT", fix="write for example: --more defect=500")
    return label, int(count)


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match:
        raise UsageError(f"--shard {text}: this is not K/N", fix="the third of eight shards is --shard 3/8")
    return int(match[1]), int(match[2])


@click.command()
@study_argument
@click.option(
    "--more",
    type=_class_count,
    multiple=True,
    metavar="CLASS=COUNT",
    help="Add images of a class to a finished pool; repeatable.",
)
@click.option("--shard", type=_shard, metavar="K/N", help="Compute only part K of N, for job arrays.")
@settings_options(*SYNTHESIS)
def generate(study: Path, more: tuple[tuple[str, int], ...], shard: tuple[int, int] | None, **options: Any) -> None:
    """Sample images for the rare classes of STUDY, filter them, and save them as PNG with a manifest.

    The same command in several terminals, or under torchrun, fills one pool together. After an interruption, the
    same command resumes.
    """
    additions = dict(more)
    again = f"diffaug generate {quoted(study)}"
    if len(additions) < len(more):
        raise UsageError("--more is given twice for the same class", fix="add the two numbers")
    if shard is not None:
        if additions:
            raise UsageError("--shard can't be combined with --more", fix=f"{again} --more ...")
        missing = _opened(study, options).generate_shard(*shard)
        results: dict[str, Any] = {"shard": list(shard), "missing": missing}
        next_step = f"when all {shard[1]} shards are done: {again}"
        print_result("generate", study=study, results=results, next_step=next_step)
        return
    pool = _opened(study, options).generate(more=additions or None)
    results = {"pool": str(pool.root), "images": len(pool), "by_class": pool.counts_by_name}
    print_result("generate", study=study, results=results, next_step=f"diffaug evaluate {quoted(study)}")


@click.command()
@click.argument("study", type=PATH, required=False, metavar="[STUDY | DATA]")
@click.option("--study", "place", type=PATH, help="Folder of the study, if DATA is given.  [default: runs/NAME]")
@settings_options(*EVALUATION)
@evaluation_options
@click.option(
    "--predictions",
    type=PATH,
    help="Evaluate this CSV (columns file_name, arm, role, predicted) instead of training classifiers.",
)
def evaluate(
    study: Path | None, place: Path | None, predictions: Path | None, fail_under: float | None, **options: Any
) -> None:
    """Train classifiers with and without the pool of STUDY and compare them on real test images.

    For DATA, a folder of images without a study, or a STUDY without a pool, the ways to train on real images alone are
    compared. That takes no generator.

    With --predictions, your own code has trained them. The true classes come from STUDY or from the column label.
    """
    from diffaug.stages.evaluating.predictions import evaluate_predictions

    unused = [key for key in given_settings(options) if predictions and key.startswith("evaluation.")]
    if unused:
        raise UsageError(f"--predictions trains no classifiers and ignores: {', '.join(unused)}", fix="omit them")
    is_data = study is not None and study.is_dir() and not ((study / RECORD).exists() or Study(study).has_results)
    if place and (predictions or not is_data):
        raise UsageError("--study names the study of a folder of images, and none is given", fix="omit --study")
    if predictions is None:
        if study is None:
            raise UsageError("give a STUDY, DATA or --predictions CSV", fix="diffaug evaluate runs/data")
        augmenter = _augmenter(place, options).attach(study) if is_data else _opened(study, options)
        _finish("evaluate", augmenter.evaluate(), augmenter, study=place, fail_under=fail_under)
    elif study is None:
        _finish("evaluate", evaluate_predictions(predictions), fail_under=fail_under)
    else:
        result = _opened(study, options).evaluate_predictions(predictions)
        _finish("evaluate", result, study=study, fail_under=fail_under)


def _finish(
    command: str,
    result: EvaluationResult,
    augmenter: DiffusionAugmenter | None = None,
    *,
    study: Path | None = None,
    fail_under: float | None = None,
) -> None:
    """Prints the verdict, and where report and logs are if the augmenter made them; fails below `fail_under` points."""
    results: dict[str, Any] = result.to_dict()
    sentences, next_step = [], ""
    if augmenter is not None and not augmenter.study.report.exists():
        named = f" --study {quoted(study)}" if study else ""
        next_step = f"diffaug run {quoted(augmenter.study.record.data)}{named}"
        study, sentences = augmenter.study.path, augmenter.trackers_
    elif augmenter is not None:
        study, report = augmenter.study.path, augmenter.study.report
        results |= {"report": str(report), "trackers": augmenter.runs_}
        sentences, next_step = [f"report: {report}", *augmenter.trackers_], to_look_at(report)
    if not answers_in_json():
        print_verdict(result)
        for line in "\n".join(sentences).splitlines():
            note(line)
    if fail_under is not None:
        try:
            result.require_gain(fail_under / 100)
        except QualityGateError as error:
            error.results = results
            raise
    print_result(command, study=study, results=results, next_step=next_step)
