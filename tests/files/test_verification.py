import json
import os
import time
from pathlib import Path

import pytest

from diffaug.errors import DamagedError
from diffaug.files import storage, verification
from diffaug.files.verification import CLOCK_NS, VERIFIED

OLD = 3600


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed directory whose files were written an hour ago, as far as stamps tell."""
    monkeypatch.setattr(verification, "NOTED_BYTES", 1)
    for name in ("a", "images/b"):
        storage.write_bytes(tmp_path / "folder" / name, name.encode() * 100)
    storage.commit_directory(tmp_path / "folder", {"x": 1})
    stamp_of = verification._stamp_of

    def old(path: str) -> verification.Stamp | None:
        stamp = stamp_of(path)
        return stamp and stamp._replace(changed=stamp.changed - OLD * 10**9, entered=stamp.entered - OLD * 10**9)

    monkeypatch.setattr(verification, "_stamp_of", old)
    return tmp_path / "folder"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    sha256_file = verification.sha256_file
    monkeypatch.setattr(verification, "sha256_file", lambda path: names.append(path.name) or sha256_file(path))
    return names


def change(path: Path) -> None:
    """Other bytes of the same length."""
    path.write_bytes(bytes(path.stat().st_size))


def test_a_file_is_hashed_once_and_again_when_it_was_written_again(folder, hashed) -> None:
    for _ in range(3):
        assert storage.committed_metadata(folder) == {"x": 1}
    assert sorted(hashed) == ["a", "b"]
    (folder / "a").write_bytes((folder / "a").read_bytes())
    assert storage.committed_metadata(folder) == {"x": 1}
    assert sorted(hashed) == ["a", "a", "b"]
    change(folder / "images" / "b")
    for _ in range(2):
        with pytest.raises(DamagedError, match="images/b"):
            storage.committed_metadata(folder)


def test_times_that_were_put_back_and_another_file_of_that_name_hide_no_change(folder) -> None:
    storage.committed_metadata(folder)
    before = (folder / "a").stat()
    change(folder / "a")
    os.utime(folder / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DamagedError):
        storage.committed_metadata(folder)


def test_verifying_and_copies_take_no_notice_of_what_was_hashed_before(folder, hashed, tmp_path) -> None:
    storage.committed_metadata(folder)
    assert (folder / VERIFIED).is_file() and not storage.changes_since_commit(folder)
    assert storage.committed_metadata(folder, verify=True) == {"x": 1}
    storage.copy_directory(folder, tmp_path / "copy")
    assert not (tmp_path / "copy" / VERIFIED).exists()
    (tmp_path / "copy" / VERIFIED).write_bytes((folder / VERIFIED).read_bytes())
    hashed.clear()
    storage.committed_metadata(tmp_path / "copy")
    assert sorted(hashed) == ["a", "b"]


def test_a_file_that_was_written_just_before_it_was_hashed_is_hashed_again(tmp_path, hashed, monkeypatch) -> None:
    """A second change within the granularity of the clock leaves the same times."""
    monkeypatch.setattr(verification, "NOTED_BYTES", 1)
    storage.write_bytes(tmp_path / "folder" / "a", b"a" * 100)
    storage.commit_directory(tmp_path / "folder", {})
    storage.committed_metadata(tmp_path / "folder")
    stamp = verification._stamp_of(str(tmp_path / "folder" / "a"))
    monkeypatch.setattr(verification, "_stamp_of", lambda path: stamp)  # a clock that stands still
    change(tmp_path / "folder" / "a")
    with pytest.raises(DamagedError):
        storage.committed_metadata(tmp_path / "folder")


def test_the_clock_of_the_file_system_counts_and_not_that_of_the_machine(folder, hashed, monkeypatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(verification, "CLOCK_NS", CLOCK_NS + 2 * OLD * 10**9)  # as if the files were new
    for _ in range(2):
        storage.committed_metadata(folder)
    assert sorted(hashed) == ["a", "a", "b", "b"]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"a": null, "images/b": [1]}', b"\xff", b"[" * 10_000])
def test_damaged_notes_are_no_notes(folder, hashed, content) -> None:
    storage.committed_metadata(folder)
    (folder / VERIFIED).write_bytes(content)
    hashed.clear()
    storage.committed_metadata(folder)
    assert sorted(hashed) == ["a", "b"]
    assert set(json.loads((folder / VERIFIED).read_bytes())) == {"a", "images/b"}


def test_files_whose_readers_hash_them_are_only_compared_in_size(folder, hashed) -> None:
    change(folder / "images" / "b")
    assert storage.committed_metadata(folder, unhashed=("images/",)) == {"x": 1}
    assert hashed == ["a"]
    (folder / "images" / "b").write_bytes(b"")
    with pytest.raises(DamagedError):
        storage.committed_metadata(folder, unhashed=("images/",))


def test_nothing_is_noted_of_a_few_bytes_since_hashing_them_is_as_quick(folder, hashed, monkeypatch) -> None:
    monkeypatch.setattr(verification, "NOTED_BYTES", 901)
    storage.committed_metadata(folder)
    assert not (folder / VERIFIED).exists()


def test_nothing_is_noted_where_nothing_can_be_written(folder, hashed, monkeypatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "open", lambda self, *a, **k: refused() if self.suffix == ".tmp" else open(self, *a, **k))  # noqa: PTH123, SIM115
    for _ in range(2):
        assert storage.committed_metadata(folder) == {"x": 1}
    assert not (folder / VERIFIED).exists() and sorted(hashed) == ["a", "a", "b", "b"]
