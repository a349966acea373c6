"""Damage to any file of a study changes no result silently, and the error says what helps."""

import random
import re
import shlex
import subprocess

import pytest

from tests.faults.damage import KINDS, damage, files_below
from tests.faults.world import COMMANDS, Command

READERS = {"generate": 350, "evaluate": 180, "export": 720, "report": 550, "evaluate again": 200}
OTHERS = {name: flips // 12 for name, flips in READERS.items()}
REFUSALS = (2, 3)  # config.yaml, which users may edit, is a matter of usage
REMEDY = re.compile(r"(?:^|[:;] +)((?:diffaug|rm) .+)$", re.MULTILINE)
REMEDIES_TRIED = 40


def problem_of_damaged(world, name: str, file: str, tried_remedies: list[str]) -> str:
    end, outcome = world.end_of(name), world.run(COMMANDS[name])
    if outcome.has_traceback or outcome.code not in (0, *REFUSALS):
        return f"exit code {outcome.code}: {outcome.output[-1500:]}"
    if outcome.code == 0:
        return world.difference_from(end, but=file)
    return problem_of_remedy(world, name, outcome.output, tried_remedies)


def problem_of_remedy(world, name: str, output: str, tried: list[str]) -> str:
    """What is wrong with the last command in an error; each different one is run once in a while."""
    found = REMEDY.findall(output)
    if not found:
        return f"no command that helps: {output[-1500:]}"
    kind = re.sub(r"\S*/\S*", "", found[-1])
    if tried.count(kind) >= REMEDIES_TRIED // 10:
        return ""
    tried.append(kind)
    words = shlex.split(found[-1])
    if words[0] == "rm":
        subprocess.run(words, check=False, cwd=world.folder)
    else:
        outcome = world.run(Command("", tuple(words[1:])))
        if outcome.code != 0:
            return f"the remedy {found[-1]}: exit code {outcome.code}: {outcome.output[-1500:]}"
    again = world.again(name)
    return "" if again.code == 0 else f"after the remedy {found[-1]}: exit code {again.code}: {again.output[-1500:]}"


def try_damages(world, name: str, kinds, number: int, tried) -> None:
    source, remedies = random.Random(number), []
    for turn in range(number):
        world.restore(COMMANDS[name].before)
        files = files_below(world.folder / "study")
        file, kind = files[source.randrange(len(files))], kinds[turn % len(kinds)]
        done = damage(world.folder / "study" / file, kind, source)
        problem = problem_of_damaged(world, name, f"study/{file}", remedies)
        tried.add(f"{file} {done}", problem)
    tried.require_none()


@pytest.mark.parametrize("name", READERS)
def test_no_flipped_bit_changes_a_result_silently(name, world, figures, scaled):
    try_damages(world, name, ["flip"], scaled(READERS[name]), figures("flips", name))


@pytest.mark.parametrize("name", OTHERS)
def test_no_cut_or_removed_file_changes_a_result_silently(name, world, figures, scaled):
    try_damages(world, name, KINDS[1:], scaled(OTHERS[name]), figures("damaged files", name))
