import pytest

from diffaug.configuration.yaml_files import parse_value, read_text, read_yaml
from diffaug.errors import UsageError


@pytest.mark.parametrize(
    ("text", "value"), [("3", 3), ("0.5", 0.5), ("true", True), ("null", None), ("", None), ("{a: 5}", {"a": 5})]
)
def test_values_have_their_yaml_type(text, value):
    parsed = parse_value(text, where="--set")
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize("text", ["[1,", "a: b: c", "!!python/object/apply:os.getcwd []", "\0"])
def test_what_is_not_plain_yaml_is_refused_and_located(text):
    with pytest.raises(UsageError) as caught:
        parse_value(text, where="DIFFAUG_SEED")
    assert caught.value.where == "DIFFAUG_SEED"


def test_a_file_with_nothing_but_comments_sets_nothing(tmp_path):
    (tmp_path / "c.yaml").write_text("# diffusion:\n#   minutes: 3\n")
    assert read_yaml(tmp_path / "c.yaml") == {}


@pytest.mark.parametrize("content", [b"- a\n- b\n", b"just text", b"\xff\xfe", b"a: [", None])
def test_an_unusable_file_is_named(tmp_path, content):
    path = tmp_path / "c.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_yaml(path)
    assert caught.value.where == str(path)


def test_text_is_utf8(tmp_path):
    (tmp_path / "c.yaml").write_bytes("klasse: Öl".encode())
    assert read_text(tmp_path / "c.yaml") == "klasse: Öl"
    assert read_yaml(tmp_path / "c.yaml") == {"klasse": "Öl"}
