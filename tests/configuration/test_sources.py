import itertools
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from diffaug.configuration.settings import OF_ONE_CALL, SECTIONS, Config
from diffaug.configuration.sources import Resolved, resolve, setting_fields, to_yaml
from diffaug.configuration.yaml_files import parse_mapping
from diffaug.errors import UsageError

CANDIDATES = [2, 9, 0.5, 0.03, 64, False, True, [0.25, 0.5], ["constant"], ["real only", "real + synthetic"], "a: Ü"]
CANDIDATES += ["pixels"]  # a route
CANDIDATES += [str(Path("a: Ü").absolute())]  # of a folder
STRENGTH = ("flag", "environment", "file", "recipe", "study")
MINUTES, IMAGES_SEEN = "diffusion.minutes", "diffusion.images_seen"


def other_value(key: str) -> Any:
    """A valid value of the setting that is not its default."""
    choices = [one for one in literals(setting_fields()[key].annotation) if isinstance(one, str | int)]
    for value in [*choices, *CANDIDATES]:
        try:
            if value_of(resolve({key: value}, environment={}).config, key) == value != value_of(Config(), key):
                return value
        except UsageError:
            continue
    raise AssertionError(f"add a value for {key} to the candidates")


def literals(annotation: Any) -> list[Any]:
    inner = get_args(annotation)
    return [one for part in inner for one in (literals(part) if get_args(part) else [part])]


def value_of(config: Config, key: str):
    for name in key.split("."):
        config = getattr(config, name)
    return list(config) if isinstance(config, tuple) else config


def nested(values: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        section, _, leaf = key.rpartition(".")
        (found.setdefault(section, {}) if section else found)[leaf] = value
    return found


def variables(values: dict[str, Any]) -> dict[str, str]:
    return {f"DIFFAUG_{key.upper().replace('.', '__')}": yaml.safe_dump(value) for key, value in values.items()}


@pytest.fixture
def combined(tmp_path):
    """Writes values by dotted key into each of the sources that are named, and resolves them."""

    def write(name: str, content: dict[str, Any]) -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
        return path

    def combine(by_source: dict[str, dict[str, Any]]) -> Resolved:
        file, recipe = by_source.get("file"), by_source.get("recipe")
        return resolve(
            by_source.get("flag"),
            environment=variables(by_source.get("environment", {})),
            file=write("file.yaml", nested(file)) if file else None,
            recipe=str(write("recipe.yaml", {"config": nested(recipe)})) if recipe else None,
            base=nested(by_source.get("study", {})),
        )

    return combine


@pytest.mark.parametrize("weakest", range(len(STRENGTH)))
@pytest.mark.parametrize("key", ["seed", "diffusion.batch_size"])
def test_the_strongest_source_wins_and_is_named(combined, tmp_path, key, weakest):
    for strongest in range(weakest + 1):
        resolved = combined({STRENGTH[place]: {key: 10 + place} for place in range(strongest, weakest + 1)})
        origin = {"file": f"file {tmp_path / 'file.yaml'}", "recipe": f"recipe {tmp_path / 'recipe.yaml'}"}
        assert value_of(resolved.config, key) == 10 + strongest
        assert resolved.origins == {key: origin.get(STRENGTH[strongest], STRENGTH[strongest])}


def test_without_sources_everything_is_default():
    resolved = resolve(environment={"PATH": "/bin", "DIFFAUGSEED": "3"})
    assert (resolved.config, resolved.origins) == (Config(), {})


def test_the_process_environment_is_read(monkeypatch):
    monkeypatch.setenv("DIFFAUG_EVALUATION__NUM_SEEDS", "9")
    assert resolve().config.evaluation.num_seeds == 9


def test_sources_are_merged_key_by_key(combined):
    file = {"diffusion.dropout": 0.3, "diffusion.batch_size": 8, "data": None, "seed": 1}
    config = combined({"flag": {"diffusion.batch_size": 4}, "environment": {"seed": 2}, "file": file}).config
    assert (config.seed, config.diffusion.dropout, config.diffusion.batch_size) == (2, 0.3, 4)


def test_saved_values_that_are_defaults_have_no_origin():
    saved = yaml.safe_load(to_yaml(Config(seed=3)))
    assert resolve(environment={}, base=saved).origins == {"seed": "study"}


@pytest.mark.parametrize("key", setting_fields())
def test_every_key_can_be_set_from_every_source(combined, key):
    value = other_value(key)
    for source in STRENGTH:
        resolved = combined({source: {key: value}})
        assert value_of(resolved.config, key) == value
        assert list(resolved.origins) == [key]


def test_what_is_of_one_call_is_left_out_with_all_that_it_overrules() -> None:
    saved = {"evaluation": {"thorough": True, "num_seeds": 20}}
    kept = resolve({"evaluation.quick": True, "device": "cpu"}, environment={}, base=saved, without=OF_ONE_CALL).config
    assert (kept.evaluation.thorough, kept.evaluation.quick, kept.evaluation.num_seeds) == (True, False, 20)
    content = yaml.safe_load(to_yaml(kept, without=OF_ONE_CALL))
    assert "device" not in content and "quick" not in content["evaluation"]
    assert resolve(environment={}, base=content).config == kept


@pytest.mark.parametrize(
    ("environment", "flags", "seeds"),
    [
        ({}, {"evaluation.quick": True, "evaluation.num_seeds": 1}, None),
        ({"DIFFAUG_EVALUATION__QUICK": "true"}, {"evaluation.num_seeds": 1}, None),
        ({"DIFFAUG_EVALUATION__NUM_SEEDS": "20"}, {"evaluation.quick": True}, 20),
        ({"DIFFAUG_EVALUATION__QUICK": "true"}, {"evaluation.quick": False, "evaluation.num_seeds": 20}, 20),
    ],
)
def test_numbers_for_a_first_answer_are_left_out_with_it(environment, flags, seeds) -> None:
    saved = {"evaluation": {"thorough": True}}  # with two generators, for which one seed is too few
    resolve(flags, environment=environment, base=saved)
    kept = resolve(flags, environment=environment, base=saved, without=OF_ONE_CALL).config.evaluation
    assert (kept.thorough, kept.num_seeds, kept.quick) == (True, seeds, False)


@pytest.mark.parametrize("dropped", [MINUTES, IMAGES_SEEN])
def test_yaml_reads_back_from_study_and_file(tmp_path, dropped):
    left_out = dropped, "evaluation.quick", "synthesis.crossed_fraction"  # three fractions would be above 1 together
    flags = {key: other_value(key) for key in setting_fields() if key not in left_out}
    config = resolve(flags, environment={}).config
    text = to_yaml(config)
    assert resolve(environment={}, base=yaml.safe_load(text)).config == config
    file = tmp_path / "saved.yaml"
    file.write_text(text, encoding="utf-8")
    assert resolve(environment={}, file=file).config == config


text = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=8)
strategies = (
    st.sampled_from(["auto", "minority", "not minority", "all"])
    | st.floats(0.01, 1)
    | st.lists(text, max_size=3)
    | st.dictionaries(text, st.integers(0, 10**6), max_size=3)
)


@given(strategies, st.integers(0, 2**63 - 1), st.none() | st.floats(1e-9, 1e9), text)
def test_any_printable_value_survives_yaml(strategy, seed, ratio, experiment):
    synthesis = {"sampling_strategy": strategy, "max_synthetic_ratio": ratio}
    config = Config(seed=seed, synthesis=synthesis, tracking={"experiment": experiment})
    assert resolve(environment={}, base=yaml.safe_load(to_yaml(config))).config == config


@pytest.mark.parametrize(
    ("stored", "meant"),
    [({3: 100}, {"3": 100}), ([3, 8], ["3", "8"]), (0.5, 0.5), ("0.5", 0.5), (1, 1.0), ("auto", "auto")],
)
def test_classes_named_by_numbers_are_names(combined, stored, meant):
    config = combined({"file": {"synthesis.sampling_strategy": stored}}).config
    assert config.synthesis.sampling_strategy == meant


@pytest.mark.parametrize(("strong", "weak"), list(itertools.combinations(STRENGTH, 2)))
def test_a_stronger_length_of_training_replaces_a_weaker_one_of_the_other_kind(combined, strong, weak):
    for key, other in itertools.permutations((MINUTES, IMAGES_SEEN)):
        resolved = combined({strong: {key: 5}, weak: {other: 50}})
        assert (value_of(resolved.config, key), value_of(resolved.config, other)) == (5, None)
        assert list(resolved.origins) == [key]


@pytest.mark.parametrize("source", STRENGTH)
@pytest.mark.parametrize("names", list(itertools.permutations((MINUTES, IMAGES_SEEN))))
def test_both_lengths_from_one_source_are_a_contradiction(combined, source, names):
    with pytest.raises(UsageError, match="minutes or images_seen, not both") as caught:
        combined({source: dict.fromkeys(names, 5)})
    assert source in caught.value.where


def test_two_pretrained_models_are_a_contradiction_until_the_route_says_which(combined):
    both = {"diffusion.autoencoder": "/a", "diffusion.pipeline": "/b"}
    with pytest.raises(UsageError, match="autoencoder or pipeline, not both, or say with route"):
        combined({"flag": both})
    for route in ("pixels", "latent", "pipeline"):
        assert combined({"flag": {**both, "diffusion.route": route}}).config.diffusion.route == route


def test_an_empty_length_replaces_nothing_of_the_other_kind(combined):
    assert combined({"flag": {IMAGES_SEEN: None}, "file": {MINUTES: 5}}).config.diffusion.minutes == 5


@pytest.mark.parametrize("source", STRENGTH)
@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("diffusion.minuts", "'diffusion.minutes'?"),
        ("difusion.minutes", "'diffusion.minutes'?"),
        ("data.minutes", "'diffusion.minutes'?"),
        ("sede", "'seed'?"),
        ("synthesis.learning_rate", "'diffusion.learning_rate'?"),
        ("tracking.qqqqqqqqqqqqqqqq", "known settings: seed, device, encoder, data.image_size"),
    ],
)
def test_an_unknown_key_names_the_nearest_and_its_source(combined, source, wrong, meant):
    if source == "environment" and not wrong.startswith(SECTIONS):
        pytest.skip("a warning")
    with pytest.raises(UsageError, match=f"unknown setting '{wrong}'") as caught:
        combined({source: {wrong: 1}})
    assert meant in caught.value.fix
    assert source in caught.value.where


@pytest.mark.parametrize("source", STRENGTH)
@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("seed", -1, "greater than or equal to 0"),
        ("seed", "many", "integer"),
        ("data.test_fraction", 1, "less than 1"),
        ("data.intensity_range", [9, 9], "black must be below"),
        ("data.channels", 2, "1 or 3"),
        ("advanced.base_channels", 40, "multiple of 16"),
        (MINUTES, 0, "greater than 0"),
        (MINUTES, float("inf"), "finite number"),
        (MINUTES, float("nan"), "greater than 0|finite number"),
        ("diffusion.horizontal_flip", "perhaps", "boolean"),
        ("synthesis.sampling_strategy", {"cat": "many"}, "integer"),
        ("synthesis.sampling_strategy", "minorty", "words: auto, not majority"),
        ("synthesis.guidance_scale", [2, 1], "lower end"),
        ("synthesis.solver", "plms", "'dpm_solver_2m'"),
        ("evaluation.arms", ["real only", "unreal"], "unreal"),
        ("evaluation.arms", ["best real + synthetic"], "at least one of real only"),
        ("evaluation.arms", ["real only", "real only", "real + synthetic"], "distinct"),
        ("evaluation.classifier", ["resnet-32"], "string"),  # a description of several lines
    ],
)
def test_a_wrong_value_names_its_key_value_and_source(combined, source, key, value, reason):
    with pytest.raises(UsageError, match=reason) as caught:
        combined({source: {key: value}})
    assert caught.value.what.startswith(f"setting '{key}': ")
    assert "got" in caught.value.what
    assert source in caught.value.where
    assert caught.value.fix == " ".join(setting_fields()[key].description.split())


@pytest.mark.parametrize("key", SECTIONS)
def test_a_section_takes_no_value(combined, key):
    with pytest.raises(UsageError, match=f"'{key}' is a section"):
        combined({"file": {key: 5}})
    assert combined({"file": {key: None}}).config == Config()


def test_a_key_that_is_no_text_is_unknown_not_a_crash(tmp_path):
    (tmp_path / "c.yaml").write_text("1: 2")
    with pytest.raises(UsageError, match="unknown setting '1'"):
        resolve(environment={}, file=tmp_path / "c.yaml")


def test_one_word_where_a_list_belongs_says_how_to_write_it() -> None:
    with pytest.raises(UsageError) as caught:
        resolve({"synthesis.filters": "copy"}, environment={})
    assert caught.value.fix == "write a list: synthesis.filters=[copy]"


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("DIFFAUG_VERSION", "ignored"),  # which a CI may export for its own use
        ("DIFFAUG_DATA", "ignored"),
        ("DIFFAUG_SEDE", "; did you mean DIFFAUG_SEED?"),
        ("DIFFAUG_MINUTES", "; did you mean DIFFAUG_DIFFUSION__MINUTES?"),
    ],
)
def test_a_variable_that_is_no_setting_is_ignored_with_a_warning(name, end):
    resolved = resolve(environment={name: "[not yaml"})
    (warning,) = resolved.warnings
    assert resolved.config == Config()
    assert name in warning
    assert warning.endswith(end)


def test_thorough_replaces_what_weaker_sources_say_of_arms_and_seeds() -> None:
    few = ["real only", "real + synthetic"]
    saved = {"evaluation": {"arms": few, "num_seeds": 3, "num_generators": 1, "quick": True}}
    chosen = resolve({"evaluation.thorough": True, "evaluation.num_seeds": 4}, environment={}, base=saved).config
    assert (chosen.evaluation.repetitions, chosen.evaluation.generator_count) == (4, 2)
    assert (chosen.evaluation.arms, chosen.evaluation.quick) == (None, False)
    quick = resolve({"evaluation.quick": True}, environment={}, base={"evaluation": {"thorough": True}}).config
    assert (quick.evaluation.repetitions, quick.evaluation.thorough) == (2, False)
    kept = resolve({"evaluation.thorough": False}, environment={}, base=saved).config
    assert (kept.evaluation.repetitions, len(kept.evaluation.arms)) == (3, 2)


def test_defaults_that_a_study_has_saved_are_not_told_as_set() -> None:
    saved = parse_mapping(to_yaml(Config()), where=Path("config.yaml"))
    assert resolve(base=saved, environment={}).origins == {}
