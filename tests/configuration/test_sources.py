import itertools
import json
import types
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from diffaug.configuration.settings import ARM_NAMES, FAST_ARMS, Config
from diffaug.configuration.sources import known_keys, load_recipe, recipe_names, recipe_text, resolve, to_yaml
from diffaug.errors import UsageError

SECTIONS = ("data", "diffusion", "synthesis", "evaluation", "tracking")
# Every key with a value that is valid and not the default.
OTHER_VALUES = {
    "seed": 7,
    "device": "cpu",
    "data.image_size": 32,
    "data.channels": 1,
    "data.test_fraction": 0.3,
    "data.min_train_images": 5,
    "data.near_duplicates": False,
    "diffusion.minutes": 2.5,
    "diffusion.images_seen": 5000,
    "diffusion.preset": "medium",
    "diffusion.objective": "ddpm",
    "diffusion.base_channels": 64,
    "diffusion.batch_size": 16,
    "diffusion.learning_rate": 0.001,
    "diffusion.dropout": 0.0,
    "diffusion.precision": "bfloat16",
    "diffusion.compile": True,
    "diffusion.long_tail": "transfer",
    "diffusion.long_tail_strength": 0.5,
    "diffusion.augmentation": 0.12,
    "diffusion.augmentation_strength": 1.0,
    "diffusion.augmentation_mirrors": True,
    "diffusion.uncertainty_weighting": False,
    "diffusion.label_dropout": 0.2,
    "diffusion.class_temperature": 0.25,
    "diffusion.max_repeats": 90,
    "diffusion.holdout": 0.1,
    "diffusion.copy_check_fraction": 0.05,
    "diffusion.stop_on_copying": False,
    "diffusion.horizontal_flip": True,
    "diffusion.checkpoint_seconds": 5.0,
    "diffusion.grid_seconds": 5.0,
    "synthesis.sampling_strategy": {"cat": 50, "no": 3, "7": 9},
    "synthesis.max_synthetic_ratio": None,
    "synthesis.solver": "ancestral",
    "synthesis.num_inference_steps": 20,
    "synthesis.guidance_method": "autoguidance",
    "synthesis.guidance_scale": 2.0,
    "synthesis.variation_fraction": 0.5,
    "synthesis.variation_strength": [0.25, 0.5],
    "synthesis.guidance_interval": [0.1, 3.0],
    "synthesis.chunk_size": 8,
    "synthesis.filters": ["constant", "copy"],
    "synthesis.false_rejection_rate": 0.1,
    "synthesis.filter_max_steps": 30,
    "synthesis.copy_false_positive_rate": 0.01,
    "synthesis.max_attempts": 9,
    "evaluation.thorough": True,
    "evaluation.num_generators": 3,
    "evaluation.arms": ["real only", "real + synthetic"],
    "evaluation.num_seeds": 9,
    "evaluation.max_steps": 100,
    "evaluation.batch_size": 32,
    "evaluation.learning_rate": 0.01,
    "evaluation.optimizer": "sgd",
    "evaluation.classifier": "resnet-32",
    "evaluation.checkpoint": "resnet.safetensors",
    "evaluation.horizontal_flip": True,
    "evaluation.finish": "batch norm",
    "evaluation.synthetic_fraction": 0.25,
    "evaluation.synthetic_fraction_grid": [0.0, 0.4],
    "evaluation.synthetic_loss_weights": [0.5],
    "evaluation.max_synthetic_ratios": [None, 3.0],
    "evaluation.workers": 2,
    "evaluation.drop_leaked": True,
    "tracking.mlflow": False,
    "tracking.experiment": "Größe: 3",
    "tracking.model": "digits",
}


def value_of(config: Config, key: str):
    for name in key.split("."):
        config = getattr(config, name)
    return list(config) if isinstance(config, tuple) else config


def nested(key: str, value) -> dict:
    section, _, leaf = key.rpartition(".")
    return {section: {leaf: value}} if section else {leaf: value}


def variable(key: str, value) -> dict[str, str]:
    return {f"DIFFAUG_{key.upper().replace('.', '__')}": json.dumps(value)}


class Sources:
    """Writes one key into any of the sources, and resolves them."""

    def __init__(self, folder: Path):
        self.folder = folder

    def resolve(self, key: str, **values):
        arguments = {"environment": {}}
        for source, value in values.items():
            if source == "flag":
                arguments["flags"] = {key: value}
            elif source == "environment":
                arguments["environment"] = variable(key, value)
            elif source == "file":
                arguments["file"] = self.write("file.yaml", nested(key, value))
            elif source == "recipe":
                arguments["recipe"] = str(self.write("recipe.yaml", {"config": nested(key, value)}))
            else:
                arguments["base"] = nested(key, value)
        return resolve(**arguments)

    def write(self, name: str, content) -> Path:
        path = self.folder / name
        path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
        return path


@pytest.fixture
def sources(tmp_path) -> Sources:
    return Sources(tmp_path)


STRENGTH = ("flag", "environment", "file", "recipe", "study")


@pytest.mark.parametrize("weakest", range(len(STRENGTH)))
@pytest.mark.parametrize("key", ["seed", "diffusion.batch_size"])
def test_the_strongest_source_wins_and_is_named(sources, tmp_path, key, weakest):
    for strongest in range(weakest + 1):
        values = {STRENGTH[place]: 10 + place for place in range(strongest, weakest + 1)}
        resolved = sources.resolve(key, **values)
        origin = {"file": f"file {tmp_path / 'file.yaml'}", "recipe": f"recipe {tmp_path / 'recipe.yaml'}"}
        assert value_of(resolved.config, key) == 10 + strongest
        assert resolved.origins == {key: origin.get(STRENGTH[strongest], STRENGTH[strongest])}


def test_without_sources_everything_is_default():
    resolved = resolve(environment={"PATH": "/bin", "DIFFAUGSEED": "3"})
    assert resolved.config == Config()
    assert resolved.origins == {}


def test_the_process_environment_is_read(monkeypatch):
    monkeypatch.setenv("DIFFAUG_EVALUATION__NUM_SEEDS", "9")
    assert resolve().config.evaluation.seeds == 9


def test_sources_are_merged_key_by_key(sources):
    file = sources.write("c.yaml", {"diffusion": {"dropout": 0.3, "batch_size": 8}, "data": None, "seed": 1})
    resolved = resolve({"diffusion.batch_size": 4}, environment=variable("seed", 2), file=file)
    settings = resolved.config.diffusion
    assert (resolved.config.seed, settings.dropout, settings.batch_size) == (2, 0.3, 4)


def test_saved_values_that_are_defaults_have_no_origin():
    saved = yaml.safe_load(to_yaml(Config(seed=3)))
    assert resolve(environment={}, base=saved).origins == {"seed": "study"}


def leaves(model: type[BaseModel], prefix: str = "") -> dict[str, str | None]:
    found = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and not isinstance(kind, types.GenericAlias) and issubclass(kind, BaseModel):
            found |= leaves(kind, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = field.description
    return found


def test_every_field_is_a_known_key_with_a_description():
    assert known_keys() == leaves(Config)
    assert all(known_keys().values())
    assert known_keys().keys() == OTHER_VALUES.keys()


@pytest.mark.parametrize("source", STRENGTH)
@pytest.mark.parametrize(("key", "value"), OTHER_VALUES.items(), ids=OTHER_VALUES)
def test_every_key_can_be_set_from_every_source(sources, key, value, source):
    assert value_of(Config(), key) != value
    resolved = sources.resolve(key, **{source: value})
    assert value_of(resolved.config, key) == value
    assert list(resolved.origins) == [key]


@pytest.mark.parametrize("dropped", ["diffusion.minutes", "diffusion.images_seen"])
def test_yaml_reads_back_from_study_and_file(sources, dropped):
    flags = {key: value for key, value in OTHER_VALUES.items() if key != dropped}
    config = resolve(flags, environment={}).config
    text = to_yaml(config)
    assert resolve(environment={}, base=yaml.safe_load(text)).config == config
    file = sources.folder / "saved.yaml"
    file.write_text(text, encoding="utf-8")
    assert resolve(environment={}, file=file).config == config


text = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=8)
strategies = (
    st.sampled_from(["auto", "minority", "not minority", "all"])
    | st.floats(0.01, 1)
    | st.lists(text, max_size=3)
    | st.dictionaries(text, st.integers(0, 10**6), max_size=3)
)


@settings(deadline=None)
@given(strategies, st.integers(0, 2**63 - 1), st.none() | st.floats(1e-9, 1e9), text)
def test_any_printable_value_survives_yaml(strategy, seed, ratio, experiment):
    config = Config(
        seed=seed,
        synthesis={"sampling_strategy": strategy, "max_synthetic_ratio": ratio},
        tracking={"experiment": experiment},
    )
    assert resolve(environment={}, base=yaml.safe_load(to_yaml(config))).config == config


@pytest.mark.parametrize(
    ("stored", "meant"),
    [({3: 100}, {"3": 100}), ([3, 8], ["3", "8"]), (0.5, 0.5), ("0.5", 0.5), (1, 1.0), ("auto", "auto")],
)
def test_classes_named_by_numbers_are_names(sources, stored, meant):
    resolved = sources.resolve("synthesis.sampling_strategy", file=stored)
    assert resolved.config.synthesis.sampling_strategy == meant


@pytest.mark.parametrize(("strong", "weak"), [*itertools.combinations(STRENGTH, 2)])
def test_a_stronger_length_of_training_replaces_a_weaker_one_of_the_other_kind(sources, strong, weak):
    for key, other in (("minutes", "images"), ("images", "minutes")):
        resolved = combined(sources, {strong: {key: 5}, weak: {other: 50}})
        assert getattr(resolved.config.diffusion, key) == 5
        assert getattr(resolved.config.diffusion, other) is None
        assert list(resolved.origins) == [f"diffusion.{key}"]


def combined(sources: Sources, by_source: dict):
    arguments = {"environment": {}}
    for source, diffusion in by_source.items():
        if source == "flag":
            arguments["flags"] = {f"diffusion.{key}": value for key, value in diffusion.items()}
        elif source == "environment":
            for key, value in diffusion.items():
                arguments["environment"] |= variable(f"diffusion.{key}", value)
        elif source == "study":
            arguments["base"] = {"diffusion": diffusion}
        else:
            content = {"diffusion": diffusion}
            path = sources.write(f"{source}.yaml", content if source == "file" else {"config": content})
            arguments[source] = path if source == "file" else str(path)
    return resolve(**arguments)


@pytest.mark.parametrize("source", STRENGTH)
@pytest.mark.parametrize("names", [("minutes", "images"), ("images", "minutes")])
def test_both_lengths_from_one_source_are_a_contradiction(sources, source, names):
    with pytest.raises(UsageError, match="minutes or images, not both") as caught:
        combined(sources, {source: dict.fromkeys(names, 5)})
    assert source in caught.value.where


def test_an_empty_length_replaces_nothing_of_the_other_kind(sources):
    resolved = combined(sources, {"flag": {"images": None}, "file": {"minutes": 5}})
    assert resolved.config.diffusion.minutes == 5


@pytest.mark.parametrize("source", STRENGTH)
@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("diffusion.minuts", "'diffusion.minutes'?"),
        ("difusion.minutes", "'diffusion.minutes'?"),
        ("minutes", "'diffusion.minutes'?"),
        ("seeds", "'evaluation.num_seeds'?"),
        ("sede", "'seed'?"),
        ("synthesis.learning_rate", "'diffusion.learning_rate' or 'evaluation.learning_rate'?"),
        ("tracking.qqqqqqqqqqqqqqqq", "known: seed, device, data.image_size"),
    ],
)
def test_an_unknown_key_names_the_nearest_and_its_source(sources, source, wrong, meant):
    with pytest.raises(UsageError, match=f"unknown setting '{wrong}'") as caught:
        sources.resolve(wrong, **{source: 1})
    assert meant in caught.value.fix
    assert source in caught.value.where


@pytest.mark.parametrize("source", STRENGTH)
@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("seed", -1, "greater than or equal to 0"),
        ("seed", "many", "integer"),
        ("device", "tpu", "'auto', 'cpu' or 'cuda'"),
        ("data.test_fraction", 1, "less than 1"),
        ("data.channels", 2, "1 or 3"),
        ("diffusion.base_channels", 40, "multiple of 16"),
        ("diffusion.minutes", 0, "greater than 0"),
        ("diffusion.horizontal_flip", "perhaps", "boolean"),
        ("synthesis.sampling_strategy", {"cat": "many"}, "integer"),
        ("synthesis.sampling_strategy", "minorty", "words: auto, not majority"),
        ("synthesis.guidance_scale", "much", "number"),
        ("synthesis.guidance_interval", [2, 1], "lower end"),
        ("synthesis.solver", "plms", "'dpm_solver_2m'"),
        ("evaluation.arms", ["real only", "unreal"], "unreal"),
        ("evaluation.arms", ["real only", "oversampling"], "at least one of real only"),
        ("evaluation.arms", ["real only", "real only", "real + synthetic"], "distinct"),
        ("evaluation.num_seeds", 0, "greater than or equal to 1"),
    ],
)
def test_a_wrong_value_names_its_key_value_and_source(sources, source, key, value, reason):
    with pytest.raises(UsageError, match=reason) as caught:
        sources.resolve(key, **{source: value})
    assert caught.value.what.startswith(f"setting '{key}': ")
    assert "got" in caught.value.what
    assert source in caught.value.where
    assert caught.value.fix == known_keys()[key]


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_lengths_are_finite(value):
    with pytest.raises(UsageError, match=r"diffusion\.minutes"):
        resolve({"diffusion.minutes": value}, environment={})


def test_an_environment_variable_that_is_not_yaml_is_named():
    with pytest.raises(UsageError, match="YAML") as caught:
        resolve(environment={"DIFFAUG_SEED": "[1,"})
    assert caught.value.where == "DIFFAUG_SEED"


@pytest.mark.parametrize("key", SECTIONS)
def test_a_section_takes_no_value(sources, key):
    with pytest.raises(UsageError, match=f"'{key}' is a section"):
        sources.resolve(key, file=5)
    assert sources.resolve(key, file=None).config == Config()


def test_a_key_that_is_no_text_is_unknown_not_a_crash(sources):
    with pytest.raises(UsageError, match="unknown setting '1'"):
        resolve(environment={}, file=sources.write("c.yaml", {1: 2}))


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(ValueError, match="frozen"):
        Config().seed = 3


def test_bundled_recipes_are_listed_by_name_and_resolve():
    for name in recipe_names():
        assert yaml.safe_load(recipe_text(name)) == load_recipe(name)
        assert set(resolve(environment={}, recipe=name).origins.values()) <= {f"recipe {name}"}


def test_an_unknown_recipe_is_refused():
    with pytest.raises(UsageError, match="no recipe 'nonesuch'"):
        resolve(environment={}, recipe="nonesuch")


@pytest.mark.parametrize("content", [[], {"summary": "x"}, {"config": 3}, {"config": None}])
def test_a_recipe_without_a_config_is_refused(sources, content):
    path = sources.write("recipe.yaml", content)
    with pytest.raises(UsageError, match="config") as caught:
        load_recipe(str(path))
    assert caught.value.where == str(path)


def test_the_arms_compared_by_default_leave_out_controls_and_diagnoses():
    settings = Config().evaluation
    assert (settings.compared_arms, settings.repetitions, settings.num_generators) == (FAST_ARMS, 5, 1)


def test_a_thorough_evaluation_fills_in_what_is_not_set():
    settings = resolve({"evaluation.thorough": True, "evaluation.num_seeds": 4}, environment={}).config.evaluation
    assert (settings.compared_arms, settings.repetitions, settings.num_generators) == (ARM_NAMES, 4, 2)


def test_one_word_where_a_list_belongs_says_how_to_write_it() -> None:
    with pytest.raises(UsageError) as caught:
        resolve({"synthesis.filters": "copy"}, environment={})
    assert caught.value.fix == "write a list: synthesis.filters=[copy]"
