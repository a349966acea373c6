import os
import time
from pathlib import Path

import pytest

from diffaug.configuration.settings import DataSettings
from diffaug.data import sources
from diffaug.data.catalog import build_catalog, describe_changes
from diffaug.data.sources import CLOCK_SECONDS, KnownFiles
from diffaug.files import storage


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


@pytest.fixture
def known(root, monkeypatch) -> KnownFiles:
    later(monkeypatch)
    return KnownFiles()


def test_a_file_is_read_again_only_after_it_was_touched(root, hashed, known):
    first = known.current(root, ["a", "b"])
    assert first == {name: storage.sha256_bytes(name.encode()) for name in ("a", "b")}
    assert known.current(root, ["a", "b"]) == first and sorted(hashed) == ["a", "b"]
    hashed.clear()
    (root / "a").write_bytes(b"x")  # of the same size
    assert known.current(root, ["a", "b"]) == {**first, "a": storage.sha256_bytes(b"x")}
    assert hashed == ["a"]


def test_another_content_of_the_same_size_and_time_is_noticed(root, known):
    """As rsync and tar leave it: the time of the content can be set, that of the entry can't."""
    before = (root / "a").stat()
    known.current(root, ["a"])
    time.sleep(0.02)
    (root / "a").write_bytes(b"x")
    os.utime(root / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert known.current(root, ["a"]) == {"a": storage.sha256_bytes(b"x")}


def test_a_file_as_young_as_the_clock_is_read_again(root, hashed):
    known = KnownFiles()
    for _ in range(2):
        known.current(root, ["a"])
    assert hashed == ["a", "a"] and known.stamps == {}


def test_files_that_are_gone_or_unreadable_are_no_error(root, hashed, known):
    known.current(root, ["a", "b"])
    (root / "a").unlink()
    assert known.current(root, ["a"]) == {"a": ""}
    assert set(known.sha256) == {"a"}


def test_what_is_known_is_kept_and_damage_only_costs_time(root, tmp_path, known):
    file = tmp_path / "sources.json"
    known.current(root, ["a", "b"])
    known.save(file)
    assert KnownFiles.load(file) == known
    for content in (b"", b"[]", b'{"sha256": 3}'):
        file.write_bytes(content)
        assert KnownFiles.load(file) == KnownFiles()
    assert KnownFiles.load(tmp_path / "absent") == KnownFiles()


def test_changes_of_a_folder_are_found_without_reading_the_rest(make_folder, hashed, monkeypatch):
    root = make_folder({"cat": 6, "dog": 6})
    catalog = build_catalog(root, DataSettings(), seed=0)
    later(monkeypatch)
    known = KnownFiles()
    known.note(root, catalog.content(), time.time())
    assert describe_changes(catalog, root, known) == "" and hashed == []
    (root / "cat" / "1.png").write_bytes((root / "dog" / "1.png").read_bytes())
    assert describe_changes(catalog, root, known).endswith(": 1 changed (cat/1.png)")
    assert hashed == ["1.png"]
