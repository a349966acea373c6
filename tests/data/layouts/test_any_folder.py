"""Folders, names and tables of a grammar: each is read, or refused with a place and a way out, without traceback."""

import io
import json
import os
import shutil
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffaug.configuration.settings import DataSettings
from diffaug.data.layouts.scan import scan
from diffaug.errors import DataError, UsageError
from tests.data.layouts.trees import mask, photo

ODD = ["a b", "-rf", "con", "é", "e\u0301", "\u202etxt", "new\nline", "tab\t", "'\"", "x" * 200, "\x1b[31m", "a#page=2"]
ODD += [os.fsdecode(b"\xff\xfe"), "..a", "a.", " ", "%s", "{}", "$HOME", "0", "00", "1e3", "nan", "NA"]
ODD += ["colt_s-01234567"]
SPLITS = ["train", "Training", "test", "val", "validation", "unlabeled", "train_images", "fold1"]
USUAL = ["cat", "dog", "cats", "masks", "mask", "images", "labels", "color", "patient1", "patient2"]
folder_names = st.sampled_from([*USUAL, *USUAL, *SPLITS, *ODD])
stems = st.sampled_from(["1", "2", "img", "img_mask", "cat_1", "dog.2", *ODD])
image_files = st.tuples(stems, st.sampled_from([".png", ".png", ".PNG", ".jpg", ".tif", ".gif", "", ".nii.gz", ".svg"]))
contents = st.sampled_from([photo(), mask(), b"", b"junk", b"\x89PNG\r\n\x1a\n", b"%PDF", b"PK\3\4", b"P5 9 9 255\n"])

columns = st.sampled_from(["file_name", "label", "split", "group", "image", "class", "x", "", "ID", "Label", "caption"])
cells = st.one_of(
    st.sampled_from(["1.png", "cat/1.png", "img", "../1.png", "/etc/passwd", "cat", "dog", "train", "test", "", "NaN"]),
    st.sampled_from(['"', "a,b", "a;b", "\0", "1" * 5000, "[1, 0]", "{}", "\ufeff", "\r", "'", "-1", "1.0"]),
)
rows = st.lists(st.lists(cells, max_size=4), max_size=4)
deep = st.sampled_from(
    ["[" * 10_000, '{"a":' * 10_000, "1" * 5000, "null", "{", '{"a": 1, "a": 2}', "[]", '"x"', "\\ud800"]
)


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """The content of a CSV, JSON Lines or Parquet file, sometimes damaged."""
    header, body = draw(st.lists(columns, min_size=1, max_size=4)), draw(rows)
    kind = draw(st.sampled_from(["csv", "csv", "jsonl", "parquet", "deep"]))
    if kind == "deep":
        return draw(deep).encode()
    if kind == "jsonl":
        content = "\n".join(json.dumps(dict(zip(header, row, strict=False))) for row in body).encode()
    elif kind == "parquet":
        filled = [(row + [""] * len(header))[: len(header)] for row in body]
        buffer = io.BytesIO()
        table = pa.table([pa.array([row[k] for row in filled], pa.string()) for k in range(len(header))], header)
        pyarrow.parquet.write_table(table, buffer)
        content = buffer.getvalue()
    else:
        separator = draw(st.sampled_from([",", ";", "\t", "|", " "]))
        content = "\n".join(separator.join(row) for row in [header, *body]).encode(
            draw(st.sampled_from(["utf-8", "utf-16"]))
        )
    return (
        content if draw(st.booleans()) else content[: draw(st.integers(0, len(content)))] + draw(st.binary(max_size=4))
    )


TABLES = ["labels.csv", "train.csv", "test.txt", "t.tsv", "metadata.jsonl", "t.parquet", "folders.json", "a.json"]
table_names = st.sampled_from([*TABLES, "classes.txt"])
entries = st.one_of(
    st.tuples(st.just("file"), image_files.map("".join), contents),
    st.tuples(st.just("table"), table_names, tables()),
    st.tuples(
        st.sampled_from(["folder", "pipe", "loop", "broken"]),
        st.sampled_from(["1.png", "labels.csv", "cat"]),
        st.none(),
    ),
)
layouts = st.lists(st.tuples(st.lists(folder_names, max_size=3), st.lists(entries, max_size=4)), max_size=5)


def put(place: Path, kind: str, name: str, content: bytes | None) -> None:
    place.mkdir(parents=True, exist_ok=True)
    if (place / name).exists() or (place / name).is_symlink():
        return
    if kind == "folder":
        (place / name).mkdir()
    elif kind == "pipe":
        os.mkfifo(place / name)
    elif kind in ("loop", "broken"):
        (place / name).symlink_to(place if kind == "loop" else "nowhere")
    else:
        (place / name).write_bytes(content or b"")


def check(tree: list, options: dict) -> None:
    root = Path(tempfile.mkdtemp())
    try:
        for folders, items in tree:
            for kind, name, content in items:
                try:
                    put(root.joinpath(*folders), kind, name, content)
                except OSError:  # the place is a file, or a link that leads nowhere
                    continue
        try:
            found = scan(root, DataSettings(**options))
        except (DataError, UsageError) as error:
            assert error.what and error.where and error.fix, str(error)
        else:
            assert {entry.label for entry in found.entries} - {None, ""} <= set(found.classes)
            assert all(os.path.lexists(root / entry.path) for entry in found.entries)
    finally:
        shutil.rmtree(root)


options = st.fixed_dictionaries(
    {},
    optional={
        "layout": st.sampled_from(["classes", "splits", "inner", "labels.csv", "none.csv"]),
        "masks": st.just("masks"),
    },
)


@pytest.mark.e2e
@settings(max_examples=50, deadline=None)
@given(layouts, options)
def test_any_folder_is_read_or_refused(tree, options) -> None:
    check(tree, options)


@pytest.mark.slow
@settings(max_examples=5000, deadline=None)
@given(layouts, options)
def test_many_folders_are_read_or_refused(tree, options) -> None:
    check(tree, options)
