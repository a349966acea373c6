"""A process that has imported everything and forks for each command, with the shim preloaded."""

import ctypes
import fcntl
import functools
import gc
import importlib.metadata
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

PIPE_BYTES = 1 << 20
ACTIONS = {"kill": 0, "halve": 1, "fail": 2}
QUIET = {
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # Memory is not given back, which would cost each fork page faults.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(1 << 26),
}


@dataclass(frozen=True)
class Try:
    """One command in one folder, which the shim watches, and what disturbs it.

    Attributes:
        strike_at: Number of the operation that is struck, from 1; 0 strikes none.
        action: kill: die before it. halve: write half and die, or die after it. fail: fail with `error`.
        lasting: Whether all later operations fail, too.
        log: File for a record of all operations, outside of the folder.
        leap: Seconds by which the wall clock leaps at every look.
        shared_memory: Bytes of a file system of its own in place of /dev/shm, which takes root.
        limits: Values of the system's limits, by name, such as RLIMIT_NOFILE; of RLIMIT_AS, bytes beyond those in use.
    """

    arguments: Sequence[str]
    folder: str
    strike_at: int = 0
    action: str = "kill"
    error: int = 0
    lasting: bool = False
    log: str | None = None
    leap: int = 0
    shared_memory: int | None = None
    limits: dict[str, int] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    seconds: float = 300.0


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code, negative for a signal and None for a hang, and what it printed."""

    code: int | None
    output: str
    count: int

    @property
    def was_killed(self) -> bool:
        return self.code == -signal.SIGKILL

    @property
    def has_traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.output


class Forks:
    """The client of the process; `run` waits for the end of all commands that it begins together."""

    def __init__(self, shim: Path, warm_up: Sequence[Sequence[str]], folder: Path) -> None:
        environment = {**os.environ, **QUIET, "LD_PRELOAD": str(shim)}
        command = [sys.executable, str(Path(__file__)), str(folder)]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder
        )
        self._ask({"warm_up": [list(arguments) for arguments in warm_up]})

    def run(self, *tries: Try) -> list[Outcome]:
        return [Outcome(**answer) for answer in self._ask({"tries": [asdict(one) for one in tries]})]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(60)

    def _ask(self, question: dict) -> list[dict]:
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the process that forks has ended"
        return json.loads(answer)


def _serve(folder: Path) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        question = json.loads(line)
        if "warm_up" in question:
            answer = _warm_up(question["warm_up"], folder)
        else:
            running = [(_begin(Try(**one)), one["seconds"]) for one in question["tries"]]
            answer = [asdict(_end(child, seconds)) for child, seconds in running]
        print(json.dumps(answer), file=answers, flush=True)


def _warm_up(commands: list[list[str]], folder: Path) -> list[dict]:
    """Runs commands in this process, so that its forks have imported and compiled everything."""
    importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)  # a tenth of the time
    import torch

    from diffaug.cli import main

    torch.set_num_threads(1)
    _draw_no_charts()
    os.chdir(folder)
    for arguments in commands:
        with (folder / "warm-up.log").open("a") as log:
            sys.stdout = sys.stderr = log
            try:
                main(arguments)
            except SystemExit as leaving:
                assert not leaving.code, (arguments, (folder / "warm-up.log").read_text())
            finally:
                sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    assert threading.active_count() == 1, threading.enumerate()
    gc.collect()
    gc.freeze()  # or each fork would look through all objects, and copy the memory that they lie in
    return []


def _begin(one: Try) -> tuple[int, int, int]:
    """Forks; returns the child's process number and pipes of its output and of its count, which no limit concerns."""
    (output, to_output), (count, to_count) = pipes = os.pipe(), os.pipe()
    fcntl.fcntl(to_output, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.dup2(to_output, 1)
            os.dup2(to_output, 2)
            sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", buffering=1) for number in (1, 2))
            code = _run(one)
        finally:
            os.write(to_count, str(ctypes.CDLL(None).shim_count()).encode())
            os._exit(code)
    for reading, writing in pipes:
        os.set_blocking(reading, False)
        os.close(writing)
    return child, output, count


def _run(one: Try) -> int:
    from diffaug.cli import main

    os.chdir(one.folder)
    os.environ.update(one.environment)
    sys.argv = ["diffaug", *one.arguments]
    log = -1 if one.log is None else os.open(one.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    if one.arguments[0] == "review":
        _decide_without_page()
    if one.shared_memory is not None:
        limit_shared_memory(one.shared_memory)
    in_use = {"RLIMIT_AS": int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()}
    for name, value in one.limits.items():
        limit = value + in_use.get(name, 0)
        resource.setrlimit(getattr(resource, name), (limit, limit))
    shim = ctypes.CDLL(None)
    shim.shim_arm(os.fsencode(one.folder), one.strike_at, ACTIONS[one.action], one.error, one.lasting, log)
    shim.shim_leap(one.leap)
    try:
        main()
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _decide_without_page() -> None:
    """Has `review` make decisions by itself, in place of a page that waits for people."""
    from diffaug.stages import review

    def decide(under_review, **_) -> None:
        for number, decision in ((0, "reject"), (1, "accept"), (1, "reject")):
            under_review.decide(number, "anna", decision)
        under_review.undo(0, "anna")

    review._page = lambda: decide


def _draw_no_charts() -> None:
    """Leaves the charts of reports empty: they take much of the time and touch no file."""
    from diffaug.evaluation.report import charts

    charts.both_widths = lambda *_: ""


NEW_MOUNTS, PRIVATE_FROM_HERE = 0x20000, 0x44000  # CLONE_NEWNS; MS_PRIVATE | MS_REC


def limit_shared_memory(size: int) -> None:
    """Mounts another /dev/shm for this process alone; an OSError if the system does not let it."""
    library = ctypes.CDLL(None, use_errno=True)
    options = f"size={size}".encode()
    for failed in (
        lambda: library.unshare(NEW_MOUNTS),
        lambda: library.mount(b"none", b"/", None, PRIVATE_FROM_HERE, None),
        lambda: library.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, options),
    ):
        if failed():
            raise OSError(ctypes.get_errno(), "can't mount")


def _end(child: tuple[int, int, int], seconds: float) -> Outcome:
    process, output, count = child
    watched = os.pidfd_open(process)
    is_hanging = not select.select([watched], [], [], seconds)[0]
    if is_hanging:
        os.kill(process, signal.SIGKILL)
    status = os.waitpid(process, 0)[1]
    os.close(watched)
    output_text, count_text = map(_read, (output, count))
    return Outcome(None if is_hanging else os.waitstatus_to_exitcode(status), output_text, int(count_text or 0))


def _read(pipe: int) -> str:
    """What is in a pipe now."""
    with os.fdopen(pipe, "rb") as file:
        return (file.read() or b"").decode(errors="replace")


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
