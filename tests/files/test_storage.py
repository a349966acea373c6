import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diffaug.errors import DamagedError
from diffaug.files import storage
from diffaug.runtime import seeding
from tests.files.faults import each_call, each_fault, survives_full_disk

OLD, NEW = b"old" * 5000, b"new!" * 9000


def names_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def fill(folder: Path, content: bytes, *names: str) -> None:
    for name in names:
        storage.write_bytes(folder / name, content)


def replace_directory(target: Path, version: int, content: bytes, *names: str) -> None:
    with storage.new_directory(target, {"version": version}) as staging:
        fill(staging, content, *names)


@each_fault
@pytest.mark.parametrize("before", [OLD, None])
def test_written_file_is_old_or_new_after_a_fault_at_any_call(tmp_path, survives, before):
    for number, attempt in enumerate(each_call(survives, at_least=6)):  # mkdir, open, write, fsync, replace, ...
        path = tmp_path / str(number) / "file"
        if before is not None:
            storage.write_bytes(path, before)
        done = attempt(lambda path=path: storage.write_bytes(path, NEW))
        content = path.read_bytes() if path.exists() else None
        assert content in ((NEW,) if done else (before, NEW))
        if survives is survives_full_disk:
            assert names_in(path.parent) == ([] if content is None else ["file"])


@each_fault
@pytest.mark.parametrize("how", ["new", "replaced", "copied"])
def test_new_directory_is_old_or_new_after_a_fault_at_any_call(tmp_path, survives, how):
    replace_directory(tmp_path / "source", 2, NEW, "a", "b/DONE.json")
    contents = {1: ["DONE.json", "a", "gone"], 2: ["DONE.json", "a", "b", "b/DONE.json"], None: []}
    former = None if how == "new" else 1
    for number, attempt in enumerate(each_call(survives, at_least=20)):
        target = tmp_path / str(number) / "target"
        if former is not None:
            replace_directory(target, former, OLD, "a", "gone")
        if how == "copied":
            done = attempt(lambda target=target: storage.copy_directory(tmp_path / "source", target))
        else:
            done = attempt(lambda target=target: replace_directory(target, 2, NEW, "a", "b/DONE.json"))
        version = (storage.committed_metadata(target, verify=True) or {}).get("version")
        assert version in ((2,) if done else (former, 2))
        assert names_in(target) == contents[version]
        if survives is survives_full_disk:
            assert not list(target.parent.glob(".*"))
        replace_directory(target, 3, NEW, "a")
        assert names_in(target.parent) == ["target", "target/DONE.json", "target/a"]  # also what the dead left


@each_fault
def test_commit_is_none_or_whole_after_a_fault_at_any_call(tmp_path, survives):
    for number, attempt in enumerate(each_call(survives, at_least=8)):
        folder = tmp_path / str(number)
        fill(folder, OLD, "a", "b/c")
        done = attempt(lambda folder=folder: storage.commit_directory(folder, {"x": 1}))
        assert storage.committed_metadata(folder, verify=True) in (({"x": 1},) if done else (None, {"x": 1}))
        storage.commit_directory(folder, {"x": 2})
        assert storage.committed_metadata(folder) == {"x": 2}
        assert names_in(folder) == ["DONE.json", "a", "b", "b/c"]


@each_fault
def test_discarded_directory_is_whole_or_gone_after_a_fault_at_any_call(tmp_path, survives):
    target = tmp_path / "target"
    for attempt in each_call(survives, at_least=1):
        replace_directory(target, 1, OLD, "a", "b/c")
        done = attempt(lambda: storage.discard_directory(target))
        assert not target.exists() or storage.committed_metadata(target, verify=True) == {"version": 1}
        assert not (done and target.exists())


@each_fault
def test_appended_lines_stay_whole_after_a_fault_at_any_call(tmp_path, survives):
    for number, attempt in enumerate(each_call(survives, at_least=4)):
        path = tmp_path / str(number) / "journal"
        storage.append_lines(path, ["first"])
        done = attempt(lambda path=path: storage.append_lines(path, ["second"]))
        whole_lines = path.read_text().split("\n")[:-1]
        assert whole_lines in (([["first", "second"]]) if done else (["first"], ["first", "second"]))
        storage.append_lines(path, ["third"])
        assert path.read_text() == "\n".join([*whole_lines, "third", ""])


def test_new_directory_keeps_the_old_one_when_the_block_raises(tmp_path):
    replace_directory(tmp_path / "target", 1, OLD, "a")
    with pytest.raises(ZeroDivisionError), storage.new_directory(tmp_path / "target", {}) as staging:
        fill(staging, NEW, "a")
        raise ZeroDivisionError
    assert storage.committed_metadata(tmp_path / "target", verify=True) == {"version": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_discarding_a_link_leaves_what_it_points_to(tmp_path):
    fill(tmp_path / "real", OLD, "a")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for _ in range(2):  # what is gone is no error
        storage.discard_directory(tmp_path / "link")
    assert names_in(tmp_path) == ["real", "real/a"]


@pytest.fixture
def committed(tmp_path) -> Path:
    folder = tmp_path / "committed"
    fill(folder, bytes(range(256)), "a.bin", "sub/b.bin", "sub/DONE.json")
    storage.commit_directory(folder, {"seed": 3, "score": float("nan"), "shape": (2, 3)})
    return folder


@pytest.mark.parametrize("name", ["a.bin", "sub/b.bin", "sub/DONE.json"])
@pytest.mark.parametrize("length", [None, 0, 255, 257])
def test_missing_short_and_long_files_are_found_without_hashing(committed, name, length):
    path = committed / name
    path.unlink() if length is None else path.write_bytes(bytes(length))
    with pytest.raises(DamagedError) as caught:
        storage.committed_metadata(committed)
    assert caught.value.where == str(path)


def test_metadata_reads_back_and_the_record_alone_without_a_look_at_the_files(committed):
    metadata = {"seed": 3, "score": None, "shape": [2, 3]}
    assert storage.committed_metadata(committed, verify=True) == metadata
    (committed / "a.bin").unlink()
    assert storage.recorded_metadata(committed) == metadata
    assert storage.committed_metadata(committed.parent) is storage.recorded_metadata(committed.parent) is None
    (committed / storage.DONE).write_bytes(b"{}")
    with pytest.raises(DamagedError):
        storage.recorded_metadata(committed)


@pytest.mark.parametrize("name", ["a.bin", "sub/b.bin", "sub/DONE.json", "DONE.json"])
def test_every_bit_flip_is_found(committed, name):
    content = (committed / name).read_bytes()
    for position in seeding.numpy_generator(0, "flips", name).choice(8 * len(content), size=150, replace=False):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        (committed / name).write_bytes(flipped)
        with pytest.raises(DamagedError):
            storage.committed_metadata(committed, verify=True)


@pytest.mark.parametrize("content", ["", "null", "[]", "{}", '{"files": {}}', "\udcff"])
def test_a_foreign_record_is_damage_not_a_crash(committed, content):
    (committed / storage.DONE).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(DamagedError):
        storage.committed_metadata(committed)


def test_a_record_that_points_outside_is_refused(committed):
    outside = committed.parent / "secret"
    outside.write_bytes(b"")
    content = {"metadata": {}, "files": {"../secret": {"size": 0, "sha256": storage.sha256_bytes(b"")}}}
    storage.write_json(committed / storage.DONE, {**content, "fingerprint": storage.fingerprint(content)})
    with pytest.raises(DamagedError, match="outside"):
        storage.committed_metadata(committed)


def test_json_takes_numpy_scalars_and_writes_non_finite_as_null(tmp_path):
    path = tmp_path / "x.json"
    not_finite = [float("nan"), float("inf"), -np.inf, np.float32("nan"), np.array(np.inf)]
    numbers = (np.int64(7), np.float32(0.5), np.bool_(True), np.array(2))
    storage.write_json(path, {"nan": not_finite, "numbers": numbers, 3: {"nested": [None, "ü", 1e300]}})
    text = path.read_text(encoding="utf-8")
    assert "ü" in text
    expected = {"nan": [None] * 5, "numbers": [7, 0.5, True, 2], "3": {"nested": [None, "ü", 1e300]}}
    assert json.loads(text, parse_constant=pytest.fail) == expected


def test_json_keeps_file_names_that_are_not_utf8_and_writes_nothing_of_an_unknown_type(tmp_path):
    with pytest.raises(TypeError):
        storage.write_json(tmp_path / "x.json", {"array": np.zeros(3)})
    assert names_in(tmp_path) == []
    name = os.fsdecode(b"caf\xe9.png")
    storage.write_json(tmp_path / "x.json", [name])
    assert storage.read_json(tmp_path / "x.json") == [name]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}"])
def test_reading_what_is_not_json_names_the_file(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(DamagedError) as caught:
        storage.read_json(tmp_path / "x.json")
    assert caught.value.where == str(tmp_path / "x.json")


@pytest.mark.e2e
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted as Linux shows them")
def test_tables_are_written_and_read_without_threads(tmp_path):
    """pyarrow waits for ever where the system refuses to start one."""
    program = f"""
import os, pandas as pd
from pathlib import Path
from diffaug.files import storage
table = pd.DataFrame({{f"column {{i}}": range(5000) for i in range(40)}})
import pyarrow, pyarrow.parquet
before = len(os.listdir("/proc/self/task"))
storage.write_parquet(Path({str(tmp_path / "t.parquet")!r}), table)
assert storage.read_parquet(Path({str(tmp_path / "t.parquet")!r})).equals(table)
print(len(os.listdir("/proc/self/task")) - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0"]


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


@given(st.dictionaries(st.text(), json_values, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_fingerprint_ignores_the_order_of_keys_and_nothing_else(content, random):
    items = list(content.items())
    random.shuffle(items)
    name = storage.fingerprint(content)
    assert storage.fingerprint(dict(items)) == name
    assert storage.fingerprint(json.loads(json.dumps(content))) == name
    assert storage.fingerprint({**content, items[0][0]: "another value"}) != name
    assert storage.fingerprint([content]) != name


def test_fingerprint_is_the_same_in_every_process_takes_paths_and_refuses_what_has_no_stable_text():
    assert storage.fingerprint({"b": [1, 2.5, None], "a": {"ü": True}}) == "1d44e843f260da50"
    assert storage.fingerprint([Path("a/b")]) == storage.fingerprint(["a/b"])
    for unstable in ({"a", "b"}, object()):
        with pytest.raises(TypeError):
            storage.fingerprint([unstable])


def test_hashes_agree_with_sha256sum(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert storage.sha256_bytes(b"abc") == storage.sha256_file(tmp_path / "abc") == known


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished directory of many files, of which eleven are in a folder."""
    monkeypatch.setattr(storage, "MANY_FILES", 10)
    for number in range(11):
        storage.write_unfinished(tmp_path / "many" / "images" / f"{number}.png", b"image")
    storage.write_unfinished(tmp_path / "many" / "manifest.parquet", b"table")
    storage.commit_directory(tmp_path / "many", {"x": 1})
    return tmp_path / "many"


def test_files_in_the_folders_of_a_directory_of_many_are_recorded_apart(many: Path) -> None:
    assert b"images" not in (many / storage.DONE).read_bytes()
    assert storage.committed_metadata(many, verify=True) == storage.recorded_metadata(many) == {"x": 1}
    assert storage.changes_since_commit(many) == {}
    assert len(storage.recorded_files(many)) == 12
    assert list(storage.recorded_files(many, folders=False)) == ["manifest.parquet"]
    (many / "images" / "7.png").write_bytes(b"other")
    (many / "images" / "8.png").unlink()
    (many / "images" / "new.png").write_bytes(b"")
    expected = {"images/7.png": "changed", "images/8.png": "missing", "images/new.png": "foreign"}
    assert storage.changes_since_commit(many) == expected
    assert storage.committed_metadata(many, folders=False) == {"x": 1}
    with pytest.raises(DamagedError):
        storage.committed_metadata(many)
    shutil.rmtree(many / "images")
    storage.commit_directory(many, {"x": 2})
    assert storage.changes_since_commit(many) == {}
    assert not (many / storage.LISTING).exists()


@pytest.mark.parametrize("what", ["changed", "missing"])
def test_a_changed_listing_is_found(many: Path, what: str) -> None:
    listing = many / storage.LISTING
    listing.unlink() if what == "missing" else listing.write_bytes(listing.read_bytes().replace(b"7.png", b"x.png"))
    assert storage.changes_since_commit(many) == {storage.LISTING: what}
    with pytest.raises(DamagedError):
        storage.committed_metadata(many)
