from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest

from diffaug.diffusion.network.unet import NetworkConfig
from diffaug.diffusion.planning.planning import Plan
from diffaug.errors import UsageError
from diffaug.stages import costs
from diffaug.stages.costs import compare_routes, show_routes

PLAN = Plan((200, 200), 1, None, 16, 1e-3, 0, "slow", images_seen=1000, images_per_second=0.1, seconds=1800.0)

NETWORK = NetworkConfig((25, 25), 1, 2, 2, 32, (1, 2), 1, 0.1)


class FakeRoute:
    def __init__(self, name: str, obstacle: str = "") -> None:
        self.name, self.obstacle = name, obstacle

    def possible(self, job: Any, images: Any) -> str:
        return self.obstacle

    def bytes_needed(self, plan: Plan) -> int:
        return 3 * 2**29

    def expectation(self, plan: Plan) -> str:
        return "stripes"


def test_every_route_is_planned_or_its_obstacle_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    routes = [FakeRoute("slow"), FakeRoute("quick"), FakeRoute("refused"), FakeRoute("missing", "no folder")]

    def planned(route: FakeRoute, *_: Any, **__: Any) -> Plan:
        if route.name == "refused":
            raise UsageError("reconstruction loses the classes")
        return replace(PLAN, route=route.name, images_per_second=10.0)

    monkeypatch.setattr(costs, "all_routes", lambda: {route.name: route for route in routes})
    monkeypatch.setattr(costs, "plan_of_route", planned)
    job = Mock()
    assert (
        replace(PLAN, unet=NETWORK).unit == "px" and replace(PLAN, unet=replace(NETWORK, channels=4)).unit == "latents"
    )
    found = compare_routes(job, Mock(), PLAN)
    assert [(one.name, one.obstacle, one.seconds) for one in found] == [
        ("slow", "", 1800),  # the deadline; without one it would take 10,000 seconds
        ("quick", "", 100),
        ("refused", "reconstruction loses the classes", None),
        ("missing", "no folder", None),
    ]
    show_routes(job, replace(PLAN, options=found))
    rows = job.narrator.table.call_args.args[2]
    assert rows[0] == ["slow (chosen)", "200 x 200 px", "30 min 00 s", "1.5 GB", "stripes"]
    assert rows[3] == ["missing", "", "", "", "no folder"]
    of_latents = compare_routes(job, Mock(), replace(PLAN, unet=replace(NETWORK, channels=4)))
    show_routes(job, replace(PLAN, options=of_latents))
    assert job.narrator.table.call_args.args[2][0][1] == "25 x 25 latents"
