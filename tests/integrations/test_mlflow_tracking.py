import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import mlflow
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.utils.validation import _validate_metric_name, _validate_param_name, _validate_tag_name

from diffaug.configuration.settings import TrackingSettings
from diffaug.errors import DiffaugError
from diffaug.files import storage
from diffaug.integrations import mlflow_tracking
from diffaug.integrations.mlflow_limits import SHORT, clean_name, patience
from diffaug.tracking.delivery import logged_links
from diffaug.tracking.journal import Journal
from diffaug.tracking.sender import Sender, send_all
from tests.integrations.conftest import content, files_of, runs_of

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("_saved_once")]

RUN_WRITES = ("create_run", "log_batch", "log_artifact", "log_inputs", "set_tag", "set_terminated", "update_run")
MODEL_WRITES = ("create_logged_model", "log_model_artifacts", "finalize_logged_model", "log_outputs")
REGISTRY_WRITES = ("create_registered_model", "create_model_version", "set_registered_model_alias")
WRITES = (*RUN_WRITES, *MODEL_WRITES, *REGISTRY_WRITES)
HOSTILE = ["<script>", "a/b", "../x", "Käse", "猫", "a:b", "a b", "a_b", "", " ", ".", "x" * 400, "a\n", "50%"]


@pytest.fixture
def sync(study, narrator):
    """Ends a stage, and requires that it sent everything."""

    def end_stage(**settings) -> list[str]:
        sentences = Sender(study, TrackingSettings(**settings), narrator).flush()
        assert narrator.warned == []
        return sentences

    return end_stage


@pytest.fixture
def client(study) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{study.path}/mlflow.db")


def test_a_study_becomes_a_parent_run_with_children(study, tmp_path, journal, sync, client):
    journal.log_table("study", "per_class.json", [{"class": "cat", "recall": 0.75}])
    assert sync() == [f"MLflow: mlflow ui --backend-store-uri 'sqlite:///{study.path}/mlflow.db'"]
    stored = content(client)
    assert set(stored) == {"digits", "fit"}
    assert client.get_experiment_by_name("diffaug/my study") is not None
    assert stored["digits"]["status"] == "RUNNING" and stored["fit"]["status"] == "FINISHED"
    assert stored["fit"]["tags"]["mlflow.parentRunId"] == "digits"
    assert stored["digits"]["tags"]["mlflow.note.content"] == "**hi**"
    assert stored["digits"]["tags"]["diffaug.kind"] == "study"
    assert stored["digits"]["params"] == {"seed": "0"}
    assert (stored["digits"]["models"], stored["fit"]["models"]) == (1, 1)
    assert stored["fit"]["registered"] == [("digits' model", 1, {"champion": 1})]
    assert [(step, value) for step, value, _ in stored["fit"]["metrics"]["loss"]] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    digest = storage.sha256_file(study.path / "pool.parquet")[:36]
    assert stored["digits"]["datasets"] == [("pool", digest, "synthetic")]
    assert stored["digits"]["files"] == ["confusion_matrix.png", "per_class.json", "reports/report.html"]
    png, webp = sorted(stored["fit"]["files"], key=lambda file: file.endswith("webp"))
    assert png.startswith("images/samples~cat+step+2+") and webp.endswith("+compressed.webp")
    assert stored["fit"]["tags"]["mlflow.loggedImages"] == "True"
    run = runs_of(client)["digits"]
    links = {"run_id": run.info.run_id, "experiment_id": run.info.experiment_id, "url": None}
    assert logged_links(study)["mlflow"] == {**links, "tracking_uri": f"sqlite:///{study.path}/mlflow.db"}
    mlflow.set_tracking_uri(f"sqlite:///{study.path}/mlflow.db")
    table = client.load_table(run.info.experiment_id, "per_class.json", [run.info.run_id])
    assert table.to_dict("records") == [{"class": "cat", "recall": 0.75}]
    report = client.download_artifacts(run.info.run_id, "reports/report.html", str(tmp_path))
    assert Path(report).read_text() == "<p>report</p>"
    assert (study.path / "mlartifacts").is_dir()


def test_after_a_failure_at_any_call_nothing_is_doubled_or_lost(study, monkeypatch, narrator, journal, sync, client):
    """Fails before each call in turn with the state kept, then after each with the state lost as by a kill."""
    journal.start_run("fit", name="second fit", parent="study")
    sync()
    expected = content(client)
    calls = _failing(monkeypatch, fails=lambda call: False)
    _forget(study)
    sync()
    assert len(calls) >= 19 and {name for name, _ in calls} == set(WRITES)
    for after in (False, True):
        _forget(study)
        failed = set()
        with monkeypatch.context() as patch:
            _failing(patch, fails=lambda call, failed=failed: call not in failed and not failed.add(call), after=after)
            while True:
                if after:
                    (study.path / "tracking" / "mlflow.json").unlink(missing_ok=True)
                try:
                    send_all(study, TrackingSettings(), narrator)
                    break
                except DiffaugError as error:
                    assert "injected" in str(error) and len(failed) < 99  # more would be new calls each time
        assert len(failed) >= 19 and {name for name, _ in failed} == set(WRITES)
        assert narrator.warned == []
        assert content(client) == expected, after


def _forget(study):
    """As if nothing had ever been sent."""
    shutil.rmtree(study.path / "tracking", ignore_errors=True)
    shutil.rmtree(study.path / "mlartifacts", ignore_errors=True)
    _empty(study)


def _empty(study):
    """Empties the store in place, since MLflow keeps the file open."""
    with sqlite3.connect(study.path / "mlflow.db") as connection:
        tables = [row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")]
        for table in set(tables) - {"alembic_version", "workspaces", "sqlite_sequence", "experiments"}:
            connection.execute(f"delete from {table}")
        connection.execute("delete from experiments where experiment_id != 0")


def _failing(patch, fails, after=False):
    """Makes calls that write fail before or after they act, where `fails` holds; returns the list of all calls."""
    calls = []

    def counted(name, original):
        def call(self, *args, **kwargs):
            calls.append((name, repr([Path(arg).name if isinstance(arg, str) else arg for arg in args] + [kwargs])))
            is_due = fails(calls[-1])
            result = None if is_due and not after else original(self, *args, **kwargs)
            if is_due:
                raise ConnectionError("injected")
            return result

        return call

    for name in WRITES:
        patch.setattr(MlflowClient, name, counted(name, getattr(MlflowClient, name)))
    return calls


def test_later_events_go_to_the_same_runs_though_the_experiment_was_renamed(journal, sync, client):
    sync()
    client.rename_experiment(client.get_experiment_by_name("diffaug/my study").experiment_id, "wildlife")
    before = {name: run.info.run_id for name, run in runs_of(client).items()}
    journal.log_metrics("study", {"gain": 0.3})
    journal.log_metrics("study", {"gain": 0.1})
    journal.log_params("study", {"seed": 1})
    journal.end_run("study")
    sync()
    after = runs_of(client)
    assert {name: run.info.run_id for name, run in after.items()} == before
    assert after["digits"].data.metrics["gain"] == 0.1 and after["digits"].info.status == "FINISHED"
    assert after["digits"].data.params["seed"] == "0" and after["digits"].data.tags["changed.seed"] == "1"
    assert client.get_experiment_by_name("diffaug/my study") is None


def test_superseded_runs_are_marked_and_kept(journal, sync, client):
    for seed in (0, 1):
        journal.start_run(f"trial/a/{seed}/old", name=f"a, seed {seed}", parent="study")
        journal.log_metrics(f"trial/a/{seed}/old", {"accuracy": 0.5})
    journal.end_run("trial/a/1/old")
    sync()
    journal.start_run("fit", name="fit", parent="study")  # a second time
    journal.supersede_runs("trial/", but={"trial/a/1/old"})
    sync()
    journal.supersede_runs("trial/", but={"trial/a/1/old"})
    assert sync()
    stored = content(client)
    marked = {name: run["tags"]["diffaug.superseded"] for name, run in stored.items()}
    expected = {"superseded: fit": "true", "superseded: a, seed 0": "true"}
    assert marked == {"digits": "false", "fit": "false", "a, seed 1": "false", **expected}
    older = stored["superseded: a, seed 0"]
    assert older["status"] == "KILLED" and older["metrics"]["accuracy"][0][1] == 0.5
    assert (stored["fit"]["status"], stored["superseded: fit"]["status"]) == ("RUNNING", "FINISHED")


def test_class_names_may_be_anything(study, sync, client):
    journal = Journal(study.journal)
    journal.start_run("study", name="name \udcff", params=dict.fromkeys(HOSTILE, "v" * 7000))
    journal.log_metrics("study", {f"recall/{name}": number for number, name in enumerate(HOSTILE)})
    journal.set_tags("study", dict.fromkeys(HOSTILE, "t" * 9000))
    storage.write_bytes(study.path / "a.png", storage.png_bytes(np.zeros((4, 4), np.uint8)))
    for name in HOSTILE:
        journal.log_image("study", f"samples/{name}", study.path / "a.png")
        journal.log_table("study", name, [{"a": 1}])
    sync()
    (run,) = runs_of(client).values()
    assert sorted(run.data.metrics.values()) == list(range(len(HOSTILE)))
    assert run.data.metrics["recall/猫"] == HOSTILE.index("猫")
    assert len(run.data.params) == len(HOSTILE)
    endings = [Path(file).suffix for file in files_of(client, run.info.run_id)]
    assert endings.count(".png") == endings.count(".json") == len(HOSTILE)


@given(st.text())
@example("..")
@example("a//b")
@example("a\n")
@example("/")
def test_clean_names_are_accepted_and_stay_themselves(name):
    cleaned = clean_name(name)
    _validate_metric_name(cleaned)
    _validate_param_name(cleaned)
    _validate_tag_name(cleaned)
    assert len(cleaned) <= 250
    assert clean_name(cleaned) == cleaned


@given(st.lists(st.text(alphabet="aA/_.<: é\n", max_size=4), unique=True, max_size=30), st.booleans())
def test_clean_names_do_not_collide(names, ascii_only):
    assert len({clean_name(name, ascii_only=ascii_only) for name in names}) == len(names)


def test_metrics_take_few_requests_and_may_be_more_than_one_takes(study, monkeypatch, sync, client):
    journal = Journal(study.journal)
    journal.start_run("study", name="s")
    for step in range(150):
        journal.log_metrics("study", {"loss": 0.1}, step)
    calls = _failing(monkeypatch, fails=lambda call: False)
    sync()
    assert [name for name, _ in calls] == ["create_run", "log_batch"]
    journal.log_metrics("study", {f"m{number}": number for number in range(2100)})
    sync()
    assert len(runs_of(client)["s"].data.metrics) == 2101


def test_a_missing_file_and_a_deleted_run_are_left_out_with_a_warning(study, narrator, journal, client):
    stage = Sender(study, TrackingSettings(), narrator)
    (study.path / "grid.png").unlink()
    assert len(stage.flush()) == 1
    (warning,) = narrator.warned
    assert "grid.png" in warning and "(1)" in warning
    assert "reports/report.html" in content(client)["digits"]["files"]
    client.delete_run(runs_of(client)["fit"].info.run_id)
    journal.log_metrics("fit", {"late": 1.0})
    journal.log_metrics("study", {"gain": 0.1})
    stage.flush()
    assert "fit" in narrator.warned[1]
    assert runs_of(client)["digits"].data.metrics == {"gain": 0.1}


def test_another_or_empty_store_is_sent_everything(study, tmp_path, empty_store, monkeypatch, journal, sync, client):
    sync()
    expected = content(client)
    _empty(study)
    sync()
    assert content(client) == expected
    sync(experiment="second")
    assert set(runs_of(client, "diffaug/my study")) == set(runs_of(client, "second")) == set(expected)
    shutil.copy(empty_store, tmp_path / "team.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/team.db")
    sync(experiment="team")
    team = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/team.db")
    assert content(team) == content(team, "team") == expected


@pytest.mark.parametrize("uri", ["databricks", "databricks-uc", "uc", "databricks://team"])
def test_the_name_of_a_service_is_not_taken_for_a_folder(study, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert not mlflow_tracking.MlflowTracker(study, TrackingSettings()).is_local


def old_store(folder: Path) -> Path:
    """What MLflow wrote to ./mlruns before it took to databases."""
    storage.write_text(folder / "0" / "meta.yaml", "artifact_location: x\nexperiment_id: '0'\nname: Default\n")
    return folder


def test_an_old_mlruns_folder_in_the_working_directory_is_no_trap_and_is_explained(tmp_path, journal, sync, client):
    old_store(tmp_path / "mlruns")
    (sentence,) = sync()
    assert set(runs_of(client)) == {"digits", "fit"}
    assert {path.name for path in tmp_path.iterdir()} == {"mlruns", "my study"}
    assert f"mlflow migrate-filestore --source {tmp_path}/mlruns --target sqlite:///{tmp_path}/mlflow.db" in sentence


@pytest.mark.parametrize("as_uri", [True, False])
def test_a_store_that_mlflow_refuses_is_explained(study, tmp_path, monkeypatch, as_uri, narrator, journal):
    folder = old_store(tmp_path / "old runs")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", folder.as_uri() if as_uri else "old runs")
    assert Sender(study, TrackingSettings(), narrator).flush() == []
    command = f"mlflow migrate-filestore --source '{folder}' --target sqlite:///{tmp_path}/mlflow.db"
    assert f"; {command} && export MLFLOW_TRACKING_URI=sqlite:///{tmp_path}/mlflow.db" in narrator.warned[0]


def test_an_active_run_becomes_the_parent_and_stays_active(study, tmp_path, empty_store, journal, sync):
    shutil.copy(empty_store, tmp_path / "mine.db")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mine.db")
    mlflow.set_experiment("mine")
    with mlflow.start_run(run_name="outer") as outer:
        sync()
        assert mlflow.active_run().info.run_id == outer.info.run_id
        runs = runs_of(MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mine.db"))
        assert runs["digits"].data.tags["mlflow.parentRunId"] == outer.info.run_id
        assert runs["digits"].info.experiment_id == outer.info.experiment_id
        assert runs["outer"].info.status == "RUNNING" and runs["outer"].data.metrics == {}
    assert mlflow.get_tracking_uri() == f"sqlite:///{tmp_path}/mine.db"
    assert not (study.path / "mlartifacts").exists()


def test_the_users_patience_is_respected_and_that_of_several_threads_ends_with_the_last(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    entered, leave = threading.Event(), threading.Event()

    def other():
        with patience(SHORT):
            entered.set()
            assert leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    assert entered.wait(10)
    with patience(SHORT):
        pass
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"
    leave.set()
    thread.join()
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert not set(SHORT) - {"MLFLOW_HTTP_REQUEST_TIMEOUT"} & set(os.environ)


@pytest.mark.parametrize(
    ("uri", "store", "where"),
    [
        ("https://me:secret@ml.example:5000/", "https://ml.example:5000", "https://ml.example:5000/#/experiments/3"),
        ("https://host/ml/?token=secret", "https://host/ml", "https://host/ml/#/experiments/3"),
        ("postgresql://u:p@h/db?password=x", "postgresql://h/db", "experiment 'e' in the store of MLFLOW_TRACKING_URI"),
        ("sqlite:////a/b.db?x=9", "sqlite:////a/b.db", "mlflow ui --backend-store-uri sqlite:////a/b.db"),
    ],
)
def test_an_address_is_given_without_its_secrets(study, monkeypatch, uri, store, where):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    tracker = mlflow_tracking.MlflowTracker(study, TrackingSettings())
    state = {"experiment_id": "3", "experiment": "e", "runs": {}}
    page = where if uri.startswith("http") else None
    links = {"run_id": None, "experiment_id": "3", "tracking_uri": store, "url": page}
    assert tracker.links(state) == links
    assert tracker.describe(state) == f"MLflow: {where}"
    state["runs"]["study"] = "abc"
    assert tracker.links(state) == {**links, "run_id": "abc", "url": page and f"{page}/runs/abc"}
    assert tracker.is_local == uri.startswith("sqlite")


def test_without_mlflow_the_import_says_what_to_install():
    code = "import sys; sys.modules['mlflow'] = None; import diffaug.integrations.mlflow_tracking"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtraError" in result.stderr and "pip install 'diffaug[mlflow]'" in result.stderr
