import ctypes
import os
import socket
import time
from pathlib import Path

import pytest

from diffaug.files.temporaries import FOREIGN_SECONDS, exchange, host, is_temporary, remove_leftovers, temporary_name


@pytest.fixture(params=["one step", "renames"])
def system(request, monkeypatch):
    """Linux, and a system that can't exchange directories."""
    if request.param == "renames":
        monkeypatch.setattr(ctypes, "CDLL", lambda _: object())


@pytest.fixture
def pair(tmp_path) -> tuple[Path, Path]:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    return tmp_path / "first", tmp_path / "second"


def dead_process() -> int:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


@pytest.mark.usefixtures("system")
def test_exchange_swaps_the_contents_and_leaves_nothing_else(pair):
    first, second = pair
    exchange(first, second)
    assert [path.name for path in (*first.iterdir(), *second.iterdir())] == ["second", "first"]
    assert set(first.parent.iterdir()) == set(pair)


@pytest.mark.usefixtures("system")
def test_exchange_with_nothing_to_put_there_keeps_the_old_one(pair):
    first, second = pair
    (first / "first").unlink()
    first.rmdir()
    with pytest.raises(FileNotFoundError):
        exchange(first, second)
    assert (second / "second").exists()
    assert list(first.parent.iterdir()) == [second]


def test_only_what_dead_processes_left_is_removed(tmp_path):
    dead = dead_process()
    leftovers = [tmp_path / f".{name}.{host()}.{dead}.tmp" for name in ("a.bin", "folder", "link")]
    kept = [
        temporary_name(tmp_path / "mine"),
        tmp_path / f".of init.{host()}.1.tmp",
        tmp_path / f"visible.{host()}.{dead}.tmp",
        tmp_path / ".notes.tmp",
        tmp_path / "target",
    ]
    leftovers[0].touch()
    (leftovers[1] / "inside").mkdir(parents=True)
    for path in kept:
        path.mkdir()
    leftovers[2].symlink_to(tmp_path / "target")

    remove_leftovers(tmp_path.iterdir())

    assert set(tmp_path.iterdir()) == set(kept)


def test_a_process_of_another_user_counts_as_running(tmp_path, monkeypatch):
    def not_ours(*_):
        raise PermissionError

    leftover = tmp_path / f".a.bin.{host()}.{dead_process()}.tmp"
    leftover.touch()
    monkeypatch.setattr(os, "kill", not_ours)
    remove_leftovers([leftover])
    assert leftover.exists()


@pytest.mark.parametrize("number", ["own", "dead"])
def test_what_another_host_left_is_removed_when_it_is_a_day_old(tmp_path, number):
    """Process numbers mean nothing elsewhere: the same one may be alive there and dead here, or the other way round."""
    process = os.getpid() if number == "own" else dead_process()
    old, young = (tmp_path / f".{name}.0123abcd.{process}.tmp" for name in ("old", "young"))
    for path in (old, young):
        path.mkdir()
    os.utime(old, (0, time.time() - FOREIGN_SECONDS - 60))
    remove_leftovers([old, young, tmp_path / f".gone.0123abcd.{process}.tmp"])
    assert list(tmp_path.iterdir()) == [young]


def test_processes_of_one_number_in_two_containers_share_no_name(tmp_path, monkeypatch):
    def named(machine: str) -> Path:
        host.cache_clear()
        monkeypatch.setattr(socket, "gethostname", lambda: machine)
        return temporary_name(tmp_path / "target")

    first, second = named("one"), named("two")
    host.cache_clear()
    assert first != second
    assert is_temporary(first)


def test_temporary_names_are_recognised_and_lie_beside_their_target():
    path = Path("folder") / "a\nb.tar.gz"
    assert temporary_name(path).parent == path.parent
    assert is_temporary(temporary_name(path))
    assert not is_temporary(path)
