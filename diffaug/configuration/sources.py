"""How flags, environment, file and recipe become one resolved configuration."""

from __future__ import annotations

import difflib
import importlib.resources
import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from diffaug.configuration.settings import SECTIONS, Config
from diffaug.configuration.yaml_files import parse_value, read_text
from diffaug.configuration.yaml_files import read_yaml as read_yaml  # noqa: PLC0414  (callers reach it through config)
from diffaug.errors import UsageError

ENVIRONMENT_PREFIX = "DIFFAUG_"


@dataclass(frozen=True)
class Resolved:
    """A configuration and where each value that is not a default came from."""

    config: Config
    origins: Mapping[str, str]


def resolve(
    flags: Mapping[str, Any] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
    recipe: str | None = None,
    base: Mapping[str, Any] | None = None,
) -> Resolved:
    """Merges all sources; the first that sets a key wins: flag, environment, file, recipe, base, default.

    Args:
        flags: Values by dotted key, such as `{"diffusion.minutes": 10}`.
        environment: Variables such as `DIFFAUG_DIFFUSION__MINUTES`; none: the process's own.
        file: A YAML file of nested sections.
        recipe: Name of a recipe that comes with diffaug, or the path of one.
        base: Nested values below all others: those saved in the study.

    Raises:
        UsageError: An unknown key (the nearest one is named) or a value out of range.
    """
    sources = [
        ("study", _without_defaults(dict(_flatten(base or {})))),
        (f"recipe {recipe}", dict(_flatten(load_recipe(recipe)["config"])) if recipe else {}),
        (f"file {file}", dict(_flatten(read_yaml(file))) if file else {}),
        ("environment", _from_environment(os.environ if environment is None else environment)),
        ("flag", dict(flags or {})),
    ]
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, values in sources:
        for key in values:
            _require_known(key, origin)
        for other in _overruled(values):
            merged.pop(other, None)
            origins.pop(other, None)
        merged |= values
        origins |= dict.fromkeys(values, origin)
    return Resolved(_validate(merged, origins), origins)


def known_keys() -> dict[str, str]:
    """Every dotted key with its description."""
    fields = {name: field for name, field in Config.model_fields.items() if name not in SECTIONS}
    for section in SECTIONS:
        inner = type(Config.model_fields[section].default).model_fields
        fields |= {f"{section}.{name}": field for name, field in inner.items()}
    return {key: field.description or "" for key, field in fields.items()}


def to_yaml(config: Config) -> str:
    """The whole configuration as YAML that `--config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def recipe_names() -> list[str]:
    """Names of the recipes that come with diffaug."""
    folder = importlib.resources.files("diffaug.recipes")
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def recipe_text(name: str) -> str:
    """The YAML of a recipe, by name or path.

    Raises:
        UsageError: No such recipe.
    """
    if name.endswith((".yaml", ".yml")):
        return read_text(Path(name))
    if name not in recipe_names():
        raise UsageError(f"there is no recipe '{name}'", fix=_suggest(name, recipe_names()))
    return importlib.resources.files("diffaug.recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def load_recipe(name: str) -> dict[str, Any]:
    """A recipe: `summary`, `when`, `cost` and `config`."""
    recipe = parse_value(recipe_text(name), where=name)
    if not isinstance(recipe, dict) or not isinstance(recipe.get("config"), dict):
        raise UsageError("a recipe needs a mapping under 'config'", where=name)
    return recipe


def _flatten(nested: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in nested.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", inner_value) for inner, inner_value in value.items())
        elif value is not None or name not in SECTIONS:
            yield str(name), value


def _without_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    defaults = dict(_flatten(Config().model_dump(mode="json")))
    return {key: value for key, value in values.items() if key not in defaults or defaults[key] != value}


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    return {
        name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", "."): parse_value(text, where=name)
        for name, text in environment.items()
        if name.startswith(ENVIRONMENT_PREFIX)
    }


def _overruled(values: Mapping[str, Any]) -> Iterator[str]:
    """Keys of weaker sources that `values` replaces although they have another name."""
    for key, other in itertools.permutations(("diffusion.minutes", "diffusion.images_seen")):
        if values.get(key) is not None:
            yield other


def _require_known(key: str, origin: str) -> None:
    if key in SECTIONS:
        raise UsageError(f"'{key}' is a section and can't have a value of its own", where=origin)
    if key not in known_keys():
        raise UsageError(f"unknown setting '{key}'", where=origin, fix=_suggest(key, list(known_keys())))


def _suggest(name: str, known: list[str]) -> str:
    leaves: dict[str, list[str]] = {}
    for key in known:
        leaves.setdefault(key.rpartition(".")[2], []).append(key)
    leaf = name.rpartition(".")[2]
    near = leaves.get(leaf) or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    near = near or [leaves[match][0] for match in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.5)]
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(known)}"


def _validate(merged: Mapping[str, Any], origins: Mapping[str, str]) -> Config:
    nested: dict[str, Any] = {}
    for key, value in merged.items():
        section, _, leaf = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[leaf] = value
    try:
        return Config.model_validate(nested)
    except ValidationError as error:
        deepest = max(error.errors(), key=lambda one: len(one["loc"]))  # of a union, the branch that fitted best
        key = ".".join(map(str, deepest["loc"][: 2 if deepest["loc"][0] in SECTIONS else 1]))
        sources = dict.fromkeys(origin for name, origin in origins.items() if f"{name}.".startswith(f"{key}."))
        one_word = deepest["type"] == "tuple_type" and isinstance(deepest["input"], str)
        raise UsageError(
            f"setting '{key}': {deepest['msg'].removeprefix('Value error, ')} (got {deepest['input']!r})",
            where=", ".join(sources) or None,
            fix=f"write a list: {key}=[{deepest['input']}]" if one_word else known_keys().get(key),
        ) from error
