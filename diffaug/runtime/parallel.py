"""Independent tasks in parallel, each on one thread, by joblib's loky or the backend that the user registered."""

import errno
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pickle import PicklingError
from typing import TypeVar

from diffaug.errors import DiffaugError, Interrupted, UsageError
from diffaug.runtime.orphans import end_with

MAX_WORKERS = 8
MEMMAP_BYTES = 100_000  # larger arrays inside a task are shared by all worker processes, memory-mapped
MAX_DEATHS = 2
SHARED_MEMORY = "/dev/shm"  # noqa: S108  (named in an error; worker processes have their locks there)
THREADS = min(8, os.cpu_count() or 1)
WAITING_PER_THREAD = 8

Key = TypeVar("Key")
Item = TypeVar("Item")
Result = TypeVar("Result")
Stop = Callable[[], bool]
Progress = Callable[[int, int], None]  # called with what is done, and what there is in all

_one_at_a_time = threading.Lock()  # torch's random generator and number of threads are shared by a process


@contextmanager
def one_thread_each() -> Iterator[int]:
    """Lets torch use one thread of the CPU in the block, in every Python thread; yields how many it used before."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result]:
    """Like `map`, in threads, in order and only a little ahead; closing it on the way drops what has not begun."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > THREADS * WAITING_PER_THREAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def run_unordered(
    tasks: Mapping[Key, Callable[[], Result]],
    *,
    num_workers: int | None = None,
    stop_requested: Stop = lambda: False,
    uses_torch: bool = True,
) -> Generator[tuple[Key, Result]]:
    """Runs tasks in parallel and yields each result, with its key, as soon as it is finished.

    Worker processes of this machine end, even during a task, when the generator is closed, a stop is requested, Ctrl-C
    is pressed or this process dies. A single task or worker runs in this process, and stops after the current task.

    Args:
        tasks: What to run; lambdas work. Large arrays in the arguments of a `functools.partial`, at any depth, are
            memory-mapped by all workers of this machine instead of copied.
        num_workers: Tasks at a time. Default: one per usable core, at most 8, or what the registered backend says.
        stop_requested: Polled while tasks run.
        uses_torch: Whether tasks use torch, whose threads are limited then; importing it takes time and memory.

    Raises:
        Interrupted: A stop was requested.
        DiffaugError: Worker processes died twice, such as for lack of memory.
    """
    on_this_machine = not backend_is_registered()
    if num_workers is None and on_this_machine:
        num_workers = usual_workers()
    if num_workers == 1 or (len(tasks) < 2 and on_this_machine):
        for key, task in tasks.items():
            _require_no_stop(stop_requested)
            with one_thread_each() if uses_torch else nullcontext():
                result = task()
            yield key, result
        return
    left = dict(tasks)
    for death in range(1, MAX_DEATHS + 1):
        try:
            with closing(_run_in_workers(left, num_workers, stop_requested, uses_torch)) as results:
                for key, result in results:
                    del left[key]
                    yield key, result
            return
        except BrokenProcessPool as error:
            if death == MAX_DEATHS:
                raise DiffaugError(
                    f"worker processes died twice: {error}",
                    where="evaluation.workers",
                    fix="if memory ran out, run fewer tasks at a time: --set evaluation.workers=1",
                ) from error
        except OSError as error:
            if error.errno == errno.ENOSPC and error.filename is None:  # files of tasks have names
                error.filename = SHARED_MEMORY
            raise


def usual_workers() -> int:
    """Tasks at a time unless a number is set: one per usable core, at most 8."""
    from joblib import cpu_count

    return min(MAX_WORKERS, int(cpu_count()))


def _run_in_workers(
    tasks: Mapping[Key, Callable[[], Result]], num_workers: int | None, stop_requested: Stop, uses_torch: bool
) -> Generator[tuple[Key, Result]]:
    from joblib import Parallel, delayed, parallel_config

    class StoppableParallel(Parallel):  # type: ignore[misc]
        def _wait_retrieval(self) -> bool:
            """Called by joblib every 10 ms; an exception here aborts all workers."""
            _require_no_stop(stop_requested)
            return bool(super()._wait_retrieval())

    # A backend that the user registered stays as it is.
    loky = partial(parallel_config, "loky", inner_max_num_threads=1, initializer=_begin_worker, initargs=(os.getpid(),))
    with nullcontext() if backend_is_registered() else loky():
        parallel = StoppableParallel(
            n_jobs=num_workers,
            return_as="generator_unordered",
            batch_size=1,
            pre_dispatch="n_jobs",
            max_nbytes=MEMMAP_BYTES,
            mmap_mode="r",
        )
    numbered = dict(enumerate(tasks))
    results = parallel(delayed(_call)(number, tasks[key], uses_torch) for number, key in numbered.items())
    try:
        for number, result in results:
            yield numbered[number], result
    except PicklingError as error:
        raise UsageError(
            f"a task can't be sent to worker processes: {error.__cause__ or error}",
            where="evaluation.workers",
            fix="run it in this process: --set evaluation.workers=1",
        ) from error
    finally:
        with warnings.catch_warnings():  # joblib warns about results that are given up by closing
            warnings.simplefilter("ignore", UserWarning)
            results.close()


def _call(number: int, task: Callable[[], Result], uses_torch: bool) -> tuple[int, Result]:
    with _one_at_a_time, one_thread_each() if uses_torch else nullcontext():
        return number, task()


def backend_is_registered() -> bool:
    """Whether the user registered a backend, such as Dask or Ray, by `joblib.parallel_config`."""
    from joblib.parallel import get_active_backend

    return type(get_active_backend()[0]).__name__ != "LokyBackend"


def _begin_worker(parent: int) -> None:
    """Ignores Ctrl-C, which the parent handles, and ends this process after the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with(parent)


def _require_no_stop(stop_requested: Stop) -> None:
    if stop_requested():
        raise Interrupted("stopped; everything that was finished is kept")
