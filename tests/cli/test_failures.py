"""What the system refuses ends a command in one line with the path, and no name steers the terminal."""

import errno
import json
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import diffaug
from diffaug.cli import main
from diffaug.cli.failures import FEWER_PROCESSES, MORE_MEMORY, ONE_PROCESS, OTHER_REMEDY, failure_of
from diffaug.cli.groups import echo, echo_json
from diffaug.configuration.sources import resolve
from diffaug.files import naming
from diffaug.runtime.console import printable

HOSTILE = "\x1b[31mred\x9b2J\u202egpj.exe\u2066\x07\x7f\r\ttab\u2028\udcff\nerror: forged"
CODES = sorted(set(errno.errorcode) - {0})


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
def test_every_error_of_the_system_is_told_with_its_path(code) -> None:
    for error in (OSError(code, os.strerror(code), "/data/a"), OSError(code, os.strerror(code))):
        with pytest.raises(OSError) as raised, naming.naming(Path("/data/a")):
            raise error
        failure = failure_of(pickle.loads(pickle.dumps(raised.value)))  # as it comes from another process
        assert failure is not None
        assert (failure.exit_code, failure.where, failure.what) == (3, "/data/a", os.strerror(code))
        assert failure.fix


def numpys_memory_error() -> MemoryError:
    """A subclass that numpy keeps in another module from 2.0 on."""
    with pytest.raises(MemoryError) as caught:
        np.empty(1 << 60, np.uint8)
    return caught.value


@pytest.mark.parametrize(
    ("error", "what", "fix"),
    [
        (OSError("no code"), "no code", OTHER_REMEDY),
        (shutil.Error([("a", "b", "failed")]), "[('a', 'b', 'failed')]", OTHER_REMEDY),
        (TimeoutError(), "TimeoutError", OTHER_REMEDY),
        (MemoryError(), "memory ran out", MORE_MEMORY),
        (numpys_memory_error(), "memory ran out", MORE_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "memory ran out", MORE_MEMORY),
        (RuntimeError("can't start new thread"), "the system allows no further thread", FEWER_PROCESSES),
    ],
)
def test_other_refusals_of_the_system(error, what, fix) -> None:
    failure = failure_of(error)
    assert failure is not None
    assert (failure.what, failure.exit_code, failure.fix) == (what, 3, fix)


def test_the_setting_that_remedies_name_is_one() -> None:
    (assignment,) = re.findall(r"DIFFAUG_\S+", ONE_PROCESS)
    assert resolve(environment=dict([assignment.split("=")])).config.evaluation.workers == 1


@pytest.mark.parametrize("error", [RecursionError(), ZeroDivisionError(), RuntimeError("other"), SystemExit(4)])
def test_anything_else_is_a_bug(error) -> None:
    assert failure_of(error) is None


@pytest.mark.e2e
@pytest.mark.parametrize(("call", "code"), [("fsync", errno.EIO), ("replace", errno.ESTALE)])
def test_a_failing_disk_is_one_error_with_the_path(fails, images, monkeypatch, call, code) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    found, message = fails("inspect", "images", "--study", "study", "--quiet")
    assert found == 3
    assert message.startswith(f"error: {os.strerror(code)}\n  where: ") and message.count("error:") == 1
    assert message.splitlines()[1].startswith("  where: study")


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [(resource.RLIMIT_FSIZE, 600, "ulimit -f"), (resource.RLIMIT_NOFILE, 0, "ulimit -n")],
)
def test_limits_of_the_process_are_one_error_with_the_path(fails, images, limit, value, words) -> None:
    main(["inspect", "images", "--study", "before", "--quiet"])  # imports what is needed
    soft, hard = resource.getrlimit(limit)
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(limit, (value or open_files + 1, hard))
    try:
        code, message = fails("inspect", "images", "--study", "study", "--quiet")
    finally:
        resource.setrlimit(limit, (soft, hard))
    assert (code, message.count("error:")) == (3, 1)
    where = message.split("where:")[1].splitlines()[0]
    # which file exceeds the limit first depends on the numbers of the files that are open
    assert words in message and ("study" in where or "images" in where)
    main(["inspect", "images", "--study", "study", "--quiet"])


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("study", "what"),
    [("loop", "levels of symbolic links"), ("loop/study", "levels of symbolic links"), ("x" * 300, "too long")],
)
def test_a_path_that_the_system_refuses_is_one_error(fails, images, study, what) -> None:
    Path("loop").symlink_to("loop")
    code, message = fails("inspect", "images", "--study", study, "--quiet")
    assert (code, message.count("error:")) == (3, 1)
    assert what in message and study[:9] in message.split("where:")[1].splitlines()[0]


@pytest.mark.e2e
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_that_cannot_be_written_is_no_traceback() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "diffaug", "recipes", "list"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 3
    assert ended.stderr.startswith("error: No space left on device") and "Traceback" not in ended.stderr
    assert "Exception" not in ended.stderr


def shown(text: str) -> bool:
    return all(char.isprintable() or char == "\n" for char in text)


def test_printable_text_has_nothing_that_steers() -> None:
    text = "".join(
        map(chr, [*range(0x3100), *range(0xD800, 0xE100), *range(0xFFF0, 0x10000), *range(0xE0000, 0xE0100)])
    )
    assert printable(text).isprintable()
    assert printable("a\nb") == r"a\nb" and printable("a\n\tb", keep="\n") == "a\n\\tb"
    assert printable("Käse 猫 [red]") == "Käse 猫 [red]"


@pytest.mark.parametrize("err", [False, True])
def test_what_is_printed_cannot_steer_the_terminal(capsys, err) -> None:
    echo(HOSTILE, err=err)
    echo_json({HOSTILE: [HOSTILE, "猫", "\U000e0001"]})
    captured = capsys.readouterr()
    assert shown(captured.out) and shown(captured.err)
    assert json.loads(captured.out.splitlines()[-1]) == {HOSTILE: [HOSTILE, "猫", "\U000e0001"]}
    assert "猫" in captured.out


@pytest.mark.e2e
@pytest.mark.parametrize("option", [[], ["--json"]])
def test_names_of_arms_and_classes_cannot_steer_the_terminal(capsys, tmp_path, option) -> None:
    hostile = HOSTILE.replace("\udcff", "")  # which no UTF-8 file holds
    rows = [
        (f"{number}{hostile}.png", f"{number % 2}{hostile}", f"{arm}{hostile}[/x]", role, seed, f"{wrong}{hostile}")
        for arm, role in (("a", "baseline"), ("b", "candidate"))
        for seed in range(3)
        for number in range(40)
        for wrong in [number % 2 if (number + seed) % 3 else 1 - number % 2]
    ]
    columns = ["file_name", "label", "arm", "role", "seed", "predicted"]
    file = tmp_path / "mine.csv"
    pd.DataFrame(rows, columns=columns).to_csv(file, index=False)
    main(["evaluate", "--predictions", str(file), *option])
    captured = capsys.readouterr()
    assert shown(captured.out) and shown(captured.err)
    assert r"\x1b[31mred" in captured.out + captured.err or "u001b" in captured.out + captured.err


@pytest.mark.e2e
def test_names_of_folders_cannot_steer_the_terminal(capsys, tmp_path, make_classes) -> None:
    name = HOSTILE.replace("\udcff", "")
    data = make_classes(tmp_path / f"data{name}", {f"a{name}": 9, "plain": 9})
    (data / "plain" / f"x{name}.png").write_bytes(b"no image")
    for options in ([], ["--json"]):
        main(["inspect", str(data), "--study", f"study{name}", *options])
    with pytest.raises(SystemExit):
        main(["report", str(data)])
    captured = capsys.readouterr()
    assert shown(captured.out) and shown(captured.err)
    assert "\nerror: forged" not in captured.err


def test_everything_is_printed_by_one_of_two_modules() -> None:
    root = Path(diffaug.__file__).parent
    prints = re.compile(r"(?<![\w.])print\(|click\.s?echo\((?!context\.get_help)|std(out|err)\.write")
    printers = {file.relative_to(root).as_posix() for file in root.rglob("*.py") if prints.search(file.read_text())}
    assert printers == {"cli/groups.py", "runtime/console.py"}
