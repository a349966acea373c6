import json
import os
import time
from functools import partial
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


CHANGED = "a file was changed after it was written"
SIZES = "a file is missing or has another size than when it was written"


def damage_of(look, path: Path, what: str = CHANGED) -> None:
    with pytest.raises(DamagedError) as caught:
        look()
    assert (caught.value.what, caught.value.where, caught.value.fix) == (what, str(path), storage.REPAIR_HINT)


def recorded(folder: Path) -> dict[str, verification.RecordedFile]:
    record = verification.read_commit(folder)
    assert record is not None
    return record.all_files()


def test_damage_names_the_file_and_what_to_do(folder) -> None:
    files = recorded(folder)
    for hash_all in (True, False):
        (folder / "images" / "b").write_bytes(b"")
        look = partial(verification.require_unchanged, folder, files, hash_all=hash_all)
        damage_of(look, folder / "images" / "b", SIZES)
        (folder / "images" / "b").write_bytes(bytes(files["images/b"].size))
        damage_of(look, folder / "images" / "b")
    (folder / "images" / "b").unlink()
    (folder / "images" / "b").mkdir()
    damage_of(lambda: verification.require_unchanged(folder, files, hash_all=True), folder / "images" / "b", SIZES)


@pytest.mark.parametrize(
    "record",
    [
        {"metadata": [], "files": {}},
        {"metadata": {}},
        {"files": {}},
        {"metadata": {}, "files": []},
        {"metadata": {}, "files": {"a": {"size": 1}}},
        {"metadata": {}, "files": {"a": {"sha256": "x"}}},
        {"metadata": {}, "files": {"a": {"size": "many", "sha256": "x"}}},
        {"metadata": {}, "files": {"a": None}},
    ],
)
def test_a_record_of_another_shape_is_damage_also_with_the_right_sum(tmp_path, record) -> None:
    assert verification.read_commit(tmp_path) is None
    storage.write_json(tmp_path / storage.DONE, {**record, "fingerprint": storage.fingerprint(record)})
    damage_of(lambda: verification.read_commit(tmp_path), tmp_path / storage.DONE)
    good = {"metadata": {"x": 1}, "files": {"a": {"size": "7", "sha256": "h"}}}
    storage.write_json(tmp_path / storage.DONE, {**good, "fingerprint": storage.fingerprint(good)})
    assert verification.read_commit(tmp_path) == (tmp_path, {"x": 1}, {"a": (7, "h")})
    storage.write_json(tmp_path / storage.DONE, {**good, "fingerprint": storage.fingerprint(record)})
    damage_of(lambda: verification.read_commit(tmp_path), tmp_path / storage.DONE)


def test_files_in_folders_are_those_of_the_listing(tmp_path) -> None:
    listing = tmp_path / storage.LISTING
    storage.write_json(listing, {"images/b": {"size": 3, "sha256": "b"}})
    of_listing = verification.RecordedFile(listing.stat().st_size, storage.sha256_file(listing))
    beside = {"a": verification.RecordedFile(1, "a")}
    commit = verification.Commit(tmp_path, {}, {**beside, "images/c": (4, "c"), storage.LISTING: of_listing})
    assert commit.beside() == beside
    assert commit.all_files() == {**beside, "images/b": (3, "b")}
    content = b"not JSON"
    listing.write_bytes(content)
    damage_of(commit.all_files, listing)
    signed = verification.RecordedFile(len(content), storage.sha256_bytes(content))
    with pytest.raises(DamagedError, match="not valid JSON") as caught:
        commit._replace(files={storage.LISTING: signed}).all_files()
    assert caught.value.where == str(listing)


def test_what_is_known_of_other_files_is_kept_when_one_is_hashed_again(folder, hashed) -> None:
    files = recorded(folder)
    verification.require_unchanged(folder, files, hash_all=False)
    notes = json.loads((folder / VERIFIED).read_bytes())
    assert {name: len(entry) for name, entry in notes.items()} == {"a": 6, "images/b": 6}
    (folder / "a").write_bytes((folder / "a").read_bytes())
    (folder / VERIFIED).write_text(json.dumps({**notes, "gone": [1]}))
    verification.require_unchanged(folder, files, hash_all=False)
    again = json.loads((folder / VERIFIED).read_bytes())
    assert again["images/b"] == notes["images/b"] and again["a"] != notes["a"] and set(again) == set(notes)
    assert sorted(hashed) == ["a", "a", "b"]
    verification.require_unchanged(folder, files, hash_all=True)
    assert json.loads((folder / VERIFIED).read_bytes()) == again
    assert {path.name for path in folder.iterdir()} == {"a", "images", storage.DONE, VERIFIED}


def test_a_full_disk_leaves_no_half_note(folder, monkeypatch) -> None:
    def full(*_, **__):
        raise OSError(28, "full")

    monkeypatch.setattr(json, "dump", full)
    assert storage.committed_metadata(folder) == {"x": 1}
    assert {path.name for path in folder.iterdir()} == {"a", "images", storage.DONE}


def test_a_recorded_path_is_inside_or_refused(tmp_path) -> None:
    assert verification._path(tmp_path, "images/b c.png") == f"{tmp_path}/images/b c.png"
    (tmp_path / "link").symlink_to("/")
    for name in ("/etc/passwd", "../x", "a/../../x", "a\0", "link/../../x"):
        with pytest.raises(DamagedError, match="outside its folder"):
            verification._path(tmp_path, name)
    for name in ("a..b", "a\\b", "c:d"):
        assert verification._path(tmp_path, name) == str(tmp_path / name)


def test_only_regular_files_have_a_stamp(tmp_path) -> None:
    (tmp_path / "file").write_bytes(b"four")
    status = (tmp_path / "file").stat()
    stamp = verification._stamp_of(str(tmp_path / "file"))
    assert stamp == (4, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)
    assert verification._last_change([*stamp._replace(changed=5, entered=7), "hash"]) == 7
    assert verification._last_change([*stamp._replace(changed=9, entered=7), "hash"]) == 9
    for path in (tmp_path, tmp_path / "absent", tmp_path / "nul\0"):
        assert verification._stamp_of(str(path)) is None
