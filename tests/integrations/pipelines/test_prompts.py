"""What a pipeline is told."""

import pytest

from diffaug.errors import DataError, UsageError
from diffaug.files import storage
from diffaug.integrations.pipelines.prompts import prompts_from

CLASSES = ("rolled-in_scale", "scratch")
IMAGES = {"train/a/1.png": "scratch", "train/a/2.png": "scratch", "train/b/1.png": "rolled-in_scale"}


@pytest.fixture
def table(tmp_path):
    def write(text):
        storage.write_text(tmp_path / "prompts.csv", text)
        return str(tmp_path / "prompts.csv")

    return write


def test_a_class_is_called_by_its_name_in_words() -> None:
    prompts = prompts_from(None, CLASSES, IMAGES)
    assert prompts.by_class == {
        "rolled-in_scale": ("a photo of a rolled-in scale",),
        "scratch": ("a photo of a scratch",),
    }
    assert not prompts.use_tokens


def test_a_template_takes_names_and_learned_words() -> None:
    assert prompts_from("steel, {class}", CLASSES, {}).by_class["scratch"] == ("steel, scratch",)
    learned = prompts_from("a photo of a {token}", CLASSES, {})
    assert learned.use_tokens
    assert len({*learned.by_class["scratch"], *learned.by_class["rolled-in_scale"]}) == 2
    with pytest.raises(UsageError, match="does not say the class"):
        prompts_from("steel {surface}", CLASSES, {})


def test_a_table_gives_captions_of_classes_and_attributes(table) -> None:
    file = table("class,prompt,attribute\nscratch,a macro photo of a {class},rust\nscratch,,oil\n")
    prompts = prompts_from(file, CLASSES, IMAGES)
    assert prompts.by_class["scratch"] == ("a macro photo of a scratch with rust", "a photo of a scratch with oil")
    assert prompts.by_class["rolled-in_scale"] == ("a photo of a rolled-in scale",)
    drawn = prompts.of_class("scratch", range(64), 0, "sample")
    assert set(drawn) == set(prompts.by_class["scratch"])
    assert prompts.of_class("scratch", [9, 3], 0, "sample") == [drawn[9], drawn[3]]


def test_a_table_gives_captions_of_images_by_path_or_unique_name(table) -> None:
    file = table("file_name,caption\ntrain/a/1.png,bright\n2.png,dark\ntest/a/9.png,of another split\n")
    prompts = prompts_from(file, CLASSES, IMAGES)
    assert prompts.of_images == {"train/a/1.png": "bright", "train/a/2.png": "dark"}
    assert prompts.of_image("train/a/2.png", "scratch", 0) == "dark"
    assert prompts.by_class["scratch"] == ("bright", "dark")
    assert prompts.of_image("train/b/1.png", "rolled-in_scale", 7) == "a photo of a rolled-in scale"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class,price\nscratch,3\n", "lacks a column"),
        ("class,prompt\nscrach,a\n", "no class 'scrach'"),
        ("file_name,prompt\ntest/9.png,a\n", "none of the training images"),
        ("", "no CSV"),
    ],
)
def test_a_table_that_is_wrong_says_what(table, text, message) -> None:
    with pytest.raises(DataError, match=message):
        prompts_from(table(text), CLASSES, IMAGES)


def test_a_file_that_is_not_there_is_no_prompt(tmp_path) -> None:
    with pytest.raises(UsageError, match="neither"):
        prompts_from(str(tmp_path / "prompts.csv"), CLASSES, IMAGES)
