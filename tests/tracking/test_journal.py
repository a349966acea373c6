from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from diffaug.errors import DamagedError
from diffaug.files import storage
from diffaug.study import Study
from diffaug.tracking import journal as journal_module
from diffaug.tracking.journal import Journal, read_events


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path / "study")


@pytest.fixture
def journal(study):
    return Journal(study.journal)


def kinds(path: Path) -> list[str]:
    return [event.kind for event in read_events(path)]


def test_events_are_numbered_and_carry_what_was_logged(study, journal):
    journal.start_run("fit", name="fit", parent="study", tags={"a": "b"}, params={"lr": 0.1}, description="text")
    journal.log_metrics("fit", {"loss": 0.25, "bad": math.nan, "worse": -math.inf}, 3)
    journal.end_run("fit", "FAILED")
    start, params, metrics, end = read_events(study.journal)
    assert [event.number for event in (start, params, metrics, end)] == [1, 2, 3, 4]
    assert start.data == {"name": "fit", "parent": "study", "tags": {"a": "b"}, "description": "text"}
    assert params.data == {"params": {"lr": "0.1"}}
    assert metrics.data["step"] == 3 and metrics.data["metrics"]["loss"] == 0.25
    assert math.isnan(float(metrics.data["metrics"]["bad"])) and float(metrics.data["metrics"]["worse"]) == -math.inf
    assert end.data == {"status": "FAILED"}


def test_every_line_is_strict_json(study, journal):
    journal.start_run("fit", name="line\nbreak \udcff")
    journal.log_metrics("fit", {"x": math.nan})
    for line in study.journal.read_text().splitlines():
        json.loads(line, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))


def test_a_resumed_training_records_no_metric_or_image_twice(study, journal):
    journal.start_run("fit", name="fit")
    journal.log_metrics("fit", {"loss": 1.0}, 1)
    journal.log_image("fit", "samples", study.path / "1.png", 1)
    resumed = Journal(study.journal)
    resumed.start_run("fit", name="fit")
    resumed.log_metrics("fit", {"loss": 1.0, "lr": 0.1}, 1)
    resumed.log_image("fit", "samples", study.path / "1.png", 1)
    resumed.log_metrics("fit", {"loss": 0.9}, 2)
    events = read_events(study.journal)
    assert [event.kind for event in events] == ["start", "metrics", "image", "metrics", "metrics"]
    assert events[3].data == {"metrics": {"lr": 0.1}, "step": 1}
    assert events[4].data == {"metrics": {"loss": 0.9}, "step": 2}


def test_a_result_is_recorded_again_only_when_it_changed(study, journal):
    journal.start_run("study", name="s")
    journal.log_metrics("study", {"gain": 0.1, "broken": math.nan})
    reopened = Journal(study.journal)
    reopened.log_metrics("study", {"gain": 0.1, "broken": math.nan})
    reopened.log_metrics("study", {"gain": 0.2, "broken": math.nan})
    reopened.log_metrics("study", {"gain": 0.1})
    events = [event.data["metrics"] for event in read_events(study.journal)[1:]]
    assert events == [{"gain": 0.1, "broken": "nan"}, {"gain": 0.2}, {"gain": 0.1}]


def test_times_increase_even_when_the_clock_goes_back(study, journal, monkeypatch):
    journal.start_run("study", name="s")
    monkeypatch.setattr(journal_module.time, "time_ns", lambda: 10**15)
    journal.log_metrics("study", {"gain": 0.3})
    Journal(study.journal).log_metrics("study", {"gain": 0.1})
    times = [event.time for event in read_events(study.journal)]
    assert times == sorted(set(times))


def test_the_status_of_a_run_is_known_after_reopening(study, journal):
    assert journal.status("fit") is None
    journal.start_run("fit", name="fit")
    assert Journal(study.journal).status("fit") == "open"
    journal.end_run("fit")
    assert Journal(study.journal).status("fit") == "ended"


def test_an_open_run_is_continued_and_an_ended_one_begun_again(study, journal):
    journal.start_run("fit", name="fit", params={"lr": 1})
    journal.start_run("fit", name="fit", params={"lr": 1, "q": 2}, tags={"t": "1"}, description="d")
    assert kinds(study.journal) == ["start", "params", "tags", "description", "params"]
    journal.end_run("fit")
    journal.end_run("fit")
    journal.start_run("fit", name="fit")
    journal.log_metrics("fit", {"loss": 1.0}, 1)
    assert kinds(study.journal)[5:] == ["end", "start", "metrics"]
    Journal(study.journal).log_metrics("fit", {"loss": 1.0}, 1)
    assert len(read_events(study.journal)) == 8


def test_params_are_recorded_again_only_when_they_change(study, journal):
    journal.start_run("study", name="s", params={"seed": 0, "arms": 3})
    Journal(study.journal).log_params("study", {"seed": 1, "arms": 3})
    assert read_events(study.journal)[-1].data == {"params": {"seed": "1"}}


def test_runs_that_no_longer_stand_are_recorded_once(study, journal):
    for key in ("trial/a/0/1", "trial/a/0/2", "fit"):
        journal.start_run(key, name="a run")
    journal.supersede_runs("trial/", but={"trial/a/0/2"})
    Journal(study.journal).supersede_runs("trial/", but={"trial/a/0/2"})
    later = [(event.kind, event.key) for event in read_events(study.journal)[3:]]
    assert later == [("end", "trial/a/0/1"), ("superseded", "trial/a/0/1")]


def test_files_inside_the_study_are_relative_so_that_it_can_be_moved(study, journal, tmp_path):
    journal.start_run("study", name="s")
    journal.log_artifact("study", study.path / "pool" / "manifest.parquet", "pool")
    journal.log_artifact("study", tmp_path / "elsewhere.txt")
    inside, outside = (event.data for event in read_events(study.journal)[1:])
    assert inside == {"file": "pool/manifest.parquet", "folder": "pool"}
    assert outside["file"] == str((tmp_path / "elsewhere.txt").resolve())


def test_tables_may_be_rows_or_a_data_frame(study, journal):
    rows = [{"class": "a", "recall": 0.5}, {"class": "b", "recall": None}]
    journal.start_run("study", name="s")
    journal.log_table("study", "per_class", rows)
    journal.log_table("study", "per_class", pd.DataFrame(rows))
    expected = {"name": "per_class", "columns": ["class", "recall"], "data": [["a", 0.5], ["b", None]]}
    assert [event.data for event in read_events(study.journal)[1:]] == [expected, expected]


@pytest.mark.parametrize("method", ["log_metrics", "log_params", "set_tags"])
def test_logging_to_a_run_that_was_not_started_is_refused(study, journal, method):
    with pytest.raises(ValueError, match="'fit' was not started"):
        getattr(journal, method)("fit", {"x": 1})
    assert not study.journal.exists()


def test_a_journal_cut_at_any_byte_keeps_its_whole_lines_and_goes_on(study, journal):
    journal.start_run("study", name="digits")
    journal.log_metrics("study", {"loss": 0.5}, 0)
    content = study.journal.read_bytes()
    for length in range(content.index(b"\n") + 1, len(content)):
        study.journal.write_bytes(content[:length])
        whole = content[:length].count(b"\n")
        assert len(read_events(study.journal)) == whole
        Journal(study.journal).log_metrics("study", {"new": 1.0}, 9)
        assert [event.number for event in read_events(study.journal)] == list(range(1, whole + 2))


def test_a_write_that_failed_half_way_does_not_spoil_the_next(study, journal, monkeypatch):
    journal.start_run("fit", name="fit")

    def disk_full(path, line):
        with path.open("a") as file:
            file.write(line[:20])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "append_line", disk_full)
        with pytest.raises(OSError, match="No space"):
            journal.log_metrics("fit", {"loss": 1.0}, 1)
    journal.log_metrics("fit", {"loss": 1.0}, 1)
    assert kinds(study.journal) == ["start", "metrics"]


def test_a_damaged_line_in_the_middle_is_an_error(study):
    journal = Journal(study.journal)
    journal.start_run("study", name="digits")
    for step in range(4):
        journal.log_metrics("study", {"loss": 0.5}, step)
    lines = study.journal.read_bytes().split(b"\n")
    study.journal.write_bytes(b"\n".join([lines[0], b'{"number": 2', *lines[2:]]))
    with pytest.raises(DamagedError, match="not an event"):
        Journal(study.journal)


def test_a_data_set_is_recorded_once_a_run_with_the_digest_of_that_moment(study, journal):
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
    logged = [(event.key, event.data["context"], event.data["digest"]) for event in read_events(study.journal)[2:]]
    after = storage.sha256_file(manifest)
    assert logged == [
        ("fit", "training", before),
        ("study", "training", before),
        ("fit", "training", after),
        ("fit", "test", "part"),
    ]


def test_a_model_and_a_confusion_matrix_are_plain_json(study, journal):
    journal.start_run("fit", name="fit")
    journal.log_model("fit", study.generator, "generator", registered_name="digits", alias="latest")
    journal.log_confusion("fit", [[3, 1], [0, 2]], ("a", "b"))
    model, confusion = (event.data for event in read_events(study.journal)[1:])
    assert model == {"file": "generator", "name": "generator", "registered_name": "digits", "alias": "latest"}
    assert confusion == {"counts": [[3, 1], [0, 2]], "classes": ["a", "b"]}
