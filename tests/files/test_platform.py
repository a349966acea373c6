"""What Windows does otherwise, as far as it can be tested elsewhere."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from diffaug.files import platform, storage

IMPORTS = """
import importlib, os, pkgutil, signal, sys

def import_all():
    import diffaug
    for module in pkgutil.walk_packages(diffaug.__path__, "diffaug."):
        if not module.name.endswith("__main__") and not module.name.startswith("diffaug.integrations"):
            importlib.import_module(module.name)

import_all()  # loads all other libraries, which are not to be tested
for name in [name for name in sys.modules if name.partition(".")[0] == "diffaug"]:
    del sys.modules[name]
for name in ("fcntl", "grp", "posix", "pwd", "resource", "termios"):
    sys.modules[name] = None
for name in ("fork", "getuid", "killpg", "sched_getaffinity", "O_DIRECTORY", "O_NOFOLLOW", "uname"):
    vars(os).pop(name, None)
for name in ("SIGKILL", "SIGHUP", "SIGUSR1", "pause"):
    vars(signal).pop(name, None)
import_all()
print("imported")
"""


@pytest.mark.e2e
def test_every_module_is_imported_without_what_only_posix_has():
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["imported"], done.stderr


class Kernel:
    """Windows' table of processes: number to exit code, 259 while it runs; None belongs to somebody else."""

    def __init__(self, processes):
        self.processes, self.closed = processes, []

    def OpenProcess(self, access, inherits, process):
        return process if self.processes.get(process) is not None else 0

    def GetExitCodeProcess(self, handle, code):
        code._obj.value = self.processes[handle]
        return 1

    def CloseHandle(self, handle):
        self.closed.append(handle)


@pytest.fixture
def windows(monkeypatch) -> Kernel:
    kernel = Kernel({7: 259, 8: 0, 9: None})
    monkeypatch.setattr(platform, "IS_WINDOWS", True)
    monkeypatch.setattr(ctypes, "WinDLL", lambda name, use_last_error: kernel, raising=False)
    monkeypatch.setattr(ctypes, "get_last_error", lambda: 5, raising=False)
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("os.kill(process, 0) is Ctrl-C on Windows"))
    return kernel


def test_whether_a_process_runs_is_asked_of_windows_without_a_signal(windows):
    assert [platform.is_running(process) for process in (7, 8, 9)] == [True, False, True]
    assert windows.closed == [7, 8]


def test_a_folder_is_not_opened_on_windows_and_a_file_for_writing(windows, monkeypatch, tmp_path):
    modes, path_open = [], type(tmp_path).open
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("a folder can't be opened on Windows"))
    monkeypatch.setattr(type(tmp_path), "open", lambda path, mode="r", **o: modes.append(mode) or path_open(path, mode))
    with storage.new_directory(tmp_path / "folder", {}) as staging:
        storage.write_unfinished(staging / "file", b"x")
    assert "rb+" in modes
    assert storage.committed_metadata(tmp_path / "folder", verify=True) == {}


def test_another_reason_why_a_process_can_not_be_opened_on_windows_means_that_it_is_gone(windows, monkeypatch):
    monkeypatch.setattr(ctypes, "get_last_error", lambda: 87)
    assert not platform.is_running(9)
    windows.GetExitCodeProcess = lambda *_: 0
    assert not platform.is_running(7) and windows.closed == [7]


def test_whether_a_process_runs_elsewhere(monkeypatch):
    assert platform.is_running(os.getpid())
    for error, expected in ((PermissionError, True), (ProcessLookupError, False), (OverflowError, False)):
        asked = []

        def kill(process, signal, asked=asked, error=error):
            asked.append((process, signal))
            raise error

        monkeypatch.setattr(os, "kill", kill)
        assert platform.is_running(7) is expected
        assert asked == [(7, 0)]


def test_files_and_folders_are_synced_and_what_can_not_be_is_named(monkeypatch, tmp_path):
    names, real = [tmp_path / "a", tmp_path / "b"], os.fsync
    for name in names:
        name.write_bytes(b"x")
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino) or real(descriptor))
    platform.sync_files(names)
    platform.sync_directory(tmp_path)
    assert sorted(synced[:2]) == sorted(name.stat().st_ino for name in names)
    assert synced[2:] == [tmp_path.stat().st_ino]
    opened = os.open(tmp_path, os.O_RDONLY)
    os.close(opened)

    def broken(_):
        raise OSError(5, "broken")

    monkeypatch.setattr(os, "fsync", broken)
    for sync, path in ((lambda path: platform.sync_files([path]), names[1]), (platform.sync_directory, tmp_path)):
        with pytest.raises(OSError, match="broken") as caught:
            sync(path)
        assert caught.value.filename == str(path)
    now_opened = os.open(tmp_path, os.O_RDONLY)
    os.close(now_opened)
    assert now_opened == opened  # nothing was left open
    monkeypatch.setattr(os, "open", lambda *_: (_ for _ in ()).throw(PermissionError))
    platform.sync_directory(tmp_path)  # a folder that may be written in but not read


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of Linux")
def test_directories_change_places_in_one_step_or_not_at_all(monkeypatch, tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert platform.swap_in_one_step(tmp_path / "one", tmp_path / "other")
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["other"]
    assert not platform.swap_in_one_step(tmp_path / "one", tmp_path / "absent")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())  # a C library without that call
    assert not platform.swap_in_one_step(tmp_path / "one", tmp_path / "other")
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["other"]


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_directories_are_swapped_in_one_step_on_linux_only(monkeypatch, tmp_path, system):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.setattr(platform, "sys", SimpleNamespace(platform=system))
    assert not platform.swap_in_one_step(tmp_path / "a", tmp_path / "b")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="others cannot do so")
def test_names_of_the_working_folder_are_swapped_too(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "other"):
        (tmp_path / name / name).mkdir(parents=True)
    assert platform.swap_in_one_step(Path("one"), Path("other"))
    assert (tmp_path / "one" / "other").is_dir() and (tmp_path / "other" / "one").is_dir()
