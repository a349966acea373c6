"""Other processes on the study, a wall clock that leaps, limits of the system: the same bytes in the end."""

import os
import random
import subprocess

import pytest

from tests.faults.world import COMMANDS, Command

ROUNDS = {"fit": 6, "generate": 8, "evaluate": 8, "export": 4, "second generator": 4}
IN_USE = "another diffaug process is using this study"
DAY = 86_400
LIMITS = {
    "RLIMIT_NOFILE": (8, 12, 16, 24, 40),
    "RLIMIT_FSIZE": (0, 100, 1_000, 10_000, 100_000, 300_000),
    "RLIMIT_AS": (2**20, 2**26, 2**30),
    "RLIMIT_NPROC": (0, 1, 4),
}
SHARED_MEMORY = (4096, 2**20)
PARALLEL = ("evaluate", "study", "--quiet", "--set", "evaluation.workers=2")
DONE_OR_REFUSED = (0, 3)


def problem_of(outcome) -> str:
    is_expected = outcome.was_killed or outcome.code == 0 or (outcome.code == 2 and IN_USE in outcome.output)
    return "" if is_expected and not outcome.has_traceback else f"exit code {outcome.code}: {outcome.output[-1500:]}"


@pytest.mark.parametrize("name", ROUNDS)
def test_processes_on_one_study_leave_what_one_leaves(name, world, figures, scaled):
    end, source = world.end_of(name), random.Random(name)
    tried = figures("processes at once", name)
    for turn in range(scaled(ROUNDS[name])):
        world.restore(COMMANDS[name].before)
        deaths = [source.randint(1, end.count) if number < turn % 3 else 0 for number in range(2 + turn % 3)]
        outcomes = world.run_together(*(world.attempt(COMMANDS[name], strike_at=death) for death in deaths))
        problems = [*map(problem_of, outcomes), world.problem_of(name, world.again(name))]
        tried.add(f"deaths at {deaths}", "\n".join(filter(None, problems)), struck=any(deaths))
    tried.require_none()


@pytest.mark.parametrize("name", ["fit", "generate", "evaluate", "report", "export", "second generator", "run"])
def test_a_wall_clock_that_leaps_changes_no_result(name, world, figures, scaled):
    tried = figures("leaping clocks", name)
    for days in range(1, 1 + scaled(3)):
        world.restore(COMMANDS[name].before)
        outcome = world.run(COMMANDS[name], leap=DAY * days**4)
        tried.add(f"{days**4} days", world.problem_of(name, outcome))
    tried.require_none()


@pytest.mark.parametrize("name", ["fit", "generate", "evaluate", "export"])
@pytest.mark.parametrize("limit", LIMITS)
def test_a_command_that_meets_a_limit_can_be_repeated(limit, name, world, figures, scaled):
    if limit == "RLIMIT_NPROC" and os.getuid() == 0:
        pytest.skip("root has no limit of processes")
    tried = figures("limits", f"{name}, {limit}")
    for value in LIMITS[limit][: scaled(len(LIMITS[limit]))]:
        world.restore(COMMANDS[name].before)
        limited = world.run(COMMANDS[name], limits={limit: value})
        problem = world.problem_after(name, limited, codes=DONE_OR_REFUSED)
        tried.add(str(value), problem, struck=limited.code != 0)
    tried.require_none()


def can_mount() -> bool:
    return subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="only root may mount another /dev/shm")
def test_parallel_trainings_in_a_small_shared_memory_can_be_repeated(world, figures, scaled):
    tried = figures("limits", "evaluate in parallel, /dev/shm")
    for size in SHARED_MEMORY[: scaled(len(SHARED_MEMORY))]:
        world.restore("generate")
        limited = world.run(Command("generate", PARALLEL), shared_memory=size)
        again = world.run(Command("generate", PARALLEL))
        problems = [
            f"exit code {one.code}: {one.output[-1500:]}"
            for one, codes in ((limited, DONE_OR_REFUSED), (again, (0,)))
            if one.has_traceback or one.code not in codes
        ]
        tried.add(f"{size} bytes", "\n".join(problems), struck=limited.code != 0)
    tried.require_none()
