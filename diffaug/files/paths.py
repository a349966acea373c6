"""Safe paths: labels and stored names come from outside and must neither leave a folder nor collide."""

import hashlib
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from diffaug.errors import DamagedError

_UNSAFE = re.compile(r"[^\w.+=@ ()-]")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # devices on Windows
_LONGEST_NAME_BYTES = 80


def safe_join(root: Path, *parts: str) -> Path:
    """Joins a path; raises DamagedError if it is invalid or leaves `root`."""
    joined = root.joinpath(*parts)
    try:
        inside = "\0" not in str(joined) and joined.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, or text that no file system can hold
        inside = False
    if not inside:
        raise DamagedError(f"invalid stored path, outside its folder: {parts!r}", where=root)
    return joined


def safe_names(names: Iterable[str]) -> dict[str, str]:
    """Maps labels to distinct file names: the label itself where possible, else cleaned and marked with a hash.

    Names are distinct also where the file system ignores case or composes accents in another way. The result does not
    depend on the order of the labels; of labels that differ only in such a way, the one sorted first keeps its name.
    """
    wanted = list(dict.fromkeys(names))
    result: dict[str, str] = {}
    taken: set[str] = set()
    for name in sorted(wanted, key=lambda name: (not _is_plain(name), name)):
        result[name] = next(candidate for candidate in _candidates(name) if _collation_key(candidate) not in taken)
        taken.add(_collation_key(result[name]))
    return {name: result[name] for name in wanted}


def _candidates(name: str) -> Iterator[str]:
    if _is_plain(name):
        yield name
    for attempt in itertools.count():
        digest = hashlib.sha256(f"{attempt}:{name}".encode(errors="surrogatepass")).hexdigest()
        yield f"{_cleaned(name)}-{digest[:8]}"


def _is_plain(name: str) -> bool:
    return bool(name) and _cleaned(name) == name and not _RESERVED.fullmatch(name)


def _cleaned(name: str) -> str:
    """The label in characters that every file system takes, cut to a length that leaves room for a suffix."""
    return _UNSAFE.sub("_", name).encode()[:_LONGEST_NAME_BYTES].decode(errors="ignore").strip(" .")


def _collation_key(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
