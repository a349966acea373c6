"""What people decided about the images of a pool: one line per decision in `review.csv`, beside the folder of the pool.

Of several lines of one reviewer about one image the last one counts. An image that any reviewer rejects is left out
wherever the pool is used. Deleting a line undoes it. An image is known by file and content, so that a decision about
an older pool says nothing about a new image of the same name.
"""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, StringConstraints, TypeAdapter, ValidationError

from diffaug.errors import DataError, UsageError
from diffaug.files import locks, storage

REVIEW, LOCK = "review.csv", ".review.lock"
Judgment = Literal["accept", "reject"]
ImageKey = tuple[str, str]
"""File of an image, relative to the pool, and its sha256."""
Name = Annotated[str, StringConstraints(strip_whitespace=True, max_length=60, pattern=r"^\w[\w .@-]*$")]
"""A reviewer. No name begins with a character that makes a spreadsheet compute."""


@dataclass(frozen=True)
class Decision:
    """One line of the file."""

    time: AwareDatetime
    reviewer: Name
    image: Annotated[str, StringConstraints(min_length=1)]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    decision: Judgment

    @property
    def key(self) -> ImageKey:
        """The image."""
        return self.image, self.sha256


DECISION, NAME = TypeAdapter(Decision), TypeAdapter(Name)
COLUMNS = tuple(one.name for one in fields(Decision))
HEADER = ",".join(COLUMNS)


@dataclass(frozen=True)
class _Line:
    """A decision and the lines of text that hold it, from `start` on, counted from 0, before `end`."""

    decision: Decision
    start: int
    end: int


class ReviewFile:
    """The decisions about a pool. Several processes may write at once: each line that one of them adds is kept.

    Every reader and writer raises DataError, with the number of the line, if the file was edited into something else.
    """

    def __init__(self, pool: Path) -> None:
        self.path = pool.parent / REVIEW
        self._known: tuple[tuple[int, ...], list[_Line]] = ((), [])

    def read(self) -> list[Decision]:
        """All decisions in their order; none if there is no file."""
        return [line.decision for line in self._lines()]

    def add(self, reviewer: str, image: ImageKey, decision: Judgment) -> None:
        """Adds a line; a UsageError if the reviewer has no usable name."""
        values = (datetime.now(UTC).replace(microsecond=0), checked_name(reviewer), *image, decision)
        line = DECISION.validate_python(dict(zip(COLUMNS, values, strict=True)))
        row = io.StringIO()
        csv.writer(row, lineterminator="\n").writerow([line.time.isoformat(), *astuple(line)[1:]])
        with self._alone():
            lines = self._lines()  # a line after a broken one would be lost with it
            text = _decoded(self.path) if self.path.exists() else ""
            gap = "" if text.endswith("\n") or not text else "\n"
            begin = "" if text.strip() else f"{HEADER}\n"
            before = f"{text}{gap}{begin}"
            storage.write_bytes(self.path, f"{before}{row.getvalue()}".encode())
            start = len(_text_lines(before))
            self._known = self._state(), [*lines, _Line(line, start, start + 1)]

    def withdraw(self, reviewer: str, image: ImageKey) -> None:
        """Deletes the last line of a reviewer about an image, if there is one."""
        with self._alone():
            own = [line for line in self._lines() if (line.decision.reviewer, line.decision.key) == (reviewer, image)]
            if own:
                text = _text_lines(_decoded(self.path))
                del text[own[-1].start : own[-1].end]
                storage.write_bytes(self.path, "".join(text).encode())

    def require_writable(self) -> None:
        """Raises what the first decision would: the folder is read-only or has no locks, or the file is broken."""
        with self._alone():
            self._lines()

    def _alone(self) -> AbstractContextManager[None]:
        return locks.waiting_lock(self.path.with_name(LOCK))

    def _lines(self) -> list[_Line]:
        """The content, read again only if the file is another one than before or has changed."""
        if not self.path.exists():
            return []
        if not storage.is_regular(self.path):
            fix = f"move it away: {_moving_away(self.path)}"
            raise DataError("something else is where the file of the review should be", where=self.path, fix=fix)
        state = self._state()
        if self._known[0] != state:
            self._known = state, list(_parsed(self.path))
        return self._known[1]

    def _state(self) -> tuple[int, ...]:
        about = self.path.stat()
        return about.st_ino, about.st_mtime_ns, about.st_size


def checked_name(reviewer: str) -> str:
    """The name without surrounding space; a UsageError if it can't stand in the file."""
    try:
        return NAME.validate_python(reviewer)
    except ValidationError as error:
        fix = "use at most 60 letters, digits, spaces, dots, hyphens or @, beginning with a letter or digit"
        raise UsageError(f"this is no name of a reviewer: {reviewer!r}", fix=fix) from error


def judgments(decisions: Iterable[Decision]) -> dict[ImageKey, dict[str, Judgment]]:
    """What each reviewer thinks of each image."""
    found: dict[ImageKey, dict[str, Judgment]] = {}
    for one in decisions:
        found.setdefault(one.key, {})[one.reviewer] = one.decision
    return found


def rejected_images(decisions: Iterable[Decision]) -> frozenset[ImageKey]:
    """The images that a reviewer rejects."""
    return frozenset(key for key, by_reviewer in judgments(decisions).items() if "reject" in by_reviewer.values())


def _parsed(path: Path) -> Iterator[_Line]:
    """The decisions with their lines; empty lines are ignored."""
    reader, start = csv.reader(_text_lines(_decoded(path)), strict=True), 0
    header_is_read = False
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise _broken(path, start, f"this is not CSV ({error})") from error
        if row is None:
            return
        cells, end = [cell.strip() for cell in row], reader.line_num
        if any(cells):
            if header_is_read:
                yield _Line(_decision(path, cells, start), start, end)
            elif tuple(cells) != COLUMNS:
                fix = f"write there: {HEADER}; or move the file away: {_moving_away(path)}"
                raise _broken(path, start, "the columns are not named here", fix)
            header_is_read = True
        start = end


def _moving_away(path: Path) -> str:
    return shlex.join(["mv", str(path), f"{path}.old"])


def _decision(path: Path, cells: list[str], start: int) -> Decision:
    if len(cells) != len(COLUMNS):
        raise _broken(path, start, f"there are {len(cells)} values, separated by commas, not {len(COLUMNS)}")
    try:
        return DECISION.validate_python(dict(zip(COLUMNS, cells, strict=True)))
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{first['loc'][0]} is {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"
        raise _broken(path, start, what) from error


def _broken(path: Path, start: int, what: str, fix: str = "") -> DataError:
    fix = fix or f"correct the line, such as: {EXAMPLE}; or delete it, which undoes its decision"
    return DataError(f"line {start + 1} can't be read: {what}", where=f"{path}, line {start + 1}", fix=fix)


EXAMPLE = f"2026-01-31T12:00:00+00:00,anna,images/cat/000012.png,{'0123456789abcdef' * 4},reject"


def _decoded(path: Path) -> str:
    content = storage.read_bytes(path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n")
        fix = "save the file as CSV in the encoding UTF-8"
        raise _broken(path, line, "this is not UTF-8", fix) from error


def _text_lines(text: str) -> list[str]:
    """The lines with their ends, as csv counts them."""
    return io.StringIO(text, newline="").readlines()
