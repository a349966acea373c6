"""MLflow's own server as users run it: a process of its own, reached over loopback, killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from diffaug.configuration.settings import TrackingSettings
from diffaug.tracking.sender import Sender, send_all

LONGEST_START_SECONDS = 180


class Server:
    """`mlflow server` on a store and a port that stay the same from one start to the next."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = str(probe.getsockname()[1])
        self.address = f"http://127.0.0.1:{self._port}"
        self._folder = folder
        self._process = None

    def start(self) -> None:
        store, artifacts = f"sqlite:///{self._folder}/mlflow.db", str(self._folder / "artifacts")
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store]
        command += ["--artifacts-destination", artifacts, "--host", "127.0.0.1", "--port", self._port, "--workers", "1"]
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, "PYTHONWARNINGS": "ignore"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, cwd=self._folder, start_new_session=True
            )
        deadline = time.monotonic() + LONGEST_START_SECONDS
        while not self.answers():
            assert self._process.poll() is None and time.monotonic() < deadline, (self._folder / "log").read_text()
            time.sleep(0.3)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=5) as response:
                return response.status == 200
        except OSError:
            return False

    def kill(self) -> None:
        """Ends it and its workers without a word."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(20)


@pytest.fixture
def server(tmp_path, empty_store):
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    made = Server(folder)
    made.start()
    yield made
    made.kill()


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again_has_everything_once(study, record, narrator, server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    journal, settings = record(study), TrackingSettings()
    (sentence,) = send_all(study, settings, narrator)
    assert sentence.startswith(f"MLflow: {server.address}/#/experiments/")
    server.kill()
    journal.log_metrics("study", {"gain": 0.5})
    journal.end_run("study")
    stage = Sender(study, settings, narrator)
    began = time.monotonic()
    assert stage.flush() == [] and time.monotonic() - began < 5
    assert narrator.warned[0].startswith("2 events not sent to mlflow") and "diffaug sync" in narrator.warned[0]
    server.start()
    for _ in range(2):
        send_all(study, settings, narrator)
    client = MlflowClient(tracking_uri=server.address)
    experiment = client.get_experiment_by_name("diffaug/my study")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"digits", "fit"} and len(client.search_runs([experiment.experiment_id])) == 2
    run_id = runs["digits"].info.run_id
    assert runs["digits"].info.status == "FINISHED"
    assert [point.value for point in client.get_metric_history(run_id, "gain")] == [0.5]
    assert [point.step for point in client.get_metric_history(runs["fit"].info.run_id, "loss")] == [0, 1, 2]
    report = client.download_artifacts(run_id, "reports/report.html", str(study.path.parent))
    assert Path(report).read_text() == "<p>report</p>"
    mlflow.set_tracking_uri(server.address)
    assert len(mlflow.pyfunc.load_model("models:/digits' model@champion").predict({"label": ["cat"], "n": [2]})) == 2
    with urllib.request.urlopen(server.address, timeout=30) as page:
        assert b"<title>MLflow</title>" in page.read()
