"""Kills the process, or fills the disk, at every call that touches the disk, until none is left."""

import errno
import io
import itertools
import os
import signal
from collections.abc import Callable
from contextlib import suppress

import pytest

from diffaug.files import storage

NEED_NO_SPACE = frozenset([(os, "unlink"), (os, "rmdir"), (os, "open")])


class Faults:
    """Counts the calls that touch the disk and strikes before the N-th; a write is struck half-way."""

    CALLS = (
        *((os, name) for name in ("mkdir", "open", "fsync", "replace", "unlink", "rmdir")),
        (io, "open"),
        (storage, "swap"),
    )

    def __init__(self, patch: pytest.MonkeyPatch, strike: Callable[[], None], at: int, spared=frozenset()):
        self.count, self.at, self.strike = 0, at, strike
        for module, name in set(self.CALLS) - spared:
            patch.setattr(module, name, self._counted(getattr(module, name)))

    def is_due(self) -> bool:
        self.count += 1
        return self.count == self.at

    def _counted(self, call):
        def counted(*args, **kwargs):
            if self.is_due():
                self.strike()
            result = call(*args, **kwargs)
            writable = isinstance(result, io.IOBase) and result.writable()
            return TornFile(result, self) if writable else result

        return counted


class TornFile:
    def __init__(self, file, faults: Faults):
        self._file, self._faults = file, faults

    def write(self, content):
        if self._faults.is_due():
            self._file.write(content[: len(content) // 2])
            self._file.flush()
            self._faults.strike()
        return self._file.write(content)

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()


def no_space() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def survives_kill(action: Callable[[], None], at: int) -> bool:
    """Runs the action in a child that is killed before its `at`-th call; whether it ended before that."""
    child = os.fork()
    if child == 0:
        try:
            with pytest.MonkeyPatch.context() as patch:
                Faults(patch, kill_self, at)
                action()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status == 0


def survives_full_disk(action: Callable[[], None], at: int) -> bool:
    """The same in this process, where the `at`-th call fails because the disk is full."""
    with pytest.MonkeyPatch.context() as patch, suppress(OSError):
        faults = Faults(patch, no_space, at, NEED_NO_SPACE)
        action()
    return faults.count < at


killed = pytest.param(survives_kill, marks=pytest.mark.slow)
each_fault = pytest.mark.parametrize("survives", [killed, survives_full_disk])


def each_call(survives, at_least: int):
    """Yields what runs an action that fails at its first call, then at its second, until one run ends before that."""
    outcome = []

    def attempt(action, at):
        outcome.append(survives(action, at))
        return outcome[-1]

    for at in itertools.count(1):
        yield lambda action, at=at: attempt(action, at)
        if outcome[-1]:
            break
    assert at > at_least, "fewer calls than the operation needs"
