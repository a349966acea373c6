"""Every recipe that is shipped can be read, validated and used."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import pytest
import yaml

from diffaug.configuration import sources as config
from diffaug.configuration.settings import Config

SOURCE = Path(__file__).parents[2] / "recipes"
NAMES = config.recipe_names()


def test_every_file_of_the_folder_is_shipped() -> None:
    shipped = {item.name for item in importlib.resources.files("diffaug.recipes").iterdir()}

    assert {path.name for path in SOURCE.glob("*.yaml")} <= shipped
    assert len(NAMES) >= 4


@pytest.mark.parametrize("name", NAMES)
def test_recipe_says_what_it_is_for_and_what_it_costs(name: str) -> None:
    recipe = config.load_recipe(name)

    assert list(recipe) == ["summary", "when", "cost", "config"]
    assert all(recipe[key].strip() for key in ("summary", "when", "cost"))
    assert f"--recipe {name}\n" in config.recipe_text(name)


@pytest.mark.parametrize("name", NAMES)
def test_recipe_resolves_to_what_it_sets(name: str) -> None:
    resolved = config.resolve(recipe=name, environment={})
    settings = config.load_recipe(name)["config"]
    content = resolved.config.model_dump(mode="json")

    for section, values in settings.items():
        chosen = {key: content[section][key] for key in values} if isinstance(values, dict) else content[section]
        assert chosen == values
    assert set(resolved.origins.values()) == {f"recipe {name}"}


@pytest.mark.parametrize("name", NAMES)
def test_recipe_sets_nothing_to_its_default(name: str) -> None:
    defaults = Config().model_dump(mode="json")

    for section, values in config.load_recipe(name)["config"].items():
        for key, value in values.items() if isinstance(values, dict) else []:
            assert value != defaults[section][key], f"{section}.{key} is {value} anyway"


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_is_a_recipe_too_and_a_flag_wins_over_it(name: str, tmp_path: Path) -> None:
    copy = tmp_path / "mine.yaml"
    copy.write_text(config.recipe_text(name), encoding="utf-8")
    flags = {"diffusion.images_seen": 1000}

    assert yaml.safe_load(copy.read_text(encoding="utf-8")) == config.load_recipe(name)
    assert config.resolve(recipe=str(copy), environment={}).config == config.resolve(recipe=name, environment={}).config
    short = config.resolve(flags, recipe=name, environment={}).config.diffusion
    assert (short.images, short.minutes) == (1000, None)
