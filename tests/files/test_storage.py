import errno
import io
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffaug.errors import DamagedError
from diffaug.files import storage
from diffaug.runtime import seeding

OLD, NEW = b"old" * 5000, b"new!" * 9000
NEED_NO_SPACE = frozenset([(os, "unlink"), (os, "rmdir"), (os, "open")])


class Faults:
    """Counts the calls that touch the disk and strikes before the N-th; a write is struck half-way."""

    CALLS = (
        *((os, name) for name in ("mkdir", "open", "fsync", "replace", "unlink", "rmdir")),
        (io, "open"),
        (storage, "exchange"),
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


each_fault = pytest.mark.parametrize("survives", [survives_kill, survives_full_disk])


def names_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def fill(folder: Path, content: bytes, *names: str) -> None:
    for name in names:
        storage.write_bytes(folder / name, content)


def replace_directory(target: Path, version: int, content: bytes, *names: str) -> None:
    with storage.new_directory(target, {"version": version}) as staging:
        fill(staging, content, *names)


@each_fault
def test_written_file_is_old_or_new_after_a_fault_at_any_call(tmp_path, survives):
    path = tmp_path / "folder" / "file"
    for at in itertools.count(1):
        storage.write_bytes(path, OLD)
        done = survives(lambda: storage.write_bytes(path, NEW), at)
        assert path.read_bytes() in ((NEW,) if done else (OLD, NEW))
        if survives is survives_full_disk:
            assert names_in(path.parent) == ["file"]
        if done:
            break
    assert at > 6  # mkdir, open, write, fsync, replace, and the folder's open and fsync


@each_fault
def test_first_write_is_nothing_or_whole_after_a_fault_at_any_call(tmp_path, survives):
    for at in itertools.count(1):
        path = tmp_path / str(at) / "file"
        done = survives(lambda path=path: storage.write_bytes(path, NEW), at)
        assert not path.exists() or path.read_bytes() == NEW
        if done:
            assert path.exists()
            break
    assert at > 6


@each_fault
@pytest.mark.parametrize("is_new", [True, False])
def test_new_directory_is_old_or_new_after_a_fault_at_any_call(tmp_path, survives, is_new):
    for at in itertools.count(1):
        target = tmp_path / str(at) / "target"
        if not is_new:
            replace_directory(target, 1, OLD, "a", "gone")
        done = survives(lambda target=target: replace_directory(target, 2, NEW, "a", "b/c"), at)
        version = (storage.committed_facts(target, verify=True) or {}).get("version")
        assert version in ((2,) if done else (None if is_new else 1, 2))
        assert names_in(target) == {None: [], 1: ["DONE.json", "a", "gone"], 2: ["DONE.json", "a", "b", "b/c"]}[version]
        if survives is survives_full_disk:
            assert not list(target.parent.glob(".*"))
        replace_directory(target, 3, NEW, "a")
        assert names_in(target.parent) == ["target", "target/DONE.json", "target/a"]  # also what the dead left
        if done:
            break
    assert at > 20


@each_fault
def test_commit_is_none_or_whole_after_a_fault_at_any_call(tmp_path, survives):
    for at in itertools.count(1):
        folder = tmp_path / str(at)
        fill(folder, OLD, "a", "b/c")
        done = survives(lambda folder=folder: storage.commit_directory(folder, {"x": 1}), at)
        assert storage.committed_facts(folder, verify=True) in (({"x": 1},) if done else (None, {"x": 1}))
        storage.commit_directory(folder, {"x": 2})
        assert storage.committed_facts(folder) == {"x": 2}
        assert names_in(folder) == ["DONE.json", "a", "b", "b/c"]
        if done:
            break
    assert at > 8


@each_fault
def test_discarded_directory_is_whole_or_gone_after_a_fault_at_any_call(tmp_path, survives):
    target = tmp_path / "target"
    for at in itertools.count(1):
        replace_directory(target, 1, OLD, "a", "b/c")
        done = survives(lambda: storage.discard_directory(target), at)
        assert not target.exists() or storage.committed_facts(target, verify=True) == {"version": 1}
        if done:
            assert not target.exists()
            break
    assert at > 1


@each_fault
def test_appended_lines_stay_whole_after_a_fault_at_any_call(tmp_path, survives):
    for at in itertools.count(1):
        path = tmp_path / str(at) / "journal"
        storage.append_line(path, "first")
        done = survives(lambda path=path: storage.append_line(path, "second"), at)
        whole_lines = path.read_text().split("\n")[:-1]
        assert whole_lines in (([["first", "second"]]) if done else (["first"], ["first", "second"]))
        storage.append_line(path, "third")
        assert path.read_text() == "\n".join([*whole_lines, "third", ""])
        if done:
            break
    assert at > 4


def test_new_directory_keeps_the_old_one_when_the_block_raises(tmp_path):
    replace_directory(tmp_path / "target", 1, OLD, "a")
    with pytest.raises(ZeroDivisionError), storage.new_directory(tmp_path / "target", {}) as staging:
        fill(staging, NEW, "a")
        raise ZeroDivisionError
    assert storage.committed_facts(tmp_path / "target", verify=True) == {"version": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_discarding_nothing_is_no_error(tmp_path):
    storage.discard_directory(tmp_path / "absent")


def test_discarding_a_link_leaves_what_it_points_to(tmp_path):
    fill(tmp_path / "real", OLD, "a")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    storage.discard_directory(tmp_path / "link")
    assert names_in(tmp_path) == ["real", "real/a"]


@pytest.fixture
def committed(tmp_path) -> Path:
    folder = tmp_path / "committed"
    fill(folder, bytes(range(256)), "a.bin", "sub/b.bin", "sub/DONE.json")
    storage.commit_directory(folder, {"seed": 3, "score": float("nan"), "shape": (2, 3)})
    return folder


def test_commit_returns_the_facts(committed):
    assert storage.committed_facts(committed, verify=True) == {"seed": 3, "score": None, "shape": [2, 3]}
    assert storage.committed_facts(committed.parent) is None


@pytest.mark.parametrize("name", ["a.bin", "sub/b.bin", "sub/DONE.json"])
@pytest.mark.parametrize("length", [None, 0, 255, 257])
def test_missing_short_and_long_files_are_found_without_hashing(committed, name, length):
    path = committed / name
    path.unlink() if length is None else path.write_bytes(bytes(length))
    with pytest.raises(DamagedError) as caught:
        storage.committed_facts(committed)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("name", ["a.bin", "sub/b.bin", "sub/DONE.json", "DONE.json"])
def test_every_bit_flip_is_found(committed, name):
    content = (committed / name).read_bytes()
    for position in seeding.numpy_generator(0, "flips", name).choice(8 * len(content), size=150, replace=False):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        (committed / name).write_bytes(flipped)
        with pytest.raises(DamagedError):
            storage.committed_facts(committed, verify=True)


@pytest.mark.parametrize("content", ["", "null", "[]", "{}", '{"files": {}}', "\udcff"])
def test_a_foreign_record_is_damage_not_a_crash(committed, content):
    (committed / storage.DONE).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(DamagedError):
        storage.committed_facts(committed)


def test_a_record_that_points_outside_is_refused(committed):
    outside = committed.parent / "secret"
    outside.write_bytes(b"")
    content = {"facts": {}, "files": {"../secret": {"size": 0, "sha256": storage.sha256_bytes(b"")}}}
    storage.write_json(committed / storage.DONE, {**content, "fingerprint": storage.fingerprint(content)})
    with pytest.raises(DamagedError, match="outside"):
        storage.committed_facts(committed)


def test_json_takes_numpy_scalars_and_writes_non_finite_as_null(tmp_path):
    path = tmp_path / "x.json"
    content = {
        "nan": [float("nan"), float("inf"), -np.inf, np.float32("nan"), np.array(np.inf)],
        "numbers": (np.int64(7), np.float32(0.5), np.bool_(True), np.array(2)),
        3: {"nested": [None, "ü", 1e300]},
    }
    storage.write_json(path, content)
    text = path.read_text(encoding="utf-8")
    assert "ü" in text
    assert json.loads(text, parse_constant=pytest.fail) == {
        "nan": [None] * 5,
        "numbers": [7, 0.5, True, 2],
        "3": {"nested": [None, "ü", 1e300]},
    }


def test_json_keeps_file_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    storage.write_json(tmp_path / "x.json", [name])
    assert storage.read_json(tmp_path / "x.json") == [name]


def test_json_of_an_unknown_type_writes_nothing(tmp_path):
    with pytest.raises(TypeError):
        storage.write_json(tmp_path / "x.json", {"array": np.zeros(3)})
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}"])
def test_reading_what_is_not_json_names_the_file(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(DamagedError) as caught:
        storage.read_json(tmp_path / "x.json")
    assert caught.value.where == str(tmp_path / "x.json")


def test_tables_arrays_and_images_read_back(tmp_path):
    table = pd.DataFrame({"name": ["a", "ü"], "number": [1, 2]})
    storage.write_parquet(tmp_path / "t.parquet", table)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), table)

    array = seeding.numpy_generator(0, "pixels").integers(0, 256, (5, 4, 3), dtype=np.uint8)
    storage.write_array(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy", allow_pickle=False), array)
    with pytest.raises(ValueError, match="pickle"):
        storage.write_array(tmp_path / "o.npy", np.array([object()]))

    for pixels in (array, array[..., :1], array[..., 0]):
        with Image.open(io.BytesIO(storage.png_bytes(pixels))) as image:
            np.testing.assert_array_equal(np.asarray(image), pixels.squeeze())
            assert not image.info


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(), json_values, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_fingerprint_ignores_the_order_of_keys_and_nothing_else(content, random):
    items = list(content.items())
    random.shuffle(items)
    name = storage.fingerprint(content)
    assert storage.fingerprint(dict(items)) == name
    assert storage.fingerprint(json.loads(json.dumps(content))) == name
    assert storage.fingerprint({**content, items[0][0]: "another value"}) != name
    assert storage.fingerprint([content]) != name


def test_fingerprint_is_the_same_in_every_process():
    code = "from diffaug.files.storage import fingerprint; print(fingerprint({'b': [1, 2.5, None], 'a': {'ü': True}}))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert printed == {storage.fingerprint({"a": {"ü": True}, "b": [1, 2.5, None]}).encode()}


def test_fingerprint_takes_paths_and_refuses_what_has_no_stable_text():
    assert storage.fingerprint([Path("a/b")]) == storage.fingerprint(["a/b"])
    for unstable in ({"a", "b"}, object()):
        with pytest.raises(TypeError):
            storage.fingerprint([unstable])


def test_hashes_agree_with_sha256sum(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert storage.sha256_bytes(b"abc") == storage.sha256_file(tmp_path / "abc") == known
