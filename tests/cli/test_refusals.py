"""After a command that is refused, early or late, the plain command works as if the other had not been given."""

from pathlib import Path
from typing import Any

import pytest
import torch

from diffaug.errors import DataError, UsageError
from diffaug.files.stage_records import BEGUN
from diffaug.stages import former
from diffaug.stages.fitting.routes import pixels

pytestmark = pytest.mark.e2e

REFUSED = [
    ("fit", "--encoder timm/resnet18@nowhere.pth"),
    ("fit", "--set synthesis.background_class=cow"),
    ("fit", "--pipeline nowhere --overwrite"),
    ("fit", "--device cuda --overwrite"),
    ("generate", "--sampling-strategy {cow: 9}"),
    ("generate", "--encoder resnet-81 --overwrite"),
    ("evaluate", "--set evaluation.checkpoint=nowhere.safetensors"),
    ("evaluate", "--arms no-such-arm"),
]
FURTHER = [
    ("fit", "--set diffusion.objective=ddpm"),
    ("fit", "--classifier resnet-81"),
    ("fit", "--encoder resnet-81"),
    ("fit", "--set synthesis.sampling_strategy={cow: 9}"),
    ("fit", "--autoencoder nowhere --overwrite"),
    ("fit", "--init nowhere --overwrite"),
    ("fit", "--unlabeled nowhere"),
    ("fit", "--masks nowhere"),
    ("generate", "--device cuda"),
    ("generate", "--set synthesis.background_class=cow --overwrite"),
    ("generate", "--seed 5"),
    ("evaluate", "--device cuda"),
    ("evaluate", "--classifier resnet-81"),
    ("evaluate", "--encoder resnet-81"),
]


def saved(study: Path) -> dict[str, bytes]:
    """The saved settings, and what each stage was begun with and finished as."""
    names = ("config.yaml", BEGUN, "DONE.json")
    return {str(file.relative_to(study)): file.read_bytes() for file in study.rglob("*") if file.name in names}


def words(command: str, option: str, study: Path, images: Path) -> list[str]:
    key, _, rest = option.partition(" ")
    options = [key, rest] if "{" in option else option.split()
    return [command, *([str(images), "--study", str(study)] if command == "fit" else [str(study)]), *options, "--quiet"]


@pytest.mark.parametrize(
    ("command", "option"), [*REFUSED, *(pytest.param(*one, marks=pytest.mark.slow) for one in FURTHER)]
)
def test_a_refused_option_changes_nothing(fails, job, study, monkeypatch, command, option) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = saved(study)
    code, message = fails(*words(command, option, study, job.images))
    assert code in (2, 3, 4) and message.count("error:") == 1
    assert saved(study) == before


def refuse(*_: Any, **__: Any) -> None:
    raise UsageError("refused late")


@pytest.mark.parametrize(
    ("command", "option", "late"),
    [
        ("generate", "--guidance-scale 2 --overwrite", "generating.generate.prepare_filling"),
        pytest.param("evaluate", "--num-seeds 5", "evaluating.evaluate.experiment_of", marks=pytest.mark.slow),
        ("evaluate", "--classifier resnet-32 --overwrite", "evaluating.evaluate.choose_real"),
    ],
)
def test_what_is_refused_late_is_taken_back(fails, answer, job, study, monkeypatch, command, option, late) -> None:
    settings = (study / "config.yaml").read_bytes()
    results = answer(command, str(study))["results"]
    with monkeypatch.context() as patch:
        patch.setattr(f"diffaug.stages.{late}", refuse)
        assert "refused late" in fails(*words(command, option, study, job.images))[1]
    assert (study / "config.yaml").read_bytes() == settings
    again = answer(command, str(study))
    assert again["status"] == "ok"
    if command == "generate":
        assert again["results"] == results


def test_a_generator_that_is_refused_late_leaves_no_settings(
    fails, answer, tmp_path, images, quick_options, monkeypatch
) -> None:
    """As an autoencoder does that loses the classes, which is found once its latents are there."""
    study = tmp_path / "study"
    plain = ["fit", str(images), "--study", str(study), "--quiet", *quick_options]
    with monkeypatch.context() as patch:
        patch.setattr(pixels.PixelRoute, "train", lambda *_: (_ for _ in ()).throw(DataError("loses the classes")))
        assert "loses the classes" in fails(*plain, "--set", "diffusion.learning_rate=0.001")[1]
    assert saved(study).keys() == {"catalog/DONE.json"}
    assert answer(*plain)["status"] == "ok"
    assert "learning_rate: null" in (study / "config.yaml").read_text()


@pytest.mark.parametrize("moment", ["at once", "after a kill while it is brought back"])
def test_a_generator_that_is_to_be_replaced_is_kept_if_the_new_one_is_refused(
    fails, answer, job, study, monkeypatch, moment
) -> None:
    plain = ["fit", str(job.images), "--study", str(study), "--quiet"]
    before = contents(study / "generator")
    with monkeypatch.context() as patch:
        patch.setattr(pixels.PixelRoute, "train", lambda *_: (_ for _ in ()).throw(DataError("loses the classes")))
        if moment != "at once":
            patch.setattr(former, "_return", lambda _: None)
        assert "loses the classes" in fails(*plain, "--set", "diffusion.learning_rate=0.001", "--overwrite")[1]
    assert answer(*plain)["status"] == "ok"
    assert contents(study / "generator") == before
    assert not list(study.glob(".former*"))


def test_a_generator_that_was_replaced_is_gone(answer, job, study) -> None:
    plain = ["fit", str(job.images), "--study", str(study), "--quiet"]
    before = contents(study / "generator")
    assert answer(*plain, "--set", "diffusion.learning_rate=0.001", "--overwrite")["status"] == "ok"
    assert contents(study / "generator") != before
    assert not list(study.glob(".former*"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
