"""Sends the journal while stages work, from threads that no stage ever waits long for."""

from __future__ import annotations

import atexit
import shlex
import threading
import time
from contextlib import suppress

from diffaug.configuration.settings import TrackingSettings
from diffaug.errors import DiffaugError, MissingExtraError
from diffaug.runtime.console import Narrator
from diffaug.study import Study
from diffaug.tracking.channel import Channel, Delivery, channels

PATIENCE_SECONDS = 1.0
POLL_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
LOCK_SECONDS = 2.0
LONG_LOCK_SECONDS = 60.0
THREAD_PREFIX = "diffaug-"


class Sender:
    """Brings what stages record to the trackers in the background.

    `start` at the beginning of a stage, `flush` at its end. A tracker that refuses, hangs or fails costs a stage at
    most `PATIENCE_SECONDS`; what it has not had stays in the journal for the next stage or `diffaug sync`.

    Args:
        study: Whose journal is sent.
        settings: Where to.
        narrator: Told, by the thread that calls `flush`, what could not be sent.
    """

    def __init__(self, study: Study, settings: TrackingSettings, narrator: Narrator) -> None:
        self._study, self._settings, self._narrator = study, settings, narrator
        self._threads: list[_ChannelThread] = []

    def start(self) -> None:
        """Begins to send; does nothing when it has begun. Must be called where an active MLflow run is to be joined."""
        if not self._threads:
            self._threads = [_ChannelThread(channel) for channel in channels(self._study, self._settings)]

    def flush(self) -> list[str]:
        """Ends the sending of a stage: everything for a local tracker, what can be done in a second for a server.

        Returns:
            For each tracker that is up to date, how to look at what was logged.
        """
        self.start()
        threads, self._threads = self._threads, []
        for thread in threads:
            thread.close()
        for thread in threads:
            thread.wait_until_loaded()
        deadline = time.monotonic() + PATIENCE_SECONDS
        sentences = []
        for thread in threads:
            delivery = thread.delivery(deadline)
            _tell(delivery, self._study, self._narrator)
            sentences += [delivery.sentence] if delivery.sentence else []
        return sentences


def send_all(study: Study, settings: TrackingSettings, narrator: Narrator) -> list[str]:
    """Sends every tracker what it has not had, here and now, with patience for slow servers and other processes.

    Returns:
        For each tracker, how to look at what was logged.

    Raises:
        MissingExtraError: A tracker's library is not installed.
        DiffaugError: A tracker could not be reached or refused; all others have everything.
    """
    deliveries = [_send_patiently(channel, narrator) for channel in channels(study, settings, patient=True)]
    narrator.close()
    failed = [delivery for delivery in deliveries if delivery.reason]
    for delivery in deliveries:
        _tell_skipped(delivery, narrator)
    if failed:
        kind = MissingExtraError if failed[0].is_missing else DiffaugError
        fix = f"when that is settled: diffaug sync {shlex.quote(str(study.path))}"
        raise kind("; ".join(f"{_not_sent(delivery)}" for delivery in failed), where=study.journal, fix=fix)
    return [delivery.sentence for delivery in deliveries if delivery.sentence]


def _send_patiently(channel: Channel, narrator: Narrator) -> Delivery:
    def report(done: int, total: int) -> None:
        narrator.progress(f"sending to {channel.name}", done, total)

    try:
        channel.send(lock_seconds=LONG_LOCK_SECONDS, report=report)
    except Exception as error:
        return channel.delivery(error)
    return channel.delivery()


def _tell(delivery: Delivery, study: Study, narrator: Narrator) -> None:
    if delivery.is_missing:
        narrator.say(f"Not logged to {delivery.tracker}: {delivery.reason}")
    elif delivery.reason:
        kept = (
            f"Nothing is lost: all is in {study.journal} and is sent with: diffaug sync {shlex.quote(str(study.path))}"
        )
        narrator.warn(f"{_not_sent(delivery)}. {kept}")
    _tell_skipped(delivery, narrator)


def _not_sent(delivery: Delivery) -> str:
    count = f"{delivery.unsent} " if delivery.unsent else ""
    return f"{count}events not sent to {delivery.tracker}: {delivery.reason}"


def _tell_skipped(delivery: Delivery, narrator: Narrator) -> None:
    if delivery.skipped:
        count, first = len(delivery.skipped), delivery.skipped[0]
        narrator.warn(f"{delivery.tracker}: left out what could not be logged ({count}), such as: {first}")


class _ChannelThread:
    """A daemon thread that sends new events as they come, waits longer after each failure, and ends when closed."""

    def __init__(self, channel: Channel) -> None:
        self._channel, self._journal = channel, channel.journal
        self._changed = threading.Condition()
        self._is_closing = self._is_loaded = self._is_done = False
        self._error: BaseException | None = None
        self._sent_bytes = -1
        with suppress(Exception):  # sending meets the same failure and tells it
            channel.load_if_imported()
        self._thread = threading.Thread(target=self._run, name=f"diffaug-{channel.name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wants what is recorded by now sent at once, and the thread to end afterwards."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()

    def wait_until_loaded(self) -> None:
        """Importing a library takes seconds and no server, so it is not part of the patience with one."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_loaded)

    def delivery(self, deadline: float) -> Delivery:
        """What came of it: in the end for a local tracker, which can't hang, else by `deadline` at the latest."""
        tracker = self._channel.tracker
        limit = None if tracker is None or tracker.is_local else max(0.0, deadline - time.monotonic())
        with self._changed:
            if self._changed.wait_for(lambda: self._is_done, limit):
                return self._channel.delivery(self._error)
            self._abandon()
            return self._channel.delivery(self._error or TimeoutError("the server is slow"))

    def _abandon(self) -> None:
        """Ends the thread before its next event; a thread in C++ code when the interpreter ends aborts the process."""
        self._channel.abandon()
        atexit.register(self._thread.join, PATIENCE_SECONDS)

    def _run(self) -> None:
        with suppress(Exception):
            self._channel.load()
        with self._changed:
            self._is_loaded = True
            self._changed.notify_all()
        pause = POLL_SECONDS
        while not self._is_done:
            with self._changed:
                is_last = self._is_closing
            error = self._send_news()
            pause = POLL_SECONDS if error is None else min(2 * pause, LONGEST_PAUSE_SECONDS)
            with self._changed:
                self._error, self._is_done = error, is_last
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._is_closing, 0 if is_last else pause)

    def _send_news(self) -> BaseException | None:
        """Sends what came since all was sent; returns what went wrong."""
        try:
            size = self._journal.stat().st_size
            if size != self._sent_bytes:
                self._channel.send(lock_seconds=LOCK_SECONDS)
                self._sent_bytes = size
        except BaseException as error:  # else whoever waits for a local tracker would wait for ever
            return error
        return None
