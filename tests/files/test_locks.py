import errno
import multiprocessing
import shlex
import signal
import subprocess
import threading
from pathlib import Path

import portalocker
import pytest

from diffaug.errors import DamagedError, UsageError
from diffaug.files import locks


def hold_lock(path: Path, is_held) -> None:
    with locks.exclusive_lock(path):
        is_held.set()
        signal.pause()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "study" / ".lock"


@pytest.fixture
def lock_holder(path):
    """Another process that holds the lock until it is killed."""
    context = multiprocessing.get_context("fork")
    is_held = context.Event()
    holder = context.Process(target=hold_lock, args=(path, is_held))
    holder.start()
    assert is_held.wait(20)
    yield holder
    holder.kill()
    holder.join()


@pytest.mark.parametrize("take", [locks.exclusive_lock, locks.shared_lock])
def test_a_lock_shuts_others_out_until_its_holder_is_killed(path, lock_holder, take):
    with pytest.raises(UsageError, match="another diffaug process") as caught, take(path):
        pytest.fail("the lock was given twice")
    assert (caught.value.where, caught.value.fix) == (str(path.parent), "wait for it, stop it, or use another study")
    lock_holder.kill()
    lock_holder.join()
    for _ in range(2):
        with take(path):
            pass


def test_those_who_share_a_lock_keep_out_who_wants_it_alone(path):
    refused = pytest.raises(UsageError, match="another diffaug process")
    with locks.shared_lock(path), locks.shared_lock(path), refused, locks.exclusive_lock(path):
        pytest.fail("the lock was given though shared")
    with locks.exclusive_lock(path):
        pass


def test_a_waiting_lock_waits_for_its_turn(path, lock_holder):
    waited = []
    threading.Timer(0.2, lambda: (waited.append(True), lock_holder.kill())).start()
    with locks.waiting_lock(path):
        assert waited


@pytest.mark.parametrize("take", [locks.exclusive_lock, locks.shared_lock, locks.waiting_lock])
def test_where_there_are_no_locks_only_an_optional_one_is_done_without(path, monkeypatch, take):
    def lock(*_):  # as portalocker on a file system without locks
        raise portalocker.LockException from OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(portalocker, "lock", lock)
    with take(path, optional=True):
        entered = True
    with pytest.raises(UsageError, match="has no locks") as caught, take(path):
        pytest.fail("a lock that is not optional was done without")
    assert entered
    assert caught.value.where == str(path.parent)
    assert "generate --shard works without" in caught.value.fix


@pytest.mark.parametrize("optional", [False, True])
@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (portalocker.LockException, "another diffaug process"),  # caused by EAGAIN
        (OSError(errno.EIO, "broken disk"), "broken disk"),
        (ZeroDivisionError("unknown"), "unknown"),
    ],
)
def test_why_a_lock_is_not_given(path, monkeypatch, optional, raised, expected):
    def lock(*_):
        cause = OSError(errno.EAGAIN, "taken") if raised is portalocker.LockException else raised
        raise portalocker.LockException("unknown") from cause

    monkeypatch.setattr(portalocker, "lock", lock)
    with pytest.raises(Exception, match=expected), locks.exclusive_lock(path, optional=optional):
        pytest.fail("the lock was given")


def test_a_claim_is_given_once_and_leaves_no_file(tmp_path):
    path = tmp_path / "deep" / "folder" / "claim"
    for _ in range(2):  # the folder is there then
        with locks.claim(path) as first, locks.claim(path) as second:
            assert (first, second) == (True, False)
        assert not path.exists()
    with pytest.raises(ZeroDivisionError), locks.claim(path) as first:
        path.unlink()  # by another process that had it before
        raise ZeroDivisionError
    assert not path.exists()


def test_a_claim_whose_file_is_open_elsewhere_on_windows_is_left_there(path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError

    monkeypatch.setattr(Path, "unlink", refused)
    for _ in range(2):
        with locks.claim(path) as mine:
            assert mine
    assert path.exists()


def test_a_lock_whose_folder_is_removed_by_its_holder_still_shuts_others_out(tmp_path, monkeypatch):
    """Whoever had opened the file before must not take a lock that nobody else can see."""
    path, acquire, removals = tmp_path / "study" / ".lock", locks._acquire, []

    def acquire_late(file, flags):
        if len(removals) < 3:
            removals.append(path.unlink())
            path.parent.rmdir()
        return acquire(file, flags)

    monkeypatch.setattr(locks, "_acquire", acquire_late)
    refused = pytest.raises(UsageError, match="another diffaug process")
    with locks.exclusive_lock(path), refused, locks.exclusive_lock(path):
        pytest.fail("two have the lock")
    assert len(removals) == 3


def test_a_folder_in_place_of_a_lock_is_damage_whose_remedy_works(tmp_path):
    path = tmp_path / "new study" / "run's" / ".lock"
    path.mkdir(parents=True)
    with pytest.raises(DamagedError, match="a folder is where a lock file should be") as caught:
        locks.exclusive_lock(path).__enter__()
    assert caught.value.where == str(path)
    subprocess.run(shlex.split(caught.value.fix.removeprefix("remove it: ")), check=True)
    with locks.exclusive_lock(path):
        assert path.is_file()


def test_a_folder_that_is_always_removed_before_its_lock_is_made_ends_in_an_error(path, monkeypatch):
    attempts = []

    def gone(path, mode):
        attempts.append(mode)
        raise FileNotFoundError(errno.ENOENT, "gone", str(path))

    monkeypatch.setattr(Path, "open", gone)
    with pytest.raises(FileNotFoundError), locks.exclusive_lock(path):
        pytest.fail("the lock was given")
    assert attempts == ["a"] * locks.ATTEMPTS


def test_a_lock_file_that_is_always_removed_before_it_is_locked_ends_in_an_error(path, monkeypatch):
    monkeypatch.setattr(locks, "_is_at", lambda *_: False)
    with pytest.raises(UsageError, match="another diffaug process"), locks.exclusive_lock(path):
        pytest.fail("the lock was given")
