"""Records of another shape, signed as diffaug signs, and hostile settings end in one line."""

import json
import math
import random

import hypothesis
import pytest
from hypothesis import strategies as st

from tests.faults.damage import REMOVED, files_below, places_of, put, write_signed
from tests.faults.world import COMMANDS, OPTIONS, Command

READERS = {"generate": 160, "evaluate": 80, "export": 230, "report": 230}
CONFIGS = 140
CODES = (0, 2, 3)
GIGABYTES = 4
SECONDS = 120.0

NUMBERS = st.sampled_from([0, -1, 1, 2, 10**6, 2**31, 2**63, 10**30, -(10**12), 0.5, 1e308, 1e-308, math.nan, math.inf])
TEXTS = st.sampled_from(["", "..", "../../etc", "/etc/passwd", "\x1b[2J", "a\x00b", "\u202e", "\ud800", "9" * 5000])
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS, st.integers(), st.text(max_size=20))


def _containers(inner):
    return st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)


VALUES = st.recursive(SCALARS, _containers, max_leaves=8)


def deep(levels: int):
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


LARGE = st.sampled_from([deep(50), deep(400), [0] * 100_000])
HOSTILE = st.one_of(st.just(REMOVED), NUMBERS, NUMBERS, TEXTS, SCALARS, SCALARS, VALUES, VALUES, LARGE)


def shown(value) -> str:
    return "nothing" if value is REMOVED else repr(value)[:80]


def draw(number: int, test) -> None:
    """Runs a test on examples that are always the same; what fails is not shrunk, since the test notes it."""
    options = {"max_examples": number, "deadline": None, "database": None, "derandomize": True}
    checks = list(hypothesis.HealthCheck)
    hypothesis.settings(**options, phases=[hypothesis.Phase.generate], suppress_health_check=checks)(test)()


def problem_of(world, command: Command) -> str:
    outcome = world.run(command, limits={"RLIMIT_AS": GIGABYTES << 30}, seconds=SECONDS)
    if outcome.has_traceback or outcome.code not in CODES:
        return f"exit code {outcome.code}: {outcome.output[-1500:]}"
    return ""


@pytest.mark.parametrize("name", READERS)
def test_a_record_of_another_shape_is_refused_in_one_line(name, world, figures, scaled):
    tried = figures("hostile records", name)

    @hypothesis.given(st.randoms(use_true_random=False), HOSTILE)
    def try_one(source: random.Random, value) -> None:
        world.restore(COMMANDS[name].before)
        study = world.folder / "study"
        file = source.choice([file for file in files_below(study) if file.suffix == ".json"])
        document = json.loads((study / file).read_text())
        place = source.choice(places_of(document))
        write_signed(study, study / file, put(document, place, value))
        tried.add(f"{file} {list(place)} = {shown(value)}", problem_of(world, COMMANDS[name]))

    draw(scaled(READERS[name]), try_one)
    tried.require_none()


def test_hostile_settings_are_refused_in_one_line(world, figures, scaled):
    tried = figures("hostile records", "settings")
    keys = [option.partition("=")[0] for option in OPTIONS if "=" in option]

    @hypothesis.given(st.sampled_from(keys), HOSTILE.filter(lambda value: value is not REMOVED))
    def try_one(key: str, value) -> None:
        world.restore("new")
        section, _, leaf = key.rpartition(".")
        content = {section: {leaf: value}} if section else {leaf: value}
        (world.folder / "hostile.yaml").write_text(json.dumps(content))
        command = Command("new", ("inspect", "images", "--study", "study", "--config", "hostile.yaml"))
        tried.add(f"{key} = {shown(value)}", problem_of(world, command))

    draw(scaled(CONFIGS), try_one)
    tried.require_none()
