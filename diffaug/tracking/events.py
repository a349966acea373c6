"""The events of a journal, one numbered JSON line each, and how they are read back."""

import json
import os
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from diffaug.errors import DamagedError
from diffaug.files import storage


@dataclass(frozen=True)
class Event:
    """One line of the journal."""

    number: int  # from 1
    time: int  # milliseconds since 1970; later events have later times
    kind: str  # what was logged, named after the method of `Journal`
    key: str  # the run it belongs to: "study", "fit", "trial/<arm>/<seed>"
    data: dict[str, Any]  # a `file` in it is relative to the study where it lies inside

    def line(self) -> str:
        """The event as a line of the journal, which ends in its hash."""
        content = asdict(self)
        return json.dumps({**content, CHECK: _hash_of(content)}, allow_nan=False)

    @property
    def identity(self) -> str:
        """A name by which a tracker recognizes that it has this event already."""
        return storage.sha256_bytes(self.line().encode())[:32]


_EVENT = TypeAdapter(Event)
CHECK = "sha256"


def _hash_of(content: dict[str, Any]) -> str:
    return storage.sha256_bytes(json.dumps(content, allow_nan=False).encode())[:16]


class JournalReader:
    """Reads a journal once: each call gives the events that were appended since the last one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._forget()

    def _forget(self) -> None:
        self._offset, self._first_line = 0, b""
        self.first: Event | None = None
        self.count = 0

    def read(self) -> list[Event]:
        """The new events; all of them if the file was replaced by another one, `count` then begins again.

        A last line cut short by a crash is left for a later call. Raises DamagedError if another is not an event.
        """
        if not self._path.exists():
            return []
        storage.require_file(self._path)
        file = self._path.open("rb")
        with file:
            if file.read(len(self._first_line)) != self._first_line or file.seek(0, os.SEEK_END) < self._offset:
                self._forget()
            file.seek(self._offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        events = [self._event(line) for line in whole.split(b"\n")[:-1]]
        if events and self.first is None:
            self.first, self._first_line = events[0], whole.partition(b"\n")[0]
        self._offset += len(whole)
        self.count += len(events)
        return events

    def _event(self, line: bytes) -> Event:
        try:
            content = json.loads(line)
            if content.pop(CHECK) != _hash_of(content):
                raise ValueError("it was changed after it was written")
            return _EVENT.validate_python(content)  # pydantic's own parser refuses lone surrogates
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DamagedError(
                f"a line is not an event ({error})",
                where=self._path,
                fix="restore it from a copy, or remove it, and trackers begin new runs beside what they had: "
                f"rm {shlex.quote(str(self._path))}",
            ) from error


def read_events(path: Path) -> list[Event]:
    """All events of a journal, none if there is no file."""
    return JournalReader(path).read()
