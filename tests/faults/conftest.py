"""The fault suite: `python -m pytest tests/faults`, with `-n 2` on two cores. Needs Linux and a C compiler."""

import itertools
import os
import platform
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.faults.figures import PROPERTY, Figures, collected, totals, write_json
from tests.faults.forks import Forks
from tests.faults.world import WARM_UP, World, write_images

_MADE = pytest.StashKey[list[tuple[Figures, float]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--share", type=float, default=1.0, help="Part of the tries to make, such as 0.1.")
    group.addoption("--figures", type=Path, default=None, help="JSON file for the figures.")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--figures") and not hasattr(config, "workerinput"):  # one process counts for all workers
        config.pluginmanager.register(KeptFigures(config))


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    reports = [one for outcome in ("passed", "failed") for one in terminalreporter.stats.get(outcome, [])]
    figures = collected(reports)
    if not figures:
        return
    terminalreporter.section("faults")
    terminalreporter.write_line(f"{'':22}{'tries':>8}{'struck':>8}{'failed':>8}")
    for kind, numbers in totals(figures).items():
        terminalreporter.write_line(f"{kind:22}" + "".join(f"{number:8d}" for number in numbers.values()))


class KeptFigures:
    """Keeps the figures in their file as they come, so that a run that is cut short has them."""

    def __init__(self, config: pytest.Config) -> None:
        self._file, self._reports = config.getoption("--figures"), list[pytest.TestReport]()
        machine = {"system": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count()}
        self._machine = {**machine, "share": config.getoption("--share")}
        self._begin = time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reports.append(report)
        minutes = round((time.monotonic() - self._begin) / 60, 1)
        write_json(self._file, collected(self._reports), {**self._machine, "minutes": minutes})


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not sys.platform.startswith("linux") or compiler is None:
        pytest.skip("needs Linux and a C compiler")
    folder = tmp_path_factory.mktemp("forks")
    shim = folder / "shim.so"
    command = [compiler, "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(shim)]
    subprocess.run([*command, str(Path(__file__).with_name("shim.c"))], check=True)
    write_images(folder / "images")
    forks = Forks(shim, WARM_UP, folder)
    yield forks
    forks.close()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> World:
    return World(tmp_path_factory.mktemp("world"), forks)


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Callable[..., Figures]:
    """Makes the figures of a test, which are recorded when it ends."""
    made = request.node.stash.setdefault(_MADE, [])

    def make(kind: str, subject: str, possible: int | None = None) -> Figures:
        one = Figures(kind, subject, possible)
        made.append((one, time.monotonic()))
        return one

    return make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    """Records the figures before the report of the call is made, whether it fails or not."""
    try:
        return (yield)
    finally:
        for one, begin in item.stash.get(_MADE, []):
            one.seconds = round(time.monotonic() - begin, 1)
            item.user_properties.append((PROPERTY, asdict(one)))


@pytest.fixture(scope="session")
def scaled(request: pytest.FixtureRequest) -> Callable[[int], int]:
    """scaled(number): the part of a number of tries that is to be made."""
    share = request.config.getoption("--share")
    return lambda number: max(1, round(number * share))


@pytest.fixture(scope="session")
def sample(scaled: Callable[[int], int]) -> Callable[[int, int], list[int]]:
    """sample(possible, wanted): numbers from 1 to `possible`, one from each of `wanted` slices, always the same."""

    def draw(possible: int, wanted: int) -> list[int]:
        wanted = min(possible, scaled(wanted))
        edges = [possible * number // wanted for number in range(wanted + 1)]
        source = random.Random(possible)
        return [source.randint(low + 1, high) for low, high in itertools.pairwise(edges)]

    return draw
