"""Options that several commands have, and how commands answer."""

import json
import math
import os
import shlex
import shutil
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click

from diffaug.cli import completion
from diffaug.cli.groups import Output, echo, echo_json
from diffaug.configuration.sources import setting_fields
from diffaug.configuration.yaml_files import parse_value
from diffaug.errors import UsageError
from diffaug.runtime.console import printable
from diffaug.runtime.distributed import launched_together

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
PATH = click.Path(path_type=Path)


def _assignment(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator:
        raise UsageError(f"--set {text}: '=' is missing", fix="write for example: --set synthesis.guidance_scale=1.5")
    return key.strip(), parse_value(value, where=f"--set {key}")


def _set_output(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        setattr(context.ensure_object(Output), "as_json" if parameter.name == "json" else "quiet", True)


json_option = click.option(
    "--json", is_flag=True, expose_value=False, callback=_set_output, help="Print one JSON object on stdout."
)
quiet_option = click.option(
    *("-q", "--quiet"), is_flag=True, expose_value=False, callback=_set_output, help="Print results and errors only."
)
study_argument = click.argument("study", type=PATH, shell_complete=completion.studies)


def options(*decorators: Decorator) -> Decorator:
    """Adds several options, in this order in the help."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def settings_options(*keys: str) -> Decorator:
    """Adds a flag for each setting, and the options of all commands that do a part of the job."""
    return options(
        *map(setting_option, (*keys, "seed", "device", "encoder", "tracking.mlflow")),
        click.option(
            "--recipe",
            shell_complete=completion.recipes_and_files,
            help="Name or file of a ready configuration; see: diffaug recipes list.",
        ),
        click.option("--config", type=PATH, help="YAML file of settings."),
        click.option(
            *("--set", "assignments"),
            type=_assignment,
            multiple=True,
            metavar="KEY=VALUE",
            shell_complete=completion.assignments,
            help="Any setting, by its dotted key; repeatable.",
        ),
        click.option("--overwrite", is_flag=True, help="Replace results that were made with other settings."),
        quiet_option,
        json_option,
    )


def options_on_images(*keys: str) -> Decorator:
    """Adds DATA and `--study`, a flag for each setting, and the options of all commands that do a part of the job."""
    study = click.option("--study", type=PATH, default=None, help="Folder of the study.  [default: runs/NAME]")
    return options(click.argument("data", type=PATH), study, settings_options(*keys))


def setting_option(key: str) -> Decorator:
    """The flag of a setting, such as `--images-seen` of `diffusion.images_seen`, with its type, default and help."""
    field = setting_fields()[key]
    flag = f"--{key.rpartition('.')[2].replace('_', '-')}"
    kind, metavar = _click_type(field.annotation, flag)
    declaration = f"{flag}/--no-{flag[2:]}" if kind is bool else flag
    shown = str(field.default).lower() if isinstance(field.default, bool) else field.default
    default = "" if shown is None else f"  [default: {shown}]"
    return click.option(
        *(declaration, key.replace(".", "__")),
        type=None if kind is bool else kind,
        default=None,
        metavar=metavar,
        shell_complete=completion.OF_SETTINGS.get(key),
        help=f"{field.description}{default}",
    )


def _click_type(annotation: Any, flag: str) -> tuple[Any, str | None]:
    """The type of an option's text and its name in the help; ranges are left to the settings' own validation."""
    members = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    members = tuple(member for member in members if member is not types.NoneType)
    kind = members[0] if len(members) == 1 else None
    kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if get_origin(kind) is Literal:
        return click.Choice([str(value) for value in get_args(kind)]), None
    if get_origin(kind) is tuple:
        return (lambda text: [name.strip() for name in text.split(",")]), "NAME,..."
    if kind in (bool, int, float, str):
        return kind, None
    return (lambda text: parse_value(text, where=flag)), "VALUE"


def _a_number(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """Refuses nan, which no range does."""
    if value is not None and math.isnan(value):
        raise click.BadParameter("nan is not a number of points", context, parameter)
    return value


evaluation_options = options(
    setting_option("evaluation.arms"),
    setting_option("evaluation.quick"),
    setting_option("evaluation.thorough"),
    click.option(
        "--fail-under",
        type=click.FloatRange(-100, 100),
        callback=_a_number,
        default=None,
        metavar="POINTS",
        help="Exit with code 5 unless the gain is significantly at least this many points of balanced accuracy.",
    ),
)


def given_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among parsed options, by dotted key, without those that were not given."""
    fields = setting_fields()
    keys = {name: name.replace("__", ".") for name in values}
    return {keys[name]: value for name, value in values.items() if keys[name] in fields and value is not None}


def augmenter_arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `DiffusionAugmenter` from the options of `settings_options`."""
    settings = {**given_settings(values), **dict(values["assignments"])}
    return {"settings": settings, **{name: values[name] for name in ("recipe", "config", "overwrite")}, **narration()}


def narration() -> dict[str, Any]:
    """The arguments of `DiffusionAugmenter` that say what it reports."""
    return {"verbose": not _output().quiet, "command": typed_command()}


def typed_command() -> str:
    """The command line as it was typed; with torchrun, as it would be on one machine."""
    program = ["diffaug"]
    if launched_together():
        program = ["torchrun", "--nproc-per-node", os.environ.get("LOCAL_WORLD_SIZE", "1"), "-m", "diffaug"]
    return shlex.join([*program, *sys.argv[1:]])


def quoted(path: Path) -> str:
    """A path as it can be typed in a shell."""
    return shlex.quote(str(path))


def in_study(command: str, data: Path, study: Path | None, values: Mapping[str, Any]) -> str:
    """The command on the images, with the same settings, in the study that was named; else it is named after them."""
    named = ["--study", str(study)] if study else []
    return shlex.join(["diffaug", command, str(data), *named, *_typed_settings(values)])


def _typed_settings(values: Mapping[str, Any]) -> Iterator[str]:
    """The parsed options of `settings_options` as they can be typed, since a command that only looks keeps none."""
    for key, value in given_settings(values).items():
        flag = key.rpartition(".")[2].replace("_", "-")
        yield from [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    for name in ("recipe", "config"):
        yield from [f"--{name}", str(values[name])] if values[name] else []
    for key, value in values["assignments"]:
        yield from ["--set", f"{key}={json.dumps(value, ensure_ascii=False, default=str)}"]


def to_look_at(page: Path) -> str:
    """The command that opens a page, or what to do where there is none."""
    command = "open" if sys.platform == "darwin" else "xdg-open"
    return f"{command} {quoted(page)}" if shutil.which(command) else f"look at {quoted(page)} in a browser"


def print_result(command: str, *, study: Path | None, results: Mapping[str, Any], next_step: str = "") -> None:
    """Prints the result for programs with `--json`, else the next command for a person."""
    if answers_in_json():
        content = {
            "schema_version": 1,
            "command": command,
            "status": "ok",
            "study": None if study is None else str(study),
            "results": dict(results),
            "next": next_step,
        }
        echo_json(content)
    elif next_step:
        note(f"next: {next_step}")


def note(text: str) -> None:
    """Prints a line for a person on stderr, unless `--quiet` is given."""
    if not _output().quiet:
        echo(printable(text), err=True)


def answers_in_json() -> bool:
    """Whether `--json` is given."""
    return _output().as_json


def _output() -> Output:
    return click.get_current_context().ensure_object(Output)
