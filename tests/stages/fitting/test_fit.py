from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from diffaug.augmenter import DiffusionAugmenter
from diffaug.errors import DiffaugError
from diffaug.stages.fitting.fit import _Fit, plan_training


def trained(skipped: int, steps: int) -> _Fit:
    """A training of which only what it skipped is known."""
    fit = object.__new__(_Fit)
    fit.job, fit.folder, fit.plan = Mock(), "runs/x", SimpleNamespace(learning_rate=2e-3)
    fit.state = SimpleNamespace(skipped=torch.tensor(float(skipped)), step=steps)
    return fit


def test_skipped_steps_are_told_at_the_end() -> None:
    clean, some = trained(0, 10), trained(5, 10)
    clean._judge_skipped()
    clean.job.narrator.warn.assert_not_called()
    some._judge_skipped()
    some.job.narrator.warn.assert_called_once_with(
        "5 of 10 steps changed nothing, since their gradients were not finite"
    )


def test_a_training_of_which_more_than_half_was_skipped_fails() -> None:
    with pytest.raises(DiffaugError, match="6 of 10 steps") as caught:
        trained(6, 10)._judge_skipped()
    assert caught.value.fix == "lower the learning rate: --set diffusion.learning_rate=0.001"


@pytest.mark.parametrize(
    ("speeds", "chosen"),
    [
        ((40.0, 42.0, 500.0, 900.0), ("bfloat16", 900.0)),
        ((500.0, 42.0, 510.0, 540.0), ("float32", 510.0)),
        ((500.0, 560.0, 600.0, 550.0), ("float32", 600.0)),
    ],
)
def test_other_work_for_a_moment_does_not_choose_how_to_compute(images, tmp_path, monkeypatch, speeds, chosen) -> None:
    measured = iter(speeds)
    monkeypatch.setattr("diffaug.stages.fitting.fit.measured", lambda *_: (next(measured), None))
    settings = {"diffusion.minutes": 20.0, "device": "cpu"}
    plan = DiffusionAugmenter(study=tmp_path / "study", settings=settings, verbose=False).attach(images).plan()
    assert (plan.precision, plan.images_per_second) == chosen


def test_a_budget_in_images_is_planned_the_same_with_and_without_measuring(images, tmp_path, monkeypatch) -> None:
    """Measured, the first speed would forbid a smaller batch."""
    speeds = iter((500.0, 100.0))
    monkeypatch.setattr("diffaug.stages.fitting.fit.measured", lambda *_: (next(speeds), None))
    settings = {"diffusion.images_seen": 20_000, "device": "cpu"}
    augmenter = DiffusionAugmenter(study=tmp_path / "study", settings=settings, verbose=False).attach(images)
    plan = augmenter.plan()
    assert plan.images_per_second == 500
    without = plan_training(augmenter.job, augmenter.inspect().images("train"))
    assert (plan.batch_size, plan.images) == (without.batch_size, without.images) == (16, 20_000)
