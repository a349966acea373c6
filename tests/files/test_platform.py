"""What Windows does otherwise, as far as it can be tested elsewhere."""

import ctypes
import os
import subprocess
import sys
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


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_directories_are_swapped_in_one_step_on_linux_only(monkeypatch, tmp_path, system):
    monkeypatch.setattr(platform, "sys", SimpleNamespace(platform=system))
    assert not platform.swap_in_one_step(tmp_path, tmp_path)
