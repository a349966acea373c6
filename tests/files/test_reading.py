"""A file reads back as it was written; whatever else is in its place is named, with what to do about it."""

import hashlib
import io
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from diffaug.errors import DamagedError, UsageError
from diffaug.files import reading, storage

CHANGED = "a file was changed after it was written"
SHAPE = (2, 3, 3)


def damage_of(read: Callable[[], Any], file: Path) -> str:
    with pytest.raises(DamagedError) as caught:
        read()
    assert (caught.value.where, caught.value.fix) == (str(file), reading.REPAIR_HINT)
    return caught.value.what


def refusal_of(file: Path, **limit: int) -> str:
    with pytest.raises(UsageError) as caught:
        reading.require_given_file(file, **limit)
    assert caught.value.where == str(file) and caught.value.fix
    return caught.value.what


READERS: dict[str, Callable[[Path], Any]] = {
    "bytes": reading.read_bytes,
    "hashed": reading.read_hashed,
    "json": reading.read_json,
    "array": reading.read_array,
    "signed array": reading.read_signed_array,
    "table": reading.read_parquet,
    "image": lambda file: reading.read_png(file, "", SHAPE),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_what_is_no_file_is_damage_and_never_waited_for(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for name in ("pipe", "folder"):
        what = damage_of(partial(read, tmp_path / name), tmp_path / name)
        assert what == "this is not a file, which it was when it was written"
    for name in ("absent", "file/below"):
        assert damage_of(partial(read, tmp_path / name), tmp_path / name) == "a file is missing"


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_disk_that_fails_is_no_damage_and_names_the_file(tmp_path: Path, read, monkeypatch) -> None:
    def broken(path: object, *_: object, **__: object) -> None:
        raise OSError(5, "broken")

    (tmp_path / "file").write_bytes(b"x")
    monkeypatch.setattr(Path, "read_bytes", broken)
    monkeypatch.setattr(np, "load", broken)
    with pytest.raises(OSError, match="broken") as caught:
        read(tmp_path / "file")
    assert caught.value.filename == str(tmp_path / "file")


def test_a_name_that_no_file_can_have_is_no_file() -> None:
    assert not reading.is_regular("a\0b") and reading.is_regular(__file__)


@pytest.mark.parametrize(
    ("content", "value"),
    [(b"18446744073709551616", 2**64), (b"-18446744073709551616", -(2**64)), (b'{"a": [1.5, null, "\xc3\xbc"]}', ...)],
)
def test_json_reads_back(tmp_path: Path, content: bytes, value: object) -> None:
    (tmp_path / "x.json").write_bytes(content)
    assert reading.read_json(tmp_path / "x.json") == ({"a": [1.5, None, "ü"]} if value is ... else value)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe{}", "codec can't decode"),
        (b"[" * 100_000, "recursion"),
        (b"18446744073709551617", "an integer is too long"),
        (b"-18446744073709551617", "an integer is too long"),
        (b"1" * 5000, "integer string conversion"),
        (b"NaN", "NaN is not a number in JSON"),
        (b"[-Infinity]", "-Infinity is not a number in JSON"),
    ],
)
def test_what_diffaug_does_not_write_as_json_is_damage(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    what = damage_of(partial(reading.read_json, tmp_path / "x.json"), tmp_path / "x.json")
    assert what.startswith("not valid JSON (") and why in what


def test_a_record_of_many_bytes_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.json").write_bytes(b"[]")
    monkeypatch.setattr(reading, "MOST_JSON_BYTES", 2)
    assert reading.read_json(tmp_path / "x.json") == []
    monkeypatch.setattr(reading, "MOST_JSON_BYTES", 1)
    what = damage_of(partial(reading.read_json, tmp_path / "x.json"), tmp_path / "x.json")
    assert what == "the file is too large to be a record"


def arrays(**named: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **named)
    return buffer.getvalue()


def array(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=True)
    return buffer.getvalue()


WHOLE = array(np.arange(6))


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"text", WHOLE[:-1], arrays(a=np.zeros(3)), array(np.array([{}]))),
        WHOLE.replace(b"(6,), }" + b" " * 12, b"(" + b"9" * 15 + b",), }"),
        WHOLE.replace(b"(6,)", b"(6, "),
        WHOLE.replace(b"<i8", b",i8"),
    ],
    ids=["empty", "text", "cut", "archive", "pickle", "huge", "open bracket", "no type"],
)
def test_what_is_no_array_is_damage(tmp_path: Path, content: bytes, mapped: bool) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    what = damage_of(partial(reading.read_array, tmp_path / "a.npy", mapped=mapped), tmp_path / "a.npy")
    assert what.startswith("not an array")


def test_a_signed_array_without_its_signature_is_changed(tmp_path: Path) -> None:
    for content in (b"", b"short", WHOLE, WHOLE + hashlib.sha256(b"").digest()):
        (tmp_path / "a.npy").write_bytes(content)
        assert damage_of(partial(reading.read_signed_array, tmp_path / "a.npy"), tmp_path / "a.npy") == CHANGED
    (tmp_path / "a.npy").write_bytes(WHOLE + hashlib.sha256(WHOLE).digest())
    assert reading.read_signed_array(tmp_path / "a.npy").tolist() == list(range(6))


def test_a_table_has_the_columns_and_texts_that_are_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    table = pd.DataFrame({"name": ["a", "ü"], "number": [1, 2], "hole": ["a", None], "mixed": ["a", "b"]})
    storage.write_parquet(file, table)
    pd.testing.assert_frame_equal(reading.read_parquet(file), table)
    pd.testing.assert_frame_equal(reading.read_parquet(file, ["number"], texts=["name", "mixed"]), table)
    only = reading.read_parquet(file, ["number", "name"], texts=["name"], only=True)
    pd.testing.assert_frame_equal(only, table[["number", "name"]])
    for columns, options, what in (
        (["name", "x", "y"], {}, "the table lacks the column 'x'"),
        (["name", "x", "y"], {"only": True}, "the table lacks the column 'x'"),
        (["x"], {"texts": ["x", "hole"]}, "the table lacks the column 'x'"),
        (["name"], {"texts": ["name", "number"]}, "the table has no texts in the column 'number'"),
        ([], {"texts": ["hole"]}, "the table has no texts in the column 'hole'"),
    ):
        assert damage_of(partial(reading.read_parquet, file, columns, **options), file) == what
    storage.write_parquet(file, pd.DataFrame({"name": []}))
    assert list(reading.read_parquet(file, ["name"], texts=["name"])) == ["name"]


def test_what_is_no_table_is_damage(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    storage.write_parquet(file, pd.DataFrame({"name": ["a"]}))
    whole = file.read_bytes()
    for content in (b"", b"PAR1", whole[:-9], whole[:4] + bytes(len(whole) - 12) + whole[-8:]):
        file.write_bytes(content)
        assert damage_of(partial(reading.read_parquet, file), file).startswith("not a table (")


def test_an_image_reads_back_if_its_hash_and_shape_are_as_recorded(tmp_path: Path) -> None:
    file = tmp_path / "1.png"
    for shape in (SHAPE, (2, 3, 1)):
        pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
        file.write_bytes(storage.png_bytes(pixels))
        sha256 = storage.sha256_file(file)
        read = reading.read_png(file, sha256, shape)
        assert read.dtype == np.uint8 and read.shape == shape
        np.testing.assert_array_equal(read, pixels)
        what = damage_of(partial(reading.read_png, file, sha256[::-1], shape), file)
        assert what == "an image was changed after it was written"
        for other in ((3, 2, shape[2]), (2, 3, 4 - shape[2])):
            found = damage_of(partial(reading.read_png, file, sha256, other), file)
            assert found.startswith("an image is not as diffaug wrote it (3 x 2 px, ")
    file.write_bytes(b"GIF89a")
    assert "cannot identify" in damage_of(partial(reading.read_png, file, storage.sha256_file(file), SHAPE), file)


def test_another_format_than_png_is_not_decoded(encoded) -> None:
    with pytest.raises(OSError, match="cannot identify"):
        reading.decode_png(encoded(np.zeros(SHAPE, np.uint8), "BMP"), SHAPE)


def test_a_file_that_the_user_gives_is_regular_and_of_limited_size(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"1234")
    reading.require_given_file(file)
    reading.require_given_file(file, most_bytes=4)
    assert refusal_of(file, most_bytes=3) == "the file has 4 bytes, and at most 3 are read"
    with file.open("r+b") as grown:
        grown.truncate(2**31)  # a hole
    reading.require_given_file(file)
    with file.open("r+b") as grown:
        grown.truncate(2**31 + 1)
    assert refusal_of(file) == "the file has 2,147,483,649 bytes, and at most 2,147,483,648 are read"
    os.mkfifo(tmp_path / "pipe")
    assert refusal_of(tmp_path / "pipe") == "this is a device or a pipe, not a file"
    assert refusal_of(tmp_path) == "this is a folder, not a file"
    assert refusal_of(tmp_path / "absent") == "there is no such file"


def nested(depth: int) -> object:
    value: object = 1
    for number in range(depth):
        value = [value] if number % 2 else {"x": value}
    return value


def test_values_are_counted_as_often_as_they_are_shown() -> None:
    shared = [1, 2]
    for content, values in ((5, 1), ([], 1), ({"a": [1, {"b": 2}]}, 4 + 1), ([shared, shared], 7), ("text", 1)):
        reading.require_few_values(content, values)
        with pytest.raises(ValueError, match=f"^it holds more than {values - 1:,} values$"):
            reading.require_few_values(content, values - 1)
    bomb: list[Any] = ["x"]
    for _ in range(40):
        bomb = [bomb] * 9
    with pytest.raises(ValueError, match="more than 1,000 values"):
        reading.require_few_values(bomb, 1000)


def test_values_are_nested_at_most_fifty_deep() -> None:
    reading.require_few_values(nested(reading.MOST_DEPTH - 1), sys.maxsize)
    endless: list[Any] = []
    endless.append(endless)
    for content in (nested(reading.MOST_DEPTH), endless):
        with pytest.raises(ValueError, match=r"^it is nested too deeply$"):
            reading.require_few_values(content, sys.maxsize)
    with pytest.raises(ValueError, match=r"^it is nested too deeply$"):  # of exactly as many values as may be
        reading.require_few_values(nested(reading.MOST_DEPTH), reading.MOST_DEPTH + 1)
