"""Servers that fail in every way: the job is not kept waiting, and afterwards everything is there once."""

import os
from pathlib import Path

import pytest
from mlflow import MlflowClient

from diffaug.cli import main
from diffaug.configuration.settings import TrackingSettings
from diffaug.errors import DiffaugError
from diffaug.files.records import write_signed_record
from diffaug.integrations import mlflow_limits
from diffaug.runtime.console import SilentNarrator
from diffaug.stages.job import save_settings
from diffaug.study import STUDY_RECORD, StudyRecord
from diffaug.tracking import sender as sender_module
from diffaug.tracking.sender import Sender, send_all
from tests.conftest import eventually
from tests.integrations.conftest import content, free_address, runs_of

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("_saved_once")]


@pytest.fixture
def tracking(request) -> TrackingSettings:
    """An experiment of the test's own, since the server is shared."""
    return TrackingSettings(experiment=request.node.name)


@pytest.fixture
def stage(study, journal, tracking, narrator) -> Sender:
    return Sender(study, tracking, narrator)


def stored_at(address: str, experiment: str) -> dict:
    return content(MlflowClient(tracking_uri=address), experiment)


def require_everything(address: str, experiment: str) -> None:
    stored = stored_at(address, experiment)
    assert set(stored) == {"digits", "fit"}
    assert stored["fit"]["status"] == "FINISHED"
    assert [(step, value) for step, value, _ in stored["fit"]["metrics"]["loss"]] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert (stored["fit"]["models"], len(stored["fit"]["registered"])) == (1, 1)
    assert len([file for file in stored["fit"]["files"] if file.endswith(".png")]) == 1
    assert stored["digits"]["files"] == ["confusion_matrix.png", "per_class.json", "reports/report.html"]
    assert len(stored["digits"]["datasets"]) == 1


@pytest.mark.parametrize("fault", ["hang", "half", "error", "busy", "lost", "dead"])
def test_a_stage_ends_while_a_server_fails_and_nothing_is_lost(study, stage, tracking, narrator, faulty_server, fault):
    faulty_server.fault = fault
    stage.start()
    assert eventually(lambda: faulty_server.unanswered if fault in ("hang", "half") else faulty_server.count)
    assert stage.flush() == []
    assert "Nothing is lost" in narrator.warned[0] and f"diffaug sync '{study.path}'" in narrator.warned[0]
    faulty_server.released.set()
    faulty_server.fault = None
    send_all(study, tracking, SilentNarrator())
    require_everything(faulty_server.address, tracking.experiment)


@pytest.mark.parametrize(("host", "reason"), [("", "Connection refused"), ("http://no-host.invalid:5000", "no-host")])
def test_a_server_that_is_not_there_is_reported(study, stage, tracking, narrator, monkeypatch, host, reason):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", host or free_address())
    monkeypatch.setattr(sender_module, "PATIENCE_SECONDS", 20.0)
    before = dict(os.environ)
    assert stage.flush() == []
    assert dict(os.environ) == before  # no limit stays
    (warning,) = narrator.warned
    assert "events not sent to mlflow" in warning and reason in warning and "Nothing is lost" in warning
    if not host:
        with pytest.raises(DiffaugError, match=reason) as raised:
            send_all(study, tracking, narrator)
        assert raised.value.exit_code == 1 and "diffaug sync" in raised.value.fix


@pytest.mark.parametrize("fault", ["lost", pytest.param("dead", marks=pytest.mark.slow)])
def test_a_death_at_any_request_doubles_nothing(study, journal, tracking, faulty_server, fault, monkeypatch):
    monkeypatch.setitem(mlflow_limits.LONG, "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
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


def test_a_slow_server_gets_the_rest_while_later_stages_work(stage, tracking, narrator, faulty_server):
    faulty_server.fault = "slow"
    assert stage.flush() == []
    assert "the server is slow" in narrator.warned[0]
    faulty_server.released.set()
    stage.start()
    assert eventually(lambda: stored_at(faulty_server.address, tracking.experiment).get("digits", {}).get("datasets"))
    assert stage.flush() == [f"MLflow: {page(faulty_server.address, tracking.experiment)}"]
    require_everything(faulty_server.address, tracking.experiment)


def page(address: str, experiment: str) -> str:
    run = runs_of(MlflowClient(tracking_uri=address), experiment)["digits"].info
    return f"{address}/#/experiments/{run.experiment_id}/runs/{run.run_id}"


def test_the_sync_command_sends_once_and_says_where(study, journal, faulty_server, capsys):
    write_signed_record(study.path / "study.json", STUDY_RECORD, StudyRecord(Path("/images"), "0"))
    save_settings(study.config_file, "seed: 0\n")
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
    metrics = stored_at(faulty_server.address, "diffaug/my study")["digits"]["metrics"]
    assert [value for _, value, _ in metrics["gain"]] == [0.5]
