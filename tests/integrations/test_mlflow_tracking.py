from __future__ import annotations

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
from diffaug.integrations import mlflow_generator, mlflow_tracking
from diffaug.integrations.mlflow_limits import SHORT, clean_name, patience
from diffaug.runtime.console import SilentNarrator
from diffaug.study import Study
from diffaug.tracking.channel import logged_links
from diffaug.tracking.journal import Journal
from diffaug.tracking.sender import Sender, send_all

WRITES = (
    "create_run",
    "log_batch",
    "log_artifact",
    "log_inputs",
    "set_tag",
    "set_terminated",
    "update_run",
    "create_logged_model",
    "log_model_artifacts",
    "finalize_logged_model",
    "log_outputs",
    "create_registered_model",
    "create_model_version",
    "set_registered_model_alias",
)
HOSTILE = ["<script>", "a/b", "../x", "Käse", "猫", "a:b", "a b", "a_b", "", " ", ".", "x" * 400, "a\n", "50%"]


def sync(study, settings, narrator):
    return Sender(study, settings, narrator).flush()


def client_of(study: Study) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{study.path}/mlflow.db")


def files_of(client: MlflowClient, run_id: str, folder: str = "") -> list[str]:
    found = []
    for entry in client.list_artifacts(run_id, folder or None):
        found += files_of(client, run_id, entry.path) if entry.is_dir else [entry.path]
    return sorted(found)


def runs_of(client: MlflowClient) -> dict[str, mlflow.entities.Run]:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments)
    names = [run.info.run_name for run in runs]
    assert len(names) == len(set(names)), f"doubled runs: {names}"
    return dict(zip(names, runs, strict=True))


def content(client: MlflowClient) -> dict:
    """All that the store holds, without the ids that it draws itself."""
    runs = runs_of(client)
    aliases = {model.name: model.aliases for model in client.search_registered_models()}
    versions = client.search_model_versions()
    names = {run.info.run_id: name for name, run in runs.items()}
    return {
        name: {
            "status": run.info.status,
            "params": run.data.params,
            "tags": {tag: names.get(value, value) for tag, value in run.data.tags.items()},
            "metrics": {
                key: [(point.step, point.value, point.timestamp) for point in client.get_metric_history(run_id, key)]
                for key in run.data.metrics
            },
            "files": files_of(client, run_id),
            "models": len(run.outputs.model_outputs),
            "registered": [(made.name, made.version, aliases[made.name]) for made in versions if made.run_id == run_id],
            "datasets": [
                (use.dataset.name, use.dataset.digest, use.tags[0].value) for use in run.inputs.dataset_inputs
            ],
        }
        for name, run in runs.items()
        for run_id in [run.info.run_id]
    }


def test_a_study_becomes_a_parent_run_with_children(study, narrator, record):
    record(study)
    sentences = sync(study, TrackingSettings(), narrator)
    assert narrator.warned == []
    assert sentences == [f"MLflow: mlflow ui --backend-store-uri 'sqlite:///{study.path}/mlflow.db'"]
    client = client_of(study)
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
    assert stored["digits"]["datasets"] == [
        ("pool", storage.sha256_file(study.path / "pool.parquet")[:36], "synthetic")
    ]
    assert stored["digits"]["files"] == ["confusion_matrix.png", "per_class.json", "reports/report.html"]
    png, webp = sorted(stored["fit"]["files"], key=lambda file: file.endswith("webp"))
    assert png.startswith("images/samples~cat+step+2+") and webp.endswith("+compressed.webp")
    assert stored["fit"]["tags"]["mlflow.loggedImages"] == "True"


def test_tables_and_artifacts_read_back(study, tmp_path, narrator, record):
    journal = record(study)
    journal.log_table("study", "per_class.json", [{"class": "cat", "recall": 0.75}])
    sync(study, TrackingSettings(), SilentNarrator())
    client = client_of(study)
    run = runs_of(client)["digits"]
    mlflow.set_tracking_uri(f"sqlite:///{study.path}/mlflow.db")
    table = client.load_table(run.info.experiment_id, "per_class.json", [run.info.run_id])
    assert table.to_dict("records") == [{"class": "cat", "recall": 0.75}]
    report = client.download_artifacts(run.info.run_id, "reports/report.html", str(tmp_path))
    assert Path(report).read_text() == "<p>report</p>"
    assert (study.path / "mlartifacts").is_dir()


def test_after_a_failure_at_any_call_nothing_is_doubled_or_lost(
    study, monkeypatch, tmp_path, tiny_generator, narrator, record
):
    """Fails before call n with the state kept, then after call n with the state lost as by a kill."""
    saved = tmp_path / "saved model"
    mlflow_generator.save_generator(tiny_generator, saved)
    monkeypatch.setattr(mlflow_generator, "save_generator", lambda folder, target, _: shutil.copytree(saved, target))
    record(study).start_run("fit", name="second fit", parent="study")
    sync(study, TrackingSettings(), SilentNarrator())
    expected = content(client_of(study))
    calls = _failing(monkeypatch, at=None, after=False)
    _forget(study)
    sync(study, TrackingSettings(), SilentNarrator())
    total = len(calls)
    assert total >= 19 and set(calls) == set(WRITES)
    for number in range(total):
        for after in (False, True):
            _forget(study)
            with monkeypatch.context() as patch:
                _failing(patch, at=number, after=after)
                with pytest.raises(DiffaugError, match="injected"):
                    send_all(study, TrackingSettings(), narrator)
            if after:
                (study.path / "tracking" / "mlflow.json").unlink()
            send_all(study, TrackingSettings(), narrator)
            assert narrator.warned == []
            assert content(client_of(study)) == expected, (number, calls[number], after)


def _forget(study):
    """As if nothing had ever been sent."""
    shutil.rmtree(study.path / "tracking", ignore_errors=True)
    shutil.rmtree(study.path / "mlartifacts", ignore_errors=True)
    _empty(study)


KEPT_TABLES = ("alembic_version", "workspaces", "sqlite_sequence", "experiments")


def _empty(study):
    """Empties the store in place, since MLflow keeps the file open."""
    with sqlite3.connect(study.path / "mlflow.db") as connection:
        tables = [row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")]
        for table in set(tables) - set(KEPT_TABLES):
            connection.execute(f"delete from {table}")
        connection.execute("delete from experiments where experiment_id != 0")


def _failing(patch, at, after):
    calls = []
    for name in WRITES:
        original = getattr(MlflowClient, name)

        def counted(self, *args, _name=name, _original=original, **kwargs):
            calls.append(_name)
            fails = len(calls) - 1 == at
            if fails and not after:
                raise ConnectionError("injected")
            result = _original(self, *args, **kwargs)
            if fails:
                raise ConnectionError("injected")
            return result

        patch.setattr(MlflowClient, name, counted)
    return calls


def test_later_events_go_to_the_same_runs(study, narrator, record):
    journal = record(study)
    sync(study, TrackingSettings(), SilentNarrator())
    before = {name: run.info.run_id for name, run in runs_of(client_of(study)).items()}
    journal.log_metrics("study", {"gain": 0.3})
    journal.log_metrics("study", {"gain": 0.1})
    journal.end_run("study")
    sync(study, TrackingSettings(), SilentNarrator())
    after = runs_of(client_of(study))
    assert {name: run.info.run_id for name, run in after.items()} == before
    assert after["digits"].data.metrics["gain"] == 0.1 and after["digits"].info.status == "FINISHED"


def test_superseded_runs_are_marked_and_kept(study, narrator, record):
    journal = record(study)
    for seed in (0, 1):
        journal.start_run(f"trial/a/{seed}/old", name=f"a, seed {seed}", parent="study")
        journal.log_metrics(f"trial/a/{seed}/old", {"accuracy": 0.5})
    journal.end_run("trial/a/1/old")
    sync(study, TrackingSettings(), narrator)
    journal.start_run("fit", name="fit", parent="study")  # a second time
    journal.supersede_runs("trial/", but={"trial/a/1/old"})
    sync(study, TrackingSettings(), narrator)
    journal.supersede_runs("trial/", but={"trial/a/1/old"})
    assert sync(study, TrackingSettings(), narrator) and narrator.warned == []
    stored = content(client_of(study))
    marked = {name: run["tags"]["diffaug.superseded"] for name, run in stored.items()}
    assert marked == {
        "digits": "false",
        "fit": "false",
        "superseded: fit": "true",
        "superseded: a, seed 0": "true",
        "a, seed 1": "false",
    }
    older = stored["superseded: a, seed 0"]
    assert older["status"] == "KILLED" and older["metrics"]["accuracy"][0][1] == 0.5
    assert (stored["fit"]["status"], stored["superseded: fit"]["status"]) == ("RUNNING", "FINISHED")


def test_class_names_may_be_anything(study, narrator):
    journal = Journal(study.journal)
    journal.start_run("study", name="name \udcff", params=dict.fromkeys(HOSTILE, "v" * 7000))
    journal.log_metrics("study", {f"recall/{name}": number for number, name in enumerate(HOSTILE)})
    journal.set_tags("study", dict.fromkeys(HOSTILE, "t" * 9000))
    storage.write_bytes(study.path / "a.png", storage.png_bytes(np.zeros((4, 4), np.uint8)))
    for name in HOSTILE:
        journal.log_image("study", f"samples/{name}", study.path / "a.png")
        journal.log_table("study", name, [{"a": 1}])
    sync(study, TrackingSettings(), narrator)
    assert narrator.warned == []
    (run,) = runs_of(client_of(study)).values()
    assert sorted(run.data.metrics.values()) == list(range(len(HOSTILE)))
    assert run.data.metrics["recall/猫"] == HOSTILE.index("猫")
    assert len(run.data.params) == len(HOSTILE)
    files = files_of(client_of(study), run.info.run_id)
    assert len([file for file in files if file.endswith(".png")]) == len(HOSTILE)
    assert len([file for file in files if file.endswith(".json")]) == len(HOSTILE)


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


def test_a_changed_parameter_keeps_the_first_value_and_gets_a_tag(study, narrator, record):
    journal = record(study)
    sync(study, TrackingSettings(), SilentNarrator())
    journal.log_params("study", {"seed": 1})
    sync(study, TrackingSettings(), narrator)
    run = runs_of(client_of(study))["digits"]
    assert narrator.warned == []
    assert run.data.params["seed"] == "0" and run.data.tags["changed.seed"] == "1"


def test_more_metrics_than_a_batch_takes(study, narrator):
    journal = Journal(study.journal)
    journal.start_run("study", name="s")
    journal.log_metrics("study", {f"m{number}": number for number in range(2100)})
    sync(study, TrackingSettings(), narrator)
    assert narrator.warned == []
    assert len(runs_of(client_of(study))["s"].data.metrics) == 2100


def test_metrics_of_many_steps_take_few_requests(study, monkeypatch, narrator):
    journal = Journal(study.journal)
    journal.start_run("study", name="s")
    for step in range(150):
        journal.log_metrics("study", {"loss": 0.1}, step)
    calls = _failing(monkeypatch, at=None, after=False)
    sync(study, TrackingSettings(), SilentNarrator())
    assert calls == ["create_run", "log_batch"]


def test_a_file_that_is_gone_is_left_out_with_a_warning(study, narrator, record):
    record(study)
    (study.path / "grid.png").unlink()
    assert len(sync(study, TrackingSettings(), narrator)) == 1
    (warning,) = narrator.warned
    assert "grid.png" in warning and "(1)" in warning
    assert "reports/report.html" in content(client_of(study))["digits"]["files"]


def test_a_run_deleted_in_mlflow_blocks_nothing(study, narrator, record):
    journal = record(study)
    sync(study, TrackingSettings(), SilentNarrator())
    client_of(study).delete_run(runs_of(client_of(study))["fit"].info.run_id)
    journal.log_metrics("fit", {"late": 1.0})
    journal.log_metrics("study", {"gain": 0.1})
    sync(study, TrackingSettings(), narrator)
    assert "fit" in narrator.warned[0]
    assert runs_of(client_of(study))["digits"].data.metrics == {"gain": 0.1}


def test_another_destination_is_sent_everything(study, tmp_path, empty_store, monkeypatch, narrator, record):
    record(study)
    sync(study, TrackingSettings(), SilentNarrator())
    expected = content(client_of(study))
    shutil.copy(empty_store, tmp_path / "team.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/team.db")
    sync(study, TrackingSettings(experiment="team"), narrator)
    assert narrator.warned == []
    team = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/team.db")
    assert content(team) == expected
    assert team.get_experiment_by_name("team") is not None
    assert team.get_experiment_by_name("diffaug/my study") is None


def test_a_store_that_was_emptied_or_another_experiment_is_sent_everything(study, narrator, record):
    record(study)
    sync(study, TrackingSettings(), SilentNarrator())
    expected = content(client_of(study))
    _empty(study)
    sync(study, TrackingSettings(), SilentNarrator())
    assert content(client_of(study)) == expected
    sync(study, TrackingSettings(experiment="second"), SilentNarrator())
    client = client_of(study)
    for name in ("diffaug/my study", "second"):
        assert len(client.search_runs([client.get_experiment_by_name(name).experiment_id])) == 2


def test_an_experiment_renamed_in_mlflow_goes_on_unless_a_name_was_set(study, narrator, record):
    journal = record(study)
    sync(study, TrackingSettings(), SilentNarrator())
    client = client_of(study)
    made = client.get_experiment_by_name("diffaug/my study")
    client.rename_experiment(made.experiment_id, "wildlife")
    journal.log_metrics("study", {"late": 1.0})
    sync(study, TrackingSettings(), narrator)
    assert narrator.warned == []
    assert runs_of(client)["digits"].data.metrics["late"] == 1.0
    assert client.get_experiment_by_name("diffaug/my study") is None


@pytest.mark.parametrize("uri", ["databricks", "databricks-uc", "uc", "databricks://team"])
def test_the_name_of_a_service_is_not_taken_for_a_folder(study, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert not mlflow_tracking.MlflowTracker(study, TrackingSettings()).is_local


def old_store(folder: Path) -> Path:
    """What MLflow wrote to ./mlruns before it took to databases."""
    storage.write_text(folder / "0" / "meta.yaml", "artifact_location: x\nexperiment_id: '0'\nname: Default\n")
    return folder


def test_an_old_mlruns_folder_in_the_working_directory_is_no_trap_and_is_explained(study, tmp_path, narrator, record):
    old_store(tmp_path / "mlruns")
    record(study)
    (sentence,) = sync(study, TrackingSettings(), narrator)
    assert narrator.warned == []
    assert set(runs_of(client_of(study))) == {"digits", "fit"}
    assert {path.name for path in tmp_path.iterdir()} == {"mlruns", "my study"}
    assert f"mlflow migrate-filestore --source {tmp_path}/mlruns --target sqlite:///{tmp_path}/mlflow.db" in sentence


@pytest.mark.parametrize("as_uri", [True, False])
def test_a_store_that_mlflow_refuses_is_explained_with_the_command_that_moves_it(
    study, tmp_path, monkeypatch, as_uri, narrator, record
):
    folder = old_store(tmp_path / "old runs")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", folder.as_uri() if as_uri else "old runs")
    record(study)
    assert sync(study, TrackingSettings(), narrator) == []
    command = f"mlflow migrate-filestore --source '{folder}' --target sqlite:///{tmp_path}/mlflow.db"
    assert f"; {command} && export MLFLOW_TRACKING_URI=sqlite:///{tmp_path}/mlflow.db" in narrator.warned[0]


def test_an_active_run_becomes_the_parent_and_stays_active(study, tmp_path, empty_store, narrator, record):
    shutil.copy(empty_store, tmp_path / "mine.db")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mine.db")
    mlflow.set_experiment("mine")
    record(study)
    with mlflow.start_run(run_name="outer") as outer:
        sync(study, TrackingSettings(), narrator)
        assert narrator.warned == []
        assert mlflow.active_run().info.run_id == outer.info.run_id
        runs = runs_of(MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mine.db"))
        assert runs["digits"].data.tags["mlflow.parentRunId"] == outer.info.run_id
        assert runs["digits"].info.experiment_id == outer.info.experiment_id
        assert runs["outer"].info.status == "RUNNING" and runs["outer"].data.metrics == {}
    assert mlflow.get_tracking_uri() == f"sqlite:///{tmp_path}/mine.db"
    assert not (study.path / "mlartifacts").exists()


def test_a_moved_study_is_told_rather_than_written_to_the_old_place(study, tmp_path, narrator, record):
    record(study)
    sync(study, TrackingSettings(), SilentNarrator())
    study.path.rename(tmp_path / "moved")
    moved = Study(tmp_path / "moved")
    assert sync(moved, TrackingSettings(experiment="diffaug/my study"), narrator) == []
    assert "keeps its artifacts elsewhere" in narrator.warned[0]
    assert not study.path.exists()


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


def test_a_servers_address_is_given_without_its_password(study, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@ml.example:5000/")
    tracker = mlflow_tracking.MlflowTracker(study, TrackingSettings())
    state = {"experiment_id": "3", "experiment": "e", "runs": {"study": "abc"}}
    assert tracker.describe(state) == "MLflow: https://ml.example:5000/#/experiments/3/runs/abc"
    assert tracker.links(state) == {
        "run_id": "abc",
        "experiment_id": "3",
        "tracking_uri": "https://ml.example:5000",
        "url": "https://ml.example:5000/#/experiments/3/runs/abc",
    }
    assert not tracker.is_local


@pytest.mark.parametrize(
    ("uri", "store"),
    [
        ("http://user:p@ss@host", "http://host"),
        ("https://host:5000/mlflow/?token=secret", "https://host:5000/mlflow"),
        ("postgresql://user:a/b@host/db?password=secret", "postgresql://host/db"),
    ],
)
def test_no_part_of_a_secret_is_in_what_is_told(study, monkeypatch, uri, store):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    tracker = mlflow_tracking.MlflowTracker(study, TrackingSettings())
    state = {"experiment_id": "3", "experiment": "e", "runs": {}}
    assert tracker.links(state)["tracking_uri"] == store
    page = f"{store}/#/experiments/3" if uri.startswith("http") else None
    assert tracker.links(state)["url"] == page
    where = page or "experiment 'e' in the store of MLFLOW_TRACKING_URI"
    assert tracker.describe(state) == f"MLflow: {where}"


def test_an_at_sign_in_the_name_of_a_file_is_kept(study, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////home/me@work/mlflow.db?timeout=9")
    tracker = mlflow_tracking.MlflowTracker(study, TrackingSettings())
    state = {"experiment_id": "3", "experiment": "e", "runs": {}}
    assert tracker.links(state)["tracking_uri"] == "sqlite:////home/me@work/mlflow.db"
    assert tracker.describe(state) == "MLflow: mlflow ui --backend-store-uri sqlite:////home/me@work/mlflow.db"


def test_links_name_the_run_of_a_local_store(study, record):
    record(study)
    sync(study, TrackingSettings(), SilentNarrator())
    run = runs_of(client_of(study))["digits"]
    assert logged_links(study)["mlflow"] == {
        "run_id": run.info.run_id,
        "experiment_id": run.info.experiment_id,
        "tracking_uri": f"sqlite:///{study.path}/mlflow.db",
        "url": None,
    }


def test_without_mlflow_the_import_says_what_to_install():
    code = "import sys; sys.modules['mlflow'] = None; import diffaug.integrations.mlflow_tracking"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtraError" in result.stderr and "pip install 'diffaug[mlflow]'" in result.stderr
