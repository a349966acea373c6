from __future__ import annotations

import multiprocessing
import threading
import time
from itertools import pairwise

import pytest

from diffaug.configuration.settings import TrackingSettings
from diffaug.errors import DiffaugError, MissingExtraError, UsageError
from diffaug.files import storage
from diffaug.runtime.console import SilentNarrator
from diffaug.study import Study
from diffaug.tracking import channel as tracking
from diffaug.tracking import sender
from diffaug.tracking.channel import logged_links, without_secrets
from diffaug.tracking.journal import Journal
from diffaug.tracking.sender import Sender, send_all


class Listener(SilentNarrator):
    def __init__(self):
        self.said, self.warned, self.progressed = [], [], []

    def say(self, text):
        self.said.append(text)

    def warn(self, text):
        self.warned.append(text)

    def progress(self, stage, done, total, detail=""):
        self.progressed.append((stage, done, total))


class ListTracker:
    """Keeps what it is sent in a list that outlives it; fails when it is sent the event `fails_at`."""

    def __init__(self, received, fails_at=None, skips=(), is_local=True):
        self.received, self.fails_at, self.skips, self.is_local = received, fails_at, skips, is_local
        self.known = True

    def recognizes(self, state):
        return self.known

    def replay(self, events, state):
        for event in events:
            if event.number == self.fails_at:
                raise ConnectionError("http://me:secret@host: connection refused\nlong traceback")
            if event.number in self.skips:
                state.setdefault("skipped", []).append(f"event {event.number}")
            else:
                self.received.append(event.number)
            state["cursor"] = event.number

    def describe(self, state):
        return f"{state['cursor']} events"

    def links(self, state):
        return {"run_id": f"r{state['cursor']}"}


class HangingTracker(ListTracker):
    """Stops answering at its first event until it is released."""

    def __init__(self, received):
        super().__init__(received, is_local=False)
        self.reached, self.released = threading.Event(), threading.Event()

    def replay(self, events, state):
        self.reached.set()
        assert self.released.wait(30)
        super().replay(events, state)


class Point:
    def __init__(self, name, load):
        self.name, self._load = name, load

    def load(self):
        return self._load()


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path / "study")


def install(monkeypatch, *points):
    monkeypatch.setattr(tracking, "entry_points", lambda group: list(points))


def tracker_point(tracker, name="mlflow"):
    return Point(name, lambda: lambda study, settings, patient: tracker)


def five_events(study):
    journal = Journal(study.journal)
    journal.start_run("study", name="digits")
    for step in range(4):
        journal.log_metrics("study", {"loss": 0.5}, step)
    return journal


def sync(study, settings, narrator):
    return Sender(study, settings, narrator).flush()


@pytest.mark.parametrize("fails_at", range(1, 6))
def test_after_a_failure_at_any_event_exactly_the_rest_is_sent(study, monkeypatch, fails_at):
    five_events(study)
    monkeypatch.setattr(tracking, "EVENTS_PER_SAVE", 2)
    received, narrator = [], Listener()
    install(monkeypatch, tracker_point(ListTracker(received, fails_at)))
    assert sync(study, TrackingSettings(), narrator) == []
    assert received == list(range(1, fails_at))
    (warning,) = narrator.warned
    assert warning.startswith(f"{6 - fails_at} events not sent to mlflow: http://host: connection refused. Nothing is")
    assert warning.endswith(f"diffaug sync {study.path}") and "traceback" not in warning
    install(monkeypatch, tracker_point(ListTracker(received)))
    assert sync(study, TrackingSettings(), narrator) == ["5 events"]
    assert received == [1, 2, 3, 4, 5]
    assert len(narrator.warned) == 1


def test_state_is_saved_every_few_events_so_that_a_kill_repeats_little(study, monkeypatch):
    five_events(study)
    monkeypatch.setattr(tracking, "EVENTS_PER_SAVE", 2)

    class Killed(BaseException):
        pass

    class Dying(ListTracker):
        def replay(self, events, state):
            events = list(events)
            if events[0].number == 3:
                raise Killed
            super().replay(events, state)

    install(monkeypatch, tracker_point(Dying([])))
    with pytest.raises(Killed):
        send_all(study, TrackingSettings(), Listener())
    assert storage.read_json(study.path / "tracking" / "mlflow.json")["cursor"] == 2


def test_a_tracker_that_forgot_is_sent_everything_again(study, monkeypatch):
    five_events(study)
    received = []
    tracker = ListTracker(received)
    install(monkeypatch, tracker_point(tracker))
    sync(study, TrackingSettings(), Listener())
    tracker.known = False
    sync(study, TrackingSettings(), Listener())
    assert received == [1, 2, 3, 4, 5] * 2


def test_a_journal_begun_anew_is_sent_from_its_first_event(study, monkeypatch):
    five_events(study)
    received = []
    install(monkeypatch, tracker_point(ListTracker(received)))
    sync(study, TrackingSettings(), Listener())
    study.journal.unlink()
    five_events(study)
    assert sync(study, TrackingSettings(), Listener()) == ["5 events"]
    assert received == [1, 2, 3, 4, 5] * 2
    study.journal.unlink()
    Journal(study.journal).start_run("study", name="digits")
    assert sync(study, TrackingSettings(), Listener()) == ["1 events"]


def test_one_tracker_failing_does_not_keep_another_from_its_events(study, monkeypatch):
    five_events(study)
    received, narrator = [], Listener()
    install(monkeypatch, tracker_point(ListTracker([], 1)), tracker_point(ListTracker(received), "other"))
    assert sync(study, TrackingSettings(), narrator) == ["5 events"]
    assert received == [1, 2, 3, 4, 5] and len(narrator.warned) == 1


def test_what_a_tracker_left_out_is_told_once(study, monkeypatch):
    five_events(study)
    narrator = Listener()
    install(monkeypatch, tracker_point(ListTracker([], skips=(2, 3))))
    sync(study, TrackingSettings(), narrator)
    sync(study, TrackingSettings(), narrator)
    assert narrator.warned == ["mlflow: left out what could not be logged (2), such as: event 2"]


def test_a_tracker_switched_off_is_not_even_loaded(study, monkeypatch):
    five_events(study)
    install(monkeypatch, Point("mlflow", lambda: pytest.fail("loaded")))
    assert sync(study, TrackingSettings(mlflow=False), Listener()) == []


def test_a_missing_extra_is_one_sentence_with_the_command(study, monkeypatch):
    five_events(study)

    def missing():
        raise MissingExtraError.of("mlflow", "mlflow")

    narrator = Listener()
    install(monkeypatch, Point("mlflow", missing))
    assert sync(study, TrackingSettings(), narrator) == []
    assert narrator.warned == []
    (sentence,) = narrator.said
    assert "mlflow is not installed" in sentence and "pip install 'diffaug[mlflow]'" in sentence


@pytest.mark.parametrize("damage", ["journal", "state"])
def test_damaged_files_are_a_warning_and_no_failure(study, monkeypatch, damage):
    five_events(study)
    install(monkeypatch, tracker_point(ListTracker([])))
    file = study.journal if damage == "journal" else study.path / "tracking" / "mlflow.json"
    storage.write_text(file, "{]\n{]\n")
    narrator = Listener()
    assert sync(study, TrackingSettings(), narrator) == []
    assert len(narrator.warned) == 1


def test_a_study_without_a_journal_has_nothing_to_send(study, monkeypatch):
    install(monkeypatch, Point("mlflow", lambda: pytest.fail("loaded")))
    assert sync(study, TrackingSettings(), Listener()) == []


def test_events_are_sent_while_the_stage_works(study, monkeypatch):
    journal = five_events(study)
    monkeypatch.setattr(sender, "POLL_SECONDS", 0.01)
    tracker = ListTracker([], is_local=False)
    install(monkeypatch, tracker_point(tracker))
    stage = Sender(study, TrackingSettings(), Listener())
    stage.start()
    assert eventually(lambda: tracker.received == [1, 2, 3, 4, 5])
    journal.log_metrics("study", {"gain": 0.1})
    assert eventually(lambda: tracker.received[-1] == 6)
    assert stage.flush() == ["6 events"]
    assert tracker.received == [1, 2, 3, 4, 5, 6]


def test_a_stage_ends_its_thread_and_the_next_one_begins_another(study, monkeypatch):
    five_events(study)
    install(monkeypatch, tracker_point(ListTracker([])))
    stage = Sender(study, TrackingSettings(), Listener())
    for _ in range(2):
        stage.start()
        stage.start()
        assert len(our_threads()) == 1
        stage.flush()
        assert eventually(lambda: not our_threads())


def test_a_tracker_that_hangs_costs_a_stage_a_second_and_gets_everything_later(study, monkeypatch):
    journal = five_events(study)
    received, narrator = [], Listener()
    tracker = HangingTracker(received)
    install(monkeypatch, tracker_point(tracker))
    stage = Sender(study, TrackingSettings(), narrator)
    stage.start()
    assert tracker.reached.wait(10)
    for _ in range(2):
        journal.log_metrics("study", {"time": time.monotonic()})
        began = time.monotonic()
        assert stage.flush() == []
        assert time.monotonic() - began < 2
    assert "5 events not sent to mlflow: the server is slow" not in narrator.warned[0]
    assert narrator.warned[0].startswith("6 events not sent to mlflow: the server is slow. Nothing is lost")
    tracker.released.set()
    assert eventually(lambda: not our_threads())
    assert send_all(study, TrackingSettings(), narrator) == ["7 events"]
    assert received == [1, 2, 3, 4, 5, 6, 7]


def test_what_was_given_up_stops_before_its_next_event(study, monkeypatch):
    five_events(study)
    first, released = threading.Event(), threading.Event()

    class SlowAtEachEvent(ListTracker):
        def replay(self, events, state):
            for event in events:
                super().replay([event], state)
                first.set()
                assert released.wait(30)

    received = []
    install(monkeypatch, tracker_point(SlowAtEachEvent(received, is_local=False)))
    stage = Sender(study, TrackingSettings(), Listener())
    stage.start()
    assert first.wait(10)
    stage.flush()
    released.set()
    assert eventually(lambda: not our_threads())
    assert received == [1]
    assert send_all(study, TrackingSettings(), Listener()) == ["5 events"]
    assert received == [1, 2, 3, 4, 5]


def test_the_pauses_between_attempts_grow_and_a_flush_ends_them(study, monkeypatch):
    five_events(study)
    monkeypatch.setattr(sender, "POLL_SECONDS", 0.02)
    attempts = []

    class Refusing(ListTracker):
        def replay(self, events, state):
            attempts.append(time.monotonic())
            raise ConnectionError("refused")

    install(monkeypatch, tracker_point(Refusing([], is_local=False)))
    narrator = Listener()
    stage = Sender(study, TrackingSettings(), narrator)
    stage.start()
    assert eventually(lambda: len(attempts) == 5)
    pauses = [later - earlier for earlier, later in pairwise(attempts)]
    assert all(pause >= 0.02 * 2 ** (number + 1) for number, pause in enumerate(pauses))
    began = time.monotonic()
    assert stage.flush() == []
    assert time.monotonic() - began < 0.5
    assert "refused" in narrator.warned[0]


def test_a_local_tracker_is_waited_for(study, monkeypatch):
    five_events(study)

    class Slow(ListTracker):
        def replay(self, events, state):
            time.sleep(1.3)
            super().replay(events, state)

    received = []
    install(monkeypatch, tracker_point(Slow(received)))
    assert sync(study, TrackingSettings(), Listener()) == ["5 events"]
    assert received == [1, 2, 3, 4, 5]


def test_a_tracker_that_wants_to_end_the_process_ends_nothing(study, monkeypatch):
    five_events(study)

    class Exiting(ListTracker):
        def replay(self, events, state):
            raise SystemExit("I quit")

    install(monkeypatch, tracker_point(Exiting([])))
    narrator = Listener()
    assert sync(study, TrackingSettings(), narrator) == []
    assert "I quit" in narrator.warned[0]


def test_many_senders_at_once_double_nothing(study, monkeypatch):
    five_events(study)
    monkeypatch.setattr(tracking, "EVENTS_PER_SAVE", 1)

    class Slow(ListTracker):
        def replay(self, events, state):
            time.sleep(0.01)
            super().replay(events, state)

    received = []
    install(monkeypatch, tracker_point(Slow(received)))
    senders = [Sender(study, TrackingSettings(), Listener()) for _ in range(5)]
    for stage in senders:
        stage.start()
    assert [stage.flush() for stage in senders] == [["5 events"]] * 5
    assert received == [1, 2, 3, 4, 5]


def _append_numbers(study_path, file, barrier):
    class FileTracker(ListTracker):
        def replay(self, events, state):
            for event in events:
                storage.append_line(file, str(event.number))
                state["cursor"] = event.number

    tracking.entry_points = lambda group: [tracker_point(FileTracker([]))]
    tracking.EVENTS_PER_SAVE = 1
    barrier.wait()
    send_all(Study(study_path), TrackingSettings(), SilentNarrator())


def test_two_processes_on_one_study_double_nothing(study, tmp_path):
    journal = five_events(study)
    for step in range(30):
        journal.log_metrics("study", {"more": 1.0}, step)
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    file = tmp_path / "received.txt"
    processes = [context.Process(target=_append_numbers, args=(study.path, file, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert file.read_text().split() == [str(number) for number in range(1, 36)]


def test_patient_sending_reports_progress_and_raises_with_the_reason(study, monkeypatch):
    five_events(study)
    monkeypatch.setattr(tracking, "EVENTS_PER_SAVE", 2)
    narrator = Listener()
    install(monkeypatch, tracker_point(ListTracker([], fails_at=5)))
    with pytest.raises(DiffaugError, match=r"1 events not sent to mlflow: http://host: connection refused") as raised:
        send_all(study, TrackingSettings(), narrator)
    assert raised.value.exit_code == 1
    assert narrator.progressed == [("sending to mlflow", 2, 5), ("sending to mlflow", 4, 5)]


def test_patient_sending_without_the_library_says_how_to_get_it(study, monkeypatch):
    five_events(study)

    def missing():
        raise MissingExtraError.of("mlflow", "mlflow")

    install(monkeypatch, Point("mlflow", missing))
    with pytest.raises(MissingExtraError, match=r"pip install 'diffaug\[mlflow\]'"):
        send_all(study, TrackingSettings(), Listener())


def test_trackers_are_asked_for_patience_only_by_hand(study, monkeypatch):
    five_events(study)
    asked = []

    def make(study, settings, patient):
        asked.append(patient)
        return ListTracker([])

    install(monkeypatch, Point("mlflow", lambda: make))
    sync(study, TrackingSettings(), Listener())
    send_all(study, TrackingSettings(), Listener())
    assert asked == [False, True]


def test_a_library_in_use_is_asked_in_the_callers_thread_where_its_active_run_is(study, monkeypatch):
    five_events(study)
    threads = []

    def make(study, settings, patient):
        threads.append(threading.current_thread())
        return ListTracker([])

    install(monkeypatch, Point("json", lambda: make), Point("no_such_library", lambda: make))
    assert len(sync(study, TrackingSettings(), Listener())) == 2
    assert (threading.main_thread() in threads, len(set(threads))) == (True, 2)


def test_links_are_kept_with_the_study(study, monkeypatch):
    assert logged_links(study) == {}
    five_events(study)
    install(monkeypatch, tracker_point(ListTracker([])))
    sync(study, TrackingSettings(), Listener())
    assert logged_links(study) == {"mlflow": {"run_id": "r5"}}


def eventually(condition) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def our_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("diffaug-")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("http://user:p@ss@host: refused", "http://host: refused"),
        ("(at postgresql://u:a/b@h/db) no", "(at postgresql://h/db) no"),
        ("url: /api/runs?token=secret (refused)", "url: /api/runs (refused)"),
        ("https://u:p@h/x?password=p and http://v:q@i", "https://h/x and http://i"),
        ("http://h/x?password=p@ss refused", "http://… refused"),
        ("http://u:p?s@h refused", "http://… refused"),
        ("no file sqlite:////home/me@work/a.db", "no file sqlite:////home/me@work/a.db"),
        ("me@example.org is unknown: why?", "me@example.org is unknown: why?"),
    ],
)
def test_addresses_are_told_without_their_secrets(text, told):
    assert without_secrets(text) == told


class SecretiveTracker(ListTracker):
    """Has an address with secrets, and tells them in every way."""

    address = f"http://{'user' * 30}:{'s3cret' * 9}@host?token=s3cret"

    def replay(self, events, state):
        state["skipped"] = [f"refused by {self.address}"]
        state["cursor"] = 1
        raise UsageError(f"can't reach {self.address} {'x' * 300}", fix=f"start {self.address}")

    def links(self, state):
        return {"tracking_uri": self.address, "url": None}


def test_no_secret_is_told_or_kept(study, monkeypatch):
    five_events(study)
    install(monkeypatch, tracker_point(SecretiveTracker([])))
    narrator = Listener()
    Sender(study, TrackingSettings(), narrator).flush()
    record = (study.path / "tracking" / "mlflow.json").read_text()
    for told in (record, *narrator.warned):
        assert "host" in told and "s3cret" not in told and "user" not in told
    assert logged_links(study)["mlflow"] == {"tracking_uri": "http://host", "url": None}


def test_a_record_of_an_older_version_is_shown_without_its_secrets(study):
    links = {"tracking_uri": "postgresql://u:a/b@h", "url": None}
    storage.write_json(study.path / "tracking" / "mlflow.json", {"cursor": 1, "links": links})
    assert logged_links(study)["mlflow"] == {"tracking_uri": "postgresql://h", "url": None}
