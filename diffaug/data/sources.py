"""Which files of a data folder were touched since their content was last known, so that only those are read."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from diffaug.data.decoding.decode import content_sha256
from diffaug.data.loading import in_threads
from diffaug.errors import DamagedError
from diffaug.files.records import read_record, write_record

CLOCK_SECONDS = 2.0  # the coarsest clock of a file system (FAT)
Stamp = tuple[int, int, int]  # size in bytes, and times of the last change to content and entry in ns


@dataclass
class KnownFiles:
    """The content of files as it was when it was last read, by path relative to the data folder."""

    sha256: dict[str, str] = field(default_factory=dict)  # empty for a file that could not be read
    stamps: dict[str, Stamp] = field(default_factory=dict)  # without files younger than their file system's clock

    @classmethod
    def load(cls, file: Path) -> KnownFiles:
        """Reads what `save` wrote; nothing is known where the file is absent or damaged."""
        try:
            return read_record(file, _ADAPTER)
        except (FileNotFoundError, DamagedError):
            return cls()

    def save(self, file: Path) -> None:
        """Writes what is known."""
        write_record(file, _ADAPTER, self)

    def note(self, root: Path, contents: Mapping[str, str], began: float) -> None:
        """Replaces all that is known by the sha256 of files, none of which was read before the time `began`."""
        stamps = {path: _stamp_of(root / path) for path in contents}
        latest = (began - CLOCK_SECONDS) * 1e9
        self.sha256 = dict(contents)
        self.stamps = {path: stamp for path, stamp in stamps.items() if stamp and max(stamp[1:]) < latest}

    def current(self, root: Path, paths: Iterable[str]) -> dict[str, str]:
        """The sha256 of each file as it is now; reads only files whose stamp changed, and notes what it found."""
        began, paths = time.time(), list(paths)
        stamps = {path: self.stamps.get(path) for path in paths}
        known = {path: self.sha256[path] for path, stamp in stamps.items() if stamp and stamp == _stamp_of(root / path)}
        rest = [path for path in paths if path not in known]
        known |= zip(rest, in_threads(content_sha256, [root / path for path in rest]), strict=True)
        if rest or self.sha256.keys() != known.keys():
            self.note(root, known, began)
        return known


def _stamp_of(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


_ADAPTER = TypeAdapter(KnownFiles)
