"""MLflow's database and server are killed while they receive a study; in the end they hold everything once."""

import random
import shutil
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.strikes import ERRORS, KILLS, strike_twice
from tests.faults.world import COMMANDS
from tests.integrations.test_mlflow_server import Server

ROUNDS = {"kills": (6, KILLS), "failed operations": (3, {name: ERRORS[name] for name in ("ENOSPC", "EIO")})}
OUTAGES = 2
SYNC = COMMANDS["sync"]
QUERIES = (
    "select name, status from runs",
    "select r.name, m.key, m.value, m.step from metrics m join runs r using (run_uuid)",
    "select r.name, p.key, p.value from params p join runs r using (run_uuid)",
    "select r.name, t.key from tags t join runs r using (run_uuid)",
)


def content_of(database: Path) -> list[list[tuple]]:
    """Runs, metrics, parameters and names of tags, each as often as it is there."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as store:
        return [sorted(map(tuple, store.execute(query)), key=repr) for query in QUERIES]


def problem_of(world, outcome, wanted) -> str:
    if outcome.code != 0 or outcome.has_traceback:
        return f"the command again: exit code {outcome.code}: {outcome.output[-1500:]}"
    return "" if content_of(world.folder / "study" / "mlflow.db") == wanted else "MLflow holds something else"


@pytest.fixture(scope="module")
def synced(world) -> tuple[int, list[list[tuple]]]:
    """Number of operations of an undisturbed `sync`, and what MLflow then holds."""
    world.restore(SYNC.before)
    outcome = world.run(SYNC)
    assert outcome.code == 0, outcome.output
    return outcome.count, content_of(world.folder / "study" / "mlflow.db")


@pytest.mark.parametrize("kind", ROUNDS)
def test_a_sync_that_is_struck_twice_is_finished_by_the_next(kind, world, synced, figures, sample):
    (count, wanted), (rounds, disturbances) = synced, ROUNDS[kind]
    tried, points = figures(kind, "sync", count * len(disturbances)), sample(count, rounds)
    strike_twice(world, "sync", points, count, disturbances, lambda last: problem_of(world, last, wanted), tried)
    tried.require_none()


def test_a_server_that_is_killed_on_the_way_has_everything_once(world, synced, figures, scaled, tmp_path):
    tried, source, wanted = figures("outages of MLflow", "sync"), random.Random(0), synced[1]
    store, empty = tmp_path / "store.db", tmp_path / "empty.db"
    options = ("--backend-store-uri", f"sqlite:///{store}", "--artifacts-destination", str(tmp_path / "artifacts"))
    server = Server(tmp_path, "server", *options, "--workers", "1")
    environment = {"MLFLOW_TRACKING_URI": server.address}
    try:
        server.start()
        server.kill()
        shutil.copy(store, empty)
        for _ in range(scaled(OUTAGES)):
            shutil.copy(empty, store)
            server.start()
            world.restore(SYNC.before)
            pause = source.uniform(0.1, 2.0)
            killer = threading.Thread(target=lambda pause=pause: (time.sleep(pause), server.kill()))
            killer.start()
            struck = world.run(SYNC, environment=environment)
            killer.join()
            server.start()
            again = world.run(SYNC, environment=environment)
            server.kill()
            problem = "" if not struck.has_traceback and again.code == 0 else struck.output + again.output
            problem = problem or ("" if content_of(store) == wanted else "MLflow holds something else")
            tried.add(f"killed after {pause:.1f} s", problem, struck=struck.code != 0)
    finally:
        server.kill()
    tried.require_none()
