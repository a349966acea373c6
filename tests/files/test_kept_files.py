"""Single files read back as written, and a finished directory differs from one that is not."""

import io
import os
from pathlib import Path

import numpy as np
import pytest

from diffaug.errors import DamagedError
from diffaug.files import platform, storage
from diffaug.files.temporaries import host
from diffaug.files.verification import VERIFIED


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished directory."""
    storage.write_bytes(tmp_path / "of" / "folder" / "a", b"content")
    storage.write_bytes(tmp_path / "of" / "folder" / "sub" / "b", b"content")
    storage.commit_directory(tmp_path / "of" / "folder", {"x": 1})
    return tmp_path / "of" / "folder"


def test_a_file_named_by_its_hash_reads_back_and_no_other(tmp_path: Path) -> None:
    storage.write_hashed(tmp_path, "audit", ".npz", b"abc")
    (file,) = tmp_path.iterdir()
    assert (file.name, storage.read_hashed(file)) == ("audit-ba7816bf8f01cfea.npz", b"abc")
    file.write_bytes(b"abd")
    with pytest.raises(DamagedError) as caught:
        storage.read_hashed(file)
    assert caught.value.what == "a file was changed after it was written"
    assert (caught.value.where, caught.value.fix) == (str(file), storage.REPAIR_HINT)


def test_arrays_are_plain_npy_and_signed_ones_are_found_changed(tmp_path: Path) -> None:
    array, plain = np.arange(6, dtype=np.int16).reshape(2, 3), io.BytesIO()
    np.save(plain, array)
    storage.write_array(tmp_path / "a.npy", array)
    assert (tmp_path / "a.npy").read_bytes() == plain.getvalue()
    storage.write_array(tmp_path / "b.npy", array, signed=True)
    content = (tmp_path / "b.npy").read_bytes()
    for read in (storage.read_array, storage.read_signed_array, np.load):
        np.testing.assert_array_equal(read(tmp_path / "b.npy"), array)
    for place in (8, len(plain.getvalue()) - 1, len(content) - 1):
        (tmp_path / "b.npy").write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(DamagedError):
            storage.read_signed_array(tmp_path / "b.npy")


def test_an_array_is_written_part_by_part(tmp_path: Path) -> None:
    array = np.arange(48, dtype=np.uint8).reshape(4, 3, 4)
    with storage.array_writer(tmp_path / "a.npy", (4, 3, 4)) as append:
        append(array[:1])
        append(array[1:, :, ::-1][..., ::-1])  # not contiguous
    mapped = storage.read_array(tmp_path / "a.npy", mapped=True)
    assert isinstance(mapped, np.memmap) and mapped.flags.c_contiguous
    np.testing.assert_array_equal(mapped, array)
    assert not isinstance(storage.read_array(tmp_path / "a.npy"), np.memmap)
    for rows in (3, 5):
        with (
            pytest.raises(AssertionError, match="fill"),
            storage.array_writer(tmp_path / "a.npy", (rows, 3, 4)) as append,
        ):
            append(array)
    with pytest.raises(OSError) as caught, storage.array_writer(tmp_path / "a.npy", (1,)):
        raise OSError(5, "failed")
    assert caught.value.filename == str(tmp_path / "a.npy")


def test_lines_are_appended_and_new_folders_are_synced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    for module in (storage, platform):
        monkeypatch.setattr(module, "sync_directory", synced.append)
    file = tmp_path / "new" / "folders" / "journal"
    storage.append_lines(file, ["a", "b"])
    names = [tmp_path / "new", tmp_path, file.parent]  # of both new folders, and of the file
    assert synced == names
    storage.append_lines(file, ["c"])
    assert (file.read_bytes(), synced) == (b"a\nb\nc\n", names)
    file.write_bytes(b"a\nb\ncut")
    storage.append_lines(file, ["d"])
    assert file.read_bytes() == b"a\nb\nd\n"
    file.write_bytes(b"cut")
    storage.append_lines(file, [])
    assert file.read_bytes() == b""


def test_what_dead_processes_left_is_no_part_of_a_directory(tmp_path: Path) -> None:
    storage.write_bytes(tmp_path / "folder" / "sub" / "a", b"")
    dead = tmp_path / "folder" / "sub" / f".a.{host()}.{2**22 + 1}.tmp"
    dead.write_bytes(b"")
    storage.commit_directory(tmp_path / "folder", {}, without=["former"])
    assert not dead.exists() and list(storage.recorded_files(tmp_path / "folder")) == ["sub/a"]


def test_some_folders_are_no_part_of_a_directory(tmp_path: Path) -> None:
    for name in ("a", "checkpoints/b", "sub/checkpoints/c", f"{storage.CACHE}/d"):
        storage.write_bytes(tmp_path / name, name.encode())
    storage.commit_directory(tmp_path, {}, without=["checkpoints"])
    recorded = storage.recorded_files(tmp_path)
    assert recorded == {"a": (1, storage.sha256_bytes(b"a"))}
    assert storage.recorded_files(tmp_path / "sub") == {}


def test_changes_are_named(folder: Path) -> None:
    assert storage.changes_since_commit(folder) == {}
    storage.write_bytes(folder / storage.CACHE / "x", b"")
    (folder / VERIFIED).write_bytes(b"")
    (folder / "a").unlink()
    (folder / "a").symlink_to(folder / "sub" / "b")  # of the same content
    (folder / "sub" / "b").chmod(0o600)
    storage.write_bytes(folder / "new", b"")
    (folder / "dangling").symlink_to("nowhere")
    assert storage.changes_since_commit(folder) == {"a": "changed", "dangling": "foreign", "new": "foreign"}
    (folder / "sub" / "b").unlink()
    (folder / "sub" / "b").mkdir()
    assert storage.changes_since_commit(folder)["sub/b"] == "missing"


def test_a_changed_record_is_a_change(folder: Path) -> None:
    content = (folder / storage.DONE).read_bytes()
    for other in (content + b"\n", b"{}"):
        (folder / storage.DONE).write_bytes(other)
        assert storage.changes_since_commit(folder) == {storage.DONE: "changed"}
    (folder / storage.DONE).unlink()
    assert storage.changes_since_commit(folder) == {storage.DONE: "missing"}


def test_damage_is_seen_also_where_size_and_times_are_as_before(folder: Path) -> None:
    assert storage.is_damaged(folder) is False
    assert storage.is_damaged(folder.parent) is False  # not finished
    before = (folder / "a").stat()
    (folder / "a").write_bytes(b"CONTENT")
    os.utime(folder / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert storage.is_damaged(folder) is True


def test_a_known_file_is_hashed_again_only_to_verify(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(storage, "require_unchanged", lambda *_, hash_all, unhashed: asked.append(hash_all))
    storage.committed_metadata(folder)
    storage.committed_metadata(folder, verify=True)
    assert storage.is_damaged(folder) is False
    assert asked == [False, True, True]


def test_a_copy_has_neither_caches_nor_notes(folder: Path, tmp_path: Path) -> None:
    storage.write_bytes(folder / storage.CACHE / "x", b"")
    (folder / VERIFIED).write_bytes(b"{}")
    storage.copy_directory(folder, tmp_path / "deep" / "er" / "copy")
    names = {path.name for path in (tmp_path / "deep" / "er" / "copy").rglob("*")}
    assert names == {"a", "sub", "b", storage.DONE}
    assert storage.committed_metadata(tmp_path / "deep" / "er" / "copy") == {"x": 1}


def test_clearing_keeps_folders_by_name_but_no_file(folder: Path) -> None:
    storage.write_bytes(folder / "kept" / "c", b"")
    storage.write_bytes(folder / "sub" / "kept", b"")
    storage.clear_directory(folder, keep=["kept", "a"])
    assert sorted(path.name for path in folder.rglob("*")) == ["c", "kept"]
    storage.clear_directory(folder / "absent")
