"""Safe paths: labels and stored names come from outside and must neither escape a folder nor collide."""

from __future__ import annotations

import hashlib
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from diffaug.errors import DamagedError

_UNSAFE = re.compile(r"[^\w.+=@ ()-]")
_LONGEST_NAME_BYTES = 80


def safe_join(root: Path, *parts: str) -> Path:
    """Joins and makes sure that the result stays inside `root`.

    Raises:
        DamagedError: The path would leave `root`, or is none.
    """
    joined = root.joinpath(*parts)
    try:
        inside = "\0" not in str(joined) and joined.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, or text that no file system can hold
        inside = False
    if not inside:
        raise DamagedError(f"a stored path leads outside its folder or nowhere: {parts!r}", where=root)
    return joined


def safe_names(names: Iterable[str]) -> dict[str, str]:
    """Maps labels to distinct file names: the label itself where it is one, else cleaned and marked with a hash.

    Distinct also where the file system ignores case or composes accents in another way. A label's file name
    does not depend on the other labels, unless two of them would get the same.
    """
    result: dict[str, str] = {}
    taken: set[str] = set()
    for name in sorted(dict.fromkeys(names), key=lambda name: not _is_plain(name)):
        result[name] = next(candidate for candidate in _candidates(name) if _collation_key(candidate) not in taken)
        taken.add(_collation_key(result[name]))
    return result


def _candidates(name: str) -> Iterator[str]:
    if _is_plain(name):
        yield name
    for attempt in itertools.count():
        digest = hashlib.sha256(f"{attempt}:{name}".encode(errors="surrogatepass")).hexdigest()
        yield f"{_cleaned(name)}-{digest[:8]}"


def _is_plain(name: str) -> bool:
    return bool(name) and _cleaned(name) == name


def _cleaned(name: str) -> str:
    """The label in characters that every file system takes, cut to a length that leaves room for a suffix."""
    return _UNSAFE.sub("_", name).encode()[:_LONGEST_NAME_BYTES].decode(errors="ignore").strip(" .")


def _collation_key(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
