"""Merges flags, environment, file, recipe and saved settings into one configuration."""

import difflib
import itertools
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from diffaug.configuration.settings import SECTIONS, Config
from diffaug.configuration.yaml_files import load_recipe, parse_value, read_yaml
from diffaug.errors import UsageError

ENVIRONMENT_PREFIX = "DIFFAUG_"
_COUNTS = ("evaluation.num_seeds", "evaluation.num_generators")


@dataclass(frozen=True)
class Resolved:
    """A configuration, the source of each value that is not a default, and what looks like a mistake."""

    config: Config
    origins: Mapping[str, str]
    warnings: tuple[str, ...] = ()


def resolve(
    flags: Mapping[str, Any] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
    recipe: str | None = None,
    base: Mapping[str, Any] | None = None,
    without: Collection[str] = (),
) -> Resolved:
    """Merges all sources; the first one that sets a key wins: flag, environment, file, recipe, base, default.

    Args:
        flags: Values by dotted key, such as `{"diffusion.minutes": 10}`.
        environment: Variables such as `DIFFAUG_DIFFUSION__MINUTES`. Default: those of the process.
        file: A YAML file of nested sections.
        recipe: Name or path of a recipe.
        base: Nested values: those saved in the study.
        without: Keys that are left out wherever they are set. With `evaluation.quick` go the numbers of seeds and
            generators that are set with it or over it.

    Raises:
        UsageError: A key is unknown (the error suggests the nearest one) or a value is out of range.
    """
    variables, warnings = _from_environment(os.environ if environment is None else environment)
    defaults = dict(_flatten(Config().model_dump(mode="json")))
    saved = {key: value for key, value in _flatten(base or {}) if key not in defaults or defaults[key] != value}
    sources = [
        ("study", saved),
        (f"recipe {recipe}", dict(_flatten(load_recipe(recipe)["config"])) if recipe else {}),
        (f"file {file}", dict(_flatten(read_yaml(file))) if file else {}),
        ("environment", variables),
        ("flag", dict(flags or {})),
    ]
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    left_out = set(without)
    for origin, given in sources:
        for key in given:
            _require_known(key, origin)
        left_out = _left_out(given, without, left_out)
        values = {key: value for key, value in given.items() if key not in left_out}
        for other in _overruled(values):
            merged.pop(other, None)
            origins.pop(other, None)
        merged |= values
        origins |= dict.fromkeys(values, origin)
    config = _validate(merged, origins)
    values = dict(_flatten(config.model_dump(mode="json")))  # numbers in lists of a file are texts above
    told = {key: origin for key, origin in origins.items() if origin != "study" or values[key] != defaults[key]}
    return Resolved(config, told, warnings)


def setting_fields() -> dict[str, FieldInfo]:
    """The field of every setting, by dotted key."""
    fields = {name: field for name, field in Config.model_fields.items() if name not in SECTIONS}
    for section in SECTIONS:
        inner = type(Config.model_fields[section].default).model_fields
        fields |= {f"{section}.{name}": field for name, field in inner.items()}
    return fields


def to_yaml(config: Config, *, without: Collection[str] = ()) -> str:
    """The configuration, except for some of its keys, as YAML that `--config` reads back."""
    content = config.model_dump(mode="json")
    for key in without:
        section, _, leaf = key.rpartition(".")
        del (content[section] if section else content)[leaf]
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _flatten(nested: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in nested.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", inner_value) for inner, inner_value in value.items())
        elif value is not None or name not in SECTIONS:
            yield str(name), value


def _from_environment(environment: Mapping[str, str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The settings in the environment, and a warning for each other variable, such as DIFFAUG_VERSION of a CI."""
    known, values, warnings = setting_fields(), {}, []
    for name, text in environment.items():
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        key = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
        if key in known or (key.partition(".")[0] in SECTIONS and "." in key):
            values[key] = parse_value(text, where=name)
        else:
            near = _nearest(key, list(known), cutoff=0.7)
            variables = (f"{ENVIRONMENT_PREFIX}{one.upper().replace('.', '__')}" for one in near)
            hint = f"; did you mean {' or '.join(variables)}?" if near else ""
            warnings.append(f"the environment variable {name} is not a setting and was ignored{hint}")
    return values, tuple(warnings)


def _overruled(values: Mapping[str, Any]) -> Iterator[str]:
    """Keys of weaker sources that `values` replaces although they have another name."""
    for key, other in itertools.permutations(("diffusion.minutes", "diffusion.images_seen")):
        if values.get(key) is not None:
            yield other
    for key, other in itertools.permutations(("evaluation.thorough", "evaluation.quick")):
        if values.get(key):
            yield from (other, "evaluation.arms", *_COUNTS)


def _left_out(values: Mapping[str, Any], without: Collection[str], so_far: set[str]) -> set[str]:
    """The keys to leave out of a source and of stronger ones; `so_far` are those of weaker ones."""
    if "evaluation.quick" not in without or not values.keys() & {"evaluation.quick", "evaluation.thorough"}:
        return so_far
    return {*without, *(_COUNTS if values.get("evaluation.quick") else ())}


def _require_known(key: str, origin: str) -> None:
    if key in SECTIONS:
        raise UsageError(f"'{key}' is a section and takes no value itself", where=origin)
    known = list(setting_fields())
    if key not in known:
        near = _nearest(key, known)
        fix = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known settings: {', '.join(known)}"
        raise UsageError(f"unknown setting '{key}'", where=origin, fix=fix)


def _nearest(name: str, known: list[str], cutoff: float = 0.5) -> list[str]:
    leaves: dict[str, list[str]] = {}
    for key in known:
        leaves.setdefault(key.rpartition(".")[2], []).append(key)
    leaf = name.rpartition(".")[2]
    near = leaves.get(leaf) or difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return near or [leaves[match][0] for match in difflib.get_close_matches(leaf, leaves, n=1, cutoff=cutoff)]


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
        field = setting_fields().get(key)
        description = " ".join(field.description.split()) if field and field.description else None
        raise UsageError(
            f"setting '{key}': {deepest['msg'].removeprefix('Value error, ')} (got {deepest['input']!r})",
            where=", ".join(sources) or None,
            fix=f"write a list: {key}=[{deepest['input']}]" if one_word else description,
        ) from error
