from dataclasses import replace

import pytest

from diffaug.augmenter import DiffusionAugmenter
from diffaug.diffusion.planning.costs import Costs, Seconds
from diffaug.diffusion.planning.length import PilotPlan
from diffaug.stages import costs
from diffaug.stages.costs import estimate_costs
from diffaug.stages.fitting.routes.pixels import PixelRoute
from diffaug.stages.job import Job
from tests.conftest import SMALL


@pytest.fixture
def augmenter(images, tmp_path) -> DiffusionAugmenter:
    settings = {**SMALL, "device": "cpu", "evaluation.workers": 2, "synthesis.sampling_strategy": "all"}
    return DiffusionAugmenter(study=tmp_path / "study", settings=settings, verbose=False).attach(images)


def test_the_costs_follow_images_steps_and_trainings(augmenter, monkeypatch) -> None:
    monkeypatch.setattr(costs, "_seconds_per_sample", lambda *_: 0.5)
    monkeypatch.setattr(costs, "_seconds_per_step", lambda *_: 0.01)
    catalog, plan = augmenter.inspect(), augmenter.plan()
    added = sum(16 - count for count in catalog.counts_by_name("train").values())
    plan = replace(plan, images_seen=1000, images_per_second=10.0)
    found = estimate_costs(augmenter.job, catalog, plan)
    assert found.fitting == Seconds(100, 100)
    filtering = 3 * 3 * 0.01
    assert found.generating == Seconds(added * 0.5 + filtering / 2, 2 * added * 0.5 + filtering)
    trainings = 3 * 3 + 23  # arms and seeds; cross-validation
    assert (found.evaluating.low, found.evaluating.high) == pytest.approx(
        (0.6 * trainings * 8 * 0.01 / 2, 1.6 * trainings * 8 * 0.01 / 2)
    )
    with_pilot = estimate_costs(augmenter.job, catalog, replace(plan, pilot=PilotPlan(500, 20, 10), seconds=120))
    assert with_pilot.fitting == Seconds(30, 120)  # it ends in time
    mixed = 1.6 * 21 * 8 * 0.01 / 2  # trainings with a pool of the pilot
    assert with_pilot.evaluating.high == pytest.approx(found.evaluating.high + mixed + found.generating.high)


def test_a_quick_evaluation_costs_little_and_needs_no_pool_of_the_pilot(augmenter, monkeypatch) -> None:
    monkeypatch.setattr(costs, "_seconds_per_sample", lambda *_: 0.5)
    monkeypatch.setattr(costs, "_seconds_per_step", lambda *_: 0.01)
    catalog = augmenter.inspect()
    plan = replace(PixelRoute().plan(augmenter.job, catalog.images("train")), pilot=PilotPlan(500, 20, 10))
    job = with_settings(augmenter.job, evaluation={"quick": True, "num_seeds": None, "max_steps": None})
    found = estimate_costs(job, catalog, plan)
    assert found.evaluating.high == pytest.approx(1.6 * 2 * 3 * 200 * 0.01 / 2)  # 3 arms, 2 seeds, 200 steps each


def test_painting_a_transplant_costs_as_much_as_five_samples(augmenter, monkeypatch) -> None:
    monkeypatch.setattr(costs, "_seconds_per_sample", lambda *_: 1.0)
    monkeypatch.setattr(costs, "_seconds_per_step", lambda *_: 0.0)
    catalog = augmenter.inspect()
    plan = PixelRoute().plan(augmenter.job, catalog.images("train"))
    counts = catalog.counts_by_name("train")
    added = sum(max(counts.values()) - count for count in counts.values())
    for settings, factor in (({}, 1), ({"mask_from": "box", "transplant_fraction": 0.5}, 0.5 + 0.5 * 5)):
        job = with_settings(augmenter.job, synthesis=settings)
        assert estimate_costs(job, catalog, plan).generating.low == pytest.approx(factor * added)


def with_settings(job: Job, **sections: dict[str, object]) -> Job:
    config = job.config
    changed = {name: getattr(config, name).model_copy(update=values) for name, values in sections.items()}
    return replace(job, resolved=replace(job.resolved, config=config.model_copy(update=changed)))


@pytest.mark.e2e
def test_the_costs_are_measured_and_said_and_change_no_plan(augmenter, monkeypatch) -> None:
    said = []
    monkeypatch.setattr(augmenter.job.narrator, "say", said.append)
    plan = augmenter.plan()
    for one in (plan.costs.fitting, plan.costs.generating, plan.costs.evaluating):
        assert 0 < one.low <= one.high < 600
    assert said[-1] == plan.costs.sentence()
    assert plan == replace(plan, costs=None)
    assert not augmenter.study.has_begun


def test_the_costs_read_as_a_sentence() -> None:
    found = Costs(Seconds(60, 240), Seconds(20, 20.2), Seconds(100, 5000))
    assert found.total == Seconds(180, 5260.2)
    assert found.sentence() == (
        "fit takes 1 min 00 s to 4 min 00 s, generate about 20 s, evaluate about 1 min 40 s to 1 h 23 min; "
        "together 3 min 00 s to 1 h 27 min"
    )


def test_a_plan_warns_of_what_an_evaluation_would_refuse(make_classes, tmp_path, monkeypatch) -> None:
    data = make_classes(tmp_path / "data", {"train/dark": 6, "train/bright": 6, "test/dark": 2})
    augmenter = DiffusionAugmenter(study=tmp_path / "study", settings=SMALL, verbose=False).attach(data)
    planned = PixelRoute().plan(augmenter.job, augmenter.inspect().images("train"))
    monkeypatch.setattr(costs, "plan_training", lambda *_, **__: planned)
    monkeypatch.setattr(costs, "compare_routes", lambda *_: ())
    monkeypatch.setattr(costs, "estimate_costs", lambda *_: Costs(Seconds(1, 1), Seconds(1, 1), Seconds(1, 1)))
    warnings = []
    monkeypatch.setattr(augmenter.job.narrator, "warn", warnings.append)
    augmenter.plan()
    assert warnings[-1].startswith("evaluate would refuse these images: no test image of: bright; to prevent")
