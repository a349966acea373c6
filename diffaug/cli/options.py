"""Options that commands share, and what they make of them."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffaug.configuration.yaml_files import parse_value
from diffaug.errors import QualityGateError, UsageError
from diffaug.runtime.console import printable
from diffaug.runtime.distributed import launched_together

if TYPE_CHECKING:
    from diffaug.augmenter import DiffusionAugmenter
    from diffaug.evaluation.verdict.result import EvaluationResult

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_SHORTCUTS: dict[str, tuple[str, Any, str]] = {
    "minutes": ("diffusion.minutes", float, "Time to train the generator."),
    "images": ("diffusion.images_seen", int, "Length of the training in images seen, instead of minutes."),
    "size": ("data.image_size", int, "Working size in px (short side)."),
    "strategy": ("synthesis.sampling_strategy", str, "Which classes get how many images: auto, minority, all, ..."),
    "guidance": ("synthesis.guidance_scale", float, "Guidance scale; 1 is none."),
    "steps": ("synthesis.num_inference_steps", int, "Solver steps an image."),
    "seeds": ("evaluation.num_seeds", int, "Paired repetitions of every arm."),
    "updates": ("evaluation.max_steps", int, "Optimiser updates of every classifier."),
    "classifier": ("evaluation.classifier", str, "What is trained: small-cnn, resnet-32, torchvision/NAME, features."),
    "seed": ("seed", int, "Where all randomness begins."),
    "device": ("device", click.Choice(["auto", "cpu", "cuda"]), "Where to compute."),
}
_SHARED = ("seed", "device")

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
data_argument = click.argument("data", type=click.Path(path_type=Path))
study_argument = click.argument("study", type=click.Path(path_type=Path))
study_option = click.option(
    "--study", type=click.Path(path_type=Path), default=None, help="Folder of the study.  [default: runs/NAME]"
)


def settings_options(*shortcuts: str) -> Decorator:
    """Adds the named shortcuts and the options that every working command has."""
    options = [
        click.option(f"--{name}", type=_SHORTCUTS[name][1], default=None, help=_SHORTCUTS[name][2])
        for name in (*shortcuts, *_SHARED)
    ]
    options += [
        click.option("--recipe", default=None, help="A ready configuration: diffaug recipes ls."),
        click.option("--config", type=click.Path(path_type=Path), default=None, help="A YAML file of settings."),
        click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting, by dotted key."),
        click.option("--overwrite", is_flag=True, help="Replace what was made with other settings."),
        click.option(
            "--track/--no-track",
            default=None,
            help="Log to MLflow, or don't; the study remembers it.  [default: track]",
        ),
        click.option("-q", "--quiet", is_flag=True, help="Say nothing while working."),
        json_option,
    ]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def evaluation_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of commands that end in a verdict."""
    options = [
        click.option("--arms", default=None, help="What to compare, separated by commas.  [default: six arms]"),
        click.option("--thorough", is_flag=True, help="All arms, ten seeds, two generators."),
        click.option(
            "--fail-under",
            type=click.FloatRange(-100, 100),
            callback=_a_number,
            default=None,
            metavar="POINTS",
            help="Exit with 5 unless the gain is surely at least this many points of balanced accuracy.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _a_number(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """Refuses nan, which no range does."""
    if value is not None and math.isnan(value):
        raise click.BadParameter("nan is not a number of points", context, parameter)
    return value


def augmenter_arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `DiffusionAugmenter` from parsed options.

    Raises:
        UsageError: A `--set` without `=`.
    """
    flags = {_SHORTCUTS[name][0]: values[name] for name in _SHORTCUTS if values.get(name) is not None}
    if isinstance(values.get("strategy"), str):
        flags["synthesis.sampling_strategy"] = parse_value(values["strategy"], where="--strategy")
    if values.get("thorough"):  # what the study remembers gives way to it
        fewer = dict.fromkeys(("evaluation.arms", "evaluation.num_seeds", "evaluation.num_generators"))
        flags = {**fewer, **flags, "evaluation.thorough": True}
    if values.get("arms") is not None:
        flags["evaluation.arms"] = [name.strip() for name in values["arms"].split(",")]
    for assignment in values.get("assignments", ()):
        key, separator, text = assignment.partition("=")
        if not separator:
            raise UsageError(f"--set {assignment}: '=' is missing", fix="--set synthesis.guidance_scale=1.5")
        flags[key.strip()] = parse_value(text, where=f"--set {key}")
    if values.get("track") is not None:
        flags["tracking.mlflow"] = values["track"]
    return {
        "settings": flags,
        "recipe": values.get("recipe"),
        "config": values.get("config"),
        "overwrite": bool(values.get("overwrite")),
        "verbose": not values.get("quiet"),
        "command": typed_command(),
    }


def typed_command() -> str:
    """The command line as it was typed; with torchrun, as it would be on one machine."""
    program = ["diffaug"]
    if launched_together():
        program = ["torchrun", "--nproc-per-node", os.environ.get("LOCAL_WORLD_SIZE", "1"), "-m", "diffaug"]
    return shlex.join([*program, *sys.argv[1:]])


def quoted(path: Path) -> str:
    """A path as it can be typed in a shell."""
    return shlex.quote(str(path))


def in_study(command: str, data: Path, study: Path | None) -> str:
    """The command on the images, in the study that was named; without one, diffaug names it after the images."""
    return shlex.join(["diffaug", command, str(data), *(["--study", str(study)] if study else [])])


def print_result(
    command: str, as_json: bool, *, study: Path | None, results: Mapping[str, Any], next_step: str
) -> None:
    """Prints the machine-readable result, or the next command for a person."""
    if as_json:
        content = {
            "schema_version": 1,
            "command": command,
            "status": "ok",
            "study": None if study is None else str(study),
            "results": dict(results),
            "next": next_step,
        }
        click.echo(json.dumps(content, ensure_ascii=False, default=str))
    elif next_step:
        click.echo(f"next: {next_step}", err=True)


def print_verdict(result: EvaluationResult) -> None:
    """Prints the table of arms and the verdict on stdout."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    table = Table(title="Test results, mean over seeds (SD)", title_justify="left", title_style="bold")
    table.add_column("arm", no_wrap=True)
    table.add_column("role")
    measures = {"balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1", "worst_class_recall": "worst class"}
    for heading in measures.values():
        table.add_column(heading, justify="right")
    for arm in sorted(result.arms, key=lambda arm: -arm.mean()):
        table.add_row(arm.name, arm.role, *(_mean_and_sd(arm.metrics[name]) for name in measures))
    console.print(table)
    console.print(f"verdict: {result.verdict.decision}", markup=False, style="bold")
    console.print(printable(result.verdict.text), markup=False)


def _mean_and_sd(metric: Mapping[str, float | None]) -> str:
    return f"{metric['mean']:.3f}" + ("" if metric["sd"] is None else f" ({metric['sd']:.3f})")


def finish_evaluation(
    augmenter: DiffusionAugmenter,
    result: EvaluationResult,
    command: str,
    as_json: bool,
    fail_under: float | None = None,
) -> None:
    """Prints what `run`, `demo` and `evaluate` end with.

    Raises:
        QualityGateError: The gain is not surely at least `fail_under` points.
    """
    report = augmenter.study.report
    if not as_json:
        print_verdict(result)
        click.echo(f"report: {report}", err=True)
        for sentence in augmenter.trackers_:
            click.echo(sentence, err=True)
    results = {**result.to_dict(), "report": str(report), "trackers": augmenter.runs_}
    _require_gain(result, fail_under, results)
    print_result(command, as_json, study=augmenter.study.path, results=results, next_step=f"open {quoted(report)}")


def finish_predictions(result: EvaluationResult, study: Path | None, fail_under: float | None, as_json: bool) -> None:
    """Prints the verdict about foreign predictions.

    Raises:
        QualityGateError: The gain is not surely at least `fail_under` points.
    """
    if not as_json:
        print_verdict(result)
        named = {role: [arm.name for arm in result.arms if arm.role == role] for role in ("real", "claim", "diagnosis")}
        said = [f"{role}: {', '.join(arms)}" for role, arms in named.items() if arms]
        click.echo(f"{'; '.join(said)}. The column role of the CSV changes this.", err=True)
    results = result.to_dict()
    _require_gain(result, fail_under, results)
    print_result("evaluate", as_json, study=study, results=results, next_step="")


def _require_gain(result: EvaluationResult, fail_under: float | None, results: Mapping[str, Any]) -> None:
    from diffaug.evaluation.verdict.decide import require_gain

    if fail_under is None:
        return
    try:
        require_gain(result, fail_under / 100)
    except QualityGateError as error:
        error.results = results
        raise
