from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from diffaug.data.scan import scan
from diffaug.errors import DataError, UsageError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def found(root: Path) -> dict[str, tuple[str, str | None]]:
    return {entry.path: (entry.label, entry.split) for entry in scan(root).entries}


def test_a_folder_a_class(tmp_path: Path) -> None:
    touch(tmp_path, "dog/b.jpg", "dog/a.JPG", "cat/x.png", "cat/without_extension", "cat/picture.gif")
    assert found(tmp_path) == {
        "cat/picture.gif": ("cat", None),
        "cat/without_extension": ("cat", None),
        "cat/x.png": ("cat", None),
        "dog/a.JPG": ("dog", None),
        "dog/b.jpg": ("dog", None),
    }
    assert scan(tmp_path).classes == ("cat", "dog")
    assert [entry.path for entry in scan(tmp_path).entries] == sorted(found(tmp_path))
    assert scan(tmp_path).remarks == ()


def test_class_folders_are_walked_in_depth(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.png", "cat/monday/2.png", "dog/1.png")
    assert found(tmp_path)["cat/monday/2.png"] == ("cat", None)


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_split_folders(tmp_path: Path, val: str) -> None:
    touch(tmp_path, "Train/cat/1.png", "Train/dog/1.png", "test/cat/1.png", f"{val}/emu/1.png")
    assert found(tmp_path) == {
        "Train/cat/1.png": ("cat", "train"),
        "Train/dog/1.png": ("dog", "train"),
        "test/cat/1.png": ("cat", "test"),
        f"{val}/emu/1.png": ("emu", "val"),
    }
    assert scan(tmp_path).classes == ("cat", "dog", "emu")


def test_train_can_be_a_class(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.png", "car/1.png", "bus/1.png")
    assert scan(tmp_path).classes == ("bus", "car", "train")


def test_a_class_folder_without_files_is_still_a_class(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "emu").mkdir()
    assert scan(tmp_path).classes == ("cat", "dog", "emu")


def test_hidden_and_junk_entries_are_ignored(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.png", "dog/1.png", "cat/._1.png", "cat/Thumbs.db", "cat/.DS_Store", "dog/@eaDir/1.png")
    touch(tmp_path, ".ipynb_checkpoints/1.png", "__MACOSX/cat/1.png", "cat/.ipynb_checkpoints/1-checkpoint.png")
    assert set(found(tmp_path)) == {"cat/1.png", "dog/1.png"}
    assert scan(tmp_path).remarks == ()


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.png", "dog/1.png", "dog/notes.txt", "README.md", "cover.png")
    (tmp_path / "dog" / "loop").symlink_to("..")
    (tmp_path / "dog" / "etc").symlink_to("/etc")
    (tmp_path / "dog" / "broken.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "dog" / "pipe.png")
    result = scan(tmp_path)
    assert [entry.path for entry in result.entries] == ["cat/1.png", "dog/1.png"]
    assert sorted(result.remarks) == [
        "files that are no images by their extension, not read: 2 (README.md, dog/notes.txt)",
        "images outside the class folders, left out since they have no label: 1 (cover.png)",
        "links to folders, broken links and special files, not followed: 4 "
        "(dog/broken.png, dog/etc, dog/loop, ...)",
    ]  # fmt: skip


def test_the_root_and_files_may_be_links(tmp_path: Path) -> None:
    real = touch(tmp_path / "real", "cat/1.png", "dog/1.png")
    (real / "dog" / "2.png").symlink_to(real / "dog" / "1.png")
    link = tmp_path / "link"
    link.symlink_to(real)
    assert set(found(link)) == {"cat/1.png", "dog/1.png", "dog/2.png"}


@pytest.mark.parametrize("name", ["ünïcode 🐱.png", "two words.png", "new\nline.png", "-rf.png", "שלום.png", "é" * 100])
def test_odd_names(tmp_path: Path, name: str) -> None:
    touch(tmp_path, f"-class of {name[:5]}/{name}", "dog/1.png")
    assert found(tmp_path)[f"-class of {name[:5]}/{name}"] == (f"-class of {name[:5]}", None)


def test_names_that_are_not_utf8_are_skipped_and_said(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.png", "dog/1.png")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/dog/\xff.png")).write_bytes(b"x")
    assert set(found(tmp_path)) == {"cat/1.png", "dog/1.png"}
    assert scan(tmp_path).remarks == ("files and folders whose names are not valid UTF-8, skipped: 1 (dog/\ufffd.png)",)


@pytest.mark.parametrize(
    "names", [("Cat", "cat"), (unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")), ("ß", "SS")]
)
@pytest.mark.parametrize("splits", [("", ""), ("train/", "test/")])
def test_look_alike_classes_are_refused(tmp_path: Path, names: tuple[str, str], splits: tuple[str, str]) -> None:
    touch(tmp_path, *(f"{split}{name}/1.png" for split, name in zip(splits, names, strict=True)))
    with pytest.raises(DataError, match="differ only in case or Unicode form") as caught:
        scan(tmp_path)
    assert ascii(names[0]) in caught.value.what and ascii(names[1]) in caught.value.what


def test_missing_folder_and_file_are_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        scan(tmp_path / "missing")
    with pytest.raises(UsageError, match="a file, not a folder"):
        scan(touch(tmp_path, "a.png") / "a.png")


@pytest.mark.parametrize(
    ("names", "inside", "what", "fix"),
    [
        ((), "", "no images here", "one folder a class"),
        (("cat/readme.txt",), "", "no images here", "one folder a class"),
        (("1.png", "2.png"), "", "directly in the folder, so they have no label: 1.png, 2.png", "one folder a class"),
        (("cat/1.png", "dog/1.png"), "cat", "directly in the folder", "give {root}"),
        (("set/cat/1.png", "set/dog/1.png"), "", "a folder too deep", "did you mean {root}/set?"),
        (("a/b/cat/1.png", "a/b/dog/1.png"), "", "a folder too deep", "did you mean {root}/a/b?"),
        (("set/train/cat/1.png", "set/test/cat/1.png"), "", "a folder too deep", "did you mean {root}/set?"),
        (("x/cat/1.png", "y/cat/1.png"), "", "a folder too deep", "give one of: x, y"),
        (("train/1.png", "test/1.png"), "", "directly in the folder", "one folder a class"),
        (("train/cat/1.png", "extra/cat/1.png"), "", "'extra', beside the splits", "move it"),
        (("train/cat/1.png", "val/cat/1.png", "valid/cat/1.png"), "", "both the val split", "merge"),
    ],
)
def test_layouts_that_fit_nothing(tmp_path: Path, names: tuple[str, ...], inside: str, what: str, fix: str) -> None:
    root = tmp_path / "data"
    root.mkdir()
    touch(root, *names)
    with pytest.raises(DataError) as caught:
        scan(root / inside)
    assert what in caught.value.what
    assert fix.format(root=root) in str(caught.value.fix)
    assert caught.value.exit_code == 3


def test_several_csvs_are_just_other_files(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.png", "dog/1.png", "a.csv", "b.csv")
    assert set(found(tmp_path)) == {"cat/1.png", "dog/1.png"}


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "cat/1.png", "dog/1.png")
    real = os.scandir

    def refuse(folder: Any) -> Any:
        if Path(folder).name == "dog":
            raise PermissionError(13, "Permission denied")
        return real(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="can't list the folder: Permission denied"):
        scan(tmp_path)
