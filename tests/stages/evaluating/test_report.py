from __future__ import annotations

import json
import shlex

import torch

import diffaug
from diffaug.cli.options import augmenter_arguments
from diffaug.diffusion.planning.planning import Plan
from diffaug.files import storage
from diffaug.stages.evaluating import replicates
from diffaug.stages.fitting.fit import plan_training
from diffaug.synthesis.pool.pool import MANIFEST


def test_the_report_says_what_repeats_the_job_and_what_it_was_made_with(tmp_path, images, small, monkeypatch) -> None:
    monkeypatch.setattr("diffaug.stages.fitting.fit.measured", lambda *_: (5.0, None))
    monkeypatch.setattr("diffaug.diffusion.planning.planning.FEW_IMAGES", 1)
    monkeypatch.setattr(
        "diffaug.diffusion.planning.planning.LONG_CPU_MINUTES", 11
    )  # more than what images alone stand for
    settings = {**small, "diffusion.images_seen": None, "diffusion.minutes": 12, "diffusion.batch_size": 64}
    augmenter = diffaug.DiffusionAugmenter(study=tmp_path / "study", settings=settings, verbose=False).fit(images)
    pool = augmenter.generate()
    augmenter.evaluate(arms=["real only", "real + synthetic"], train_fn=lambda data, pixels, seed: [0] * len(pixels))
    report = json.loads((tmp_path / "study" / "report.json").read_text())

    words = shlex.split(report["command"])
    assert words[:3] == ["diffaug", "run", str(images)]
    options = list(zip(words[3::2], words[4::2], strict=True))
    given = {"config": dict(options)["--config"], "assignments": [value for name, value in options if name == "--set"]}
    monkeypatch.setattr("diffaug.stages.fitting.fit.measured", lambda *_: (50.0, None))  # a faster machine
    study = dict(options)["--study"]
    again = diffaug.DiffusionAugmenter(study=study, **augmenter_arguments(given)).attach(images)
    second_generator = replicates._job(augmenter.job, augmenter.inspect(), pool, 1)
    plans = [plan_training(job, again.inspect().images("train")) for job in (again.job, second_generator)]
    first = Plan.from_dict(storage.read_json(tmp_path / "study" / "generator" / "plan.json"))
    for part in ("network", "images", "batch_size", "learning_rate", "precision", "compiled", "augmentation"):
        assert [getattr(plan, part) for plan in plans] == 2 * [getattr(first, part)]

    facts = report["facts"]
    assert facts["SHA-256 of the pool's manifest"] == storage.sha256_file(pool.root / MANIFEST)
    assert facts["SHA-256 of the generator"] == augmenter.generator_.weights_sha256
    assert facts["generator: software"] == facts["evaluation: software"]
    assert f"torch {torch.__version__.partition('+')[0]}" in facts["generator: software"]
    assert report["not_repeated"][0].startswith("the classifier of your own (")
    assert len(report["not_repeated"]) == 1
    assert "but for the classifier of your own" in (tmp_path / "study" / "report.html").read_text()


def test_a_job_without_code_of_ones_own_is_repeated_whole(tmp_path, images, small) -> None:
    settings = {**small, "evaluation.arms": ["real only", "real + synthetic"], "evaluation.num_seeds": 1}
    augmenter = diffaug.DiffusionAugmenter(study=tmp_path / "study", settings=settings, verbose=False).fit(images)
    augmenter.generate()
    augmenter.evaluate(synthetic_fraction=0.3)
    assert json.loads((tmp_path / "study" / "report.json").read_text())["not_repeated"] == []
    augmenter.generate(more={"bright": 2})
    augmenter = diffaug.DiffusionAugmenter.open(tmp_path / "study", overwrite=True, verbose=False)
    augmenter.evaluate()
    assert json.loads((tmp_path / "study" / "report.json").read_text())["not_repeated"] == [
        "the images that --more added"
    ]
