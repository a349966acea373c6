"""Errors of the operating system say which file they are about; those of reading and writing don't by themselves."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Gives an OSError in the block this path if it names none."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and not isinstance(error.filename, str | bytes):
            error.filename = os.fspath(path)
        raise


def naming_its_file(function: Callable[Concatenate[Path, P], R]) -> Callable[Concatenate[Path, P], R]:
    """Does so with the path that a function is called with first."""

    @wraps(function)
    def call(path: Path, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with naming(path):
            return function(path, *args, **kwargs)

    return call
