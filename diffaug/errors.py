"""One exception tree: every error says what happened, where, and how to fix it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar


class DiffaugError(Exception):
    """A failure that diffaug understands.

    Args:
        what: One sentence: what is wrong.
        where: The file, folder, key or option concerned.
        fix: One sentence: what the reader can do about it.
    """

    exit_code: ClassVar[int] = 1
    results: Mapping[str, Any] | None = None  # what was found or measured all the same, for `--json`

    def __init__(self, what: str, *, where: str | os.PathLike[str] | None = None, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = None if where is None else os.fspath(where)
        self.fix = fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.where is not None:
            lines.append(f"  where: {self.where}")
        if self.fix is not None:
            lines.append(f"  fix:   {self.fix}")
        return "\n".join(lines)


class UsageError(DiffaugError):
    """The request is wrong: an option, a key, a path, a study that belongs to other data."""

    exit_code = 2


class NotFittedError(UsageError, AttributeError):
    """An attribute of a fitted object was read before `fit`, as in scikit-learn."""


class DataError(DiffaugError):
    """The images or labels can't be used as they are."""

    exit_code = 3


class MissingExtraError(DiffaugError):
    """An optional dependency is needed and not installed."""

    exit_code = 4

    @classmethod
    def of(cls, package: str, extra: str) -> MissingExtraError:
        """The error for `package`, with the command that installs its extra."""
        return cls(f"{package} is not installed", fix=f"pip install 'diffaug[{extra}]'")


class QualityGateError(DiffaugError):
    """A quality threshold that the user asked for was not reached."""

    exit_code = 5


class DamagedError(DiffaugError):
    """A file that diffaug wrote was changed, cut short or removed since."""

    exit_code = 3


class Interrupted(DiffaugError):  # noqa: N818  (a request, not a fault)
    """The user or the system asked for a stop; everything finished so far is on disk."""

    exit_code = 130


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A remedy for a wrong name: the nearest known one, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"choose from: {', '.join(known)}"
