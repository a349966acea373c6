import os
import time
from pathlib import Path

import numpy as np
import pytest

from diffaug.configuration.settings import DataSettings
from diffaug.data.building.changes import describe_changes
from diffaug.data.reading import sources
from diffaug.data.reading.sources import CLOCK_SECONDS, changed_files, load_stamps, save_stamps
from diffaug.files import storage

UNREAD = np.zeros((2, 3), np.int64)


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    names: list[str] = []
    read = sources.content_sha256
    monkeypatch.setattr(sources, "content_sha256", lambda path: names.append(path.name) or read(path))
    return names


@pytest.fixture
def root(tmp_path) -> Path:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def later(monkeypatch) -> None:
    """Lets the clock of the file system tick."""
    now = time.time() + CLOCK_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: now)


CONTENT = [storage.sha256_bytes(name.encode()) for name in ("a", "b")]


def test_a_file_is_read_again_only_after_it_was_touched(root, hashed, monkeypatch):
    later(monkeypatch)
    changed, known = changed_files(root, ["a", "b"], CONTENT, UNREAD)
    assert changed == [] and sorted(hashed) == ["a", "b"]
    assert changed_files(root, ["a", "b"], CONTENT, known)[0] == [] and len(hashed) == 2
    (root / "a").write_bytes(b"x")  # of the same size
    assert changed_files(root, ["a", "b"], CONTENT, known)[0] == ["a"]
    assert hashed[2:] == ["a"]


def test_another_content_of_the_same_size_and_time_is_noticed(root, monkeypatch):
    """As rsync and tar leave it: the time of the content can be set, that of the entry can't."""
    later(monkeypatch)
    before = (root / "a").stat()
    _, known = changed_files(root, ["a", "b"], CONTENT, UNREAD)
    time.sleep(0.02)
    (root / "a").write_bytes(b"x")
    os.utime(root / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert changed_files(root, ["a", "b"], CONTENT, known)[0] == ["a"]


def test_a_file_as_young_as_the_clock_is_read_again(root, hashed):
    _, known = changed_files(root, ["a", "b"], CONTENT, UNREAD)
    assert not known.any()
    changed_files(root, ["a", "b"], CONTENT, known)
    assert sorted(hashed) == ["a", "a", "b", "b"]


def test_files_that_are_gone_differ_unless_they_could_not_be_read_before(root, monkeypatch):
    later(monkeypatch)
    assert changed_files(root, ["a", "gone"], CONTENT, UNREAD)[0] == ["gone"]
    assert changed_files(root, ["a", "gone"], [CONTENT[0], ""], UNREAD)[0] == []


def test_stamps_are_kept_and_damage_only_costs_time(tmp_path):
    file, stamps = tmp_path / "stamps.npy", np.arange(6).reshape(2, 3)
    save_stamps(file, stamps)
    np.testing.assert_array_equal(load_stamps(file, 2), stamps)
    assert not load_stamps(file, 3).any() and load_stamps(file, 3).shape == (3, 3)
    for content in (b"", b"[]", file.read_bytes()[:-1]):
        file.write_bytes(content)
        assert not load_stamps(file, 2).any()
    assert not load_stamps(tmp_path / "absent", 2).any()


def test_changes_of_a_folder_are_found_without_reading_the_rest(build, make_folder, tmp_path, hashed, monkeypatch):
    root, directory = make_folder({"cat": 6, "dog": 6}), tmp_path / "elsewhere"
    catalog = build(root)
    later(monkeypatch)
    assert describe_changes(catalog, root, DataSettings(), directory) == "" and len(hashed) == 12
    assert describe_changes(catalog, root, DataSettings(), directory) == "" and len(hashed) == 12
    (root / "cat" / "1.png").write_bytes((root / "dog" / "1.png").read_bytes())
    assert describe_changes(catalog, root, DataSettings(), directory).endswith(": 1 changed (cat/1.png)")
    assert hashed[12:] == ["1.png"]


def test_stamps_are_those_of_the_system_and_young_ones_are_not_trusted(root) -> None:
    of_a = (root / "a").stat()
    stamps = sources.stamps_of(root, ["a", "absent", "nul\0"])
    assert stamps.dtype == np.int64
    assert stamps.tolist() == [[1, of_a.st_mtime_ns, of_a.st_ctime_ns], [0, 0, 0], [0, 0, 0]]
    assert sources.stamps_of(root, []).shape == (0, 3)
    began, ns = 1000.0, int((1000 - CLOCK_SECONDS) * 1e9)
    for stamp, is_old in (((ns, ns - 1, ns - 1), True), ((1, ns, 5), False), ((1, 5, ns), False), ((1, 5, 5), True)):
        assert sources.is_trusted(stamp, began) is is_old
        kept = sources.trusted(np.array([stamp], np.int64), began)
        assert kept.tolist() == [list(stamp) if is_old else [0, 0, 0]]
    assert sources.trusted(np.zeros((0, 3), np.int64), began).shape == (0, 3)


def test_stamps_replace_whatever_is_in_their_place(tmp_path) -> None:
    (tmp_path / "stamps.npy" / "folder").mkdir(parents=True)
    assert not load_stamps(tmp_path / "stamps.npy", 2).any()
    stamps = np.arange(1, 7).reshape(2, 3)
    for _ in range(2):
        save_stamps(tmp_path / "stamps.npy", stamps)
        assert (load_stamps(tmp_path / "stamps.npy", 2) == stamps).all()
    for other in (load_stamps(tmp_path / "stamps.npy", 3), load_stamps(tmp_path / "absent", 3)):
        assert (other.shape, other.dtype, other.any()) == ((3, 3), np.int64, False)
    save_stamps(tmp_path / "stamps.npy", stamps.astype(np.int32))
    assert (
        load_stamps(tmp_path / "stamps.npy", 2).dtype == np.int64 and not load_stamps(tmp_path / "stamps.npy", 2).any()
    )
