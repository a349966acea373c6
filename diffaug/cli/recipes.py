"""The commands on ready configurations."""

from pathlib import Path

import click

from diffaug.cli import completion
from diffaug.cli.groups import Group, echo
from diffaug.cli.options import PATH, answers_in_json, json_option, note, print_result, quiet_option, quoted
from diffaug.configuration.yaml_files import load_recipe, recipe_names, recipe_text
from diffaug.errors import UsageError
from diffaug.files import storage


@click.group(cls=Group, invoke_without_command=True)
@click.pass_context
def recipes(context: click.Context) -> None:
    """Ready configurations: use one with --recipe NAME, or copy and change it."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@recipes.command("list")
@json_option
def list_recipes() -> None:
    """List the recipes with what each is for."""
    found = {name: load_recipe(name) for name in recipe_names()}
    if answers_in_json():
        print_result("recipes list", study=None, results=found)
        return
    for name, recipe in found.items():
        echo(f"{name}\n    {recipe['summary']}\n    cost: {recipe['cost']}")


@recipes.command()
@click.argument("name", shell_complete=completion.recipes)
def show(name: str) -> None:
    """Print the recipe NAME."""
    echo(recipe_text(name).removesuffix("\n"))


@recipes.command()
@click.argument("name", shell_complete=completion.recipes)
@click.argument("target", type=PATH)
@quiet_option
def copy(name: str, target: Path) -> None:
    """Copy the recipe NAME to the file or folder TARGET; change it and use it with --recipe TARGET."""
    if target.is_dir():
        target = target / f"{name}.yaml"
    if target.exists():
        raise UsageError("the file already exists", where=target, fix="choose another name")
    storage.write_text(target, recipe_text(name))
    note(f"next: diffaug run ./data --recipe {quoted(target)}")
