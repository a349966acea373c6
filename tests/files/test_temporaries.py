import ctypes
import errno
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path

import pytest

from diffaug.files.temporaries import (
    FOREIGN_SECONDS,
    host,
    is_temporary,
    remove,
    remove_all_leftovers,
    remove_leftovers,
    scratch_folder,
    swap,
    temporary_name,
)


@pytest.fixture(params=["one step", "renames"])
def system(request, monkeypatch):
    """Linux, and a system that can't exchange directories."""
    if request.param == "renames":
        monkeypatch.setattr(ctypes, "CDLL", lambda _: object())


def dead_process() -> int:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


@pytest.mark.usefixtures("system")
def test_swap_exchanges_the_contents_or_with_nothing_to_put_there_keeps_the_old_one(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        (folder / folder.name).touch()
    swap(first, second)
    assert [path.name for path in (*first.iterdir(), *second.iterdir())] == ["second", "first"]
    assert set(tmp_path.iterdir()) == {first, second}
    shutil.rmtree(first)
    with pytest.raises(FileNotFoundError):
        swap(first, second)
    assert (second / "first").exists()
    assert list(tmp_path.iterdir()) == [second]


def test_only_what_dead_processes_left_is_removed_and_one_of_another_user_is_alive(tmp_path, monkeypatch):
    def not_ours(*_):
        raise PermissionError

    dead = dead_process()
    leftovers = [tmp_path / f".{name}.{host()}.{dead}.tmp" for name in ("a.bin", "folder", "link")]
    others = (f".of init.{host()}.1.tmp", f"visible.{host()}.{dead}.tmp", ".notes.tmp", "target")
    kept = [temporary_name(tmp_path / "mine"), *(tmp_path / name for name in others)]
    leftovers[0].touch()
    (leftovers[1] / "inside").mkdir(parents=True)
    for path in kept:
        path.mkdir()
    leftovers[2].symlink_to(tmp_path / "target")
    remove_leftovers(tmp_path.iterdir())
    assert set(tmp_path.iterdir()) == set(kept)
    leftovers[0].touch()
    monkeypatch.setattr(os, "kill", not_ours)
    remove_leftovers(leftovers[:1])
    assert leftovers[0].exists()


def test_what_dead_processes_left_anywhere_in_a_folder_or_of_it_beside_it_is_removed(tmp_path):
    study, ending = tmp_path / "study", f"{host()}.{dead_process()}.tmp"
    kept = [study / "pool" / "cat" / "1.png", temporary_name(study / "pool" / "2.png"), study / ".lock"]
    left = [tmp_path / f".study-page.html.{ending}", study / "pool" / "cat" / f".1.png.{ending}"]
    left += [study / f".catalog.{ending}" / "deep" / f".x.{ending}", study / "tracking" / f".new.{ending}"]
    for path in (*kept, *left):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    remove_all_leftovers(study)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(kept)
    assert not (study / f".catalog.{ending}").exists()


def test_scratch_folders_end_with_their_block_and_those_of_dead_processes_with_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f".diffaug-abc.{host()}.{dead_process()}.tmp" / "model").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    with scratch_folder() as first, scratch_folder() as second:
        assert {path.name for path in tmp_path.iterdir()} == {"other", Path(first).name, Path(second).name}
        assert is_temporary(Path(first))
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_scratch_folder_that_a_killed_process_left_is_removed_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    child = os.fork()
    if child == 0:
        kept = scratch_folder()
        os._exit(0 if Path(kept.name).is_dir() else 1)
    assert os.waitpid(child, 0)[1] == 0 and len(list(tmp_path.iterdir())) == 1
    with scratch_folder() as folder:
        assert list(tmp_path.iterdir()) == [Path(folder)]


@pytest.mark.parametrize("call", ["rmdir", "unlink"])
def test_what_can_not_be_removed_is_left_where_nobody_needs_it_gone(tmp_path, monkeypatch, call):
    """Such as what another user left in a folder of both."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ending = f"{host()}.{dead_process()}.tmp"
    left = [tmp_path / f".folder.{ending}", tmp_path / f".file.{ending}", tmp_path / f".diffaug-1.{ending}"]
    for path in (left[0], left[2]):
        (path / "inside").mkdir(parents=True)
        (path / "inside" / "file").touch()
    left[1].touch()

    def busy(path, *_, **__):
        raise OSError(errno.EBUSY, "busy", path)

    monkeypatch.setattr(os, call, busy)
    remove_leftovers(left)
    with scratch_folder() as folder:
        (Path(folder) / "file").touch()
    for path in left[:2] if call == "unlink" else left[:1]:
        assert path.exists()
        with pytest.raises(OSError, match="busy"):
            remove(path)
    monkeypatch.undo()
    remove_leftovers(left)
    assert not any(path.exists() for path in left)


@pytest.mark.parametrize("number", ["own", "dead"])
def test_what_another_host_left_is_removed_when_it_is_a_day_old(tmp_path, number):
    process = os.getpid() if number == "own" else dead_process()
    old, young = (tmp_path / f".{name}.0123abcd.{process}.tmp" for name in ("old", "young"))
    for path in (old, young):
        path.mkdir()
    os.utime(old, (0, time.time() - FOREIGN_SECONDS - 60))
    remove_leftovers([old, young, tmp_path / f".gone.0123abcd.{process}.tmp"])
    assert list(tmp_path.iterdir()) == [young]


def test_a_system_without_containers_has_a_name_for_the_machine(monkeypatch):
    def absent(*_, **__):
        raise FileNotFoundError

    in_container = host()
    monkeypatch.setattr(Path, "stat", absent)
    host.cache_clear()
    assert len(host()) == 8 and host() != in_container
    host.cache_clear()


def test_processes_of_one_number_in_two_containers_share_no_name(tmp_path, monkeypatch):
    def named(machine: str) -> Path:
        host.cache_clear()
        monkeypatch.setattr(socket, "gethostname", lambda: machine)
        return temporary_name(tmp_path / "a\nb.tar.gz")

    first, second = named("one"), named("two")
    host.cache_clear()
    assert first != second
    assert first.parent == tmp_path
    assert is_temporary(first) and not is_temporary(tmp_path / "a\nb.tar.gz")
