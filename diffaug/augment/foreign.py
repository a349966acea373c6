"""Reads datasets, which are code of others: whatever they raise becomes an error that names the item."""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffaug.errors import DataError, DiffaugError

LEAVE_OUT = "correct the dataset, or leave the item out: torch.utils.data.Subset(dataset, indices)"
_MOST_CHARACTERS = 200


@contextmanager
def errors_named(what: str, fix: str) -> Iterator[None]:
    """Turns whatever the block raises into a DataError that begins with `what`.

    Errors of diffaug and a lack of memory, which is not the dataset's fault, are passed on.
    """
    try:
        yield
    except (DiffaugError, MemoryError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        raise DataError(f"{what}: {textwrap.shorten(reason, _MOST_CHARACTERS, placeholder=' ...')}", fix=fix) from error


def item_of(dataset: Any, index: int) -> Any:
    """Item `index` of a map-style dataset; a DataError that names it if the dataset raises something."""
    with errors_named(f"item {index} of the dataset can't be read", LEAVE_OUT):
        return dataset[index]
