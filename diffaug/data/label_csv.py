"""Reads the CSV that labels the images of a folder: `file_name,label[,group][,split]`."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from diffaug.data.entries import SPLIT_NAMES, Entry
from diffaug.errors import DataError


def read_label_csv(csv: Path) -> list[Entry]:
    """The entries that a CSV names, in its order; whether the files exist is seen when they are decoded.

    Raises:
        DataError: A column or value is missing, a file is named twice or lies outside the CSV's folder.
    """
    entries: dict[str, Entry] = {}
    for line, row in enumerate(_read(csv).to_dict("records"), start=2):
        entry = _entry({str(key): str(value).strip() for key, value in row.items()}, f"{csv}, line {line}")
        if entry.path in entries:
            raise DataError(f"{entry.path} is named twice", where=f"{csv}, line {line}", fix="keep one line a file")
        entries[entry.path] = entry
    splits = {entry.split for entry in entries.values()}
    if None in splits and len(splits) > 1:
        raise DataError("some lines name a split and others don't", where=csv, fix="fill the column, or remove it")
    return list(entries.values())


def _read(csv: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(csv, dtype=str, keep_default_na=False, encoding="utf-8-sig", skip_blank_lines=False)
    except (ValueError, OSError) as error:  # pandas' own errors and UnicodeDecodeError are ValueErrors
        raise DataError(f"can't read the CSV: {error}", where=csv, fix="save it as UTF-8 with commas") from error
    table.columns = table.columns.str.strip()
    missing = [name for name in ("file_name", "label") if name not in table.columns]
    if missing:
        raise DataError(
            f"the CSV has no column {' and no column '.join(missing)}; it has: {', '.join(table.columns)}",
            where=csv,
            fix="name the columns file_name,label[,group][,split]; where folders are the classes, move the CSV away",
        )
    if table.empty:
        raise DataError("the CSV names no images", where=csv, fix="add one line a file")
    return table


def _entry(row: dict[str, str], where: str) -> Entry:
    name, label, split = row["file_name"], row["label"], row.get("split", "").casefold()
    if not name or not label:
        raise DataError(f"the {'label' if name else 'file_name'} is empty", where=where, fix="fill it in")
    path = os.path.normpath(name).replace(os.sep, "/")
    if path.startswith("/") or path.split("/")[0] == "..":
        raise DataError(f"{name} lies outside the folder", where=where, fix="name files relative to the CSV")
    if split and split not in SPLIT_NAMES:
        raise DataError(f"there is no split '{split}'", where=where, fix="use train, val or test")
    return Entry(path, label, SPLIT_NAMES.get(split), row.get("group") or None)
