"""What the shell offers for values of options and arguments."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from diffaug.configuration.arms import ARM_NAMES
from diffaug.configuration.routes import route_names
from diffaug.configuration.sources import setting_fields
from diffaug.configuration.yaml_files import recipe_names

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def offering(values: Callable[[], Iterable[str]], *, files: bool = False) -> Complete:
    """Offers the values that begin with what was typed, and files if no value does and a file may be named."""

    def complete(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
        found = [CompletionItem(value) for value in values() if value.startswith(typed)]
        return found or ([CompletionItem(typed, type="file")] if files else [])

    return complete


def _complete_arms(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """Offers the arms that are not yet in a list with commas."""
    before, comma, last = typed.rpartition(",")
    rest = [name for name in ARM_NAMES if name not in before.split(",")]
    return [CompletionItem(f"{before}{comma}{name}") for name in rest if name.startswith(last)]


def _studies() -> list[str]:
    return sorted(str(record.parent) for record in Path("runs").glob("*/study.json"))


recipes = offering(recipe_names)
recipes_and_files = offering(recipe_names, files=True)
studies = offering(_studies, files=True)
assignments = offering(lambda: (f"{key}=" for key in setting_fields()))
OF_SETTINGS: Mapping[str, Complete] = {
    "diffusion.route": offering(lambda: ("auto", *route_names())),
    "encoder": offering(lambda: ("auto", "none", "efficientnet-lite0", "timm/", "torchvision/")),
    "evaluation.arms": _complete_arms,
    "evaluation.classifier": offering(lambda: ("small-cnn", "resnet-32", "timm/")),
    "synthesis.sampling_strategy": offering(lambda: ("auto", "minority", "not minority", "not majority", "all")),
}
"""By setting, where its type does not say the values."""
