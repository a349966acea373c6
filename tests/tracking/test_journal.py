import io
import json
import math
from pathlib import Path

import pandas as pd
import pytest

from diffaug.errors import DamagedError
from diffaug.files import storage
from diffaug.study import Study
from diffaug.tracking import journal as journal_module
from diffaug.tracking.events import JournalReader, read_events
from diffaug.tracking.journal import Journal


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path / "study")


@pytest.fixture
def journal(study):
    return Journal(study.journal)


@pytest.fixture
def events(study):
    """Reads the events, after some that do not matter."""
    return lambda start=0: read_events(study.journal)[start:]


def test_events_are_numbered_strict_json_and_carry_what_was_logged(study, journal, events):
    name = "line\nbreak \udcff"
    journal.start_run("fit", name=name, parent="study", tags={"a": "b"}, params={"lr": 0.1})
    journal.log_metrics("fit", {"loss": 0.25, "bad": math.nan, "worse": -math.inf}, 3)
    journal.end_run("fit", "FAILED")
    start, params, metrics, end = events()
    assert [event.number for event in (start, params, metrics, end)] == [1, 2, 3, 4]
    assert start.data == {"name": name, "parent": "study", "tags": {"a": "b"}}
    assert params.data == {"params": {"lr": "0.1"}}
    assert metrics.data["step"] == 3 and metrics.data["metrics"]["loss"] == 0.25
    assert math.isnan(float(metrics.data["metrics"]["bad"])) and float(metrics.data["metrics"]["worse"]) == -math.inf
    assert end.data == {"status": "FAILED"}
    for line in study.journal.read_text().splitlines():
        json.loads(line, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))


def test_a_resumed_training_records_no_metric_or_image_twice(study, journal, events):
    journal.start_run("fit", name="fit")
    journal.log_metrics("fit", {"loss": 1.0}, 1)
    journal.log_image("fit", "samples", study.path / "1.png", 1)
    resumed = Journal(study.journal)
    resumed.start_run("fit", name="fit")
    resumed.log_metrics("fit", {"loss": 1.0, "lr": 0.1}, 1)
    resumed.log_image("fit", "samples", study.path / "1.png", 1)
    resumed.log_metrics("fit", {"loss": 0.9}, 2)
    events = events()
    assert [event.kind for event in events] == ["start", "metrics", "image", "metrics", "metrics"]
    assert events[3].data == {"metrics": {"lr": 0.1}, "step": 1}
    assert events[4].data == {"metrics": {"loss": 0.9}, "step": 2}


def test_a_param_or_result_is_recorded_again_only_when_it_changed(study, journal, events):
    journal.start_run("study", name="s", params={"seed": 0, "arms": 3})
    Journal(study.journal).log_params("study", {"seed": 1, "arms": 3})
    assert events()[-1].data == {"params": {"seed": "1"}}
    journal.log_metrics("study", {"gain": 0.1, "broken": math.nan})
    reopened = Journal(study.journal)
    reopened.log_metrics("study", {"gain": 0.1, "broken": math.nan})
    reopened.log_metrics("study", {"gain": 0.2, "broken": math.nan})
    reopened.log_metrics("study", {"gain": 0.1})
    data = [event.data["metrics"] for event in events(3)]
    assert data == [{"gain": 0.1, "broken": "nan"}, {"gain": 0.2}, {"gain": 0.1}]


def test_times_increase_even_when_the_clock_goes_back(study, journal, monkeypatch, events):
    journal.start_run("study", name="s")
    monkeypatch.setattr(journal_module.time, "time_ns", lambda: 10**15)
    journal.log_metrics("study", {"gain": 0.3})
    Journal(study.journal).log_metrics("study", {"gain": 0.1})
    times = [event.time for event in events()]
    assert times == sorted(set(times))


def test_an_open_run_is_continued_and_an_ended_one_begun_again(study, journal, events):
    assert journal.status("fit") is None
    journal.start_run("fit", name="fit", params={"lr": 1})
    journal.start_run("fit", name="fit", params={"lr": 1, "q": 2}, tags={"t": "1"})
    assert Journal(study.journal).status("fit") == "open"
    journal.end_run("fit")
    journal.end_run("fit")
    assert Journal(study.journal).status("fit") == "ended"
    journal.start_run("fit", name="fit")
    journal.log_metrics("fit", {"loss": 1.0}, 1)
    Journal(study.journal).log_metrics("fit", {"loss": 1.0}, 1)
    expected = ["start", "params", "tags", "params", "end", "start", "metrics"]
    assert [event.kind for event in events()] == expected


def test_runs_that_no_longer_stand_are_recorded_once(study, journal, events):
    for key in ("trial/a/0/1", "trial/a/0/2", "fit"):
        journal.start_run(key, name="a run")
    journal.supersede_runs("trial/", but={"trial/a/0/2"})
    Journal(study.journal).supersede_runs("trial/", but={"trial/a/0/2"})
    later = [(event.kind, event.key) for event in events(3)]
    assert later == [("end", "trial/a/0/1"), ("superseded", "trial/a/0/1")]


def test_what_is_logged_is_plain_json_with_paths_relative_to_the_study(study, journal, tmp_path, events):
    rows = [{"class": "a", "recall": 0.5}, {"class": "b", "recall": None}]
    journal.start_run("fit", name="fit")
    journal.log_artifact("fit", study.path / "pool" / "manifest.parquet", "pool")
    journal.log_artifact("fit", tmp_path / "elsewhere.txt")
    journal.log_table("fit", "per_class", rows)
    journal.log_table("fit", "per_class", pd.DataFrame(rows))
    journal.log_model("fit", study.generator, "generator", registered_name="digits", alias="latest")
    journal.log_confusion("fit", [[3, 1], [0, 2]], ("a", "b"))
    table = {"name": "per_class", "columns": ["class", "recall"], "data": [["a", 0.5], ["b", None]]}
    assert [event.data for event in events(1)] == [
        {"file": "pool/manifest.parquet", "folder": "pool"},
        {"file": str((tmp_path / "elsewhere.txt").resolve()), "folder": None},
        table,
        table,
        {"file": "generator", "name": "generator", "registered_name": "digits", "alias": "latest"},
        {"counts": [[3, 1], [0, 2]], "classes": ["a", "b"]},
    ]


@pytest.mark.parametrize("method", ["log_metrics", "log_params", "set_tags"])
def test_logging_to_a_run_that_was_not_started_is_refused(study, journal, method):
    with pytest.raises(ValueError, match="'fit' was not started"):
        getattr(journal, method)("fit", {"x": 1})
    assert not study.journal.exists()


def test_a_journal_cut_at_any_byte_keeps_its_whole_lines_and_goes_on(study, journal, events):
    journal.start_run("study", name="digits")
    journal.log_metrics("study", {"loss": 0.5}, 0)
    content = study.journal.read_bytes()
    for length in range(content.index(b"\n") + 1, len(content)):
        study.journal.write_bytes(content[:length])
        whole = content[:length].count(b"\n")
        assert len(events()) == whole
        Journal(study.journal).log_metrics("study", {"new": 1.0}, 9)
        assert [event.number for event in events()] == list(range(1, whole + 2))


def test_a_write_that_failed_half_way_does_not_spoil_the_next(journal, monkeypatch, events):
    journal.start_run("fit", name="fit")

    def disk_full(path, lines):
        with path.open("a") as file:
            file.write("\n".join(lines)[:20])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "append_lines", disk_full)
        with pytest.raises(OSError, match="No space"):
            journal.log_metrics("fit", {"loss": 1.0}, 1)
        with pytest.raises(OSError, match="No space"):
            journal.start_run("pool", name="pool", params={"seed": 1})
    assert journal.status("pool") is None
    journal.log_metrics("fit", {"loss": 1.0}, 1)
    assert [(event.number, event.kind) for event in events()] == [(1, "start"), (2, "metrics")]


def test_a_damaged_line_in_the_middle_is_an_error(study, journal):
    journal.start_run("study", name="digits")
    first = study.journal.read_text()
    study.journal.write_text(first + '{"number": 2\n' + first)
    with pytest.raises(DamagedError, match="not an event"):
        Journal(study.journal)


def test_a_data_set_is_recorded_once_a_run_with_the_digest_of_that_moment(study, journal, events):
    manifest = study.path / "catalog.parquet"
    storage.write_parquet(manifest, pd.DataFrame({"file": ["a"]}))
    journal.start_run("fit", name="fit")
    journal.start_run("study", name="s")
    for key in ("fit", "fit", "study"):
        Journal(study.journal).log_dataset(key, manifest, "digits", "training")
    before = storage.sha256_file(manifest)
    storage.write_parquet(manifest, pd.DataFrame({"file": ["b"]}))
    resumed = Journal(study.journal)
    resumed.log_dataset("fit", manifest, "digits", "training")
    resumed.log_dataset("fit", manifest, "digits", "test", digest="part")
    logged = [(event.key, event.data["context"], event.data["digest"]) for event in events(2)]
    after = storage.sha256_file(manifest)
    assert logged[:2] == [("fit", "training", before), ("study", "training", before)]
    assert logged[2:] == [("fit", "training", after), ("fit", "test", "part")]


def test_events_of_a_batch_reach_the_disk_together(journal, monkeypatch, events):
    writes = []
    append_lines = storage.append_lines
    monkeypatch.setattr(storage, "append_lines", lambda path, lines: writes.append(1) or append_lines(path, lines))
    journal.start_run("fit", name="fit", params={"lr": 1})
    with journal.batch():
        journal.log_metrics("fit", {"loss": 1.0}, 1)
        journal.log_metrics("fit", {"loss": 1.0}, 1)
        journal.end_run("fit")
    assert len(writes) == 2
    assert [event.number for event in events()] == [1, 2, 3, 4]
    assert [event.kind for event in events()] == ["start", "params", "metrics", "end"]


def test_what_others_wrote_is_read_before_the_next_event(study, journal, events):
    journal.start_run("study", name="s")
    other = Journal(study.journal)
    other.log_metrics("study", {"gain": 0.1})
    journal.log_metrics("study", {"gain": 0.1})
    journal.log_metrics("study", {"gain": 0.2})
    assert [event.number for event in events()] == [1, 2, 3, 4]


class CountedFile(io.FileIO):
    """Adds up the bytes read from all such files."""

    total = 0

    def read(self, size=-1):
        content = super().read(size)
        CountedFile.total += len(content)
        return content


def test_reading_a_growing_journal_is_linear(study, journal, monkeypatch):
    journal.start_run("fit", name="fit")
    first_line, reader = len(study.journal.read_bytes()), JournalReader(study.journal)
    events, real_open = [], Path.open
    monkeypatch.setattr(CountedFile, "total", 0)
    monkeypatch.setattr(Path, "open", lambda path, mode: (CountedFile if mode == "rb" else real_open)(path, mode))
    for step in range(200):
        journal.log_metrics("fit", {"loss": 1.0}, step)
        events += reader.read()
    size = study.journal.stat().st_size
    assert [event.number for event in events] == list(range(1, 202))
    twice, first_lines = 2 * size, 3 * 201 * first_line  # by journal and reader; each call compares the first line
    assert size < CountedFile.total <= twice + first_lines


@pytest.mark.parametrize("events", [1, 3, 9])
def test_a_journal_that_was_replaced_is_read_from_its_first_event(study, events):
    reader = JournalReader(study.journal)
    for name, count in (("first", 3), ("second", events)):
        journal = Journal(study.journal)
        journal.start_run("study", name=name)
        for step in range(count - 1):
            journal.log_metrics("study", {"loss": 0.5}, step)
        assert [event.number for event in reader.read()] == list(range(1, count + 1))
        assert (reader.count, reader.first.data["name"]) == (count, name)
        study.journal.unlink()
    assert reader.read() == []
