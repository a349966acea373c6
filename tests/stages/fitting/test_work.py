from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

from diffaug.diffusion.planning.length import LengthChoice
from diffaug.diffusion.planning.planning import Plan
from diffaug.stages.fitting.work import Work

PLAN = Plan((8, 8), 1, None, 16, 1e-3, 0, seconds=900.0)


def deadline(plan: Plan, share: float) -> float | None:
    return Work(Mock(), Mock(), Mock(), plan, Path(), Mock()).deadline(share)


def test_a_first_network_gets_its_share_of_what_the_pilot_left() -> None:
    length = LengthChoice(20.0, (), 0, False, "", seconds=300.0)
    assert deadline(PLAN, 0.5) == 450
    assert deadline(replace(PLAN, length=length), 0.5) == 600
    assert deadline(replace(PLAN, length=length), 1.0) == 900
    assert deadline(replace(PLAN, seconds=200.0, length=length), 0.5) == 300  # the pilot took it all
    assert deadline(replace(PLAN, seconds=None), 0.5) is None


def test_what_a_route_trains_besides_counts_into_its_time() -> None:
    plan = replace(PLAN, images_seen=1000, images_per_second=10.0)
    assert (plan.expected_seconds, replace(plan, seconds_besides=30.0).expected_seconds) == (100, 130)
