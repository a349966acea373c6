import errno
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import joblib
import numpy as np
import pytest

from diffaug.errors import DataError, DiffaugError, Interrupted, UsageError
from diffaug.runtime import parallel
from diffaug.runtime.parallel import in_threads, run_unordered
from tests.conftest import eventually

pytestmark = pytest.mark.e2e


def gone(process_id):
    with suppress(FileNotFoundError):
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    return True


def sleep_for_ever(folder):
    (folder / str(os.getpid())).touch()
    time.sleep(10**6)


def process_ids(folder):
    return [int(path.name) for path in folder.iterdir() if path.name.isdigit()]


two_at_once = partial(run_unordered, num_workers=2)


def test_results_come_as_they_are_finished_not_in_the_order_of_the_tasks(tmp_path):
    def wait_for_the_other():
        assert eventually((tmp_path / "go on").exists)
        return "slow"

    results = two_at_once({"first": wait_for_the_other, "second": lambda: "quick"})
    assert next(results) == ("second", "quick")
    (tmp_path / "go on").touch()
    assert list(results) == [("first", "slow")]


def test_one_worker_or_one_task_runs_in_this_process():
    here = {"a": os.getpid, "b": os.getpid}
    assert set(dict(run_unordered(here, num_workers=1)).values()) == {os.getpid()}
    assert dict(two_at_once({"a": os.getpid})) == {"a": os.getpid()}
    assert os.getpid() not in dict(two_at_once(here)).values()


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (3, 3), (99, 8)])
def test_there_are_as_many_workers_as_cores_up_to_eight(monkeypatch, cores, workers):
    started = []

    def run_in_workers(tasks, count, *_):
        started.append(count)
        yield from dict.fromkeys(tasks, count).items()

    monkeypatch.setattr(joblib, "cpu_count", lambda: cores)
    monkeypatch.setattr(parallel, "_run_in_workers", run_in_workers)
    assert len(dict(run_unordered({0: os.getpid, 1: os.getpid}))) == 2
    assert started == ([] if workers == 1 else [workers])


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_task_computes_on_one_thread_wherever_it_runs(num_workers):
    def threads():
        import torch

        return torch.get_num_threads()

    assert dict(run_unordered({0: threads, 1: threads}, num_workers=num_workers)) == {0: 1, 1: 1}
    if num_workers > 1:
        assert dict(two_at_once(dict.fromkeys("ab", partial(os.getenv, "OMP_NUM_THREADS")))) == {"a": "1", "b": "1"}


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_of_ours_arrives_as_itself(num_workers):
    def fail():
        raise DataError("no image", where="train", fix="add one")

    with pytest.raises(DataError, match="no image") as error:
        list(run_unordered({0: fail, 1: fail}, num_workers=num_workers))
    assert (error.value.where, error.value.fix) == ("train", "add one")


@pytest.mark.parametrize("deaths", [1, 2])
def test_what_a_killed_process_left_is_done_again_once(tmp_path, deaths):
    def die(number):
        marks = [tmp_path / f"death {death}" for death in range(deaths)]
        missing = [mark for mark in marks if not mark.exists()]
        if number == 3 and missing:
            missing[0].touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    results = two_at_once({number: partial(die, number) for number in range(6)})
    if deaths == 1:
        assert dict(results) == {number: number for number in range(6)}
        return
    with pytest.raises(DiffaugError, match="died twice") as error:
        list(results)
    assert "--set evaluation.workers=1" in error.value.fix


def test_a_requested_stop_ends_every_process_in_the_midst_of_its_task(tmp_path):
    tasks = {number: partial(sleep_for_ever, tmp_path) for number in range(3)}
    with pytest.raises(Interrupted, match="everything that was finished is kept"):
        list(two_at_once(tasks, stop_requested=lambda: len(process_ids(tmp_path)) == 2))
    assert eventually(lambda: all(map(gone, process_ids(tmp_path))))


def test_closing_the_generator_ends_every_process_without_a_warning(tmp_path, recwarn):
    tasks = {"quick": os.getpid, "slow": partial(sleep_for_ever, tmp_path)}
    results = two_at_once(tasks)
    next(results)
    assert eventually(lambda: process_ids(tmp_path))
    results.close()
    assert eventually(lambda: all(map(gone, process_ids(tmp_path))))
    assert not recwarn.list


def test_a_worker_leaves_ctrl_c_to_the_process_that_started_it():
    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)
        return "alive"

    assert dict(two_at_once({0: interrupt, 1: interrupt})) == {0: "alive", 1: "alive"}


SCRIPT = """
import os, sys, time
from functools import partial
from pathlib import Path
from diffaug.runtime.parallel import run_unordered

def task(folder):
    (folder / str(os.getpid())).touch()
    time.sleep(10**6)

list(run_unordered({number: partial(task, Path(sys.argv[1])) for number in range(2)}, num_workers=2))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_workers_of_a_script_end_in_the_midst_of_a_task_of_its_own_when_it_ends(tmp_path, number):
    script = tmp_path / "script.py"  # without a main guard, as a user may write it
    script.write_text(SCRIPT)
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)], stderr=subprocess.DEVNULL)
    assert eventually(lambda: len(process_ids(tmp_path)) == 2)
    os.kill(parent.pid, number)
    assert parent.wait(60) != 0
    assert eventually(lambda: all(map(gone, process_ids(tmp_path))))


def test_large_arrays_are_shared_wherever_in_a_task_they_are():
    holder = SimpleNamespace(arrays={"pixels": np.arange(10**6)})

    def file_of(held):
        pixels = held.arrays["pixels"]
        return str(getattr(pixels, "filename", None)), int(pixels.sum()), pixels.flags.writeable

    first, second = dict(two_at_once({0: partial(file_of, holder), 1: lambda: file_of(holder)})).values()
    assert first == second
    assert first[0].endswith(".pkl")
    assert first[1:] == (int(holder.arrays["pixels"].sum()), False)


@pytest.mark.parametrize(("code", "name"), [(errno.ENOSPC, "/dev/shm"), (errno.EIO, None)])
def test_full_shared_memory_is_named(monkeypatch, code, name):
    def no_lock(*_):
        raise OSError(code, os.strerror(code))  # as loky's semaphores do

    monkeypatch.setattr(parallel, "_run_in_workers", no_lock)
    with pytest.raises(OSError) as raised:
        dict(two_at_once({0: int, 1: int}))
    assert (raised.value.errno, raised.value.filename) == (code, name)


def test_what_cannot_be_sent_to_a_process_is_the_users_error():
    lock = threading.Lock()
    with pytest.raises(UsageError, match="can't be sent to worker processes") as error:
        list(two_at_once({0: lambda: lock, 1: lambda: lock}))
    assert "--set evaluation.workers=1" in error.value.fix


def test_a_backend_that_the_user_registered_is_used():
    def thread():
        return os.getpid(), threading.current_thread() is threading.main_thread()

    with joblib.parallel_config("threading", n_jobs=2):
        assert dict(run_unordered({0: thread, 1: thread})) == dict.fromkeys(range(2), (os.getpid(), False))


def test_threads_keep_the_order_and_drop_what_has_not_begun() -> None:
    begun: list[int] = []

    def double(number: int) -> int:
        begun.append(number)
        time.sleep(0.001)
        return 2 * number

    assert list(in_threads(double, range(300))) == list(range(0, 600, 2))
    begun.clear()
    with closing(in_threads(double, range(10_000))) as results:
        assert next(results) == 0
    assert len(begun) < 200
