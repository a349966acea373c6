from __future__ import annotations

import json
import warnings
from dataclasses import asdict

import pandas as pd
import pytest
from mlflow.data.pandas_dataset import from_pandas

from diffaug.files import storage
from diffaug.integrations.mlflow_events import EventLogger
from diffaug.tracking.journal import Event, Journal, read_events


class Inputs:
    """A client that keeps the data sets it is told of."""

    def __init__(self):
        self.logged = []

    def log_inputs(self, run_id, inputs):
        self.logged += [one.dataset for one in inputs]


@pytest.fixture
def table(tmp_path):
    frame = pd.DataFrame(
        {
            "file": ["0.png", "1.png"],
            "seed": [1, 2],
            "size": pd.array([1, None], "Int64"),
            "score": [0.5, None],
            "kept": [True, False],
            "nothing": [None, None],
        }
    )
    storage.write_parquet(tmp_path / "the pool.parquet", frame)
    return tmp_path / "the pool.parquet"


def logged(file, **data):
    client = Inputs()
    event = {"file": file.name, "name": "pool", "context": "synthetic", **data}
    EventLogger(client, file.parent).log("run", [Event(1, 1, "dataset", "study", event)])
    (dataset,) = client.logged
    return dataset


def test_a_data_set_is_described_as_mlflow_would(table):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = from_pandas(pd.read_parquet(table), source=table.as_uri(), name="pool", digest="d" * 36).to_dict()
    described = logged(table, digest="d" * 64)
    for name in ("name", "digest", "source_type", "source", "profile"):
        assert getattr(described, name) == expected[name]
    schema, wanted = (json.loads(text)["mlflow_colspec"] for text in (described.schema, expected["schema"]))
    assert schema == wanted


def test_nothing_is_warned_of_whatever_other_threads_do_to_the_filters(table, monkeypatch, recwarn):
    monkeypatch.setattr(warnings, "simplefilter", lambda *arguments, **options: None)  # undone by another thread
    logged(table, digest="d")
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize("nothing", [{}, {"digest": None}, {"digest": ""}])
def test_a_data_set_recorded_without_a_digest_has_that_of_its_file(table, nothing):
    assert logged(table, **nothing).digest == storage.sha256_file(table)[:36]


def test_a_journal_of_an_older_version_is_continued(table):
    path, data = table.parent / "journal.jsonl", {"file": table.name, "name": "pool", "context": "synthetic"}
    Journal(path).start_run("study", name="s")
    (start,) = read_events(path)[:1]
    storage.append_line(path, json.dumps(asdict(Event(2, start.time + 1, "dataset", "study", data))))
    Journal(path).log_dataset("study", table, "pool", "synthetic")
    client = Inputs()
    for event in read_events(path)[1:]:
        EventLogger(client, table.parent).log("run", [event])
    assert [dataset.digest for dataset in client.logged] == [storage.sha256_file(table)[:36]] * 2
