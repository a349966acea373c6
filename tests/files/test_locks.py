import errno
import fcntl
import multiprocessing
import signal
import threading
from pathlib import Path

import pytest

from diffaug.errors import UsageError
from diffaug.files import locks


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
    with pytest.raises(UsageError, match="has no locks"), locks.exclusive_lock(tmp_path / ".lock"):
        pass


@pytest.mark.parametrize("take", [locks.exclusive_lock, locks.shared_lock])
def test_one_who_has_a_lock_alone_shares_it_with_nobody(tmp_path, lock_holder, take):
    with pytest.raises(UsageError, match="another diffaug process"), take(tmp_path / ".lock"):
        pytest.fail("the lock was given twice")


def test_those_who_share_a_lock_keep_out_who_wants_it_alone(tmp_path):
    path = tmp_path / ".lock"
    refused = pytest.raises(UsageError, match="another diffaug process")
    with locks.shared_lock(path), locks.shared_lock(path), refused, locks.exclusive_lock(path):
        pytest.fail("the lock was given though shared")
    with locks.exclusive_lock(path):
        pass


def test_a_waiting_lock_waits_for_its_turn(tmp_path, lock_holder):
    waited = []
    threading.Timer(0.2, lambda: (waited.append(True), lock_holder.kill())).start()
    with locks.waiting_lock(tmp_path / ".lock"):
        assert waited


def test_an_optional_lock_does_without_where_there_are_none(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "no locks")))
    entered = []
    for take in (locks.shared_lock, locks.waiting_lock):
        with take(tmp_path / ".lock", optional=True):
            entered.append(take)
        with pytest.raises(UsageError, match="has no locks"), take(tmp_path / ".lock"):
            pytest.fail("a lock that is not optional was done without")
    assert len(entered) == 2


def test_a_claim_is_given_once_and_leaves_no_file(tmp_path):
    path = tmp_path / "folder" / "claim"
    with locks.claim(path) as first, locks.claim(path) as second:
        assert (first, second) == (True, False)
    assert not path.exists()
