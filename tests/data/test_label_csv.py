from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from diffaug.data.scan import scan
from diffaug.errors import DataError


def write_csv(root: Path, text: str) -> Path:
    root.mkdir(exist_ok=True)
    (root / "labels.csv").write_bytes(text.encode())
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
    assert Counter((entry.label, entry.group, entry.split) for entry in result.entries) == Counter(
        [("cat", None, None), ("dog", None, None)]
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column file_name and no column label"),
        ("filename,label\n1.png,cat\n", "no column file_name; it has: filename, label"),
        ("file_name;label\n1.png;cat\n", "no column file_name and no column label"),
        ("file_name,label\n", "names no images"),
        ("file_name,label\n1.png,\n", "label is empty"),
        ("file_name,label\n1.png\n", "label is empty"),
        ("file_name,label\n,cat\n", "file_name is empty"),
        ("file_name,label\na, b.png,cat\n", "more values than columns"),
        ("file_name,label\n1.png,cat\n./1.png,dog\n", "1.png is named twice"),
        ("file_name,label\n../secret.png,cat\n", "outside the folder"),
        ("file_name,label\na/../../secret.png,cat\n", "outside the folder"),
        ("file_name,label\n/etc/passwd,cat\n", "outside the folder"),
        ("file_name,label,split\n1.png,cat,holdout\n", "no split 'holdout'"),
        ("file_name,label,split\n1.png,cat,train\n2.png,cat,\n", "some lines name a split"),
        ("file_name,label\n1.png,Cat\n2.png,cat\n", "differ only in case"),
    ],
)
def test_csv_mistakes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        scan(write_csv(tmp_path, text))
    assert message in caught.value.what
    assert caught.value.where and caught.value.fix


def test_csv_errors_name_the_line(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        scan(write_csv(tmp_path, "file_name,label\n1.png,cat\n2.png,\n"))
    assert str(caught.value.where).endswith("labels.csv, line 3")


def test_csv_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(b"file_name,label\n\xff\xfe.png,cat\n")
    with pytest.raises(DataError, match="can't read the CSV"):
        scan(tmp_path)
