"""A process ends with the one that started it, which is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(os.name == "nt", reason="Windows has no parents to lose")]

CHILD = """
import os, signal, sys, time
from pathlib import Path
from diffaug.runtime import orphans

orphans.WATCH_SECONDS, grace, folder = 0.02, float(sys.argv[1]), Path(sys.argv[2])
signal.signal(signal.SIGTERM, lambda *_: (folder / "asked").touch())
orphans.end_with(os.getppid(), grace=grace)
(folder / "written").write_text(str(os.getpid()))
(folder / "written").rename(folder / "pid")
time.sleep(1000)
"""
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"


def is_gone(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    if Path("/proc/self").exists():
        return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("grace", [0.0, 0.3])
def test_a_child_ends_after_its_parent_was_killed(tmp_path, grace):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD, str(grace), str(tmp_path)])
    assert eventually((tmp_path / "pid").exists)
    child = int((tmp_path / "pid").read_text())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert eventually(lambda: is_gone(child))
    assert (tmp_path / "asked").exists() == (grace > 0)
