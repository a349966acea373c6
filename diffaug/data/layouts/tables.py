"""Tables beside images as text, exactly as written: CSV with any separator, JSON Lines and Parquet."""

import codecs
import csv
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from diffaug.data.layouts.walk import suffix_of
from diffaug.errors import DataError
from diffaug.files.reading import is_regular, require_given_file

TABLE_SUFFIXES = {".csv", ".tsv", ".txt", ".jsonl", ".parquet"}
_SEPARATORS = (",", ";", "\t", "|")
csv.field_size_limit(1 << 27)  # columns of outlines are long
_SEPARATOR_LINE = re.compile(r"sep=[,;|\t]?")  # Excel's first line
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass(frozen=True)
class Table:
    """The content of a table file."""

    file: Path
    columns: tuple[str, ...]  # as written, stripped
    rows: tuple[tuple[str, ...], ...]  # one text per column, stripped; empty where there is none
    lines: tuple[int, ...]  # where each row ends in the file

    def column(self, name: str) -> list[str]:
        """The values of one column."""
        number = self.columns.index(name)
        return [row[number] for row in self.rows]

    def place(self, row: int) -> str:
        """Where a row stands, for messages."""
        return f"{self.file}, line {self.lines[row]}"


def read_columns(file: Path) -> tuple[str, ...]:
    """The names of the columns; empty if the file does not look like a table of several columns."""
    if not is_regular(file):
        return ()
    try:
        if suffix_of(file.name) == ".parquet":
            return tuple(pyarrow.parquet.read_schema(file).names)
        if suffix_of(file.name) == ".jsonl":
            with _opened(file, errors="replace") as lines:
                first = json.loads(next((line for line in lines if line.strip()), "{}"))
            return tuple(first) if isinstance(first, dict) else ()
        return _csv_header(file)[1]
    except (OSError, ValueError, csv.Error, pa.ArrowException, RecursionError):
        return ()


def read_table(file: Path, *, most: int | None = None) -> Table:
    """Reads a table, or its first `most` rows.

    Raises:
        UsageError: There is no regular file, or one that is too large.
        DataError: The file can't be read, names a column twice, or has a row with more values than columns.
    """
    require_given_file(file)
    kinds = {".parquet": _read_parquet, ".jsonl": _read_json_lines}
    try:
        return kinds.get(suffix_of(file.name), _read_csv)(file, most)
    except (csv.Error, OSError, ValueError, pa.ArrowException, RecursionError) as error:
        fix = "save it as UTF-8 with commas" if suffix_of(file.name) not in kinds else "write it again"
        raise DataError(f"can't read the table: {error}", where=file, fix=fix) from error


def _read_csv(file: Path, most: int | None) -> Table:
    separator, columns = _csv_header(file)
    _require_distinct(columns, file)
    rows: list[tuple[str, ...]] = []
    lines: list[int] = []
    with _opened(file) as opened:
        reader = csv.reader(opened, delimiter=separator, skipinitialspace=True)
        filled = (row for row in reader if any(value.strip() for value in row))
        if _SEPARATOR_LINE.fullmatch("".join(next(filled, []))):
            next(filled, None)  # the header after it
        for row in itertools.islice(filled, most):
            if "\0" in "".join(row):
                raise csv.Error(f"line {reader.line_num} holds a NUL character")
            if any(value.strip() for value in row[len(columns) :]):
                what, place = "more values than columns", f"{file}, line {reader.line_num}"
                raise DataError(what, where=place, fix=f"quote values that hold the separator {separator!r}")
            values = [value.strip() for value in row[: len(columns)]]
            rows.append((*values, *[""] * (len(columns) - len(values))))
            lines.append(reader.line_num)
    return Table(file, columns, tuple(rows), tuple(lines))


def _csv_header(file: Path) -> tuple[str, tuple[str, ...]]:
    """The separator that cuts the first line into most parts, and the parts."""
    with _opened(file, errors="replace") as opened:
        filled = (line for line in itertools.islice(opened, 100) if line.strip(" ,;\t\r\n"))
        first = next((line for line in filled if not _SEPARATOR_LINE.fullmatch(line.strip())), "")
    parts = {
        separator: next(csv.reader([first], delimiter=separator, skipinitialspace=True), [])
        for separator in _SEPARATORS
    }
    separator = max(_SEPARATORS, key=lambda one: len(parts[one]))
    return separator, tuple(name.strip() for name in parts[separator])


def _opened(file: Path, *, errors: str = "strict") -> Any:
    with file.open("rb") as opened:
        head = opened.read(4)
    encoding = next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")
    return file.open(encoding=encoding, errors=errors, newline="")


def _read_json_lines(file: Path, most: int | None) -> Table:
    with _opened(file) as opened:
        filled = ((number, line) for number, line in enumerate(opened, 1) if line.strip())
        numbered = [(number, _json_row(line)) for number, line in itertools.islice(filled, most)]
    return _from_rows(file, [row for _, row in numbered], [number for number, _ in numbered])


def _json_row(line: str) -> dict[str, str]:
    row = json.loads(line, parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=_distinct_keys)
    if not isinstance(row, dict):
        raise ValueError("each line must be one object")
    return {name: _text(value) for name, value in row.items()}


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("an object names a key twice")
    return row


def _read_parquet(file: Path, most: int | None) -> Table:
    # Without threads, since pyarrow waits for ever where the system refuses to start one.
    with pyarrow.parquet.ParquetFile(file, pre_buffer=False) as opened:
        table = opened.read(use_threads=False).slice(0, most)
    _require_distinct(table.schema.names, file)  # or else pyarrow can't tell which one is meant
    names = _class_names(table.schema.metadata)
    plain = [field.name for field in table.schema if not pa.types.is_binary(field.type)]
    rows = [
        {name: _class_name(_text(value), names.get(name)) for name, value in row.items()}
        for row in table.select(plain).to_pylist()
    ]
    return _from_rows(file, rows, list(range(1, len(rows) + 1)))


def _class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Names of classes by column, as Hugging Face datasets writes them into a Parquet file."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature["names"] for name, feature in features.items() if "names" in feature}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _class_name(text: str, names: Sequence[str] | None) -> str:
    return str(names[int(text)]) if names and text.isdigit() and int(text) < len(names) else text


def _from_rows(file: Path, rows: Sequence[Mapping[str, str]], lines: Sequence[int]) -> Table:
    columns = tuple(dict.fromkeys(name for row in rows for name in row))
    values = tuple(tuple(row.get(name, "").strip() for name in columns) for row in rows)
    stripped = tuple(name.strip() for name in columns)
    _require_distinct(stripped, file)
    return Table(file, stripped, values, tuple(lines))


def _text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, default=str) if isinstance(value, list | dict | bool) else str(value)


def _require_distinct(columns: Sequence[str], file: Path) -> None:
    for name, similar in _repeated(columns):
        what = f"two columns have the same name: {similar!r} and {name!r}"
        raise DataError(what, where=file, fix="rename one of them")


def _repeated(columns: Sequence[str]) -> Iterator[tuple[str, str]]:
    seen: dict[str, str] = {}
    for name in filter(None, columns):
        if name.casefold() in seen:
            yield name, seen[name.casefold()]
        seen[name.casefold()] = name
