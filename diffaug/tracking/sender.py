"""Sends the journal while stages work, from threads that no stage waits for longer than a second."""

from __future__ import annotations

import atexit
import shlex
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from diffaug.configuration.settings import TrackingSettings
from diffaug.errors import DiffaugError, MissingExtraError
from diffaug.runtime import abandoned_threads as abandoned
from diffaug.runtime.console import Narrator
from diffaug.study import Study
from diffaug.tracking.delivery import Channel, Delivery, channels

PATIENCE_SECONDS = 1.0
POLL_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
LOCK_SECONDS = 2.0
LONG_LOCK_SECONDS = 60.0


class Sender:
    """Sends the events of stages to the trackers in the background.

    `start` at the beginning of a stage, `flush` at its end. A tracker that refuses, hangs or fails costs a stage at
    most `PATIENCE_SECONDS`; unsent events stay in the journal for the next stage or `diffaug sync`. Threads serve
    better here than a child process, which would import MLflow again in each stage and would know neither the active
    run nor what the user's code has set up in MLflow.
    """

    def __init__(self, study: Study, settings: TrackingSettings, narrator: Narrator) -> None:
        self._study, self._settings, self._narrator = study, settings, narrator
        self._threads: list[_ChannelThread] = []
        self._is_wanted = False

    def start(self) -> None:
        """Begins to send unless it has begun, or there is nothing yet.

        Must be called in the thread whose active MLflow run is to be joined.
        """
        self._is_wanted = True
        self.start_if_wanted()

    def start_if_wanted(self) -> None:
        """Begins to send what has been recorded since `start`, which found nothing."""
        if self._is_wanted and not self._threads:
            self._threads = [_ChannelThread(channel) for channel in channels(self._study, self._settings)]

    def flush(self, *, hurried: bool = False) -> list[str]:
        """Ends the sending of a stage: a local tracker gets everything, a server what can be sent in a second.

        With `hurried`, as after Ctrl-C, a local tracker, too, gets what can be sent in a second, loading included.
        Returns, for each tracker that is up to date, how to view what was logged.
        """
        if not hurried:
            self.start()
        threads, self._threads, self._is_wanted = self._threads, [], False
        try:
            deliveries = _deliveries(threads, hurried=hurried)
        except BaseException:  # a second Ctrl-C
            for thread in threads:
                thread.abandon()
            raise
        for delivery in deliveries:
            _report(delivery, self._study, self._narrator)
        return [delivery.sentence for delivery in deliveries if delivery.sentence]


def _deliveries(threads: Sequence[_ChannelThread], *, hurried: bool) -> list[Delivery]:
    """What became of the events that each thread had to send."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    for thread in threads:
        thread.close()
    if not hurried:
        for thread in threads:
            thread.wait_until_loaded()
        deadline = time.monotonic() + PATIENCE_SECONDS
    return [thread.delivery(deadline, hurried=hurried) for thread in threads]


def send_all(study: Study, settings: TrackingSettings, narrator: Narrator) -> list[str]:
    """Sends all pending events in this thread, and waits long for slow servers and other processes.

    Returns, for each tracker, how to view what was logged. Raises DiffaugError if one could not be reached or refused,
    MissingExtraError if its library is not installed; all others have everything.
    """
    deliveries = [_send_patiently(channel, narrator) for channel in channels(study, settings, patient=True)]
    narrator.close()
    failed = [delivery for delivery in deliveries if delivery.reason]
    for delivery in deliveries:
        _report_skipped(delivery, narrator)
    if failed:
        kind = MissingExtraError if failed[0].is_missing else DiffaugError
        fix = f"when that is resolved: diffaug sync {shlex.quote(str(study.path))}"
        raise kind("; ".join(map(_not_sent, failed)), where=study.journal, fix=fix)
    return [delivery.sentence for delivery in deliveries if delivery.sentence]


def _send_patiently(channel: Channel, narrator: Narrator) -> Delivery:
    try:
        report = partial(narrator.progress, f"sending to {channel.name}")
        channel.send(lock_seconds=LONG_LOCK_SECONDS, report=report)
    except Exception as error:
        return channel.delivery(error)
    return channel.delivery()


def _report(delivery: Delivery, study: Study, narrator: Narrator) -> None:
    if delivery.is_missing:
        narrator.say(f"Not logged to {delivery.tracker}: {delivery.reason}")
    elif delivery.reason:
        command = f"diffaug sync {shlex.quote(str(study.path))}"
        kept = f"Nothing is lost: events are kept in {study.journal}; send them with: {command}"
        narrator.warn(f"{_not_sent(delivery)}. {kept}")
    _report_skipped(delivery, narrator)


def _not_sent(delivery: Delivery) -> str:
    count = f"{delivery.unsent} " if delivery.unsent else ""
    return f"{count}events not sent to {delivery.tracker}: {delivery.reason}"


def _report_skipped(delivery: Delivery, narrator: Narrator) -> None:
    if delivery.skipped:
        count, first = len(delivery.skipped), delivery.skipped[0]
        narrator.warn(f"{delivery.tracker}: events that could not be logged were skipped ({count}), such as: {first}")


class _ChannelThread:
    """A daemon thread that sends new events as they come, waits longer after each failure, and ends when closed."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._changed = threading.Condition()
        self._is_closing = self._is_loaded = self._is_done = False
        self._error: BaseException | None = None
        self._sent_bytes = -1
        if channel.name in sys.modules:  # an active run of its library belongs to this thread
            with suppress(Exception):  # sending meets the same failure and reports it
                channel.load()
        self._thread = threading.Thread(target=self._run, name=f"diffaug-{channel.name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Asks the thread to send what is recorded by now at once, and to end afterwards."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()

    def wait_until_loaded(self) -> None:
        """Importing a library takes seconds and needs no server, so it does not count as waiting for one."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_loaded)

    def delivery(self, deadline: float, *, hurried: bool = False) -> Delivery:
        """The outcome: that of a local tracker, which can't hang, complete unless `hurried`; else as at `deadline`."""
        tracker = self._channel.tracker
        is_awaited = not hurried and (tracker is None or tracker.is_local)
        limit = None if is_awaited else max(0.0, deadline - time.monotonic())
        with self._changed:
            if self._changed.wait_for(lambda: self._is_done, limit):
                return self._channel.delivery(self._error)
            self.abandon()
            reason = "interrupted" if hurried else "the server is slow"
            return self._channel.delivery(self._error or TimeoutError(reason))

    def abandon(self) -> None:
        """Lets the thread end on its own, before its next event."""
        self._channel.is_abandoned = True
        abandoned.abandon(self._thread)
        atexit.register(self._thread.join, PATIENCE_SECONDS)  # in C++ code at that moment it aborts the process

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
        """Sends events that were appended since everything was sent; returns what went wrong."""
        try:
            size = self._channel.journal.stat().st_size
            if size != self._sent_bytes:
                self._channel.send(lock_seconds=LOCK_SECONDS)
                self._sent_bytes = size
        except BaseException as error:  # otherwise a stage would wait for a local tracker for ever
            return error
        return None
