"""Servers that fail in every way: the job is not kept waiting, and afterwards everything is there once."""

from __future__ import annotations

import os
import shutil
import time

import pytest
from mlflow import MlflowClient

from diffaug.cli import main
from diffaug.configuration.settings import TrackingSettings
from diffaug.errors import DiffaugError
from diffaug.integrations import mlflow_generator, mlflow_limits
from diffaug.runtime.console import SilentNarrator
from diffaug.tracking import sender as sender_module
from diffaug.tracking.sender import Sender, send_all

FAULTS = ["hang", "half", "error", "busy", "lost", "dead"]
MOST_ADDED_SECONDS = 2.0  # one, and what a busy machine takes to wake threads


@pytest.fixture
def tracking(request) -> TrackingSettings:
    """An experiment of the test's own, since the server is shared."""
    return TrackingSettings(experiment=request.node.name)


@pytest.fixture
def use(monkeypatch, study):
    """Makes an address the destination."""
    return lambda address: monkeypatch.setenv("MLFLOW_TRACKING_URI", address)


def contents(address: str, experiment: str) -> dict:
    client = MlflowClient(tracking_uri=address)
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id]) if found else []
    assert len({run.info.run_name for run in runs}) == len(runs), "doubled runs"
    return {
        run.info.run_name: {
            "status": run.info.status,
            "metrics": {
                name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
                for name in run.data.metrics
            },
            "files": sorted(files(client, run.info.run_id)),
            "datasets": len(run.inputs.dataset_inputs),
            "models": len(run.outputs.model_outputs),
            "versions": len(client.search_model_versions(f"run_id = '{run.info.run_id}'")),
        }
        for run in runs
    }


def files(client, run_id, folder=None):
    for entry in client.list_artifacts(run_id, folder):
        yield from files(client, run_id, entry.path) if entry.is_dir else [entry.path]


def require_everything(address: str, experiment: str) -> None:
    stored = contents(address, experiment)
    assert set(stored) == {"digits", "fit"}
    assert stored["fit"]["status"] == "FINISHED"
    assert stored["fit"]["metrics"]["loss"] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert (stored["fit"]["models"], stored["fit"]["versions"]) == (1, 1)
    assert len([file for file in stored["fit"]["files"] if file.endswith(".png")]) == 1
    assert stored["digits"]["files"] == ["confusion_matrix.png", "per_class.json", "reports/report.html"]
    assert stored["digits"]["datasets"] == 1


def timed_flush(study, tracking, narrator) -> float:
    """Seconds that the end of a stage takes which began, and loaded MLflow, before."""
    stage = Sender(study, tracking, narrator)
    stage.start()
    began = time.monotonic()
    assert stage.flush() == []
    return time.monotonic() - began


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_fails_costs_a_stage_a_second_and_loses_nothing(
    study, record, tracking, narrator, use, faulty_server, fault
):
    record(study)
    use(faulty_server.address)
    faulty_server.fault = fault
    assert timed_flush(study, tracking, narrator) < MOST_ADDED_SECONDS
    assert "Nothing is lost" in narrator.warned[0] and f"diffaug sync '{study.path}'" in narrator.warned[0]
    faulty_server.released.set()
    faulty_server.fault = None
    send_all(study, tracking, SilentNarrator())
    require_everything(faulty_server.address, tracking.experiment)


def test_a_server_that_refuses_costs_nothing_and_is_told(study, record, tracking, narrator, use, closed_port):
    record(study)
    use(closed_port)
    assert timed_flush(study, tracking, narrator) < MOST_ADDED_SECONDS
    (warning,) = narrator.warned
    assert "events not sent to mlflow" in warning and "Connection refused" in warning
    with pytest.raises(DiffaugError, match="Connection refused") as raised:
        send_all(study, tracking, narrator)
    assert raised.value.exit_code == 1 and "diffaug sync" in raised.value.fix


def test_a_name_that_no_resolver_knows_costs_a_second(study, record, tracking, narrator, use):
    record(study)
    use("http://no-such-host.invalid:5000")
    assert timed_flush(study, tracking, narrator) < MOST_ADDED_SECONDS
    assert "Nothing is lost" in narrator.warned[0]


@pytest.mark.parametrize("fault", ["lost", "dead"])
def test_after_a_death_at_any_request_everything_is_there_once(
    study, record, tracking, use, faulty_server, fault, monkeypatch, tiny_generator, tmp_path
):
    """Every request in turn is the last: unheard, or done without an answer."""
    saved = tmp_path / "saved model"
    mlflow_generator.save_generator(tiny_generator, saved)
    monkeypatch.setattr(mlflow_generator, "save_generator", lambda folder, target, _: shutil.copytree(saved, target))
    monkeypatch.setitem(mlflow_limits.LONG, "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    record(study)
    use(faulty_server.address)
    faulty_server.fault = fault
    failures = 0
    while True:
        faulty_server.count, faulty_server.passes = 0, failures
        try:
            send_all(study, tracking, SilentNarrator())
            break
        except DiffaugError:
            failures += 1
            assert failures < 40
    assert failures > 5
    faulty_server.fault = None
    require_everything(faulty_server.address, tracking.experiment)


def test_a_slow_server_gets_the_rest_while_later_stages_work(study, record, tracking, narrator, use, faulty_server):
    record(study)
    use(faulty_server.address)
    faulty_server.fault = "slow"
    assert timed_flush(study, tracking, narrator) < MOST_ADDED_SECONDS
    assert "the server is slow" in narrator.warned[0]
    faulty_server.released.set()
    later = Sender(study, tracking, narrator)
    later.start()
    deadline = time.monotonic() + 20
    while contents(faulty_server.address, tracking.experiment).get("digits", {}).get("datasets") != 1:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert later.flush() == [f"MLflow: {page(faulty_server.address, tracking.experiment)}"]
    require_everything(faulty_server.address, tracking.experiment)


def page(address: str, experiment: str) -> str:
    client = MlflowClient(tracking_uri=address)
    found = client.get_experiment_by_name(experiment)
    (run,) = client.search_runs([found.experiment_id], "tags.`mlflow.runName` = 'digits'")
    return f"{address}/#/experiments/{found.experiment_id}/runs/{run.info.run_id}"


def test_the_sync_command_sends_once_and_says_where(study, record, use, faulty_server, capsys):
    journal = record(study)
    study_file = study.path / "study.json"
    study_file.write_text('{"data": "/images", "diffaug": "0"}')
    use(faulty_server.address)
    faulty_server.fault = "error"
    with pytest.raises(SystemExit) as stopped:
        main(["sync", str(study.path), "--json"])
    assert stopped.value.code == 1
    failed = capsys.readouterr()
    assert "events not sent to mlflow" in failed.err and '"exit_code": 1' in failed.out
    faulty_server.fault = None
    for _ in range(2):
        main(["sync", str(study.path), "--json"])
    answered = capsys.readouterr()
    assert page(faulty_server.address, "diffaug/my study") in answered.out
    require_everything(faulty_server.address, "diffaug/my study")
    journal.log_metrics("study", {"gain": 0.5})
    main(["sync", str(study.path)])
    stored = contents(faulty_server.address, "diffaug/my study")
    assert stored["digits"]["metrics"] == {"gain": [(0, 0.5)]}


def test_no_limit_stays_in_the_environment(study, record, tracking, narrator, use, closed_port, monkeypatch):
    record(study)
    use(closed_port)
    before = dict(os.environ)
    monkeypatch.setattr(sender_module, "PATIENCE_SECONDS", 20.0)
    Sender(study, tracking, narrator).flush()
    assert dict(os.environ) == before
