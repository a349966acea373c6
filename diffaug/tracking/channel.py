"""Replays the journal to trackers, so that an outage of a tracker costs nothing.

For each tracker the study keeps the number of the last event it was sent; whoever sends next goes on behind it.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol

from diffaug.configuration.settings import TrackingSettings
from diffaug.errors import DiffaugError, MissingExtraError, UsageError
from diffaug.files import locks, storage
from diffaug.study import Study
from diffaug.tracking.journal import Event, read_events

ENTRY_POINT_GROUP = "diffaug.trackers"
EVENTS_PER_SAVE = 200
LOCK_POLL_SECONDS = 0.05
MAX_REASON_LENGTH = 300
LOCAL = ("sqlite://", "file://")

State = dict[str, Any]
Report = Callable[[int, int], None]


class Tracker(Protocol):
    """Somewhere that events are replayed to.

    Made by an entry point of `diffaug.trackers`, named after the library that it needs, from (study, settings,
    patient). Being made must not take a connection. All else may be called from another thread.
    """

    @property
    def is_local(self) -> bool:
        """Whether events go to a file of this machine, so that waiting for it has an end."""

    def recognizes(self, state: State) -> bool:
        """Whether what `state` speaks of is still there; if not, everything is replayed from the first event."""

    def replay(self, events: Iterable[Event], state: State) -> None:
        """Sends events and sets `state["cursor"]` to the number of each one sent, for a later call to go on.

        Drawing the next event raises when sending was given up.

        An event may come again, when the process was killed before `state` was saved: that must change nothing.
        What can't be sent at all is left out with a sentence in the list `state["skipped"]`.
        """

    def describe(self, state: State) -> str:
        """The sentence that says how to look at what was logged."""

    def links(self, state: State) -> dict[str, str | None]:
        """Where the study's run is: `run_id`, `experiment_id`, `tracking_uri` and, for a server, `url`."""


@dataclass(frozen=True)
class Delivery:
    """What came of sending the journal to one tracker.

    Attributes:
        tracker: Its name.
        sentence: How to look at what was logged; empty when nothing was.
        unsent: Events that it has not had.
        reason: Why not.
        skipped: What could not be logged at all.
        is_missing: Whether its library is not installed.
    """

    tracker: str
    sentence: str = ""
    unsent: int = 0
    reason: str = ""
    skipped: tuple[str, ...] = ()
    is_missing: bool = False


class Channel:
    """One tracker of one study: sends what it has not had, while no other process does.

    Args:
        point: The tracker's entry point.
        study: Whose journal is sent.
        settings: Where to.
        patient: Whether to give a slow server the time it wants.
    """

    def __init__(self, point: EntryPoint, study: Study, settings: TrackingSettings, *, patient: bool = False) -> None:
        self.name = point.name
        self.journal = study.journal
        self.tracker: Tracker | None = None
        self._point, self._study, self._settings, self._patient = point, study, settings, patient
        self._folder = study.path / "tracking"
        self._record = self._folder / f"{point.name}.json"
        self._is_recognized = self._is_abandoned = False
        self._sentence = ""
        self._skipped: list[str] = []

    def load_if_imported(self) -> None:
        """Makes the tracker here when its library is in use already: an active run belongs to the thread it is in."""
        if self.name in sys.modules:
            self.load()

    def load(self) -> Tracker:
        """The tracker, made when first asked for.

        Raises:
            MissingExtraError: Its library is not installed.
        """
        if self.tracker is None:
            self.tracker = self._point.load()(self._study, self._settings, patient=self._patient)
        return self.tracker

    def send(self, *, lock_seconds: float, report: Report | None = None) -> None:
        """Sends every event that the tracker has not had.

        Args:
            lock_seconds: How long to wait for another process that is sending.
            report: Told after some events how many of those to send are sent.

        Raises:
            Exception: Whatever the tracker raises; what was sent before is remembered.
        """
        tracker = self.load()
        with _alone(self._folder / f".{self.name}.lock", lock_seconds):
            recorded = read_events(self.journal)
            journal = recorded[0].identity if recorded else None
            state = self._state(tracker, journal, len(recorded))
            events = [event for event in recorded if event.number > state.get("cursor", 0)]
            for start in range(0, len(events), EVENTS_PER_SAVE):
                try:
                    tracker.replay(self._while_wanted(events[start : start + EVENTS_PER_SAVE]), state)
                finally:
                    self._skipped += state.pop("skipped", [])
                    self._save(tracker, {**state, "journal": journal})
                if report is not None:
                    report(min(start + EVENTS_PER_SAVE, len(events)), len(events))
            self._sentence = tracker.describe(state) if state else ""

    def abandon(self) -> None:
        """Makes `send`, in another thread, stop before its next event; what it has not sent stays in the journal."""
        self._is_abandoned = True

    def _while_wanted(self, events: Iterable[Event]) -> Iterator[Event]:
        for event in events:
            if self._is_abandoned:
                raise TimeoutError("given up")
            yield event

    def delivery(self, error: BaseException | None = None) -> Delivery:
        """What came of sending so far; `error` is what ended it."""
        return Delivery(
            self.name,
            self._sentence if error is None else "",
            0 if error is None else self.unsent(),
            "" if error is None else _reason(error),
            tuple(map(without_secrets, self._skipped)),
            isinstance(error, MissingExtraError),
        )

    def unsent(self) -> int:
        """Number of events that the tracker has not had; 0 where journal or record can't be read."""
        try:
            events = read_events(self.journal)
            cursor = storage.read_json(self._record).get("cursor", 0) if self._record.is_file() else 0
        except DiffaugError:
            return 0
        return sum(event.number > cursor for event in events)

    def _state(self, tracker: Tracker, journal: str | None, length: int) -> State:
        """What the tracker has had of this journal; nothing where the journal is another, begun after it was lost."""
        state: State = storage.read_json(self._record) if self._record.exists() else {}
        if state.get("journal", journal) != journal or state.get("cursor", 0) > length:
            return {}
        if state and not self._is_recognized and not tracker.recognizes(state):
            return {}
        self._is_recognized = True
        return state

    def _save(self, tracker: Tracker, state: State) -> None:
        links = {"links": _public(tracker.links(state))} if "cursor" in state else {}
        storage.write_json(self._record, {**state, **links})


def channels(study: Study, settings: TrackingSettings, *, patient: bool = False) -> list[Channel]:
    """The trackers that are installed and not switched off; none before anything was recorded."""
    if not study.journal.exists():
        return []
    points = entry_points(group=ENTRY_POINT_GROUP)
    return [Channel(point, study, settings, patient=patient) for point in points if getattr(settings, point.name, True)]


def logged_links(study: Study) -> dict[str, dict[str, str | None]]:
    """Where the study's run is in each tracker that had something of it, by name; see `Tracker.links`."""
    records = {path.stem: storage.read_json(path) for path in sorted((study.path / "tracking").glob("*.json"))}
    return {name: _public(record["links"]) for name, record in records.items() if "links" in record}


def without_secrets(text: str) -> str:
    """The text, its addresses without user, password and query.

    An address in which a query can't be told from a password, as its last @ comes after a ?, is left out but for the
    scheme. A file may have an @ in its name.
    """

    def shortened(found: re.Match[str]) -> str:
        scheme, address = found.groups()
        if scheme.endswith(LOCAL) and address.startswith("/"):
            return found[0]
        secret, _, rest = address.rpartition("@")
        return scheme + ("…" if "?" in secret else rest)

    return re.sub(r"\?\S+", "", re.sub(r"(\S*?//)(\S*)", shortened, text))


def _public(links: Mapping[str, str | None]) -> dict[str, str | None]:
    return {name: value and without_secrets(value) for name, value in links.items()}


@contextmanager
def _alone(lock: Path, seconds: float) -> Iterator[None]:
    """Holds the lock, or raises UsageError when another process has it for longer than `seconds`."""
    deadline = time.monotonic() + seconds
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(locks.exclusive_lock(lock))
                break
            except UsageError:
                if time.monotonic() >= deadline:
                    raise UsageError("another process or stage is still sending", where=lock.parent) from None
                time.sleep(LOCK_POLL_SECONDS)
        yield


def _reason(error: BaseException) -> str:
    """The error's first line, and its remedy, without the secrets that an address may hold."""
    text = error.what if isinstance(error, DiffaugError) else str(error)
    first = without_secrets((text.strip().splitlines() or [type(error).__name__])[0]).rstrip(".")
    first = first if len(first) <= MAX_REASON_LENGTH else f"{first[:140]} ... {first[-150:]}"
    return first + (f"; {without_secrets(error.fix)}" if isinstance(error, DiffaugError) and error.fix else "")
