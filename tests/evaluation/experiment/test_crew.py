"""Trainings in several processes give what one process gives, survive what kills a process, and leave none behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from diffaug.classifiers.fit import TrainingRecipe
from diffaug.classifiers.training import classifier_of
from diffaug.configuration.settings import EvaluationSettings
from diffaug.data.images import LabeledImages
from diffaug.errors import DataError, DiffaugError, Interrupted
from diffaug.evaluation.experiment.arms import ARMS, Dose
from diffaug.evaluation.experiment.crew import Crew, usable_workers
from diffaug.evaluation.experiment.tasks import Selection, Task, run_here, training_of

SETTINGS = EvaluationSettings()
RECIPE = TrainingRecipe(updates=4, batch_size=8)
LONG = TrainingRecipe(updates=10**7, batch_size=8)
PATIENCE = 60


def images_of(labels, seed):
    labels = np.array(labels, np.int64)
    noise = np.random.default_rng(seed).integers(0, 60, (len(labels), 8, 8, 1))
    pixels = (noise + 60 * labels[:, None, None, None]).astype(np.uint8)
    return LabeledImages(pixels, labels, ("a", "b", "c"), tuple(map(str, range(len(labels)))))


STOCK = {
    "train": images_of([0] * 6 + [1] * 4 + [2] * 2, 0),
    "test": images_of([0, 1, 2] * 3, 1),
    "pool-0": images_of([1, 2, 2, 2], 2),
    "empty": images_of([], 3),
}


def task_of(arm="real + synthetic", seed=0, *, pool="pool-0", positions=None):
    real = Selection("train", None if positions is None else np.array(positions, np.int64))
    return Task(ARMS[arm], ARMS["oversampling"], Dose(0.3), real, Selection(pool), Selection("test"), seed)


def crew_of(folder, *, recipe=RECIPE, size=2, stop_requested=lambda: False):
    return Crew(folder, STOCK, SETTINGS, recipe, device="cpu", size=size, stop_requested=stop_requested)


@pytest.fixture(scope="module")
def crew(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crew")
    with closing(crew_of(folder)) as crew:
        yield crew
    assert list(folder.iterdir()) == []


def gone(process_id):
    with suppress(FileNotFoundError):
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    return True


def wait_until(condition, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_processes_give_bit_for_bit_what_this_process_gives(crew):
    tasks = {name: task_of(name, seed) for seed, name in enumerate(["real + synthetic", "best real + synthetic"])}
    tasks["part"] = task_of("replay", 7, positions=[0, 1, 2, 6, 7, 10, 11])
    here = dict(run_here(tasks, STOCK, training_of(classifier_of(SETTINGS), RECIPE, "cpu"), lambda: False))
    there = dict(crew.run(tasks))
    assert there.keys() == here.keys() == tasks.keys()
    for name, outcome in there.items():
        assert outcome.answer.shape == (9, 3)
        assert_array_equal(outcome.answer, here[name].answer)
        assert outcome.seconds > 0


def test_an_error_in_a_process_is_the_users_error_and_the_crew_goes_on(crew):
    with pytest.raises(DataError, match="no synthetic image to train on alone") as error:
        list(crew.run({"bad": task_of("synthetic only", pool="empty")}))
    assert "leave the arm out" in error.value.fix
    assert [name for name, _ in crew.run({"good": task_of()})] == ["good"]


def test_a_bug_in_a_process_keeps_its_traceback(crew):
    with pytest.raises(RuntimeError, match=r"Traceback(.|\n)*IndexError"):
        list(crew.run({"bad": task_of(positions=[99])}))


def test_the_work_of_a_killed_process_is_done_by_another(crew):
    tasks = {str(seed): task_of(seed=seed) for seed in range(6)}
    results = crew.run(tasks)
    first = next(results)
    victim = crew._busy()[0].process
    victim.kill()
    outcomes = dict([first, *results])
    here = dict(run_here(tasks, STOCK, training_of(classifier_of(SETTINGS), RECIPE, "cpu"), lambda: False))
    assert outcomes.keys() == tasks.keys()
    assert all((outcomes[name].answer == here[name].answer).all() for name in tasks)


def test_what_kills_two_processes_is_an_error_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with closing(crew_of(tmp_path)) as crew, pytest.raises(DiffaugError, match="exit code 1") as error:
        list(crew.run({"doomed": task_of()}))
    assert "evaluation.workers=1" in error.value.fix
    assert list(tmp_path.iterdir()) == []


def test_a_process_killed_by_the_system_twice_is_named_so(tmp_path, monkeypatch):
    killed = tmp_path / "killed.sh"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    with closing(crew_of(tmp_path)) as crew, pytest.raises(DiffaugError, match="killed by SIGKILL"):
        list(crew.run({"doomed": task_of()}))


def test_a_requested_stop_ends_every_process_whatever_it_is_at(tmp_path):
    busy = []
    with closing(crew_of(tmp_path, recipe=LONG, stop_requested=lambda: len(busy) > 3)) as crew:
        results = crew.run({str(seed): task_of(seed=seed) for seed in range(2)})
        crew._stop_requested = lambda: busy.append([worker.process for worker in crew._workers]) or len(busy) > 3
        with pytest.raises(Interrupted, match="every finished training is kept"):
            next(results)
        assert len(busy[-1]) == 2
        assert all(process.poll() is not None for process in busy[-1])


PARENT = """
import json, sys
sys.path[:0] = {path}
import numpy as np
from test_workers_helper import crew_of, LONG, task_of
from pathlib import Path
crew = crew_of(Path({folder!r}), recipe=LONG)
stop = lambda: print(json.dumps([worker.process.pid for worker in crew._workers]), flush=True)
crew._stop_requested = stop
list(crew.run({{str(seed): task_of(seed=seed) for seed in range(2)}}))
"""


def test_workers_end_by_themselves_when_their_parent_is_killed(tmp_path):
    (tmp_path / "test_workers_helper.py").write_text(Path(__file__).read_text())
    script = tmp_path / "script.py"  # without a main guard, as a user may write it
    script.write_text(PARENT.format(path=[str(tmp_path), *filter(None, sys.path)], folder=str(tmp_path / "evaluation")))
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    workers = json.loads(parent.stdout.readline())
    assert len(workers) == 2
    wait_until(lambda: all("train.pixels.npy" in Path(f"/proc/{worker}/maps").read_text() for worker in workers))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: all(map(gone, workers)))


def test_the_number_of_workers_follows_the_machine_unless_set():
    cores = len(os.sched_getaffinity(0))
    assert usable_workers(None, "cpu") == min(8, cores)
    assert usable_workers(3, "cpu") == 3
