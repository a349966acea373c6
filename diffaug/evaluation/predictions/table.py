"""A CSV of predictions as a table of text, with errors that name the line."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from diffaug.data.layouts.entries import listed
from diffaug.errors import DataError
from diffaug.files.reading import require_given_file

REQUIRED = ("file_name", "arm", "role", "predicted")


@dataclass(frozen=True)
class Table:
    """The lines that are not blank, as stripped text; the index of `text` holds line numbers."""

    path: Path
    text: pd.DataFrame

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a CSV that has the required columns, each once."""
        require_given_file(path)
        try:
            # Read without a header, so that a line with more values than the first is an error and not an index.
            raw = pd.read_csv(
                path,
                header=None,
                dtype=str,
                keep_default_na=False,
                encoding="utf-8-sig",
                skip_blank_lines=False,
                compression=None,
            )
        except (ValueError, OSError) as error:
            raise DataError(f"can't read the CSV: {error}", where=path, fix="save it as UTF-8 with commas") from error
        raw = raw.fillna("").apply(lambda column: column.str.strip())
        columns = list(raw.iloc[0])
        missing = [f"no column {name}" for name in REQUIRED if name not in columns]
        doubled = sorted({f"two columns {name}" for name in columns if name and columns.count(name) > 1})
        if missing or doubled:
            raise DataError(
                f"the CSV has {' and '.join(missing or doubled)}; it has: {', '.join(columns)}",
                where=path,
                fix="name the columns file_name,arm,role,predicted[,seed][,label][,p_<class> ...]",
            )
        text = raw.iloc[1:].set_axis(columns, axis=1).set_axis(range(2, len(raw) + 1), axis=0)
        text = text[(text != "").any(axis=1)]
        if text.empty:
            raise DataError("the CSV has no predictions", where=path, fix="add one line per image, arm and seed")
        return cls(path, pd.DataFrame(text))

    def require(self, good: ArrayLike, complaint: Callable[[int], str], fix: str) -> None:
        """Raises a DataError about the first line that is not good; the complaint is made from its position."""
        bad = np.flatnonzero(~np.asarray(good, bool))
        if len(bad):
            first = int(bad[0])
            raise DataError(complaint(first), where=f"{self.path}, line {self.text.index[first]}", fix=fix)

    def column(self, name: str) -> pd.Series:
        """A column without empty values."""
        if name not in self.text:
            raise DataError(f"the CSV has no column {name}", where=self.path, fix=f"add the column {name}")
        values = self.text[name]
        self.require(values != "", lambda _: f"the {name} is empty", fix="fill it in")
        return values

    def codes(self, name: str, values: Sequence[str]) -> NDArray[np.int64]:
        """A column as positions in `values`, (L,)."""
        known = {value: position for position, value in enumerate(values)}
        return self.convert(name, known.get, f"is not one of: {listed(values)}")

    def convert(self, name: str, function: Callable[[str], int | None], complaint: str) -> NDArray[np.int64]:
        """A column as numbers (L,), by a function that returns None for what it can't convert."""
        text = self.column(name)
        numbers = text.map({value: function(value) for value in text.unique()})
        self.require(
            numbers.notna(), lambda line: f"the {name} '{text.iloc[line]}' {complaint}", fix="correct the line"
        )
        return numbers.to_numpy(np.int64)
