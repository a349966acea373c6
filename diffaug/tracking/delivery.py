"""Replays the journal to trackers, so that an outage of a tracker loses nothing.

For each tracker the study keeps the number of the last event it was sent; whoever sends next continues after it.
"""

import re
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol

from pydantic import NonNegativeInt, TypeAdapter

from diffaug.configuration.settings import TrackingSettings
from diffaug.errors import DamagedError, DiffaugError, MissingExtraError, UsageError
from diffaug.files import locks
from diffaug.files.records import read_signed_record, typed, write_signed_record
from diffaug.study import Study
from diffaug.tracking.events import Event, JournalReader, read_events

ENTRY_POINT_GROUP = "diffaug.trackers"
EVENTS_PER_SAVE = 200
LOCK_POLL_SECONDS = 0.05
MAX_REASON_LENGTH = 300
LOCAL = ("sqlite://", "file://")

State = dict[str, Any]
_STATE = TypeAdapter(State)
_OF_STATES: dict[str, TypeAdapter[Any]] = {
    "cursor": TypeAdapter(NonNegativeInt),
    "runs": TypeAdapter(dict[str, str | None]),
    "links": TypeAdapter(dict[str, str | None]),
}
"""What is known of a state; the rest is the tracker's own."""
Report = Callable[[int, int], None]


class Tracker(Protocol):
    """A destination of events.

    Made by an entry point of `diffaug.trackers`, named after the library that it needs, from (study, settings,
    patient). Making one must not open a connection. All other methods may be called from another thread.
    """

    @property
    def is_local(self) -> bool:
        """Whether events go to a file of this machine, so that waiting for it always ends."""

    def recognizes(self, state: State) -> bool:
        """Whether what `state` refers to still exists; if not, everything is replayed from the first event."""

    def replay(self, events: Iterable[Event], state: State) -> None:
        """Sends events and sets `state["cursor"]` to the number of each one sent, where a later call continues.

        Drawing the next event raises if sending was abandoned. An event may come twice, if the process was killed
        before `state` was saved: that must change nothing. What can't be sent at all is skipped, with a sentence in
        the list `state["skipped"]`.
        """

    def describe(self, state: State) -> str:
        """How to view what was logged, in one sentence."""

    def links(self, state: State) -> dict[str, str | None]:
        """Where the study's run is: `run_id`, `experiment_id`, `tracking_uri` and, for a server, `url`."""


@dataclass(frozen=True)
class Delivery:
    """The outcome of sending the journal to one tracker."""

    tracker: str
    sentence: str  # how to view what was logged, empty if nothing was
    skipped: tuple[str, ...]  # what could not be logged at all
    unsent: int = 0
    reason: str = ""  # why some are unsent
    is_missing: bool = False  # whether its library is not installed


class Channel:
    """One tracker of one study: sends pending events while no other process does."""

    def __init__(self, point: EntryPoint, study: Study, settings: TrackingSettings, *, patient: bool = False) -> None:
        self.name = point.name
        self.journal = study.journal
        self.tracker: Tracker | None = None
        self._reader = JournalReader(study.journal)
        self._events: list[Event] = []
        self._point, self._study, self._settings, self._patient = point, study, settings, patient
        self._folder = study.path / "tracking"
        self._record = self._folder / f"{point.name}.json"
        self.is_abandoned = False  # once true, `send` in another thread stops before its next event
        self._is_recognized = False
        self._sentence = ""
        self._skipped: list[str] = []

    def load(self) -> Tracker:
        """The tracker, made at the first call; raises MissingExtraError if its library is not installed."""
        if self.tracker is None:
            self.tracker = self._point.load()(self._study, self._settings, patient=self._patient)
        return self.tracker

    def send(self, *, lock_seconds: float, report: Report | None = None) -> None:
        """Sends every event that the tracker has not had; raises what the tracker raises.

        `lock_seconds` limits the wait for another process that is sending; `report` gets the numbers sent and to send.
        """
        tracker = self.load()
        with _alone(self._folder / f".{self.name}.lock", lock_seconds):
            former, new = self._reader.first, self._reader.read()
            self._events = [*self._events, *new] if self._reader.first is former else new
            journal = self._reader.first.identity if self._reader.first else None
            state = self._state(tracker, journal)
            events = self._events_after(state.get("cursor", 0))
            for start in range(0, len(events), EVENTS_PER_SAVE):
                try:
                    tracker.replay(self._while_wanted(events[start : start + EVENTS_PER_SAVE]), state)
                finally:
                    self._skipped += state.pop("skipped", [])
                    self._save(tracker, {**state, "journal": journal})
                if report is not None:
                    report(min(start + EVENTS_PER_SAVE, len(events)), len(events))
            self._sentence = tracker.describe(state) if state else ""
            self._events = self._events_after(state.get("cursor", 0))

    def _events_after(self, cursor: int) -> list[Event]:
        if self._reader.count - len(self._events) > cursor:  # some of them were sent before, and are wanted again
            self._reader = JournalReader(self.journal)
            self._events = self._reader.read()
        return [event for event in self._events if event.number > cursor]

    def _while_wanted(self, events: Iterable[Event]) -> Iterator[Event]:
        for event in events:
            if self.is_abandoned:
                raise TimeoutError("sending was abandoned")
            yield event

    def delivery(self, error: BaseException | None = None) -> Delivery:
        """The outcome of sending so far; `error` is what ended it."""
        skipped = tuple(map(without_secrets, self._skipped))
        if error is None:
            return Delivery(self.name, self._sentence, skipped)
        return Delivery(self.name, "", skipped, self._unsent(), _reason(error), isinstance(error, MissingExtraError))

    def _unsent(self) -> int:
        """Number of events that the tracker has not had; 0 if journal or record can't be read."""
        with suppress(DiffaugError):
            cursor = _read_state(self._record).get("cursor", 0) if self._record.is_file() else 0
            return sum(event.number > cursor for event in read_events(self.journal))
        return 0

    def _state(self, tracker: Tracker, journal: str | None) -> State:
        """What the tracker has had of this journal; nothing if the journal was lost and begun again."""
        state = _read_state(self._record) if self._record.exists() else {}
        if state.get("journal", journal) != journal or state.get("cursor", 0) > self._reader.count:
            return {}
        if state and not self._is_recognized and not tracker.recognizes(state):
            return {}
        self._is_recognized = True
        return state

    def _save(self, tracker: Tracker, state: State) -> None:
        links = {"links": _public(tracker.links(state))} if "cursor" in state else {}
        write_signed_record(self._record, _STATE, {**state, **links})


def _read_state(file: Path) -> State:
    """What a tracker has had; a DamagedError if the file was changed or holds something else."""
    try:
        state = read_signed_record(file, _STATE)
        known = {name: kind for name, kind in _OF_STATES.items() if name in state}
        return state | {name: typed(state[name], kind, where=file) for name, kind in known.items()}
    except DamagedError as error:
        again = "and all events are sent again, which changes nothing in the tracker"
        error.fix = f"restore it from a copy, or remove it, {again}: rm -r {shlex.quote(str(file))}"
        raise


def channels(study: Study, settings: TrackingSettings, *, patient: bool = False) -> list[Channel]:
    """The trackers that are installed and not switched off; none if nothing was recorded yet."""
    if not study.journal.exists():
        return []
    points = entry_points(group=ENTRY_POINT_GROUP)
    return [Channel(point, study, settings, patient=patient) for point in points if getattr(settings, point.name, True)]


def logged_links(study: Study) -> dict[str, dict[str, str | None]]:
    """Where the study's run is in each tracker that received events, by name; see `Tracker.links`."""
    records = {path.stem: _read_state(path) for path in sorted((study.path / "tracking").glob("*.json"))}
    return {name: _public(record["links"]) for name, record in records.items() if "links" in record}


def without_secrets(text: str) -> str:
    """The text with addresses without user, password and query; a file may have an @ in its name.

    Of an address whose last @ comes after a ?, which may be part of a query or of a password, only the scheme stays.
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
    """The first line of the error and its fix, without the secrets that an address may hold."""
    text = error.what if isinstance(error, DiffaugError) else str(error)
    first = without_secrets((text.strip().splitlines() or [type(error).__name__])[0]).rstrip(".")
    first = first if len(first) <= MAX_REASON_LENGTH else f"{first[:140]} ... {first[-150:]}"
    return first + (f"; {without_secrets(error.fix)}" if isinstance(error, DiffaugError) and error.fix else "")
