"""Trainings in several processes: a crew of workers that are told what to do in lines of JSON.

A worker is started as `python -m diffaug.evaluation.workers FOLDER`; the folder holds the images as memory-mapped
arrays, so all of them share one copy. Nothing of the user's program is imported or run again in a worker.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, Any

import numpy as np

from diffaug import errors, storage
from diffaug.data.images import LabeledImages
from diffaug.errors import DiffaugError
from diffaug.evaluation.tasks import Outcome, Stock, Task, Train, require_no_stop, training_of
from diffaug.evaluation.training import classifier_of
from diffaug.settings import EvaluationSettings
from diffaug.synthesis.classifier import TrainingRecipe
from diffaug.temporaries import remove_leftovers, temporary_name

ORDER = "order.json"
POLL_SECONDS = 0.2
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
    import torch

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
        settings: What the classifier is made by.
        recipe: How it is trained.
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
            _write_order(self._place, stock, settings, recipe)
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
                    if line:
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
        path = os.pathsep.join(path for path in sys.path if path)
        with log.open("wb") as errors_go_to:
            process = subprocess.Popen(  # noqa: S603  (this very interpreter and module)
                [sys.executable, "-P", "-m", "diffaug.evaluation.workers", str(self._place)],
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


def _write_order(place: Path, stock: Stock, settings: EvaluationSettings, recipe: TrainingRecipe) -> None:
    for name, images in stock.items():
        storage.write_array(place / f"{name}.pixels.npy", images.pixels)
        storage.write_array(place / f"{name}.labels.npy", images.labels)
    order = {
        "settings": settings.model_dump(mode="json"),
        "recipe": asdict(recipe),
        "sets": {name: images.classes for name, images in stock.items()},
    }
    storage.write_json(place / ORDER, order)


def _read_stock(place: Path, sets: Mapping[str, list[str]]) -> dict[str, LabeledImages]:
    stock = {}
    for name, classes in sets.items():
        pixels = np.load(place / f"{name}.pixels.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(place / f"{name}.labels.npy", allow_pickle=False)
        stock[name] = LabeledImages(pixels, labels, tuple(classes), tuple(map(str, range(len(labels)))))
    return stock


def main(place: Path) -> None:
    """A worker: does what it is told until it is told no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches it too; the process that started it decides
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no reply
    told = _listen()
    order = storage.read_json(place / ORDER)
    stock = _read_stock(place, order["sets"])
    classifier = classifier_of(EvaluationSettings.model_validate(order["settings"]))
    recipe = TrainingRecipe(**order["recipe"])
    while True:
        message = json.loads(told.get())
        train = training_of(classifier, recipe, message["device"])
        print(json.dumps(_answer(place, message, stock, train)), file=replies, flush=True)


def _listen() -> queue.SimpleQueue[str]:
    """Lines of the standard input; at its end, when whoever writes it is gone, the process ends at once."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    return lines


def _answer(place: Path, message: dict[str, Any], stock: Stock, train: Train) -> dict[str, Any]:
    try:
        outcome = Task.from_dict(message["task"]).run(stock, train)
        file = f"{message['name']}.npy"
        storage.write_array(place / file, outcome.answer)
    except DiffaugError as error:
        return {"error": {"kind": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}}
    except Exception:
        return {"error": {"kind": "", "what": traceback.format_exc()}}
    return {"answer": file, "seconds": outcome.seconds}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
