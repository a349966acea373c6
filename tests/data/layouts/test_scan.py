import os
import unicodedata
from pathlib import Path
from unittest.mock import Mock

import pytest

from diffaug.data.layouts.entries import listed, tally
from diffaug.data.layouts.scan import scan
from diffaug.errors import DataError, UsageError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def found(root: Path) -> dict[str, tuple[str, str | None]]:
    return {entry.path: (entry.label, entry.split) for entry in scan(root).entries}


def test_each_folder_is_a_class_and_walked_in_depth(tmp_path: Path) -> None:
    names = ["cat/day/2.png", "cat/picture.gif", "cat/without_extension", "cat/x.png", "dog/a.JPG", "dog/b.jpg"]
    touch(tmp_path, *reversed(names))
    (tmp_path / "emu").mkdir()
    assert [(entry.path, entry.label, entry.split) for entry in scan(tmp_path).entries] == [
        (name, name[:3], None) for name in names
    ]
    assert scan(tmp_path).classes == ("cat", "dog", "emu")
    assert scan(tmp_path).remarks == ()


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


def test_hidden_and_junk_entries_are_ignored(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.png", "dog/1.png", "cat/._1.png", "cat/Thumbs.db", "cat/.DS_Store", "dog/@eaDir/1.png")
    touch(tmp_path, ".ipynb_checkpoints/1.png", "__MACOSX/cat/1.png", "cat/.ipynb_checkpoints/1-checkpoint.png")
    assert set(found(tmp_path)) == {"cat/1.png", "dog/1.png"}
    assert scan(tmp_path).remarks == ()


def test_what_is_left_out_is_reported(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.png", "dog/1.png", "dog/notes.txt", "a.csv", "b.csv", "cover.png")
    (tmp_path / "dog" / "loop").symlink_to("..")
    (tmp_path / "dog" / "etc").symlink_to("/etc")
    (tmp_path / "dog" / "broken.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "dog" / "pipe.png")
    result = scan(tmp_path)
    assert [entry.path for entry in result.entries] == ["cat/1.png", "dog/1.png"]
    assert sorted(result.remarks) == [
        "files without an image extension, skipped: 3 (a.csv, b.csv, dog/notes.txt)",
        "images outside the class folders, skipped because they have no label: 1 (cover.png)",
        "links to folders, broken links and special files, skipped: 4 (dog/broken.png, dog/etc, dog/loop and 1 more)",
    ]


def test_the_root_and_files_may_be_links(tmp_path: Path) -> None:
    real = touch(tmp_path / "real", "cat/1.png", "dog/1.png")
    (real / "dog" / "2.png").symlink_to(real / "dog" / "1.png")
    (tmp_path / "link").symlink_to(real)
    assert set(found(tmp_path / "link")) == {"cat/1.png", "dog/1.png", "dog/2.png"}


@pytest.mark.parametrize("name", ["ünïcode 🐱.png", "two words.png", "new\nline.png", "-rf.png", "שלום.png", "é" * 100])
def test_odd_names(tmp_path: Path, name: str) -> None:
    touch(tmp_path, f"-class of {name[:5]}/{name}", "dog/1.png")
    assert found(tmp_path)[f"-class of {name[:5]}/{name}"] == (f"-class of {name[:5]}", None)


def test_names_that_are_not_utf8_are_skipped_and_reported(tmp_path: Path) -> None:
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
        ((), "", "no images here", "one folder per class"),
        (("cat/readme.txt",), "", "no images here", "one folder per class"),
        (("1.png", "2.png"), "", "directly in the folder, so they have no label: 1.png, 2.png", "one folder per class"),
        (("cat/1.png", "dog/1.png"), "cat", "directly in the folder", "give {root}"),
        (("set/cat/1.png", "set/dog/1.png"), "", "one folder too deep", "did you mean {root}/set?"),
        (("a/b/cat/1.png", "a/b/dog/1.png"), "", "one folder too deep", "did you mean {root}/a/b?"),
        (("x/cat/1.png", "y/cat/1.png"), "", "one folder too deep", "give one of: x, y"),
        (("train/1.png", "test/1.png"), "", "directly in the folder", "one folder per class"),
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


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch) -> None:
    touch(tmp_path, "cat/1.png", "dog/1.png")
    refusal = PermissionError(13, "Permission denied")
    monkeypatch.setattr(os, "scandir", Mock(side_effect=refusal))
    with pytest.raises(DataError, match="can't list the folder: Permission denied"):
        scan(tmp_path)


def write_csv(root: Path, text: str) -> Path:
    (root / "labels.csv").write_bytes(text.encode("latin-1" if "\xff" in text else "utf-8"))
    return root


def test_csv(tmp_path: Path) -> None:
    lines = ["\ufefffile_name, label ,group,split", "img/1.png,cat,p1,train", "", '"a, b.png",NA,,Validation']
    write_csv(tmp_path, "\r\n".join([*lines, "./x.png,1,,test", ""]))
    entries = {entry.path: entry for entry in scan(tmp_path).entries}
    assert {path: (e.label, e.group, e.split) for path, e in entries.items()} == {
        "img/1.png": ("cat", "p1", "train"),
        "a, b.png": ("NA", None, "val"),
        "x.png": ("1", None, "test"),
    }
    assert scan(tmp_path).classes == ("1", "NA", "cat")


def test_csv_without_optional_columns(tmp_path: Path) -> None:
    result = scan(write_csv(tmp_path, "label,file_name,score\ncat,1.png,0.5\ndog,2.png,0.1\n"))
    assert [(e.label, e.group, e.split) for e in result.entries] == [("cat", None, None), ("dog", None, None)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column file_name and no column label"),
        ("filename,label\n1.png,cat\n", "no column file_name; it has: filename, label"),
        ("file_name,label\n", "names no images"),
        ("file_name,label\n1.png,cat\n2.png,\n", "label is empty"),
        ("file_name,label\n1.png,cat\n2.png,\n", "labels.csv, line 3"),
        ("file_name,label\n1.png\n", "label is empty"),
        ("file_name,label\n,cat\n", "file_name is empty"),
        ("file_name,label\na, b.png,cat\n", "more values than columns"),
        ("file_name,label\n1.png,cat\n./1.png,dog\n", "1.png is named twice"),
        ("file_name,label\na/../../secret.png,cat\n", "outside the folder"),
        ("file_name,label\n/etc/passwd,cat\n", "outside the folder"),
        ("file_name,label,split\n1.png,cat,holdout\n", "no split 'holdout'"),
        ("file_name,label,split\n1.png,cat,train\n2.png,cat,\n", "some lines name a split"),
        ("file_name,label\n1.png,Cat\n2.png,cat\n", "differ only in case"),
        ("file_name,label\n\xff\xfe.png,cat\n", "can't read the CSV"),
    ],
)
def test_csv_mistakes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        scan(write_csv(tmp_path, text))
    assert message in f"{caught.value.what} {caught.value.where}"
    assert caught.value.where and caught.value.fix


def test_names_are_cut_and_printable_and_counted() -> None:
    assert listed(["b", "a"]) == "b, a"
    assert listed({"d", "c", "b", "a"}) == "a, b, c and 1 more"
    assert listed(map(str, range(1009))) == "0, 1, 2 and 1,006 more"
    assert listed(["two words", "new\nline", "é"]) == "two words, 'new\\nline', é"
    assert tally("files", []) == []
    assert tally("files", {"x"}) == ["files: 1 (x)"]
    assert tally("files", ["b", "a"]) == ["files: 2 (a, b)"]
