import errno
import fcntl
import multiprocessing
import signal
from pathlib import Path

import pytest

from diffaug import locks
from diffaug.errors import UsageError


def hold_lock(path: Path, is_held) -> None:
    with locks.exclusive_lock(path):
        is_held.set()
        signal.pause()


@pytest.fixture
def lock_holder(tmp_path):
    """Another process that holds the lock until it is killed."""
    context = multiprocessing.get_context("fork")
    is_held = context.Event()
    holder = context.Process(target=hold_lock, args=(tmp_path / ".lock", is_held))
    holder.start()
    assert is_held.wait(20)
    yield holder
    holder.kill()
    holder.join()


def test_a_lock_shuts_others_out_until_its_holder_is_killed(tmp_path, lock_holder):
    with pytest.raises(UsageError, match="another diffaug process"), locks.exclusive_lock(tmp_path / ".lock"):
        pytest.fail("the lock was given twice")
    lock_holder.kill()
    lock_holder.join()
    for _ in range(2):
        with locks.exclusive_lock(tmp_path / ".lock"):
            pass


def test_a_file_system_without_locks_is_not_called_another_process(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "no locks")))
    with pytest.raises(OSError, match="no locks"), locks.exclusive_lock(tmp_path / ".lock"):
        pass
