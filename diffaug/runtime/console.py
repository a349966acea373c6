"""What a stage reports while it works: sentences, tables and progress, on stderr and to the logger "diffaug"."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffaug.runtime.distributed import current
from diffaug.runtime.notebook import NotebookBar

if TYPE_CHECKING:
    from rich.progress import Progress

LINE_INTERVAL_SECONDS = 15.0
LOGGER = logging.getLogger("diffaug")
LOGGER.addHandler(logging.NullHandler())  # else Python prints warnings that nobody asked for


class Narrator:
    """Reports to a person what a stage does; this base class discards it."""

    def say(self, text: str) -> None:
        """Reports one sentence."""

    def warn(self, text: str) -> None:
        """Reports something that the reader should act on."""

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Shows a small table."""

    def progress(self, stage: str, done: float, total: float, detail: str = "") -> None:
        """Reports how far a stage is; `done == total` ends it."""

    def close(self) -> None:
        """Restores the screen, also after an error."""


class SilentNarrator(Narrator):
    """Reports nothing."""


class ProgressOnly(Narrator):
    """Reports the progress of a part of a stage, whose sentences and warnings are of no use to a person."""

    def __init__(self, narrator: Narrator) -> None:
        self._narrator = narrator

    def progress(self, stage: str, done: float, total: float, detail: str = "") -> None:
        """Passes it on."""
        self._narrator.progress(stage, done, total, detail)

    def close(self) -> None:
        """Passes it on."""
        self._narrator.close()


class LogNarrator(Narrator):
    """Reports to the logger "diffaug" only: sentences and progress as INFO, warnings as WARNING."""

    def __init__(self) -> None:
        self._stage = ""
        self._started = self._first_done = 0.0
        self._last_line = -math.inf

    def say(self, text: str) -> None:
        """Logs the sentence."""
        LOGGER.info("%s", printable(text))

    def warn(self, text: str) -> None:
        """Logs the warning."""
        LOGGER.warning("%s", printable(text))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Logs a row per line."""
        lines = [" | ".join(row) for row in ([title], columns, *rows) if any(row)]
        LOGGER.info("%s", "\n".join(map(printable, lines)))

    def progress(self, stage: str, done: float, total: float, detail: str = "") -> None:
        """Logs a line now and then."""
        stage, detail = printable(stage), printable(detail)
        if stage != self._stage:
            self.close()
            self._stage, self._started, self._last_line = stage, time.monotonic(), -math.inf
            self._first_done = done
        self._move(done, total, detail)
        if done >= total or time.monotonic() - self._last_line >= LINE_INTERVAL_SECONDS:
            self._last_line = time.monotonic()
            self._line(self._progress_in_words(done, total, detail))
        if done >= total:
            self.close()

    def close(self) -> None:
        """Forgets the stage."""
        self._stage = ""

    def _move(self, done: float, total: float, detail: str) -> None:
        """Shows each step."""

    def _line(self, text: str) -> None:
        LOGGER.info("%s", text)

    def _progress_in_words(self, done: float, total: float, detail: str) -> str:
        elapsed = time.monotonic() - self._started
        advanced = done - self._first_done
        left = f"{duration(elapsed * (total - done) / advanced)} left" if advanced > 0 and done < total else ""
        parts = [f"{self._stage}: {done / total if total else 1:.0%}", duration(elapsed), left, detail]
        return "  ".join(part for part in parts if part)


class ConsoleNarrator(LogNarrator):
    """Reports on stderr, too: bars on a terminal and in a notebook, otherwise a line every 15 seconds."""

    def __init__(self) -> None:
        from rich.console import Console

        super().__init__()
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._bars: Progress | NotebookBar | None = None

    def say(self, text: str) -> None:
        """Prints the sentence as it is, without markup."""
        super().say(text)
        self._console.print(printable(text))

    def warn(self, text: str) -> None:
        """Prints the sentence in yellow, marked as a warning."""
        super().warn(text)
        self._console.print(printable(f"warning: {text}"), style="yellow")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Prints the table; all columns but the first are aligned to the right, and long cells wrapped."""
        from rich.table import Table

        super().table(title, columns, rows)
        table = Table(title=printable(title) or None, title_justify="left", title_style="bold")
        for number, column in enumerate(columns):
            table.add_column(printable(column), justify="right" if number else "left", overflow="fold")
        for row in rows:
            table.add_row(*map(printable, row))
        self._console.print(table)

    def _move(self, done: float, total: float, detail: str) -> None:
        if self._console.is_jupyter:
            self._bars = self._bars or NotebookBar()
            if isinstance(self._bars, NotebookBar):
                self._bars.show(self._progress_in_words(done, total, detail), done, total)
        elif self._console.is_terminal:
            self._move_bar(done, total, detail)

    def _line(self, text: str) -> None:
        super()._line(text)
        if not (self._console.is_terminal or self._console.is_jupyter):
            print(text, file=sys.stderr, flush=True)

    def _move_bar(self, done: float, total: float, detail: str) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        if self._bars is None:
            self._bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TaskProgressColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[detail]}", markup=False),
                console=self._console,
            )
            self._bars.start()
            self._bars.add_task(self._stage, total=total, detail=detail)
        if isinstance(self._bars, Progress):
            self._bars.update(self._bars.task_ids[0], completed=done, total=total, detail=detail)

    def close(self) -> None:
        """Takes the bar down, which shows the cursor again."""
        super().close()
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


def narrator_of(verbose: bool) -> Narrator:
    """Who reports in this process; of processes that were started together, only the main one does."""
    if not current().is_main:
        return SilentNarrator()
    return ConsoleNarrator() if verbose else LogNarrator()


def printable(text: str, *, keep: str = "") -> str:
    """The text with control characters and bidi marks written out, except those in `keep`.

    Names of classes, arms and files may hold any character, and must neither steer the terminal nor forge a line.
    """
    return "".join(char if char.isprintable() or char in keep else ascii(char)[1:-1] for char in text)


def percent(fraction: float, digits: int = 1) -> str:
    """A fraction for people, as every accuracy is shown: 96.3 %."""
    return f"{100 * fraction:.{digits}f} %"


def duration(seconds: float) -> str:
    """Seconds for people: 42 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
