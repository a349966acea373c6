"""Studies whose generator is a pretrained pipeline, from images on disk to the pool, a verdict and MLflow."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

pytest.importorskip("peft")

from diffaug.augmenter import DiffusionAugmenter
from diffaug.diffusion.generator.generator import Generator
from diffaug.errors import DamagedError, DataError, Interrupted, UsageError
from diffaug.files import storage
from diffaug.integrations.pipelines.fitting import run
from diffaug.integrations.pipelines.fitting.training import FineTuning
from diffaug.runtime.console import LogNarrator
from diffaug.stages.generating import preparing
from diffaug.synthesis.pool.strengths import ChosenStrength
from tests.conftest import SMALL

pytestmark = pytest.mark.e2e
FAMILIES = [pytest.param(one, marks=pytest.mark.slow) for one in ("sdxl", "sd3", "flux", "pixart", "dit")]
SETTINGS = SMALL | {
    "diffusion.images_seen": 24,
    "diffusion.batch_size": 4,
    "advanced.pipeline_size": 16,
    "data.image_size": 12,
    "synthesis.num_inference_steps": 2,
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Gray images of 16 bit and 12 x 18 px, whose brightness depends on the class."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for position, (name, count) in enumerate({"dark": 16, "fairly_bright": 10}.items()):
        (root / name).mkdir()
        for number in range(count):
            pixels = rng.integers(0, 9000, (12, 18)) + position * 30000
            Image.fromarray(pixels.astype(np.uint16)).save(root / name / f"{number:03d}.png")
    return root


@pytest.fixture(scope="module")
def fit(pictures, base_of):
    def make(study, family="sd", **settings):
        own = {"diffusion.route": "pipeline", "diffusion.pipeline": str(base_of(family)), **settings}
        return DiffusionAugmenter(study=study, settings={**SETTINGS, **own}, verbose=False).fit(pictures)

    return make


@pytest.fixture(scope="module")
def whole(fit, base_of, tmp_path_factory) -> Path:
    """A finished study with a table of prompts, beside its pipeline; not to be changed."""
    root = tmp_path_factory.mktemp("whole")
    shutil.copytree(base_of("sd"), root / "sd")
    pd.DataFrame({"class": ["dark"], "attribute": ["rust"]}).to_csv(root / "prompts.csv", index=False)
    prompts = {"diffusion.prompts": str(root / "prompts.csv")}
    fit(root / "study", **{"diffusion.pipeline": str(root / "sd"), **prompts})
    return root


def adapter_of(study: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((study / "generator/adapter").iterdir())}


@pytest.mark.parametrize("family", ["sd", *FAMILIES])
def test_a_study_goes_from_images_to_a_pool(family, fit, tmp_path):
    template = {} if family == "dit" else {"diffusion.prompts": "a {token}, that is a {class}"}
    augmenter = fit(tmp_path / "study", family, **template)
    generator = Generator.load(tmp_path / "study")
    assert generator.image_size == (12, 18)
    assert generator.channels == 1
    assert generator.intensity is not None
    pool = augmenter.generate(sampling_strategy={"fairly_bright": 14}, max_synthetic_ratio=None)
    assert pool.counts_by_name["fairly_bright"] == 14 - augmenter.class_counts_["fairly_bright"]
    assert {"sampled", "variation"} >= set(pool.manifest["origin"])
    expected = (1.0, 1.0) if family == "flux" else (2.0, 3.0)
    assert pool.manifest["guidance_scale"].between(*expected).all()
    pretrained = storage.recorded_metadata(tmp_path / "study/pool")["pretrained"]
    assert pretrained["name"] == family
    assert len(pretrained["sha256"]) == 64
    card = (tmp_path / "study/generator/README.md").read_text()
    assert "may have seen public test images" in card
    assert f"## License of '{family}'" in card
    assert not storage.changes_since_commit(tmp_path / "study/generator")


def stop_after(patch, step: int) -> None:
    """Requests a stop in this step."""
    take_step = FineTuning.take_step

    def stopped(self):
        loss = take_step(self)
        if self.step == step:
            signal.raise_signal(signal.SIGINT)
        return loss

    patch.setattr(FineTuning, "take_step", stopped)


def test_a_fit_that_was_stopped_resumes_to_the_same_adapter(fit, whole, tmp_path, monkeypatch):
    same = {"diffusion.pipeline": str(whole / "sd"), "diffusion.prompts": str(whole / "prompts.csv")}
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="stopped after 12 of 24 images") as caught:
        stop_after(patch, 3)
        fit(tmp_path / "parted", **same)
    assert "--finish" in caught.value.fix
    fit(tmp_path / "parted", **same)
    assert adapter_of(tmp_path / "parted") == adapter_of(whole / "study")
    first, second = (Generator.load(study) for study in (whole / "study", tmp_path / "parted"))
    assert first.weights_sha256 == second.weights_sha256
    expected = {"dark": ("a photo of a dark with rust",), "fairly_bright": ("a photo of a fairly bright",)}
    assert first.prompts.by_class == expected


def test_a_pipeline_that_changes_during_a_training_is_noticed(fit, base_of, tmp_path, monkeypatch):
    folder = tmp_path / "sd"
    shutil.copytree(base_of("sd"), folder)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_after(patch, 1)
        fit(tmp_path / "study", **{"diffusion.pipeline": str(folder)})
    config = folder / "scheduler/scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "beta_end": 0.02}))
    with pytest.raises(DataError, match="was changed since this training began"):
        fit(tmp_path / "study", **{"diffusion.pipeline": str(folder)})


def test_a_moved_pipeline_is_named_and_another_one_refused(whole, base_of, tmp_path, monkeypatch):
    image = Generator.load(whole / "study").sample("dark", [0], num_inference_steps=1)
    moved = tmp_path / "elsewhere"
    (whole / "sd").rename(moved)
    try:
        with pytest.raises(UsageError, match="is not there"):
            Generator.load(whole / "study")
        monkeypatch.setenv("DIFFAUG_DIFFUSION__PIPELINE", str(moved))
        assert np.array_equal(Generator.load(whole / "study").sample("dark", [0], num_inference_steps=1), image)
        monkeypatch.setenv("DIFFAUG_DIFFUSION__PIPELINE", str(base_of("dit")))
        with pytest.raises(UsageError, match="is not the one"):
            Generator.load(whole / "study")
    finally:
        moved.rename(whole / "sd")


def test_variations_need_no_training_and_begin_from_real_images(fit, tmp_path, monkeypatch):
    def nothing(*args, **kwargs):
        raise AssertionError("nothing is to be trained")

    monkeypatch.setattr(run.PipelineRun, "__init__", nothing)
    augmenter = fit(tmp_path / "study", **{"diffusion.route": "variations"})
    generator = Generator.load(tmp_path / "study")
    assert generator.usual.only_varies
    assert not (tmp_path / "study/generator/adapter").exists()
    pool = augmenter.generate(sampling_strategy={"fairly_bright": 14}, max_synthetic_ratio=None)
    assert set(pool.manifest["origin"]) == {"variation"}
    assert pool.manifest["source"].str.startswith("fairly_bright/").all()
    assert pool.manifest["strength"].between(0.85, 0.95).all()


def test_a_class_that_no_strength_keeps_gets_no_image_from_noise(fit, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(LogNarrator, "warn", lambda self, text: told.append(text))
    lost = {"fairly_bright": ChosenStrength(None, ())}
    monkeypatch.setattr(preparing, "choose_strengths", lambda *args, **options: lost)
    augmenter = fit(tmp_path / "study", **{"diffusion.route": "variations"})
    pool = augmenter.generate(sampling_strategy={"fairly_bright": 14, "dark": 15}, max_synthetic_ratio=None)
    assert pool.counts_by_name["fairly_bright"] == 0
    assert pool.counts_by_name["dark"] > 0
    assert set(pool.manifest["origin"]) == {"variation"}
    (said,) = [text for text in told if text.startswith("class 'fairly_bright': none of")]
    assert "only varies them" in said
    assert "--route pipeline --overwrite" in said


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"diffusion.pipeline": None}, "no pretrained pipeline is named"),
        ({"diffusion.pipeline": "stabilityai/sd"}, "no folder of a pretrained pipeline"),
        ({"diffusion.augmentation": 0.1}, "can't be augmented"),
        ({"diffusion.prompts": "{token}", "diffusion.route": "variations"}, "nothing is"),
    ],
)
def test_what_is_not_possible_says_why(fit, tmp_path, settings, message):
    with pytest.raises(UsageError, match=message):
        fit(tmp_path / "study", **settings)


def test_a_table_with_learned_words_is_refused_where_nothing_is_learned(fit, tmp_path):
    table = tmp_path / "prompts.csv"
    table.write_text("class,prompt\ndark,a {token}\n")
    with pytest.raises(UsageError, match="learns nothing") as caught:
        fit(tmp_path / "study", **{"diffusion.route": "variations", "diffusion.prompts": str(table)})
    assert caught.value.where == str(table)


def test_unknown_classes_of_a_class_conditional_pipeline_must_be_learned(fit, tmp_path):
    with pytest.raises(UsageError, match="no class 'dark'"):
        fit(tmp_path / "study", "dit", **{"diffusion.route": "variations"})


def test_a_table_of_prompts_that_changes_after_the_fit_is_noticed(fit, tmp_path, monkeypatch):
    told, table = [], tmp_path / "prompts.csv"
    monkeypatch.setattr(LogNarrator, "warn", lambda self, text: told.append(text))

    def prompt() -> str:
        fit(tmp_path / "study", **{"diffusion.route": "variations", "diffusion.prompts": str(table)})
        return Generator.load(tmp_path / "study").prompts.by_class["dark"][0]

    table.write_text("class,prompt\ndark,a night\n")
    assert prompt() == "a night"
    table.write_text("class,prompt\ndark,a cellar\n")
    assert prompt() == "a cellar"
    assert [text for text in told if "prompts" in text] == [
        "the generator is trained anew, since these inputs changed: prompts"
    ]
    table.unlink()
    assert prompt() == "a cellar"  # what is gone counts as it was


def test_a_changed_adapter_is_damaged(whole, tmp_path):
    study = shutil.copytree(whole / "study", tmp_path / "study")
    file = study / "generator/adapter/pytorch_lora_weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedError):
        Generator.load(study)


@pytest.mark.slow
def test_two_processes_make_the_pool_of_one(fit, pictures, base_of, tmp_path):
    augmenter = fit(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    strategy = {"fairly_bright": 42}
    wanted = augmenter.generate(sampling_strategy=strategy, max_synthetic_ratio=None)
    code = (
        "import sys; from diffaug import DiffusionAugmenter;"
        "DiffusionAugmenter.open(sys.argv[1], verbose=False).generate("
        "sampling_strategy={'fairly_bright': 42}, max_synthetic_ratio=None)"
    )
    workers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "two")]) for _ in range(2)]
    assert [worker.wait() for worker in workers] == [0, 0]
    made = DiffusionAugmenter.open(tmp_path / "two", verbose=False).generate(
        sampling_strategy=strategy, max_synthetic_ratio=None
    )
    assert made.manifest["sha256"].tolist() == wanted.manifest["sha256"].tolist()


@pytest.mark.slow
def test_a_verdict_is_reached_and_mlflow_loads_the_model(fit, pictures, base_of, tmp_path):
    pytest.importorskip("mlflow")
    from diffaug.integrations import mlflow_generator

    augmenter = fit(tmp_path / "study")
    augmenter.generate(sampling_strategy={"fairly_bright": 14}, max_synthetic_ratio=None)
    result = augmenter.evaluate()
    assert result.verdict.decision
    import mlflow.pyfunc

    mlflow_generator.save_generator(tmp_path / "study/generator", tmp_path / "model")
    assert "diffusers==" in (tmp_path / "model/requirements.txt").read_text()
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    made = model.predict(pd.DataFrame({"label": ["dark"], "n": [1]}), params={"num_inference_steps": 1})
    assert made["image"][0].startswith(b"\x89PNG")
