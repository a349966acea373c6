"""What a command can't do ends with the documented exit code, and with what is wrong, where, and how to fix it."""

import shlex

import numpy as np
import pytest

from diffaug.cli import main
from diffaug.files import storage

pytestmark = pytest.mark.e2e


@pytest.fixture
def run_options(set_options: list[str]) -> list[str]:
    return ["--study", "study", "--quiet", *set_options]


@pytest.mark.parametrize(
    ("counts", "code", "words"),
    [
        (None, 2, ["no such folder", "data"]),
        ({}, 3, ["fix:"]),
        ({"only": 9}, 3, ["only"]),
        ({"many": 9, "single": 1}, 3, ["single", "fix:"]),
        ({"train/dark": 9, "train/bright": 9, "test/dark": 4}, 3, ["no test image of: bright"]),
    ],
)
def test_images_of_which_no_job_is_possible(fails, tmp_path, make_classes, run_options, counts, code, words) -> None:
    if counts is not None:
        (tmp_path / "data").mkdir()
        make_classes(tmp_path / "data", counts)
    found, message = fails("run", "data", *run_options)
    assert found == code
    assert message.count("error:") == 1
    assert all(word in message for word in words)
    assert not (tmp_path / "study" / "generator").exists()


def test_inspect_names_no_run_that_would_be_refused(answer, fails, tmp_path, make_classes, run_options):
    make_classes(tmp_path / "data", {"train/dark": 9, "train/bright": 9, "test/dark": 4})
    assert answer("inspect", "data", *run_options)["next"].startswith("diffaug inspect data")
    code, message = fails("evaluate", "data", *run_options)
    assert code == 3 and "no test image of: bright" in message
    assert not (tmp_path / "runs").exists()
    make_classes(tmp_path / "data", {"test/bright": 4})
    assert answer("inspect", "data", *run_options)["next"].startswith("diffaug run data")


@pytest.mark.parametrize(
    ("counts", "commands", "refused"),
    [
        ({"many": 9, "single": 1, "void": 0}, ("fit", "inspect"), "single has 1, void has 0"),
        ({"train/dark": 9, "train/bright": 9, "test/dark": 4}, ("evaluate", "run"), "no test image of: bright"),
    ],
)
def test_what_was_found_is_shown_before_images_are_refused(
    fails, answer, tmp_path, make_classes, set_options, counts, commands, refused
) -> None:
    (tmp_path / "data").mkdir()
    make_classes(tmp_path / "data", counts)
    for command in commands:
        code, shown = fails(command, "data", "--study", "study", *set_options)
        assert code == 3 and shown.count("working size") == 1
        found, _, error = shown.partition("error:")
        assert "\nImages\n" in found and refused in error and "next:" not in shown
    results = answer(command, "data", "--study", "study", "--quiet", *set_options)["results"]
    assert sum(results["images_by_split"].values()) == sum(counts.values())


def test_a_refused_mask_hides_no_finding_and_is_read_again(fails, answer, tmp_path, make_classes, encoded) -> None:
    images = make_classes(tmp_path / "data", {"train/dark": 9, "train/bright": 9, "test/dark": 4, "test/bright": 4})
    mask = images / "masks" / "train" / "dark" / next((images / "train" / "dark").iterdir()).name
    mask.parent.mkdir(parents=True)
    mask.write_bytes(encoded(np.zeros((5, 7), np.uint8)))
    code, shown = fails("inspect", "data")
    assert code == 3 and shown.index("working size") < shown.index("the mask has 7 x 5 px")
    mask.write_bytes(encoded(np.eye(8, dtype=np.uint8) * 255))
    assert answer("inspect", "data")["results"]["masks"] == 1


def test_a_catalog_of_another_form_is_made_anew_as_the_error_advises(fails, answer, tmp_path, make_classes) -> None:
    make_classes(tmp_path / "data", {"dark": 6, "bright": 6})
    answer("inspect", "data")
    catalog = tmp_path / "runs" / "data" / "catalog"
    about = catalog / "catalog.json"
    about.write_text(about.read_text().replace('"problems"', '"troubles"'))
    storage.commit_directory(catalog, storage.recorded_metadata(catalog))
    code, message = fails("inspect", "data")
    assert code == 3
    assert answer(*shlex.split(message.partition("make it anew: diffaug ")[2]))["status"] == "ok"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("run images --minute 3", "--minutes"),
        ("generat", "generate"),
        ("fit images --set diffusion.minuts=3", "did you mean 'diffusion.minutes'?"),
        ("fit images --set diffusion.minutes", "'=' is missing"),
        ("run images/dark/001.png", "this is a file, not a folder"),
        ("generate images", "not a study"),
        ("report images", "not a study"),
        ("evaluate", "--predictions"),
        ("evaluate study --study other", "omit --study"),
        ("generate study --more dark=0", "--more defect=500"),
        *((f"evaluate study --fail-under={points}", "--fail-under") for points in ("nan", "101", "-101", "inf")),
    ],
)
def test_a_wrong_call_says_what_is_meant(fails, images, arguments, words) -> None:
    code, message = fails(*arguments.split())
    assert code == 2
    assert words in message


def test_corrupt_images_are_listed_and_skipped(answer, images, run_options) -> None:
    whole = (images / "dark" / "000.png").read_bytes()
    (images / "dark" / "000.png").write_bytes(whole[: len(whole) // 2])
    (images / "dark" / "note.jpg").write_text("not an image")
    results = answer("inspect", "images", *run_options)["results"]
    assert results["statuses"] == {"ok": 37, "truncated": 1, "not an image": 1}
    unusable = {entry["path"]: entry["status"] for entry in results["unusable"]}
    assert unusable == {"dark/000.png": "truncated", "dark/note.jpg": "not an image"}
    assert answer("fit", "images", *run_options)["status"] == "ok"


@pytest.mark.parametrize("wrong", [["nowhere"], ["nowhere", "--minuets", "3"], ["nowhere", "--seed", "x"], []])
def test_errors_are_json_too(answer, wrong) -> None:
    content = answer("run", *wrong)
    assert (content["status"], content["exit_code"]) == ("error", 2)
    assert content["fix"]


def test_a_bug_keeps_its_traceback(monkeypatch) -> None:
    monkeypatch.setattr("diffaug.augmenter.DiffusionAugmenter.attach", lambda self, data: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["inspect", "images"])


def test_a_study_that_cannot_be_written(fails, tmp_path, images, set_options) -> None:
    (tmp_path / "file").write_text("in the way")
    code, message = fails("inspect", "images", "--study", "file/study", *set_options)
    assert code == 3
    assert "file/study" in message
    assert "--study" in message.split("fix:")[1]


def test_a_damaged_catalog_is_made_again_when_asked(fails, tmp_path, images, run_options) -> None:
    main(["inspect", "images", *run_options])
    next((tmp_path / "study" / "catalog").glob("*.npy")).write_bytes(b"cut short")
    code, message = fails("inspect", "images", *run_options)
    assert code == 3
    assert "--overwrite" in message.split("fix:")[1]
    main(["inspect", "images", *run_options, "--overwrite"])
    main(["inspect", "images", *run_options])


def test_class_names_cannot_steer_the_terminal(capsys, tmp_path, make_classes) -> None:
    make_classes(tmp_path / "data", {"\x1b[31mred": 9, "plain": 9})
    main(["inspect", "data"])
    shown = capsys.readouterr().err
    assert "\x1b[31mred" not in shown
    assert r"\x1b[31mred" in shown


def test_no_command_shows_the_help(capsys) -> None:
    main([])
    assert "Commands:" in capsys.readouterr().out
