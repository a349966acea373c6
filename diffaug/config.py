"""Settings of every stage, and how flags, environment, file and recipe become one resolved configuration."""

from __future__ import annotations

import difflib
import importlib.resources
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from diffaug.errors import UsageError
from diffaug.storage import fingerprint

ENVIRONMENT_PREFIX = "DIFFAUG_"

ARM_NAMES = (
    "real only",
    "oversampling",
    "balanced softmax",
    "real + synthetic",
    "balanced softmax + synthetic",
)

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
PositiveInt = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """Base of all settings: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSettings(Settings):
    """How images on disk become a catalog."""

    image_size: Annotated[int, Field(ge=4, le=512)] | None = Field(
        None, description="Working size in px (short side); none: the images' own, at most 64."
    )
    channels: Literal[1, 3] | None = Field(None, description="1 grey, 3 RGB; none: read off the images.")
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2, description="Share of each class held out for testing where the data has no test split."
    )
    min_train_images: PositiveInt = Field(2, description="Smallest number of training images a class may have.")


class DiffusionSettings(Settings):
    """How the generator is trained; none means: chosen by the plan."""

    minutes: Positive | None = Field(None, description="Training time; none and no images: 10.")
    images: PositiveInt | None = Field(None, description="Training length in images seen, instead of minutes.")
    base_channels: Annotated[int, Field(ge=8, multiple_of=8)] | None = Field(None, description="Width of the UNet.")
    batch_size: PositiveInt | None = Field(None, description="Images a training step.")
    learning_rate: Positive | None = Field(None, description="Peak learning rate of AdamW.")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="Dropout inside the UNet's blocks.")
    label_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="Share of labels hidden in training, which makes guidance possible."
    )
    class_temperature: Fraction = Field(
        0.5, description="A class of n images is drawn in proportion to n^q: 1 as found, 0 uniform."
    )
    horizontal_flip: bool = Field(False, description="Train on mirrored images too, if labels survive mirroring.")
    checkpoint_seconds: Positive = Field(60.0, description="Time between checkpoints.")
    grid_seconds: Positive = Field(60.0, description="Time between sample grids while training.")

    @model_validator(mode="after")
    def _one_budget(self) -> DiffusionSettings:
        if self.minutes is not None and self.images is not None:
            raise ValueError("set minutes or images, not both")
        return self


class SynthesisSettings(Settings):
    """How the generator becomes a pool of images."""

    sampling_strategy: str | float | dict[str, int] | list[str] = Field(
        "auto",
        description="imbalanced-learn's vocabulary: auto, minority, not minority, all, or totals by class.",
    )
    max_synthetic_ratio: Positive | None = Field(
        10.0, description="At most this many synthetic images for each real one of a class; none: no cap."
    )
    guidance_scale: Annotated[float, Field(ge=0)] = Field(1.0, description="1: no guidance; more: less diverse.")
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] = Field(12, description="Solver steps an image.")
    chunk_size: PositiveInt = Field(32, description="Images sampled together; part of the pool's identity.")
    off_class_confidence: Fraction = Field(
        0.95,
        description="An image is rejected when a classifier of the real images is this sure of another class.",
    )
    max_attempts: PositiveInt = Field(4, description="Images tried for each one wanted before a class is given up.")


class EvaluationSettings(Settings):
    """How the question 'did the classifier get better?' is answered."""

    arms: tuple[str, ...] = Field(ARM_NAMES, description="What is compared.")
    seeds: Annotated[int, Field(ge=3)] = Field(5, description="Paired repetitions of every arm.")
    updates: PositiveInt | None = Field(None, description="Optimiser updates of every arm; none: by the data.")
    batch_size: PositiveInt = Field(64, description="Images an update.")
    learning_rate: Positive = Field(3e-3, description="Peak learning rate of AdamW.")
    synthetic_weight: Positive = Field(0.5, description="Loss weight of a synthetic image; a real one has 1.")

    @model_validator(mode="after")
    def _known_arms(self) -> EvaluationSettings:
        unknown = [arm for arm in self.arms if arm not in ARM_NAMES]
        if unknown:
            raise ValueError(f"unknown arms {unknown}; there are: {', '.join(ARM_NAMES)}")
        return self


class TrackingSettings(Settings):
    """Where results are logged beside the study itself."""

    mlflow: bool = Field(True, description="Log to MLflow.")
    experiment: str | None = Field(None, description="MLflow experiment; none: diffaug/<study>.")


class Config(Settings):
    """Everything that can be set."""

    seed: Annotated[int, Field(ge=0)] = Field(0, description="Where all randomness begins.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is one.")
    data: DataSettings = DataSettings()
    diffusion: DiffusionSettings = DiffusionSettings()
    synthesis: SynthesisSettings = SynthesisSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    tracking: TrackingSettings = TrackingSettings()

    def fingerprint(self, *sections: str) -> str:
        """A short name of the seed and the named sections; all sections when none is named."""
        content = self.model_dump(mode="json")
        return fingerprint({key: content[key] for key in ("seed", *(sections or sorted(content)))})


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
        for key, value in values.items():
            _require_known(key, origin)
            for other in _conflicting(key):
                merged.pop(other, None)
                origins.pop(other, None)
            merged[key] = value
            origins[key] = origin
    return Resolved(_validate(merged, origins), origins)


def known_keys() -> dict[str, str]:
    """Every dotted key with its description."""
    keys: dict[str, str] = {}
    for name, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            for inner, inner_field in field.annotation.model_fields.items():
                keys[f"{name}.{inner}"] = inner_field.description or ""
        else:
            keys[name] = field.description or ""
    return keys


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
        return _read_text(Path(name))
    if name not in recipe_names():
        raise UsageError(f"there is no recipe '{name}'", fix=_suggest(name, recipe_names()))
    return importlib.resources.files("diffaug.recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def load_recipe(name: str) -> dict[str, Any]:
    """A recipe: `summary`, `when`, `cost` and `config`."""
    recipe = yaml.safe_load(recipe_text(name))
    if not isinstance(recipe, dict) or not isinstance(recipe.get("config"), dict):
        raise UsageError("a recipe needs a mapping under 'config'", where=name)
    return recipe


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping from a YAML file.

    Raises:
        UsageError: The file can't be read or holds something else.
    """
    try:
        content = yaml.safe_load(_read_text(path))
    except yaml.YAMLError as error:
        raise UsageError(f"not valid YAML: {error}", where=path) from error
    if not isinstance(content, dict):
        raise UsageError("a configuration file must hold sections such as 'diffusion:'", where=path)
    return content


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"can't read the file: {error.strerror}", where=path) from error


def _flatten(nested: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in nested.items():
        field = Config.model_fields.get(name)
        is_section = field is not None and isinstance(field.default, Settings)
        if is_section and isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", inner_value) for inner, inner_value in value.items())
        else:
            yield name, value


def _without_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    defaults = dict(_flatten(Config().model_dump(mode="json")))
    return {key: value for key, value in values.items() if key not in defaults or defaults[key] != value}


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    return {
        name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", "."): yaml.safe_load(text)
        for name, text in environment.items()
        if name.startswith(ENVIRONMENT_PREFIX)
    }


def _conflicting(key: str) -> tuple[str, ...]:
    """Keys that a stronger source's key replaces although they have another name."""
    pair = ("diffusion.minutes", "diffusion.images")
    return tuple(other for other in pair if key in pair and other != key)


def _require_known(key: str, origin: str) -> None:
    if key not in known_keys():
        raise UsageError(f"unknown setting '{key}'", where=origin, fix=_suggest(key, list(known_keys())))


def _suggest(name: str, known: list[str]) -> str:
    leaves = {key.rsplit(".", 1)[-1]: key for key in known}
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    near = near or [leaves[m] for m in difflib.get_close_matches(name.rsplit(".", 1)[-1], leaves, n=1, cutoff=0.5)]
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"


def _validate(merged: Mapping[str, Any], origins: Mapping[str, str]) -> Config:
    nested: dict[str, Any] = {}
    for key, value in merged.items():
        section, _, leaf = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[leaf] = value
    try:
        return Config.model_validate(nested)
    except ValidationError as error:
        first = error.errors()[0]
        key = next((k for n in (2, 1) if (k := ".".join(map(str, first["loc"][:n]))) in origins), "")
        key = key or ".".join(map(str, first["loc"]))
        raise UsageError(
            f"setting '{key}': {first['msg'].removeprefix('Value error, ')} (got {first.get('input')!r})",
            where=origins.get(key),
            fix=known_keys().get(key),
        ) from error
