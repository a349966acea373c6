"""`diffaug recipes`: ready configurations."""

from __future__ import annotations

import json
from pathlib import Path

import click

from diffaug.cli.options import json_option, quoted
from diffaug.configuration import sources as config
from diffaug.errors import UsageError
from diffaug.files import storage


@click.group(invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """Ready configurations: use one with --recipe NAME, or copy and change it."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@command.command("ls")
@json_option
def list_recipes(as_json: bool) -> None:
    """List the recipes with what each is for."""
    recipes = {name: config.load_recipe(name) for name in config.recipe_names()}
    if as_json:
        click.echo(json.dumps(recipes, ensure_ascii=False))
        return
    for name, recipe in recipes.items():
        click.echo(f"{name}\n    {recipe['summary']}\n    cost: {recipe['cost']}")


@command.command()
@click.argument("name")
def show(name: str) -> None:
    """Print the recipe NAME."""
    click.echo(config.recipe_text(name), nl=False)


@command.command()
@click.argument("name")
@click.argument("target", type=click.Path(path_type=Path))
def cp(name: str, target: Path) -> None:
    """Copy the recipe NAME to TARGET, to change it and use it with --recipe TARGET."""
    if target.is_dir():
        target = target / f"{name}.yaml"
    if target.exists():
        raise UsageError("the file exists already", where=target, fix="choose another name")
    storage.write_text(target, config.recipe_text(name))
    click.echo(f"next: diffaug run ./data --recipe {quoted(target)}", err=True)
