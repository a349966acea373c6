from unittest.mock import Mock

import pytest

from diffaug.augmenter import DiffusionAugmenter
from diffaug.diffusion.planning.costs import Costs, Seconds
from diffaug.errors import UsageError
from diffaug.stages.fitting import plan as planning
from diffaug.stages.fitting.plan import plan_training
from diffaug.stages.fitting.routes import pixels


@pytest.fixture(autouse=True)
def costs_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffaug.stages.costs.estimate_costs", lambda *_: Costs(*(Seconds(1, 2),) * 3))


def measured(monkeypatch: pytest.MonkeyPatch, *speeds: float | Exception) -> None:
    """Gives the speeds of the next measurements; an error is raised."""
    monkeypatch.setattr(pixels, "measure_images_per_second", Mock(side_effect=speeds))


def augmenter_of(images, study, **settings: object) -> DiffusionAugmenter:
    return DiffusionAugmenter(study=study, settings={"device": "cpu", **settings}, verbose=False).attach(images)


@pytest.mark.parametrize(
    ("speeds", "chosen"),
    [
        ((40.0, 42.0, 500.0, 900.0), ("bfloat16", 900.0)),
        ((500.0, 42.0, 510.0, 540.0), ("float32", 510.0)),
        ((500.0, 560.0, 600.0, 550.0), ("float32", 600.0)),
    ],
)
def test_other_work_for_a_moment_does_not_choose_the_precision(images, tmp_path, monkeypatch, speeds, chosen) -> None:
    measured(monkeypatch, *speeds)
    settings = {"diffusion.minutes": 20.0, "diffusion.batch_size": 64}
    plan = augmenter_of(images, tmp_path / "study", **settings).plan()
    assert (plan.precision, plan.images_per_second) == chosen


def test_a_smaller_batch_must_keep_four_fifths_of_the_speed(images, tmp_path, monkeypatch) -> None:
    measured(monkeypatch, 100.0, 10.0, 100.0, 10.0, 81.0, 60.0)  # ten minutes at this speed are too few steps
    plan = augmenter_of(images, tmp_path / "study", **{"diffusion.minutes": 10.0}).plan()
    assert (plan.batch_size, plan.images_per_second) == (32, 81.0)


@pytest.mark.parametrize(
    ("speed", "settings", "expected"),
    [
        (1e4, {}, ("fine", 1)),
        (10.0, {}, ("small", 2)),  # too few images in ten minutes
        (1e4, {"diffusion.preset": "small"}, ("small", 2)),
        (1e4, {"data.image_size": 16}, ("small", 1)),  # nothing is folded
        (1e4, {"data.channels": 3}, ("small", 2)),
    ],
)
def test_images_are_folded_less_if_the_time_is_enough(images, tmp_path, monkeypatch, speed, settings, expected) -> None:
    monkeypatch.setattr(pixels, "measure_images_per_second", Mock(return_value=speed))
    given = {"data.image_size": 32, "diffusion.minutes": 10.0, **settings}
    plan = augmenter_of(images, tmp_path / "study", **given).plan()
    assert (plan.preset, plan.network.patch) == expected
    assert f"UNet '{expected[0]}'" in "".join(plan.reasons)


def test_a_length_in_images_is_planned_the_same_with_and_without_measuring(images, tmp_path, monkeypatch) -> None:
    measured(monkeypatch, 500.0, 100.0)  # the first would forbid a smaller batch
    augmenter = augmenter_of(images, tmp_path / "study", **{"diffusion.images_seen": 20_000})
    plan = augmenter.plan()
    assert plan.images_per_second == 500
    without = plan_training(augmenter.job, augmenter.inspect())
    assert (plan.batch_size, plan.images_seen) == (without.batch_size, without.images_seen) == (16, 20_000)


def test_a_network_that_cannot_be_compiled_is_refused_if_compiling_is_set(images, tmp_path, monkeypatch) -> None:
    measured(monkeypatch, RuntimeError("no compiler"))
    with pytest.raises(UsageError, match="can't compile here: no compiler"):
        augmenter_of(images, tmp_path / "study", **{"diffusion.compile": True, "diffusion.images_seen": 64}).plan()


def test_a_network_that_cannot_be_compiled_is_planned_without(images, tmp_path, warned, monkeypatch) -> None:
    def with_compiled(plan, settings):
        return [plan, planning.replace(plan, compiled=True)]

    monkeypatch.setattr(planning, "precision_candidates", with_compiled)
    measured(monkeypatch, 1e4, RuntimeError("no compiler\nat all"))
    settings = {"diffusion.minutes": 10.0, "diffusion.batch_size": 64}
    plan = augmenter_of(images, tmp_path / "study", **settings).plan()
    assert (plan.compiled, plan.images_per_second) == (False, 1e4)
    assert "not compiled: no compiler" in warned
