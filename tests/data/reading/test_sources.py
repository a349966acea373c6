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
