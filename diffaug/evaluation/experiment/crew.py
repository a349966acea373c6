"""The crew: worker processes that trainings are handed to, and what is done when one of them dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle, islice
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from diffaug import errors
from diffaug.classifiers.fit import TrainingRecipe
from diffaug.configuration.settings import EvaluationSettings
from diffaug.errors import DiffaugError
from diffaug.evaluation.experiment.tasks import Outcome, Stock, Task, require_no_stop
from diffaug.evaluation.experiment.workers import write_order
from diffaug.files.temporaries import remove_leftovers, temporary_name

POLL_SECONDS = 0.2
LAST_SECONDS = 5.0
ATTEMPTS = 2
MOST_WORKERS = 8
QUOTED_CHARACTERS = 600


def usable_workers(wanted: int | None, device: str) -> int:
    """How many trainings to do at a time.

    Args:
        wanted: As set; none: as many as there are usable cores, at most 8, or GPUs.
        device: `cpu` or `cuda`.
    """
    if wanted is not None:
        return wanted
    if device.startswith("cuda"):
        return len(devices_of(device))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_WORKERS, cores)


def devices_of(device: str) -> list[str]:
    """All devices that `cuda` stands for, or the device itself."""
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())] if device == "cuda" else [device]


@dataclass
class _Worker:
    """A process, and the name of what it is at; none: it waits."""

    process: subprocess.Popen[bytes]
    log: Path
    device: str
    task: str | None = None

    @property
    def replies(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def tell(self, name: str, task: Task) -> None:
        assert self.process.stdin is not None
        self.task = name
        line = json.dumps({"name": name, "device": self.device, "task": task.to_dict()})
        with suppress(BrokenPipeError):  # it died, and the end of its replies says so
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()

    def end(self) -> str:
        """Kills it; returns how it ended, should it have ended by itself."""
        self.process.kill()
        code = self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        last_words = self.log.read_text(errors="replace").strip()[-QUOTED_CHARACTERS:]
        return f"exit code {code}: {last_words}"


class Crew:
    """Worker processes, started when there is work and ended by `close`.

    Args:
        folder: Where a temporary folder for images and answers is made.
        stock: The images.
        settings: What the classifier is made by, unless it is given.
        recipe: How it is trained.
        classifier: The classifier, packed; none: by the settings.
        device: `cpu` or `cuda`.
        size: Number of processes.
        stop_requested: Asked again and again while work is done.
    """

    def __init__(
        self,
        folder: Path,
        stock: Stock,
        settings: EvaluationSettings,
        recipe: TrainingRecipe,
        classifier: bytes | None = None,
        *,
        device: str,
        size: int,
        stop_requested: Callable[[], bool],
    ) -> None:
        self._place = temporary_name(folder / "workers")
        self._devices = list(islice(cycle(devices_of(device)), size))
        self._stop_requested = stop_requested
        self._workers: list[_Worker] = []
        self._started = 0
        remove_leftovers(folder.glob(".*.tmp"))
        try:
            write_order(self._place, stock, settings, recipe, classifier)
        except BaseException:
            self.close()
            raise

    def run(self, tasks: Mapping[str, Task]) -> Generator[tuple[str, Outcome]]:
        """Does tasks and yields each with its name as it is finished.

        Raises:
            DiffaugError: A training failed, or two processes died of the same one.
            Interrupted: A stop was requested.
        """
        waiting, deaths = deque(tasks), Counter[str]()
        try:
            while waiting or self._busy():
                self._hand_out(waiting, tasks)
                require_no_stop(self._stop_requested)
                ready = wait([worker.replies.fileno() for worker in self._busy()], POLL_SECONDS)
                for worker in [worker for worker in self._busy() if worker.replies.fileno() in ready]:
                    name, line = worker.task or "", worker.replies.readline()
                    if line.endswith(b"\n"):
                        worker.task = None
                        yield name, self._outcome(json.loads(line))
                    else:
                        self._bury(worker, deaths)
                        waiting.appendleft(name)
        finally:
            for worker in self._busy():
                self._dismiss(worker)

    def close(self) -> None:
        """Ends all processes at once and removes the temporary folder."""
        for worker in list(self._workers):
            self._dismiss(worker)
        shutil.rmtree(self._place, ignore_errors=True)

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.task is not None]

    def _hand_out(self, waiting: deque[str], tasks: Mapping[str, Task]) -> None:
        while waiting and (worker := self._idle()):
            name = waiting.popleft()
            worker.tell(name, tasks[name])

    def _idle(self) -> _Worker | None:
        """A process that waits, or a new one where another may be started."""
        for worker in self._workers:
            if worker.task is None:
                return worker
        taken = Counter(worker.device for worker in self._workers)
        free = Counter(self._devices) - taken
        if not free:
            return None
        self._workers.append(self._start(min(free)))
        return self._workers[-1]

    def _start(self, device: str) -> _Worker:
        self._started += 1
        log = self._place / f"worker-{self._started}.log"
        path = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        with log.open("wb") as errors_go_to:
            process = subprocess.Popen(  # noqa: S603  (this very interpreter and module)
                [sys.executable, "-P", "-m", "diffaug.evaluation.experiment.workers", str(self._place)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors_go_to,
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            )
        return _Worker(process, log, device)

    def _dismiss(self, worker: _Worker) -> str:
        self._workers.remove(worker)
        return worker.end()

    def _bury(self, worker: _Worker, deaths: Counter[str]) -> None:
        """Takes leave of a process that died, unless the same task was the death of others before."""
        with suppress(subprocess.TimeoutExpired):
            worker.process.wait(LAST_SECONDS)  # it is on its way out, and how it ends is worth knowing
        name, how = worker.task or "", self._dismiss(worker)
        deaths[name] += 1
        if deaths[name] == ATTEMPTS:
            raise DiffaugError(
                f"a training process died, and so did the one that tried again ({how})",
                where="evaluation.workers",
                fix="if memory ran out, train fewer at a time: --set evaluation.workers=1",
            )

    def _outcome(self, reply: dict[str, Any]) -> Outcome:
        if error := reply.get("error"):
            raise _error(error)
        file = self._place / reply["answer"]
        answer = np.load(file, allow_pickle=False)
        file.unlink()
        return Outcome(answer, reply["seconds"])


def _error(content: dict[str, Any]) -> Exception:
    kind = getattr(errors, content["kind"], None)
    if isinstance(kind, type) and issubclass(kind, DiffaugError):
        return kind(content["what"], where=content["where"], fix=content["fix"])
    return RuntimeError(f"a training failed in its process:\n{content['what']}")
