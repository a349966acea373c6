import json
from pathlib import Path

import pytest

from diffaug.cli import main


def fails(capsys, *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return int(stop.value.code or 0), captured.err


@pytest.fixture
def run_options(tmp_path: Path, set_options: list[str]) -> list[str]:
    return ["--study", str(tmp_path / "study"), "--quiet", *set_options]


def test_missing_folder(capsys, tmp_path, run_options) -> None:
    code, message = fails(capsys, "run", str(tmp_path / "nowhere"), *run_options)
    assert code == 2
    assert "no such folder" in message
    assert "nowhere" in message


def test_empty_folder(capsys, tmp_path, run_options) -> None:
    (tmp_path / "empty").mkdir()
    code, message = fails(capsys, "run", str(tmp_path / "empty"), *run_options)
    assert code == 3
    assert message.count("error:") == 1
    assert "fix:" in message


def test_one_class_only(capsys, tmp_path, make_classes, run_options) -> None:
    code, message = fails(capsys, "run", str(make_classes(tmp_path / "data", {"only": 9})), *run_options)
    assert code == 3
    assert "only" in message


def test_a_class_with_one_image(capsys, tmp_path, make_classes, run_options) -> None:
    data = make_classes(tmp_path / "data", {"many": 9, "single": 1})
    code, message = fails(capsys, "run", str(data), *run_options)
    assert code == 3
    assert "single" in message
    assert "fix:" in message


def test_corrupt_images_are_listed_and_skipped(capsys, tmp_path, images, run_options) -> None:
    whole = (images / "dark" / "000.png").read_bytes()
    (images / "dark" / "000.png").write_bytes(whole[: len(whole) // 2])
    (images / "dark" / "note.jpg").write_text("not an image")
    study = str(tmp_path / "study")
    main(["inspect", str(images), "--study", study, "--json"])
    results = json.loads(capsys.readouterr().out)["results"]
    assert results["verdicts"]["truncated"] == 1
    assert results["verdicts"]["not an image"] == 1
    assert {entry["path"]: entry["verdict"] for entry in results["unusable"]} == {
        "dark/000.png": "truncated",
        "dark/note.jpg": "not an image",
    }
    main(["fit", str(images), *run_options, "--json"])
    assert json.loads(capsys.readouterr().out)["status"] == "ok"


def test_a_study_that_belongs_to_other_data(capsys, tmp_path, images, make_classes) -> None:
    study = ["--study", str(tmp_path / "study"), "--quiet"]
    main(["inspect", str(images), *study])
    other = make_classes(tmp_path / "other", {"a": 9, "b": 9})
    code, message = fails(capsys, "inspect", str(other), *study)
    assert code == 2
    assert "belongs to other data" in message
    assert "--study" in message


def test_unknown_option_and_command_suggest_the_nearest(capsys, images) -> None:
    code, message = fails(capsys, "run", str(images), "--minute", "3")
    assert code == 2
    assert "--minutes" in message
    code, message = fails(capsys, "generat")
    assert code == 2
    assert "generate" in message


def test_unknown_setting_suggests_the_nearest(capsys, images) -> None:
    code, message = fails(capsys, "fit", str(images), "--set", "diffusion.minuts=3")
    assert code == 2
    assert "did you mean 'diffusion.minutes'?" in message
    code, message = fails(capsys, "fit", str(images), "--set", "diffusion.minutes")
    assert code == 2


def test_a_folder_that_is_no_study(capsys, tmp_path, images) -> None:
    for command in ("generate", "evaluate", "report"):
        code, message = fails(capsys, command, str(images))
        assert code == 2
        assert "not a study" in message


def test_errors_are_json_too(capsys, tmp_path) -> None:
    with pytest.raises(SystemExit):
        main(["run", str(tmp_path / "nowhere"), "--json"])
    content = json.loads(capsys.readouterr().out)
    assert content["status"] == "error"
    assert content["exit_code"] == 2
    assert content["fix"]


def test_a_bug_keeps_its_traceback(monkeypatch, images) -> None:
    import diffaug.augmenter

    monkeypatch.setattr(diffaug.augmenter.DiffusionAugmenter, "attach", lambda self, data: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["inspect", str(images)])


def test_a_study_that_cannot_be_written(capsys, tmp_path, images, set_options) -> None:
    (tmp_path / "file").write_text("in the way")
    code, message = fails(capsys, "inspect", str(images), "--study", str(tmp_path / "file" / "study"), *set_options)
    assert code == 3
    assert "file/study" in message
    assert "--study" in message.split("fix:")[1]


def test_a_damaged_catalog_is_made_again_when_asked(capsys, tmp_path, images, run_options) -> None:
    main(["inspect", str(images), *run_options])
    (tmp_path / "study" / "catalog" / "pixels.npy").write_bytes(b"cut short")
    code, message = fails(capsys, "inspect", str(images), *run_options)
    assert code == 3
    assert "--overwrite" in message.split("fix:")[1]
    main(["inspect", str(images), *run_options, "--overwrite"])
    main(["inspect", str(images), *run_options])


def test_a_test_split_that_lacks_a_class_stops_the_job_before_training(
    capsys, tmp_path, make_classes, run_options
) -> None:
    make_classes(tmp_path / "data" / "train", {"dark": 9, "bright": 9})
    make_classes(tmp_path / "data" / "test", {"dark": 4})
    code, message = fails(capsys, "run", str(tmp_path / "data"), *run_options)
    assert code == 3
    assert "no test image of: bright" in message
    assert not (tmp_path / "study" / "generator").exists()


def test_a_file_instead_of_a_folder(capsys, images) -> None:
    code, message = fails(capsys, "run", str(images / "dark" / "001.png"))
    assert code == 2
    assert "this is a file, not a folder" in message


def test_a_changed_image_of_the_pool_is_found(capsys, tmp_path, images, run_options) -> None:
    study = tmp_path / "study"
    main(["fit", str(images), *run_options])
    main(["generate", str(study), "--quiet"])
    changed = next((study / "pool" / "images").rglob("*.png"))
    content = bytearray(changed.read_bytes())
    content[-20] ^= 1
    changed.write_bytes(bytes(content))
    code, message = fails(capsys, "evaluate", str(study), "--quiet")
    assert code == 3
    assert changed.name in message
    assert "missing or was changed" in message


def test_class_names_cannot_steer_the_terminal(capsys, tmp_path, make_classes) -> None:
    data = make_classes(tmp_path / "data", {"\x1b[31mred": 9, "plain": 9})
    main(["inspect", str(data), "--study", str(tmp_path / "study")])
    shown = capsys.readouterr().err
    assert "\x1b[31mred" not in shown
    assert r"\x1b[31mred" in shown


def test_no_command_shows_the_help(capsys) -> None:
    main([])
    assert "Commands:" in capsys.readouterr().out
