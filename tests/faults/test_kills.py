"""Killed or refused at the N-th change of a file, each command ends as if nothing had happened when it is repeated."""

import pytest

from tests.faults.strikes import ERRORS, KILLS, strike_twice
from tests.faults.world import known

KILL_ROUNDS = {
    **{"fit": 42, "generate": 44, "evaluate": 46, "report": 19, "export": 60},
    **{"second generator": 14, "run": 6, "fit anew": 8, "review": 8},
}
FAILURE_ROUNDS = {
    **{"fit": 35, "generate": 36, "evaluate": 38, "report": 18, "export": 46},
    **{"second generator": 10, "run": 5, "fit anew": 7, "review": 5},
}


def try_strikes(world, name, figures, sample, kind, rounds, disturbances) -> None:
    count = world.end_of(name).count
    tried = figures(kind, name, count * len(disturbances))
    points = sample(count, rounds)
    strike_twice(world, name, points, count, disturbances, lambda last: world.problem_of(name, last), tried)
    tried.require_none()


@pytest.mark.parametrize("name", known(KILL_ROUNDS))
def test_a_command_that_is_killed_twice_is_finished_by_the_same_command(name, world, figures, sample):
    try_strikes(world, name, figures, sample, "kills", KILL_ROUNDS[name], KILLS)


@pytest.mark.parametrize("name", known(FAILURE_ROUNDS))
def test_a_command_whose_disk_fails_twice_is_finished_by_the_same_command(name, world, figures, sample):
    try_strikes(world, name, figures, sample, "failed operations", FAILURE_ROUNDS[name], ERRORS)
