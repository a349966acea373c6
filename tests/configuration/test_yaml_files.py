import os

import pytest
import yaml

from diffaug.configuration.settings import Config
from diffaug.configuration.sources import resolve, to_yaml
from diffaug.configuration.yaml_files import load_recipe, parse_value, read_yaml, recipe_names, recipe_text
from diffaug.data.layouts.tables import read_table
from diffaug.errors import UsageError
from diffaug.evaluation.predictions.read import read_predictions

NAMES = recipe_names()


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_what_it_is_for_and_sets_nothing_to_its_default(name):
    recipe, defaults = load_recipe(name), Config().model_dump(mode="json")
    assert list(recipe) == ["summary", "when", "cost", "config"]
    assert all(recipe[key].strip() for key in ("summary", "when", "cost"))
    for section, values in recipe["config"].items():
        for key, value in values.items() if isinstance(values, dict) else []:
            assert value != defaults[section][key], f"{section}.{key} is {value} anyway"


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_resolves_to_what_it_sets_also_as_a_copy_and_a_flag_wins_over_it(name, tmp_path):
    resolved = resolve(recipe=name, environment={})
    content = resolved.config.model_dump(mode="json")
    for section, values in load_recipe(name)["config"].items():
        chosen = {key: content[section][key] for key in values} if isinstance(values, dict) else content[section]
        assert chosen == values
    assert set(resolved.origins.values()) == {f"recipe {name}"}
    copy = tmp_path / "mine.yaml"
    copy.write_text(recipe_text(name), encoding="utf-8")
    assert yaml.safe_load(recipe_text(name)) == load_recipe(name)
    assert resolve(recipe=str(copy), environment={}).config == resolved.config
    short = resolve({"diffusion.images_seen": 1000}, recipe=name, environment={}).config.diffusion
    assert (short.images_seen, short.minutes) == (1000, None)


def test_an_unknown_recipe_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="unknown recipe 'tiny-grey-cpu'") as caught:
        resolve(environment={}, recipe="tiny-grey-cpu")
    assert caught.value.fix == "did you mean 'tiny-gray-cpu'?"


@pytest.mark.parametrize("content", [[], {"summary": "x"}, {"config": 3}, {"config": None}])
def test_a_recipe_without_a_config_is_refused(tmp_path, content):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(UsageError, match="config") as caught:
        load_recipe(str(path))
    assert caught.value.where == str(path)


@pytest.mark.parametrize("text", ["[1,", "a: b: c", "!!python/object/apply:os.getcwd []", "\0"])
def test_what_is_not_plain_yaml_is_refused_and_located(text):
    with pytest.raises(UsageError) as caught:
        parse_value(text, where="DIFFAUG_SEED")
    assert caught.value.where == "DIFFAUG_SEED"


@pytest.mark.parametrize(
    ("text", "value"), [("3", 3), ("0.5", 0.5), ("true", True), ("null", None), ("", None), ("{a: 5}", {"a": 5})]
)
def test_values_have_their_yaml_type(text, value):
    parsed = parse_value(text, where="--set")
    assert (parsed, type(parsed)) == (value, type(value))


@pytest.mark.parametrize(("text", "content"), [("# a: 3\n", {}), ("klasse: Öl", {"klasse": "Öl"})])
def test_files_are_utf8_and_comments_set_nothing(tmp_path, text, content):
    (tmp_path / "c.yaml").write_bytes(text.encode())
    assert read_yaml(tmp_path / "c.yaml") == content


@pytest.mark.parametrize("content", [b"- a\n- b\n", b"just text", b"\xff\xfe", b"a: [", None])
def test_an_unusable_file_is_named(tmp_path, content):
    path = tmp_path / "c.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_yaml(path)
    assert caught.value.where == str(path)


WRITTEN = ["no", "yes", "on", "010", "1_000", "0x1F", "1:30", "2020-01-01", "null", "~", "1e3", ".5", "1.0", "true"]


@pytest.mark.parametrize("name", WRITTEN)
def test_class_names_stay_as_they_are_written(name):
    for text in (f"{{{name}: 40}}", f"? {name}\n: 40", f"{{'{name}': 40}}", f'{{"{name}": 40}}'):
        assert parse_value(text, where="here") == {name: 40}
    for text in (f"[{name}, x]", f"- {name}\n- x"):
        assert parse_value(text, where="here") == [name, "x"]
    strategy = {"synthesis.sampling_strategy": parse_value(f"{{{name}: 1_000}}", where="here")}
    config = resolve(strategy, environment={}).config
    assert config.synthesis.sampling_strategy == {name: 1000}
    assert resolve(base=yaml.safe_load(to_yaml(config)), environment={}).config == config


def test_lists_of_numbers_are_still_numbers():
    text = "{synthesis: {guidance_scale: [1, 2.5]}, advanced: {synthetic_fraction_grid: [0, .3]}}"
    config = resolve(base=parse_value(text, where="here"), environment={}).config
    assert (config.synthesis.guidance_scale, config.advanced.synthetic_fraction_grid) == ((1.0, 2.5), (0.0, 0.3))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{a: 1, a: 2}", r"(?s)'a' is there twice.*line 1"),
        ("a: 1\nb: 2\n'a': 3", r"(?s)'a' is there twice.*line 3"),
        ("{[a, b]: 1}", "a key must be a text"),
        ("{{a: 1}: 1}", "a key must be a text"),
        ("!!python/object/apply:os.system [ls]", "not valid YAML"),
    ],
)
def test_mappings_that_would_lose_a_class_are_refused_with_the_line(text, words):
    with pytest.raises(UsageError, match=words):
        parse_value(text, where="here")


def test_a_merged_key_may_be_overruled():
    assert parse_value("{<<: {a: 1, b: 2}, a: 3}", where="here") == {"a": 3, "b": 2}


@pytest.mark.parametrize("strategy", ["yes", "no", "null", "[[a]]", "{a: x}", "{a: }"])
def test_what_yaml_makes_no_strategy_of_is_refused(strategy):
    with pytest.raises(UsageError, match=r"synthesis\.sampling_strategy"):
        resolve({"synthesis.sampling_strategy": parse_value(strategy, where="here")}, environment={})


@pytest.mark.parametrize(
    "content",
    [
        "[" * 1500,
        "a: " + "9" * 5000,
        "a: &a [*a]",
        "a: 2020-99-99",
        "\n".join(["a0: &a0 {k0: 1}", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))]),
        "a: !!python/object/apply:os.getcwd []",
        "#" * 2**20 + "#",
    ],
    ids=["deep", "long integer", "recursive", "no date", "shown often", "python", "large"],
)
def test_hostile_yaml_is_refused_in_a_moment(tmp_path, content):
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(UsageError) as caught:
        read_yaml(tmp_path / "c.yaml")
    assert caught.value.where == str(tmp_path / "c.yaml") and caught.value.fix


@pytest.mark.parametrize("read", [read_yaml, load_recipe, read_predictions, read_table])
def test_what_is_no_regular_file_is_never_opened(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    for name in ("pipe", "folder", "zero", "absent"):
        path = tmp_path / f"{name}.yaml"
        with pytest.raises(UsageError) as caught:
            read(str(path) if read is load_recipe else path)
        assert caught.value.where == str(path) and caught.value.fix
