"""Reads the CSV that labels the images of a folder: `file_name,label[,group][,split]`."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from diffaug.data.entries import SPLIT_NAMES, Entry
from diffaug.errors import DataError


def read_label_csv(path: Path) -> list[Entry]:
    """The entries that a CSV names, in its order; whether the files exist is seen when they are decoded.

    Raises:
        DataError: A column or value is missing, a file is named twice or lies outside the CSV's folder.
    """
    entries: dict[str, Entry] = {}
    for line, row in _rows(path):
        entry = _entry(row, f"{path}, line {line}")
        if entry.path in entries:
            raise DataError(f"{entry.path} is named twice", where=f"{path}, line {line}", fix="keep one line a file")
        entries[entry.path] = entry
    splits = {entry.split for entry in entries.values()}
    if not entries:
        raise DataError("the CSV names no images", where=path, fix="add one line a file")
    if None in splits and len(splits) > 1:
        raise DataError("some lines name a split and others don't", where=path, fix="fill the column, or remove it")
    return list(entries.values())


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and stripped values of every line that isn't blank."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            reader.fieldnames = _columns(reader.fieldnames, path)
            for row in reader:
                if None in row:
                    where = f"{path}, line {reader.line_num}"
                    raise DataError("more values than columns", where=where, fix="quote values that hold a comma")
                yield reader.line_num, {name: value.strip() for name, value in row.items()}
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise DataError(f"can't read the CSV: {error}", where=path, fix="save it as UTF-8 with commas") from error


def _columns(found: object, path: Path) -> list[str]:
    columns = [str(name).strip() for name in found] if isinstance(found, list) else []
    missing = [name for name in ("file_name", "label") if name not in columns]
    if missing:
        raise DataError(
            f"the CSV has no column {' and no column '.join(missing)}; it has: {', '.join(columns)}",
            where=path,
            fix="name the columns file_name,label[,group][,split]; where folders are the classes, move the CSV away",
        )
    return columns


def _entry(row: dict[str, str], where: str) -> Entry:
    name, label, split = row["file_name"], row["label"], row.get("split", "").casefold()
    if not name or not label:
        raise DataError(f"the {'label' if name else 'file_name'} is empty", where=where, fix="fill it in")
    file = os.path.normpath(name).replace(os.sep, "/")
    if file.startswith("/") or file.split("/")[0] == "..":
        raise DataError(f"{name} lies outside the folder", where=where, fix="name files relative to the CSV")
    if split and split not in SPLIT_NAMES:
        raise DataError(f"there is no split '{split}'", where=where, fix="use train, val or test")
    return Entry(file, label, SPLIT_NAMES.get(split), row.get("group") or None)
