import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from diffaug.cli import main


def answer(capsys, *arguments: str) -> dict:
    main([*arguments, "--json"])
    return json.loads(capsys.readouterr().out)


def test_each_command_does_its_part_and_names_the_next(capsys, tmp_path, images, set_options) -> None:
    study = str(tmp_path / "study")
    where = ["--study", study, "--quiet"]
    inspected = answer(capsys, "inspect", str(images), *where)
    assert inspected["results"]["counts"]["train"] == {"bright": 5, "dark": 16, "middle": 10}
    assert inspected["next"] == f"diffaug run {images} --study {study}"
    planned = answer(capsys, "plan", str(images), *where, *set_options)
    assert planned["results"]["images"] == 512
    assert planned["results"]["expected_seconds"] > 0
    assert planned["next"] == f"diffaug fit {images} --study {study}"
    assert not list(Path(study).glob("generator/*.safetensors"))
    fitted = answer(capsys, "fit", str(images), *where, *set_options)
    assert fitted["next"] == f"diffaug generate {study}"
    generated = answer(capsys, "generate", study, "--quiet")
    assert generated["results"]["by_class"] == {"bright": 11, "dark": 0, "middle": 6}
    assert generated["next"] == f"diffaug evaluate {study}"
    evaluated = answer(capsys, "evaluate", study, "--quiet")
    assert evaluated["results"]["verdict"]["decision"]
    report = Path(evaluated["results"]["report"])
    report.unlink()
    assert answer(capsys, "report", study)["results"]["report"] == str(report)
    assert report.is_file()


def test_run_prints_the_arms_and_the_verdict_on_stdout(capsys, tmp_path, images, set_options) -> None:
    main(["run", str(images), "--study", str(tmp_path / "study"), "--quiet", *set_options])
    captured = capsys.readouterr()
    for arm in ("real only", "oversampling", "balanced softmax", "real + synthetic", "best real + synthetic"):
        assert arm in captured.out
    assert "verdict:" in captured.out
    assert "report.html" in captured.err


def test_demo_runs_the_whole_job(capsys, tmp_path, set_options) -> None:
    study = tmp_path / "demo"
    main(["demo", "--study", str(study), "--quiet", *set_options])
    assert yaml.safe_load((study / "config.yaml").read_text())["diffusion"]["minutes"] is None
    assert "verdict:" in capsys.readouterr().out
    counts = [len(list((tmp_path / "demo-images" / "train" / str(digit)).iterdir())) for digit in range(10)]
    assert counts[0] == 100
    assert counts[-1] == 5
    assert counts == sorted(counts, reverse=True)


def _without_images(options: list[str]) -> list[str]:
    pairs = zip(options[::2], options[1::2], strict=True)
    return [part for pair in pairs if not pair[1].startswith("diffusion.images_seen") for part in pair]


def test_settings_given_once_are_remembered_by_later_commands(capsys, tmp_path, images, set_options) -> None:
    study = tmp_path / "study"
    main(["inspect", str(images), "--study", str(study), "--quiet", *set_options])
    assert yaml.safe_load((study / "config.yaml").read_text())["evaluation"]["max_steps"] == 8


@pytest.mark.parametrize("command", ["ls", "show", "cp"])
def test_recipes(capsys, tmp_path, command) -> None:
    main(["recipes", "ls", "--json"])
    recipes = json.loads(capsys.readouterr().out)
    assert len(recipes) >= 4
    name = sorted(recipes)[0]
    if command == "show":
        main(["recipes", "show", name])
        assert yaml.safe_load(capsys.readouterr().out) == recipes[name]
    if command == "cp":
        main(["recipes", "cp", name, str(tmp_path)])
        assert yaml.safe_load((tmp_path / f"{name}.yaml").read_text()) == recipes[name]


def test_doctor_knows_the_versions(capsys) -> None:
    main(["doctor", "--json"])
    facts = json.loads(capsys.readouterr().out)["facts"]
    assert facts["torch"][0].isdigit()
    assert "cuda devices" in facts
    needed = [text for text in importlib.metadata.requires("diffaug") or [] if "extra ==" not in text]
    assert {re.split(r"[^\w-]", text)[0].lower() for text in needed} <= facts.keys()


def test_inspect_shows_the_counts_once(capsys, tmp_path, images, set_options) -> None:
    main(["inspect", str(images), "--study", str(tmp_path / "study"), *set_options])
    assert capsys.readouterr().err.count("Images") == 1


@pytest.mark.parametrize("length", [512, 640])
def test_plan_speaks_also_once_a_generator_is_there(capsys, tmp_path, images, set_options, length) -> None:
    study = ["--study", str(tmp_path / "study")]
    main(["fit", str(images), *study, "--quiet", *set_options])
    capsys.readouterr()
    main(["plan", str(images), *study, *_without_images(set_options), "--images", str(length)])
    assert f"{length} images seen" in capsys.readouterr().err


@pytest.mark.slow
def test_the_demo_as_shipped_finds_a_gain(capsys) -> None:
    results = answer(capsys, "demo", "--no-track", "--quiet")["results"]
    accuracy = {arm["name"]: arm["metrics"]["balanced_accuracy"]["mean"] for arm in results["arms"]}
    assert accuracy["real + synthetic"] > accuracy["real only"]
    assert results["verdict"]["decision"] != "do not use"


@pytest.mark.parametrize(("arguments", "code"), [(["recipes", "ls"], 0), (["recipes", "show", "none"], 2)])
def test_a_tracker_that_was_given_up_cannot_abort_the_end_of_the_process(arguments, code) -> None:
    """The handler stands for the interpreter's normal end, which aborts now and then while a thread is in C++ code."""
    program = (
        "import atexit, os, sys, threading\n"
        "from diffaug.cli import main\n"
        "threading.Thread(target=threading.Event().wait, name='diffaug-mlflow', daemon=True).start()\n"
        "atexit.register(os._exit, 134)\n"
        f"sys.argv[1:] = {arguments}\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert ("tiny-grey-cpu" in done.stdout) == (code == 0)
    assert ("error:" in done.stderr) == (code != 0)


def test_the_next_command_can_be_typed_where_a_folder_has_a_space(capsys, tmp_path, images, set_options) -> None:
    data = images.rename(tmp_path / "my images")
    main(["inspect", str(data), "--study", str(tmp_path / "my study"), "--quiet", *set_options])
    assert f"next: diffaug run '{data}'" in capsys.readouterr().err
