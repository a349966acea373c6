"""Reads YAML: values, files and recipes; errors name the file, variable or option that holds it."""

import importlib.resources
import os
from pathlib import Path
from typing import Any

import yaml

from diffaug.errors import UsageError, did_you_mean


def parse_value(text: str, *, where: str | os.PathLike[str]) -> Any:
    """Parses YAML; `where` is the file, variable or option that an error names."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"not valid YAML: {error}", where=where) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a mapping from a YAML file; an empty file is an empty mapping."""
    content = parse_value(read_text(path), where=path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError("expected a mapping with sections such as 'diffusion:'", where=path)
    return content


def read_text(path: Path) -> str:
    """Reads the text of a UTF-8 file that the user named."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"can't read the file: {error}", where=path) from error


def recipe_names() -> list[str]:
    """Names of the recipes that come with diffaug."""
    files = importlib.resources.files("diffaug.recipes").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def recipe_text(name: str) -> str:
    """The YAML of a recipe, by name or path."""
    if name.endswith((".yaml", ".yml")):
        return read_text(Path(name))
    names = recipe_names()
    if name not in names:
        raise UsageError(f"unknown recipe '{name}'", fix=did_you_mean(name, names))
    return importlib.resources.files("diffaug.recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def load_recipe(name: str) -> dict[str, Any]:
    """A recipe, by name or path: a mapping with `summary`, `when`, `cost` and `config`."""
    recipe = parse_value(recipe_text(name), where=name)
    if not isinstance(recipe, dict) or not isinstance(recipe.get("config"), dict):
        raise UsageError("a recipe needs a mapping under 'config'", where=name)
    return recipe
