"""Records read back as the objects that they were, and whatever else is in their place is a DamagedError."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from diffaug.errors import DamagedError
from diffaug.files import storage
from diffaug.files.records import (
    find_signed_record,
    read_record,
    read_signed_record,
    typed,
    write_record,
    write_signed_record,
)


@dataclass(frozen=True)
class Inner:
    path: Path
    pair: tuple[int, float | None]


RECORD = TypeAdapter(dict[str, Inner])
ONE = {"a": Inner(Path("x/y"), (1, 0.5)), "b": Inner(Path(), (2, None))}
NOT_FINITE = {"a": Inner(Path("x"), (1, math.inf))}
CHANGED = "a file was changed after it was written"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "record.json"


def damage_of(read: object, file: Path) -> DamagedError:
    with pytest.raises(DamagedError) as caught:
        read(file, RECORD)
    assert (caught.value.where, caught.value.fix) == (str(file), storage.REPAIR_HINT)
    return caught.value


def test_a_record_reads_back_and_is_plain_json(file: Path) -> None:
    write_record(file, RECORD, ONE)
    assert read_record(file, RECORD) == ONE
    assert json.loads(file.read_text()) == {
        "a": {"path": "x/y", "pair": [1, 0.5]},
        "b": {"path": ".", "pair": [2, None]},
    }
    write_record(file, RECORD, NOT_FINITE)
    assert read_record(file, RECORD)["a"].pair == (1, None)


def test_a_signed_record_reads_back_and_replaces_what_is_there(file: Path) -> None:
    (file / "sub").mkdir(parents=True)
    for record in (NOT_FINITE, ONE):
        write_signed_record(file, RECORD, record)
    assert read_signed_record(file, RECORD) == ONE
    content = json.loads(file.read_text())
    assert content["record"] == {"a": {"path": "x/y", "pair": [1, 0.5]}, "b": {"path": ".", "pair": [2, None]}}
    assert content["fingerprint"] == storage.fingerprint(content["record"])
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("read", [read_record, read_signed_record])
def test_what_is_missing_or_of_another_shape_is_damage(file: Path, read: object) -> None:
    assert damage_of(read, file).what == "a file is missing"
    storage.write_json(file, {"fingerprint": storage.fingerprint({"a": {"path": 1}}), "record": {"a": {"path": 1}}})
    assert damage_of(read, file).what.startswith("this file is not as diffaug wrote it (")


@pytest.mark.parametrize("content", [[], 5, {}, {"record": {}}, {"fingerprint": "x", "record": {}, "more": 1}])
def test_what_is_not_signed_is_damage(file: Path, content: object) -> None:
    storage.write_json(file, content)
    assert damage_of(read_signed_record, file).what == CHANGED


def test_a_signed_record_that_was_changed_is_damage_or_replaced(file: Path) -> None:
    assert find_signed_record(file, RECORD) is find_signed_record(file, RECORD, overwrite=True) is None
    write_signed_record(file, RECORD, ONE)
    assert find_signed_record(file, RECORD) == find_signed_record(file, RECORD, overwrite=True) == ONE
    file.write_text(file.read_text().replace("x/y", "x/z"))
    for read in (read_signed_record, find_signed_record):
        assert damage_of(read, file).what == CHANGED
    assert file.exists()
    assert find_signed_record(file, RECORD, overwrite=True) is None
    assert not list(file.parent.iterdir())


def test_the_place_of_a_wrong_value_is_named(file: Path) -> None:
    wrong = {"a": {"path": "x", "pair": [1, "much"]}}
    with pytest.raises(DamagedError, match=r"wrote it \(a\.pair\.1[^:]*: .*number"):
        typed(wrong, RECORD, where=file)
    with pytest.raises(DamagedError, match=r"wrote it \(the record: .*dictionary"):
        typed(3, RECORD, where=file)


def test_a_value_that_is_too_deep_is_damage(file: Path) -> None:
    class Deep:
        def validate_python(self, content: object) -> None:
            raise RecursionError

    with pytest.raises(DamagedError) as caught:
        typed({}, Deep(), where=file)  # type: ignore[arg-type]
    assert caught.value.what == "this file is not as diffaug wrote it (the record: too deep)"
    assert caught.value.where == str(file)
