"""Commands that are struck twice: while they run, and again while they recover."""

import errno
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.faults.figures import Figures
from tests.faults.forks import Outcome
from tests.faults.world import COMMANDS, World

KILLS: Mapping[str, Mapping[str, Any]] = {"kill": {"action": "kill"}, "halve": {"action": "halve"}}
ERRORS: Mapping[str, Mapping[str, Any]] = {
    "ENOSPC": {"action": "fail", "error": errno.ENOSPC, "lasting": True},
    "EROFS": {"action": "fail", "error": errno.EROFS, "lasting": True},
    "EIO": {"action": "fail", "error": errno.EIO},
    "EACCES": {"action": "fail", "error": errno.EACCES},
    "ESTALE": {"action": "fail", "error": errno.ESTALE},
}
KILLED, NOT_SENT, DAMAGED_OR_FULL = -9, 1, 3  # docs/reference/exit-codes.md


def strike_twice(
    world: World,
    name: str,
    points: Sequence[int],
    count: int,
    disturbances: Mapping[str, Mapping[str, Any]],
    problem_in_the_end: Callable[[Outcome], str],
    tried: Figures,
) -> None:
    """Strikes a command at each point, and its repetition at a later one; the third run must end well.

    Args:
        count: Operations of the undisturbed command. The repetition does about those that are left.
        problem_in_the_end: What is wrong after the third run, empty if nothing is.
    """
    codes = (KILLED, 0) if "kill" in disturbances else (NOT_SENT, 0) if name == "sync" else (DAMAGED_OR_FULL, 0)
    for turn, point in enumerate(points):
        label = list(disturbances)[turn % len(disturbances)]
        disturbance = disturbances[label]
        world.restore(COMMANDS[name].before)
        first = world.run(COMMANDS[name], strike_at=point, **disturbance)
        tried.add(f"{label} at operation {point}", _problem_of(first, codes), struck=first.code != 0)

        later = random.Random(point).randint(1, max(1, count - point))
        second = world.again(name, strike_at=later, **disturbance)
        problem = _problem_of(second, codes) or problem_in_the_end(world.again(name))
        tried.add(f"{label} at operations {point} and {later}", problem, struck=second.code != 0)


def _problem_of(struck: Outcome, codes: Sequence[int]) -> str:
    is_expected = struck.code in codes and not struck.has_traceback
    return "" if is_expected else f"exit code {struck.code}: {struck.output[-1500:]}"
