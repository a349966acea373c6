import multiprocessing
import shlex
import subprocess
import threading
import time
from contextlib import suppress
from itertools import pairwise
from types import SimpleNamespace

import pytest

from diffaug.configuration.settings import TrackingSettings
from diffaug.errors import DamagedError, DiffaugError, Interrupted, MissingExtraError, UsageError
from diffaug.files import storage
from diffaug.runtime import abandoned_threads as abandoned
from diffaug.runtime.console import SilentNarrator
from diffaug.stages.job import Job
from diffaug.study import Study
from diffaug.tracking import delivery as tracking
from diffaug.tracking import sender
from diffaug.tracking.delivery import logged_links, without_secrets
from diffaug.tracking.journal import Journal
from diffaug.tracking.sender import Sender, send_all
from tests.conftest import eventually

SETTINGS = TrackingSettings()
ALL = [1, 2, 3, 4, 5]


class Listener(SilentNarrator):
    def __init__(self):
        self.said, self.warned, self.progressed = [], [], []
        self.say, self.warn = self.said.append, self.warned.append

    def progress(self, stage, done, total, detail=""):
        self.progressed.append((stage, done, total))


class ListTracker:
    """Keeps what it is sent in a list; fails when it is sent the event `fails_at`."""

    def __init__(self, received=None, fails_at=None, skips=(), is_local=True):
        self.received = [] if received is None else received
        self.fails_at, self.skips, self.is_local, self.known = fails_at, skips, is_local, True

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


class Acting(ListTracker):
    """Runs an action before it takes each group of events."""

    def __init__(self, act, **options):
        super().__init__(**options)
        self.act = act

    def replay(self, events, state):
        self.act()
        super().replay(events, state)


class HangingTracker(ListTracker):
    """Stops answering before its first event, or after each, until it is released."""

    def __init__(self, after_each=False):
        super().__init__(is_local=False)
        self.reached, self.released, self.after_each = threading.Event(), threading.Event(), after_each

    def hang(self):
        self.reached.set()
        assert self.released.wait(30)

    def replay(self, events, state):
        if not self.after_each:
            self.hang()
        for event in events:
            super().replay([event], state)
            if self.after_each:
                self.hang()


class Point:
    def __init__(self, load, name="mlflow"):
        self.name, self.load = name, load


def tracker_point(tracker, name="mlflow"):
    return Point(lambda: lambda study, settings, patient: tracker, name)


def raised(error):
    raise error


@pytest.fixture
def study(tmp_path):
    study = Study(tmp_path / "my study")
    five_events(study)
    return study


def five_events(study):
    journal = Journal(study.journal)
    journal.start_run("study", name="digits")
    for step in range(4):
        journal.log_metrics("study", {"loss": 0.5}, step)


@pytest.fixture
def journal(study):
    return Journal(study.journal)


@pytest.fixture
def narrator():
    return Listener()


@pytest.fixture
def install(monkeypatch):
    """Makes some trackers, or entry points, the installed ones, and returns the first."""

    def installed(*trackers):
        points = [one if isinstance(one, Point) else tracker_point(one) for one in trackers]
        monkeypatch.setattr(tracking, "entry_points", lambda group: points)
        return trackers[0]

    return installed


@pytest.fixture
def stage(study, narrator):
    return Sender(study, SETTINGS, narrator)


def our_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("diffaug-")]


@pytest.mark.parametrize("fails_at", range(1, 6))
def test_after_a_failure_the_rest_is_sent_and_another_gets_all(study, stage, narrator, install, monkeypatch, fails_at):
    monkeypatch.setattr(tracking, "EVENTS_PER_SAVE", 2)
    other = ListTracker()
    received = install(ListTracker(fails_at=fails_at), tracker_point(other, "other")).received
    assert stage.flush() == ["5 events"]  # of the other
    assert (received, other.received) == (list(range(1, fails_at)), ALL)
    (warning,) = narrator.warned
    assert warning.startswith(f"{6 - fails_at} events not sent to mlflow: http://host: connection refused. Nothing is")
    assert warning.endswith(f"diffaug sync '{study.path}'") and "traceback" not in warning
    install(ListTracker(received))
    assert stage.flush() == ["5 events"]
    assert received == ALL
    assert len(narrator.warned) == 1


def test_state_is_saved_every_few_events_so_that_a_kill_repeats_little(study, install, monkeypatch):
    monkeypatch.setattr(tracking, "EVENTS_PER_SAVE", 2)
    saved, cursors = study.path / "tracking" / "mlflow.json", []
    install(Acting(lambda: cursors.append(storage.read_json(saved)["record"]["cursor"] if saved.exists() else None)))
    send_all(study, SETTINGS, Listener())
    assert cursors == [None, 2, 4]


def test_a_tracker_that_forgot_or_a_journal_begun_anew_is_sent_from_the_first_event(study, stage, install):
    tracker = install(ListTracker())
    assert logged_links(study) == {}
    stage.flush()
    assert logged_links(study) == {"mlflow": {"run_id": "r5"}}
    tracker.known = False
    stage.flush()
    assert tracker.received == ALL * 2
    tracker.known = True
    study.journal.unlink()
    five_events(study)
    assert stage.flush() == ["5 events"]
    assert tracker.received == ALL * 3
    study.journal.unlink()
    Journal(study.journal).start_run("study", name="digits")
    assert stage.flush() == ["1 events"]


def test_what_a_tracker_left_out_is_told_once(stage, narrator, install):
    install(ListTracker(skips=(2, 3)))
    stage.flush()
    stage.flush()
    assert narrator.warned == ["mlflow: events that could not be logged were skipped (2), such as: event 2"]


def test_a_tracker_with_nothing_to_send_or_switched_off_is_not_even_loaded(study, narrator, install):
    install(Point(lambda: pytest.fail("loaded")))
    assert Sender(study, TrackingSettings(mlflow=False), narrator).flush() == []
    study.journal.unlink()
    assert Sender(study, SETTINGS, narrator).flush() == []


def test_a_missing_extra_is_one_sentence_with_the_command(study, stage, narrator, install):
    install(Point(lambda: raised(MissingExtraError.of("mlflow", "mlflow"))))
    assert stage.flush() == []
    assert narrator.warned == []
    (sentence,) = narrator.said
    assert "mlflow is not installed" in sentence and "pip install 'diffaug[mlflow]'" in sentence
    with pytest.raises(MissingExtraError, match=r"pip install 'diffaug\[mlflow\]'"):
        send_all(study, SETTINGS, narrator)


@pytest.mark.parametrize("damaged", ["journal.jsonl", "tracking/mlflow.json"])
def test_damaged_files_are_a_warning_and_no_failure(study, stage, narrator, install, damaged):
    install(ListTracker())
    storage.write_text(study.path / damaged, "{]\n{]\n")
    assert stage.flush() == []
    assert len(narrator.warned) == 1


@pytest.mark.parametrize("content", [[], 5, {"cursor": "x"}, {"cursor": -1}, {"links": 3}, {"runs": []}])
def test_a_record_of_another_shape_is_a_warning_or_an_error_in_one_line(study, stage, narrator, install, content):
    install(ListTracker())
    signed = {"fingerprint": storage.fingerprint(content), "record": content}
    storage.write_json(study.path / "tracking" / "mlflow.json", signed)
    assert stage.flush() == []
    assert len(narrator.warned) == 1
    with pytest.raises(DamagedError):
        logged_links(study)


def test_a_changed_record_is_never_used_and_its_remedy_sends_everything_again(study, stage, narrator, install):
    tracker = install(ListTracker())
    stage.flush()
    record, whole = study.path / "tracking" / "mlflow.json", logged_links(study)
    content = record.read_bytes()
    for place in range(len(content)):
        record.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with suppress(DamagedError):
            assert logged_links(study) == whole and content[place : place + 1].isspace()
    record.write_bytes(content.replace(b'"cursor": 5', b'"cursor": 4'))
    with pytest.raises(DamagedError) as raised:
        logged_links(study)
    assert stage.flush() == [] and tracker.received == ALL
    remedy = raised.value.fix.partition(": ")[2]
    assert remedy in narrator.warned[0]
    subprocess.run(shlex.split(remedy), check=True)
    assert stage.flush() == ["5 events"] and logged_links(study) == whole


def test_events_are_sent_while_the_stage_works(journal, stage, install, monkeypatch):
    monkeypatch.setattr(sender, "POLL_SECONDS", 0.01)
    tracker = install(ListTracker(is_local=False))
    for _ in range(2):
        stage.start()
    assert len(our_threads()) == 1
    assert eventually(lambda: tracker.received == ALL)
    journal.log_metrics("study", {"gain": 0.1})
    assert eventually(lambda: tracker.received[-1] == 6)
    assert stage.flush() == ["6 events"]
    assert tracker.received == [*ALL, 6]
    assert eventually(lambda: not our_threads())
    stage.start()
    assert len(our_threads()) == 1
    stage.flush()
    assert eventually(lambda: not our_threads())


@pytest.mark.e2e
def test_a_stage_that_begins_before_its_study_is_sent_from_its_first_event_on(study, narrator, install, monkeypatch):
    monkeypatch.setattr(sender, "POLL_SECONDS", 0.001)
    tracker, before = install(ListTracker()), study.journal.read_bytes()
    study.journal.unlink()
    stage = Sender(study, SETTINGS, narrator)
    stage.start_if_wanted()
    stage.start()
    storage.write_bytes(study.journal, before)
    stage.start_if_wanted()
    assert eventually(lambda: tracker.received)
    stage.flush()
    stage.start_if_wanted()
    assert stage.flush()


def test_a_stage_ends_while_a_tracker_hangs_which_gets_everything_later(study, journal, stage, narrator, install):
    tracker = install(HangingTracker())
    stage.start()
    assert tracker.reached.wait(10)
    assert eventually(lambda: not abandoned.any_running(), seconds=5)  # the thread that sends is not given up yet
    for step in range(2):
        journal.log_metrics("study", {"loss": 0.5}, 4 + step)
        assert stage.flush() == []  # though the tracker still hangs
        assert abandoned.any_running()
    assert narrator.warned[0].startswith("6 events not sent to mlflow: the server is slow. Nothing is lost")
    tracker.released.set()
    assert eventually(lambda: not abandoned.any_running())
    assert send_all(study, SETTINGS, narrator) == ["7 events"]
    assert tracker.received == [*ALL, 6, 7]


@pytest.mark.e2e
def test_a_stage_waits_for_a_server_no_longer_than_its_patience(stage, install, monkeypatch):
    tracker, limits, wait_for = install(HangingTracker()), [], threading.Condition.wait_for
    stage.start()
    assert tracker.reached.wait(10)

    def recorded(condition, predicate, timeout=None):
        limits.append(timeout)
        return wait_for(condition, predicate, timeout)

    monkeypatch.setattr(threading.Condition, "wait_for", recorded)
    assert stage.flush() == []
    tracker.released.set()
    loading, sending = limits[:2]
    assert loading is None and 0 < sending <= sender.PATIENCE_SECONDS == 1  # it was loaded already


@pytest.mark.e2e
def test_what_was_given_up_stops_before_its_next_event(study, stage, install):
    tracker = install(HangingTracker(after_each=True))
    received = tracker.received
    stage.start()
    assert tracker.reached.wait(10)
    stage.flush()
    tracker.released.set()
    assert eventually(lambda: not our_threads())
    assert received == [1]
    assert send_all(study, SETTINGS, Listener()) == ["5 events"]
    assert received == ALL


@pytest.fixture
def attempts(install):
    """The times of attempts to send to a tracker that refuses."""
    attempts = []

    def refuse():
        attempts.append(time.monotonic())
        raise ConnectionError("refused")

    install(Acting(refuse, is_local=False))
    return attempts


@pytest.mark.e2e
def test_the_pauses_between_attempts_grow(stage, attempts, monkeypatch):
    monkeypatch.setattr(sender, "POLL_SECONDS", 0.02)
    stage.start()
    assert eventually(lambda: len(attempts) == 5)
    pauses = [later - earlier for earlier, later in pairwise(attempts)]
    assert all(pause >= 0.02 * 2 ** (number + 1) for number, pause in enumerate(pauses))
    stage.flush()


def test_a_flush_ends_a_pause_of_an_hour(stage, attempts, narrator, monkeypatch):
    for name in ("POLL_SECONDS", "LONGEST_PAUSE_SECONDS"):
        monkeypatch.setattr(sender, name, 3600)
    stage.start()
    assert eventually(lambda: attempts)
    assert stage.flush() == []
    assert len(attempts) == 2
    assert "refused" in narrator.warned[0]


def test_after_an_interruption_no_tracker_is_waited_for(study, stage, narrator, install, monkeypatch):
    monkeypatch.setattr(sender, "PATIENCE_SECONDS", 0.05)
    loading, reached = threading.Event(), threading.Event()
    tracker = install(Point(lambda: (reached.set(), loading.wait(30), lambda *_, **__: ListTracker())[-1], "slow"))
    assert stage.flush(hurried=True) == []  # nothing was begun, so nothing begins
    stage.start()
    assert reached.wait(10)
    assert stage.flush(hurried=True) == []
    assert abandoned.any_running()
    assert narrator.warned[0].startswith("5 events not sent to slow: interrupted. Nothing is lost")
    loading.set()
    assert eventually(lambda: not abandoned.any_running())
    install(tracker)
    assert stage.flush() == ["5 events"]


def test_a_further_interruption_ends_the_wait_and_gives_up_the_thread(stage, install, monkeypatch):
    tracker = install(HangingTracker())
    tracker.is_local = True
    stage.start()
    assert tracker.reached.wait(10)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Condition, "wait_for", lambda *_: raised(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            stage.flush()
    assert abandoned.any_running()
    tracker.released.set()
    assert eventually(lambda: not abandoned.any_running())


@pytest.mark.parametrize(
    ("error", "hurried"), [(Interrupted("stop"), True), (KeyboardInterrupt(), True), (UsageError("no"), False)]
)
def test_an_interrupted_stage_does_not_wait_for_its_log(study, error, hurried):
    flushed = []
    stub = SimpleNamespace(start=lambda: None, flush=lambda *, hurried=False: flushed.append(hurried) or [])
    job = Job(study, resolved=None, narrator=None, journal=None, sender=stub, command="")
    with pytest.raises(type(error)), job.sending():
        raise error
    assert flushed == [hurried]


def test_a_local_tracker_is_waited_for(stage, install, monkeypatch):
    monkeypatch.setattr(sender, "PATIENCE_SECONDS", 0.05)
    tracker = install(Acting(lambda: time.sleep(0.2)))
    assert stage.flush() == ["5 events"]
    assert tracker.received == ALL


def test_a_tracker_that_wants_to_end_the_process_ends_nothing(stage, narrator, install):
    install(Acting(lambda: raised(SystemExit("I quit"))))
    assert stage.flush() == []
    assert "I quit" in narrator.warned[0]


def test_many_senders_at_once_double_nothing(study, install, monkeypatch):
    monkeypatch.setattr(tracking, "EVENTS_PER_SAVE", 1)
    tracker = install(Acting(lambda: time.sleep(0.01)))
    senders = [Sender(study, SETTINGS, Listener()) for _ in range(5)]
    for stage in senders:
        stage.start()
    assert [stage.flush() for stage in senders] == [["5 events"]] * 5
    assert tracker.received == ALL


def _append_numbers(study_path, file, barrier):
    class FileTracker(ListTracker):
        def replay(self, events, state):
            for event in events:
                storage.append_lines(file, [str(event.number)])
                state["cursor"] = event.number

    tracking.entry_points = lambda group: [tracker_point(FileTracker())]
    tracking.EVENTS_PER_SAVE = 1
    barrier.wait()
    send_all(Study(study_path), SETTINGS, SilentNarrator())


@pytest.mark.e2e
def test_two_processes_on_one_study_double_nothing(study, journal, tmp_path):
    for step in range(30):
        journal.log_metrics("study", {"more": 1.0}, step)
    context = multiprocessing.get_context("fork")
    barrier, file = context.Barrier(2), tmp_path / "received.txt"
    processes = [context.Process(target=_append_numbers, args=(study.path, file, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert file.read_text().split() == [str(number) for number in range(1, 36)]


def test_patient_sending_reports_progress_and_raises_with_the_reason(study, narrator, install, monkeypatch):
    monkeypatch.setattr(tracking, "EVENTS_PER_SAVE", 2)
    install(ListTracker(fails_at=5))
    with pytest.raises(DiffaugError, match=r"1 events not sent to mlflow: http://host: connection refused") as caught:
        send_all(study, SETTINGS, narrator)
    assert caught.value.exit_code == 1 and caught.value.fix.endswith(f"diffaug sync '{study.path}'")
    assert narrator.progressed == [("sending to mlflow", 2, 5), ("sending to mlflow", 4, 5)]


def test_a_tracker_is_made_patient_by_hand_and_in_the_callers_thread_if_its_library_is_in_use(study, stage, install):
    patience, threads = [], []

    def make(study, settings, patient):
        patience.append(patient)
        threads.append(threading.current_thread())  # which an active run belongs to
        return ListTracker()

    install(Point(lambda: make, "json"), Point(lambda: make, "no_such_library"))
    assert len(stage.flush()) == 2
    assert (threading.main_thread() in threads, len(set(threads))) == (True, 2)
    send_all(study, SETTINGS, Listener())
    assert patience == [False, False, True, True]


@pytest.mark.parametrize(
    ("text", "public"),
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
def test_addresses_are_reported_without_their_secrets(text, public):
    assert without_secrets(text) == public


class SecretiveTracker(ListTracker):
    """Has an address with secrets, and reports them in every way."""

    address = f"http://{'user' * 30}:{'s3cret' * 9}@host?token=s3cret"

    def replay(self, events, state):
        state["skipped"] = [f"refused by {self.address}"]
        state["cursor"] = 1
        raise UsageError(f"can't reach {self.address} {'x' * 300}", fix=f"start {self.address}")

    def links(self, state):
        return {"tracking_uri": self.address, "url": None}


def test_no_secret_is_reported_or_kept(study, stage, narrator, install):
    install(SecretiveTracker())
    stage.flush()
    record = (study.path / "tracking" / "mlflow.json").read_text()
    for text in (record, *narrator.warned):
        assert "host" in text and "s3cret" not in text and "user" not in text
    assert logged_links(study)["mlflow"] == {"tracking_uri": "http://host", "url": None}
