"""Killed or refused at the N-th change of a file, each command ends as if nothing had happened when it is repeated."""

import errno

import pytest

from tests.faults.world import COMMANDS, known

KILLS = {
    **{"fit": 110, "generate": 100, "evaluate": 100, "report": 20, "export": 110},
    **{"second generator": 35, "run": 20, "fit anew": 25, "review": 10},
}
FAILURES = {
    **{"fit": 85, "generate": 80, "evaluate": 80, "report": 20, "export": 75},
    **{"second generator": 30, "run": 15, "fit anew": 15, "review": 5},
}
ERRORS = {
    "ENOSPC": {"error": errno.ENOSPC, "lasting": True},
    "EROFS": {"error": errno.EROFS, "lasting": True},
    "EIO": {"error": errno.EIO},
    "EACCES": {"error": errno.EACCES},
    "ESTALE": {"error": errno.ESTALE},
}
DAMAGED_OR_FULL = 3  # docs/reference/exit-codes.md


@pytest.mark.parametrize("name", known(KILLS))
def test_a_killed_command_is_finished_by_the_same_command(name, world, figures, sample):
    end = world.end_of(name)
    tried = figures("kills", name, end.count)
    for turn, point in enumerate(sample(end.count, KILLS[name])):
        action = ("kill", "halve")[turn % 2]
        world.restore(COMMANDS[name].before)
        struck = world.run(COMMANDS[name], strike_at=point, action=action)
        problem = world.problem_after(name, struck, codes=(-9, 0))
        tried.add(f"{action} at operation {point}", problem, struck=struck.was_killed)
    tried.require_none()


@pytest.mark.parametrize("name", known(FAILURES))
def test_a_command_whose_disk_fails_is_finished_by_the_same_command(name, world, figures, sample):
    end = world.end_of(name)
    tried = figures("failed operations", name, end.count * len(ERRORS))
    for turn, point in enumerate(sample(end.count, FAILURES[name])):
        error = list(ERRORS)[turn % len(ERRORS)]
        world.restore(COMMANDS[name].before)
        struck = world.run(COMMANDS[name], strike_at=point, action="fail", **ERRORS[error])
        problem = world.problem_after(name, struck, codes=(DAMAGED_OR_FULL, 0))
        tried.add(f"{error} at operation {point}", problem, struck=struck.code != 0)
    tried.require_none()
