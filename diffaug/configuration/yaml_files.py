"""Reads YAML: values, files and recipes; errors name the file, variable or option that holds it."""

import importlib.resources
import os
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from diffaug.errors import UsageError, did_you_mean
from diffaug.files.reading import require_few_values, require_given_file

MOST_BYTES, MOST_VALUES = 2**20, 100_000


class _Loader(yaml.SafeLoader):
    """Keeps names as they are written.

    YAML reads a class named `no` as false, `010` as 8 and `2020-01-01` as a date. So keys and the elements of lists,
    which may be names, stay text; settings turn text into numbers themselves. A key that is there twice is an error.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConstructorError(None, None, "a key must be a text", key.start_mark)
            if key.value in seen:
                raise ConstructorError(None, None, f"the key '{key.value}' is there twice", key.start_mark)
            seen.add(key.value)
        self.flatten_mapping(node)
        return {key.value: self.construct_object(value, deep=deep) for key, value in node.value}

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MOST_VALUES:
            raise ConstructorError(None, None, "too many keys", node.start_mark)

    def construct_sequence(self, node: yaml.SequenceNode, deep: bool = False) -> list[Any]:
        return [self._written(item) for item in node.value]

    def _written(self, node: yaml.Node) -> Any:
        return node.value if isinstance(node, yaml.ScalarNode) else self.construct_object(node, deep=True)


def parse_value(text: str, *, where: str | os.PathLike[str]) -> Any:
    """Parses YAML; `where` is the file, variable or option that an error names. Names stay text, see `_Loader`."""
    try:
        content = yaml.load(text, Loader=_Loader)  # noqa: S506  (a SafeLoader)
        require_few_values(content, MOST_VALUES)
        return content
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # such as an integer of thousands of digits
        what = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UsageError(f"not valid YAML: {what}", where=where, fix="write it as in the documentation") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a mapping from a YAML file; an empty file is an empty mapping."""
    return parse_mapping(read_text(path), where=path)


def parse_mapping(text: str, *, where: Path) -> dict[str, Any]:
    """Parses a mapping; no text is an empty one."""
    content = parse_value(text, where=where)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError("expected a mapping with sections such as 'diffusion:'", where=where)
    return content


def read_text(path: Path) -> str:
    """Reads the text of a UTF-8 file that the user named."""
    require_given_file(path, MOST_BYTES)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"can't read the file: {error}", where=path, fix="give a text file in UTF-8") from error


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
