import json
import shlex

import pytest
import torch

import diffaug
from diffaug.configuration.yaml_files import parse_value
from diffaug.files import storage
from diffaug.stages.evaluating import pilot
from diffaug.stages.fitting.plan import plan_training, read_plan
from diffaug.synthesis.pool.pool import MANIFEST

pytestmark = pytest.mark.e2e


def test_the_report_says_what_repeats_the_job_and_what_it_was_made_with(tmp_path, images, small, monkeypatch) -> None:
    monkeypatch.setattr("diffaug.stages.fitting.routes.pixels.measure_images_per_second", lambda *_: 5.0)
    monkeypatch.setattr("diffaug.diffusion.planning.defaults.FEW_IMAGES", 1)
    monkeypatch.setattr("diffaug.diffusion.planning.defaults.LONG_CPU_MINUTES", 11)  # more than assumed for images
    settings = {**small, "diffusion.images_seen": None, "diffusion.minutes": 12, "diffusion.batch_size": 64}
    augmenter = diffaug.DiffusionAugmenter(study=tmp_path / "study", settings=settings, verbose=False).fit(images)
    pool = augmenter.generate()
    augmenter.evaluate(arms=["real only", "real + synthetic"], train_fn=lambda data, pixels, seed: [0] * len(pixels))
    report = json.loads((tmp_path / "study" / "report.json").read_text())

    words = shlex.split(report["command"])
    assert words[:3] == ["diffaug", "run", str(images)]
    options = list(zip(words[3::2], words[4::2], strict=True))
    assignments = [value.partition("=") for name, value in options if name == "--set"]
    given = {key: parse_value(value, where="--set") for key, _, value in assignments}
    monkeypatch.setattr(
        "diffaug.stages.fitting.routes.pixels.measure_images_per_second", lambda *_: 50.0
    )  # a faster machine
    study, config = dict(options)["--study"], dict(options)["--config"]
    again = diffaug.DiffusionAugmenter(study=study, config=config, settings=given, verbose=False).attach(images)
    second_generator = pilot._job_of_replicate(augmenter.job, augmenter.inspect(), pool, 1)
    plans = [plan_training(job, again.inspect()) for job in (again.job, second_generator)]
    first = read_plan(tmp_path / "study" / "generator")
    for part in ("network", "images_seen", "batch_size", "learning_rate", "precision", "compiled", "augmentation"):
        assert [getattr(plan, part) for plan in plans] == 2 * [getattr(first, part)]

    facts = report["facts"]
    assert facts["SHA-256 of the pool's manifest"] == storage.sha256_file(pool.root / MANIFEST)
    assert facts["SHA-256 of the generator"] == augmenter.generator_.weights_sha256
    assert facts["generator: software"] == facts["evaluation: software"]
    assert f"torch {torch.__version__.partition('+')[0]}" in facts["generator: software"]
    assert report["not_repeated"][0].startswith("your own classifier (")
    assert len(report["not_repeated"]) == 1
    assert "except for your own classifier" in (tmp_path / "study" / "report.html").read_text()


def test_a_job_without_code_of_ones_own_is_repeated_whole(tmp_path, images, small) -> None:
    settings = {**small, "evaluation.arms": ["real only", "real + synthetic"], "evaluation.num_seeds": 1}
    settings["evaluation.workers"] = 1
    augmenter = diffaug.DiffusionAugmenter(study=tmp_path / "study", settings=settings, verbose=False).fit(images)
    augmenter.generate()
    augmenter.evaluate(synthetic_fraction=0.3)
    assert json.loads((tmp_path / "study" / "report.json").read_text())["not_repeated"] == []
    augmenter.generate(more={"bright": 2})
    augmenter = diffaug.DiffusionAugmenter.open(tmp_path / "study", overwrite=True, verbose=False)
    augmenter.evaluate()
    report = json.loads((tmp_path / "study" / "report.json").read_text())
    assert report["not_repeated"] == ["the images that --more added"]


def test_without_a_generator_the_report_is_about_real_images_alone(tmp_path, images, small) -> None:
    augmenter = diffaug.DiffusionAugmenter(study=tmp_path / "study", settings=small, verbose=False).attach(images)
    arms = ["real only", "oversampling", "best real + synthetic"]
    result = augmenter.evaluate(arms=arms, train_fn=lambda data, pixels, seed: [0] * len(pixels))
    assert augmenter.report() == tmp_path / "study" / "report.html"
    page, report = (tmp_path / "study" / "report.html").read_text(), tmp_path / "study" / "report.json"
    assert "There are no synthetic images" in page and result.best_real.partition(":")[0] in page
    content = json.loads(report.read_text())
    assert (content["pool"], content["command"]) == (None, f"diffaug evaluate {tmp_path / 'study'} --overwrite")
