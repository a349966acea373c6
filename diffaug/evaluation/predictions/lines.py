"""The lines of a CSV of predictions: all text, with complaints that name the line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffaug.errors import DataError, UsageError

REQUIRED = ("file_name", "arm", "predicted")
NAMED = 3


@dataclass(frozen=True)
class Lines:
    """The lines that are not blank.

    Attributes:
        path: The CSV.
        table: Stripped text; the index holds line numbers.
    """

    path: Path
    table: pd.DataFrame

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a CSV.

        Raises:
            DataError: It is no CSV, or lacks or repeats a column.
            UsageError: There is no such file.
        """
        return cls(path, _read_table(path))

    def where(self, position: int) -> str:
        """File and line number, for an error."""
        return f"{self.path}, line {self.table.index[position]}"

    def column(self, name: str) -> list[str]:
        """A column.

        Raises:
            DataError: It is not there, or a value is empty.
        """
        if name not in self.table:
            raise DataError(f"the CSV has no column {name}", where=self.path, fix=f"add the column {name}")
        values = list(self.table[name])
        if "" in values:
            raise DataError(f"the {name} is empty", where=self.where(values.index("")), fix="fill it in")
        return values

    def convert(self, name: str, function: Callable[[str], int], complaint: str) -> NDArray[np.int64]:
        """A column as numbers (L,), each text converted once.

        Args:
            name: The column.
            function: Raises ValueError or KeyError of what it can't convert.
            complaint: What to say then, after the name and the value.

        Raises:
            DataError: A value is empty or can't be converted.
        """
        values = self.column(name)
        known: dict[str, int] = {}
        for position, value in enumerate(values):
            if value not in known:
                try:
                    known[value] = function(value)
                except (ValueError, KeyError) as error:
                    raise DataError(
                        f"the {name} '{value}' {complaint}", where=self.where(position), fix="correct the line"
                    ) from error
        return np.array([known[value] for value in values], np.int64)


def _read_table(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise UsageError("there is no such file", where=path, fix="give the path of a CSV of predictions")
    try:
        # Read without a header, so that a line with more values than the first is an error and not an index.
        raw = pd.read_csv(
            path, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig", skip_blank_lines=False
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"can't read the CSV: {error}", where=path, fix="save it as UTF-8 with commas") from error
    raw = raw.fillna("").apply(lambda column: column.str.strip())
    columns = list(raw.iloc[0])
    missing = [name for name in REQUIRED if name not in columns]
    doubled = sorted({name for name in columns if name and columns.count(name) > 1})
    if missing or doubled:
        problem = f"no column {' and no column '.join(missing)}" if missing else f"two columns {listed(doubled)}"
        raise DataError(
            f"the CSV has {problem}; it has: {', '.join(columns)}",
            where=path,
            fix="name the columns file_name,arm,predicted[,seed][,label][,role][,p_<class> ...]",
        )
    table = raw.iloc[1:].set_axis(columns, axis=1)
    table.index = pd.RangeIndex(2, 2 + len(table))
    table = table[(table != "").any(axis=1)]
    if table.empty:
        raise DataError("the CSV names no predictions", where=path, fix="add one line an image, arm and seed")
    return pd.DataFrame(table)


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
