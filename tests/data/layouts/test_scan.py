import os
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffaug.configuration.settings import DataSettings
from diffaug.data.layouts import walk
from diffaug.data.layouts.entries import listed, sorted_classes, tally
from diffaug.data.layouts.scan import Scan, scan
from diffaug.errors import DataError, DiffaugError, UsageError
from tests.data.layouts.trees import grow, mask, photo


def read(root: Path, **settings: Any) -> Scan:
    return scan(root, DataSettings(**settings))


def found(root: Path, **settings: Any) -> dict[str, tuple[str, str | None]]:
    return {entry.path: (entry.label, entry.split) for entry in read(root, **settings).entries}


def test_entries_are_sorted_and_keep_label_split_and_mask(tmp_path: Path) -> None:
    grow(tmp_path, "Train/dog/1.png Train/cat/{2,1}.png test/dog/3.png test/cat/day/4", masks="Train/cat/2_mask.png")
    result = read(tmp_path)
    assert [(entry.path, entry.label, entry.split, entry.mask) for entry in result.entries] == [
        ("Train/cat/1.png", "cat", "train", None),
        ("Train/cat/2.png", "cat", "train", "Train/cat/2_mask.png"),
        ("Train/dog/1.png", "dog", "train", None),
        ("test/cat/day/4", "cat", "test", None),
        ("test/dog/3.png", "dog", "test", None),
    ]
    assert result.reading == "read as: train (Train/) and test of 2 class folders (cat, dog)"


def test_groups_come_from_the_table_or_the_path(tmp_path: Path) -> None:
    grow(
        tmp_path / "table", "{1,2,3}.png", tables={"t.csv": "file,label,patient,site\n1.png,a,7,x\n2,b,8,x\n3,b,8,y\n"}
    )
    groups = [
        [entry.group for entry in read(tmp_path / "table", group_by=rule).entries] for rule in (None, "site", r"\d")
    ]
    assert groups == [["7", "8", "8"], ["x", "x", "y"], ["7", "8", "8"]]
    grow(tmp_path / "both", "{cat,dog}/{1,2}.png", tables={"t.csv": "file,patient\ncat/1.png,7\ndog/1.png,7\n"})
    assert [entry.group for entry in read(tmp_path / "both").entries] == ["7", None, "7", None]


def test_hidden_and_junk_entries_are_ignored(tmp_path: Path) -> None:
    grow(tmp_path, "{cat,dog}/1.png cat/._1.png cat/Thumbs.db cat/.DS_Store dog/@eaDir/1.png .ipynb_checkpoints/1.png")
    grow(tmp_path, "__MACOSX/cat/1.png cat/.ipynb_checkpoints/1-checkpoint.png")
    assert set(found(tmp_path)) == {"cat/1.png", "dog/1.png"}
    assert read(tmp_path).remarks == ()


def test_what_is_left_out_is_reported(tmp_path: Path) -> None:
    grow(tmp_path, "{cat,dog}/1.png cover.png", tables={"dog/notes.txt": "x", "a.csv": "x", "dog/noise": "x"})
    os.mkfifo(tmp_path / "dog" / "pipe.png")
    (tmp_path / "dog" / "broken.png").symlink_to("nowhere.png")
    (tmp_path / "dog" / "itself.png").symlink_to("itself.png")
    result = read(tmp_path)
    assert [entry.path for entry in result.entries] == ["cat/1.png", "dog/1.png"]
    assert sorted(result.remarks) == [
        "broken links and special files, skipped: 3 (dog/broken.png, dog/itself.png, dog/pipe.png)",
        "files that are not images, skipped: 3 (a.csv, dog/noise, dog/notes.txt)",
        "images outside the class folders, skipped because they have no label: 1 (cover.png)",
    ]


@pytest.mark.parametrize("name", ["ünïcode 🐱.png", "two words.png", "new\nline.png", "-rf.png", "שלום.png", "é" * 100])
def test_odd_names(tmp_path: Path, name: str) -> None:
    for path in (f"-class of {name[:5]}/{name}", "dog/1.png"):
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_bytes(photo())
    assert found(tmp_path)[f"-class of {name[:5]}/{name}"] == (f"-class of {name[:5]}", None)


def test_names_that_are_not_utf8_are_skipped_and_reported(tmp_path: Path) -> None:
    grow(tmp_path, "{cat,dog}/1.png")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/dog/\xff.png")).write_bytes(b"x")
    assert set(found(tmp_path)) == {"cat/1.png", "dog/1.png"}
    assert read(tmp_path).remarks == ("files and folders whose names are not valid UTF-8, skipped: 1 (dog/\ufffd.png)",)


@pytest.mark.parametrize(
    "names", [("Cat", "cat"), (unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")), ("ß", "SS")]
)
@pytest.mark.parametrize("splits", [("", ""), ("train/", "test/")])
def test_look_alike_classes_are_refused(tmp_path: Path, names: tuple[str, str], splits: tuple[str, str]) -> None:
    for split, name in zip(splits, names, strict=True):
        grow(tmp_path, f"{split}{name}/1.png {split}other/1.png")
    with pytest.raises(DataError, match="differ only in case, spaces or Unicode form") as caught:
        read(tmp_path)
    assert ascii(names[0]) in caught.value.what and ascii(names[1]) in caught.value.what


@pytest.mark.parametrize(
    ("rare", "frequent", "is_told"),
    [
        *((name, "terrier", True) for name in ["terier", "terrrier", "tarrier", "trerier", "errier", "terriers"]),
        *((name, "terrier", False) for name in ["tarier", "setter", "terrier2"]),
        ("grade1", "grade2", False),
        ("ab", "ac", False),
    ],
)
def test_slips_of_the_pen(tmp_path: Path, rare: str, frequent: str, is_told: bool) -> None:
    grow(tmp_path, f"{rare}/1.png {frequent}/{{{','.join(map(str, range(21)))}}}.png")
    assert any("typing error" in remark for remark in read(tmp_path).remarks) == is_told


def test_mistakes_in_the_request(tmp_path: Path) -> None:
    grow(tmp_path, "{cat,dog}/1.png", tables={"t.csv": "a,b\n1,2\n"})
    for root, given_settings, what in [
        ("missing", {}, "no such folder"),
        ("cat/1.png", {}, "a file, not a folder"),
        ("", {"layout": "u.csv"}, "there is no table 'u.csv'"),
        ("", {"label_column": "dx"}, "no table of images has a column 'dx'"),
        ("", {"group_by": "("}, "no regular expression"),
        ("", {"group_by": "a{999999999999}"}, "no regular expression"),
        ("", {"group_by": "patient"}, "matches no path"),
    ]:
        with pytest.raises(UsageError, match=what) as caught:
            read(tmp_path / root, **given_settings)
        assert caught.value.fix
    with pytest.raises(DataError, match=r"no column of t\.csv names images"):
        read(tmp_path, layout="t.csv")


@pytest.mark.e2e
def test_an_expression_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grow(tmp_path, f"{{cat,dog}}/{'a' * 60}!.png")
    monkeypatch.setattr("diffaug.data.layouts.groups.TRIAL_SECONDS", 0.5)
    for endless in ("(a+)+$", "(?:[a-z]|aa)*$", "(.*a){12}b", ".*a.*a.*a.*a.*a.*a.*a.*b"):
        with pytest.raises(UsageError, match="did not get through the paths"):
            read(tmp_path, group_by=endless)
    monkeypatch.undo()
    assert {entry.group for entry in read(tmp_path, group_by="(?:c|d)(?:[a-z])+").entries} == {"cat", "dog"}


def test_folders_that_diffaug_wrote_have_the_names_in_their_record(tmp_path: Path) -> None:
    grow(tmp_path, "{train,b}/1.png", tables={"folders.json": '{"train": "a/b", "b": "Test"}'})
    assert found(tmp_path) == {"train/1.png": ("a/b", None), "b/1.png": ("Test", None)}
    assert read(tmp_path).classes == ("Test", "a/b")


@pytest.mark.parametrize(
    "names", ['{"..": "x", "cat": "y"}', '{"cat": "x"}', '{"cat": 1, "dog": 2}', "[" * 10**5, "{", "7"]
)
def test_another_file_of_that_name_is_no_record(tmp_path: Path, names: str) -> None:
    grow(tmp_path, "{cat,dog}/1.png", tables={"folders.json": names})
    assert found(tmp_path) == {"cat/1.png": ("cat", None), "dog/1.png": ("dog", None)}


@pytest.mark.parametrize("files", ["{train,test}/{a_b-01234567,cat}/1.png", "{a_b-01234567,cat}/{train,test}/1.png"])
def test_names_of_folders_hold_in_any_layout_of_folders(tmp_path: Path, files: str) -> None:
    grow(tmp_path, files, tables={"folders.json": '{"a_b-01234567": "a/b", "cat": "Cat", "unused": "Dog"}'})
    scanned = read(tmp_path)
    assert scanned.classes == ("Cat", "a/b")
    assert {(entry.label, entry.split) for entry in scanned.entries} == {
        (name, split) for name in ("Cat", "a/b") for split in ("train", "test")
    }
    assert not scanned.remarks and "classes named by folders.json" in scanned.reading


@pytest.mark.parametrize("names", ["{", "7", '{"a_b-01234567": 1}', '{"a_b-01234567": "x", "cat": "x"}', ""])
def test_a_damaged_record_of_names_is_not_passed_over(tmp_path: Path, names: str) -> None:
    grow(tmp_path, "{a_b-01234567,cat}/1.png", tables={"folders.json": names})
    with pytest.raises(DataError, match=r"(?s)a_b-01234567.*can't be read.*folders.json.*remove it") as caught:
        read(tmp_path)
    Path(caught.value.where).unlink()
    assert read(tmp_path).classes == ("a_b-01234567", "cat")


# Links


def linked(root: Path, links: dict[str, str]) -> Path:
    for path, target in links.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).symlink_to(target)
    return root


def test_the_root_folders_and_files_may_be_links(tmp_path: Path) -> None:
    grow(tmp_path / "store", "cat/1.png dog/{1,2}.png")
    linked(tmp_path, {"root": "store", "all/cat": "../store/cat", "all/dog/3.png": "../../store/dog/1.png"})
    assert set(found(tmp_path / "root")) == {"cat/1.png", "dog/1.png", "dog/2.png"}
    assert found(tmp_path / "all") == {"cat/1.png": ("cat", None), "dog/3.png": ("dog", None)}
    assert read(tmp_path / "all").remarks == ("links that lead out of the data folder, followed: 2 (cat, dog/3.png)",)
    linked(tmp_path, {"splits/train": "../store", "splits/test/cat": "../../store/cat"})
    with pytest.raises(DataError, match="are the same folder, with different labels or splits"):
        read(tmp_path / "splits")


@pytest.mark.parametrize(
    "links",
    [
        {"dog/loop": ".."},
        {"dog/loop": "."},
        {"dog/root": "/"},
        {"dog/up": "../../.."},
        {"a": "b", "b": "a"},
        {"cat/x": "../dog", "dog/y": "../cat"},
        {"dog/proc": "/proc"},
        {"dog/sys": "/sys/kernel"},
    ],
)
def test_links_that_go_round_or_into_the_system_end(tmp_path: Path, links: dict[str, str]) -> None:
    root = linked(grow(tmp_path / "data", "cat/1.png dog/2.png"), links)
    try:
        assert found(root) == {"cat/1.png": ("cat", None), "dog/2.png": ("dog", None)}
    except DataError as error:
        assert "same folder, with different labels" in error.what and "dog/y" in error.what + str(links)


def test_a_folder_reached_twice_is_read_once_or_refused(tmp_path: Path) -> None:
    grow(tmp_path, "cat/a/1.png dog/2.png")
    linked(tmp_path, {"cat/b": "a"})
    assert set(found(tmp_path)) == {"cat/a/1.png", "dog/2.png"}
    assert read(tmp_path).remarks == (
        "images of folders that were read before under another name, skipped: 1 (cat/b/1.png)",
    )
    linked(tmp_path, {"emu": "dog"})
    with pytest.raises(DataError, match="'emu' and 'dog' are the same folder"):
        read(tmp_path)


def test_links_to_too_much_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grow(tmp_path / "store", "{1,2,3,4}/1.png")
    grow(tmp_path / "data", "{cat,dog}/1.png")
    linked(tmp_path, {"data/cat/more": "../../store"})
    assert len(found(tmp_path / "data")) == 6
    monkeypatch.setattr(walk, "MAX_LINKED_FOLDERS", 4)
    with pytest.raises(DataError, match="links lead to more than 4 folders") as caught:
        read(tmp_path / "data")
    assert caught.value.where == str(tmp_path / "data/cat/more")


def test_closed_folders_behind_links_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grow(tmp_path / "store", "1.png inner/2.png")
    grow(tmp_path / "data", "{cat,dog}/1.png")
    linked(tmp_path, {"data/cat/more": "../../store"})
    real, closed = os.scandir, {"inner"}

    def scandir(folder: str) -> Any:
        if Path(folder).name in closed:
            raise PermissionError(13, "Permission denied")
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    assert "linked folders that can't be listed, skipped: 1 (cat/more/inner)" in read(tmp_path / "data").remarks
    closed.add("more")
    with pytest.raises(DataError, match="can't list the folder"):
        read(tmp_path / "data")


def test_very_deep_folders_end(tmp_path: Path) -> None:
    grow(tmp_path, "cat/1.png dog/1.png cat/" + "d/" * 70 + "2.png")
    assert set(found(tmp_path)) == {"cat/1.png", "dog/1.png"}
    assert "levels deep, skipped: 1" in read(tmp_path).remarks[0]


# Tables


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,label\n", "names no images"),
        ("file_name,label\n1.png,cat\n2.png,\n", "the label is empty"),
        ("file_name,label\n1.png,cat\n2.png,\n", "labels.csv, line 3"),
        ("file_name,label\n1.png\n", "the label is empty"),
        ("file_name,label\n,cat\n", "the name of the file is empty"),
        ("file_name,label\na, b.png,cat\n", "more values than columns"),
        ("file_name,label\na/../../secret.png,cat\n", "outside the folder"),
        ("file_name,label\nC:\\secret.png,cat\n", "outside the folder"),
        ("file_name,label\n1.png,Cat\n2.png,cat\n", "differ only in case"),
        ("file_name,label\n1.png,cat\n\xff\xfe.png,cat\n", "can't read the table"),
        ("file_name,label\n1.png,a\0\n", "NUL character"),
        ("file_name,label\n1.png,\"['a', 'b']\"\n", "list of labels"),
        ("file_name,label\n1.png,scab rot\n2.png,scab\n3.png,rot\n", "list of labels: scab rot"),
        ("file_name,a,b\n1.png,1,0\n2.png,x,0\n", "no column of labels.csv is known as the label"),
        ("1.png,cat\n2.png,dog\n3.png,dog\n", "the first line of labels.csv has no names of columns"),
    ],
)
def test_mistakes_in_tables(tmp_path: Path, text: str, message: str) -> None:
    grow(tmp_path, "{1,2,3}.png", tables={"labels.csv": text.encode("latin-1")})
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert message in f"{caught.value.what} {caught.value.where}"
    assert caught.value.where and caught.value.fix


def test_quotes_and_blank_lines_in_a_table(tmp_path: Path) -> None:
    lines = [
        "\ufefffile_name, label ,group,split",
        "1.png,cat,p1,train",
        "",
        '"a, b.png",NA,,Validation',
        "./x.png,1,,test",
    ]
    for name in ("1.png", "a, b.png", "x.png"):
        (tmp_path / name).write_bytes(photo())
    grow(tmp_path, "", tables={"t.csv": "\r\n".join(lines)})
    assert found(tmp_path) == {"1.png": ("cat", "train"), "a, b.png": ("NA", "val"), "x.png": ("1", "test")}
    assert read(tmp_path).classes == ("1", "NA", "cat")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"file_name": "1.png", "label": "a"}\n7\n', "each line must be one object"),
        ('{"file_name": "1.png", "label": "a"}\n{"label": "a", "label": "b"}\n', "names a key twice"),
        ('{"file_name": "1.png", "label": "a"}\n{"file_name": \n', "can't read the table"),
        ('{"file_name": "1.png", "label": ["a", "b"]}\n', "list of labels"),
        ('{"file_name": "1.png", "label": null}\n', "the label is empty"),
    ],
)
def test_mistakes_in_json_lines(tmp_path: Path, text: str, message: str) -> None:
    grow(tmp_path, "{1,2}.png", tables={"metadata.jsonl": text})
    with pytest.raises(DataError, match=message):
        read(tmp_path)


@pytest.mark.parametrize("name", ["t.parquet", "t.jsonl", "t.csv", "t.txt"])
def test_a_stray_broken_table_does_no_harm(tmp_path: Path, name: str) -> None:
    grow(tmp_path, "{cat,dog}/1.png", tables={name: b"\x00\xff{["})
    assert len(found(tmp_path)) == 2
    assert read(tmp_path).remarks == (f"files that are not images, skipped: 1 ({name})",)


def test_masks_too_large_to_look_at_are_told_by_name(tmp_path: Path) -> None:
    grow(tmp_path, "{cat,dog}/{1,1_mask}.png")
    assert len(found(tmp_path)) == 4  # photos
    for label in ("cat", "dog"):
        os.truncate(tmp_path / label / "1_mask.png", 1 << 25)
    assert len(found(tmp_path)) == 2


def test_parquet_with_names_of_classes(tmp_path: Path) -> None:
    grow(tmp_path, "train/{1,2}.png")
    features = b'{"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}'
    table = pa.table({"file_name": ["1.png", "2.png"], "label": [0, 1]}).replace_schema_metadata(
        {"huggingface": features}
    )
    pyarrow.parquet.write_table(table, tmp_path / "train/metadata.parquet")
    assert found(tmp_path) == {"train/1.png": ("cat", "train"), "train/2.png": ("dog", "train")}


def test_parquet_with_two_columns_of_one_name(tmp_path: Path) -> None:
    grow(tmp_path, "{1,2}.png")
    columns = [pa.array(["1.png", "2.png"]), pa.array(["1.png", "2.png"]), pa.array(["cat", "dog"])]
    pyarrow.parquet.write_table(pa.table(columns, ["file_name", "file_name", "label"]), tmp_path / "labels.parquet")
    with pytest.raises(DataError, match=r"(?s)two columns have the same name: 'file_name'.*labels.parquet.*rename"):
        read(tmp_path)


# Properties

NAMES = ["train", "test", "val", "cat", "dog", "images", "masks", "ground_truth", "unlabeled", "x", "p1", "extra"]
FILES = ["1.png", "2.jpg", "1_mask.png", "x.csv", "train.csv", "README", "labels.csv"]
TABLES = ["file,label\n1.png,a\n2.jpg,b\n", "file,label,split\n1.png,a,train\n", "a,b\n1,2,3\n", "id,x\n1,0\n2,1\n", ""]
PATHS = st.tuples(st.lists(st.sampled_from(NAMES), max_size=3), st.sampled_from(FILES))


@pytest.mark.e2e
@settings(max_examples=150, deadline=None)
@given(st.dictionaries(PATHS.map(lambda path: "/".join([*path[0], path[1]])), st.integers(0, 4), max_size=12))
def test_any_tree_is_read_in_full_or_refused(tmp_path_factory: pytest.TempPathFactory, tree: dict[str, int]) -> None:
    root = tmp_path_factory.mktemp("tree")
    for path, kind in tree.items():
        content = TABLES[kind].encode() if path.endswith(".csv") else mask() if "mask" in path else photo()
        grow(root, "", tables={path: content})
    try:
        result = read(root)
    except DiffaugError as error:
        assert error.fix
        return
    images = {path for path in tree if path.endswith((".png", ".jpg"))}
    told = [entry.path for entry in result.entries] + [entry.mask for entry in result.entries if entry.mask]
    assert len(told) == len(set(told)) and set(told) <= images | {path for path in tree if path.endswith("README")}
    told_in_remarks = sum(int(remark.partition(": ")[2].split(" ")[0]) for remark in result.remarks if ": " in remark)
    assert len(images - set(told)) <= told_in_remarks
    assert all((entry.label == "") == (entry.split == "unlabeled") for entry in result.entries)
    assert {entry.label for entry in result.entries if entry.label} <= set(result.classes)


def test_order_of_classes() -> None:
    assert sorted_classes(["10", "9", "-1", "1.5"]) == ("-1", "1.5", "9", "10")
    assert sorted_classes(["01", "1", "0"]) == ("0", "01", "1")
    assert sorted_classes(["10", "9", "cat"]) == ("10", "9", "cat")


def test_names_are_cut_and_printable_and_counted() -> None:
    assert listed(["b", "a"]) == "b, a"
    assert listed({"d", "c", "b", "a"}) == "a, b, c and 1 more"
    assert listed(map(str, range(1009))) == "0, 1, 2 and 1,006 more"
    assert listed(["two words", "new\nline", "é"]) == "two words, 'new\\nline', é"
    assert tally("files", []) == []
    assert tally("files", {"x"}) == ["files: 1 (x)"]
    assert tally("files", ["b", "a"]) == ["files: 2 (a, b)"]


@pytest.mark.e2e
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux does")
def test_a_parquet_table_is_read_without_threads(tmp_path: Path) -> None:
    """Pyarrow waits for ever where the system refuses to start a thread."""
    table = pa.table({"file_name": [f"{n}.png" for n in range(9)], "label": ["a"] * 9})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    script = (
        "import os, sys; from pathlib import Path; from diffaug.data.layouts.tables import read_table\n"
        "before = len(os.listdir('/proc/self/task')); rows = read_table(Path(sys.argv[1])).rows\n"
        "print(len(rows), len(os.listdir('/proc/self/task')) - before)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "t.parquet")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["9", "0"]
