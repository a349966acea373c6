"""MLflow's own servers as users run them: processes of their own, reached over loopback, killed and started again."""

import base64
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.metadata import files
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from PIL import Image

from diffaug.configuration.settings import TrackingSettings
from diffaug.tracking.sender import Sender, send_all
from tests.integrations.conftest import free_address, runs_of

pytestmark = pytest.mark.slow


class Server:
    """A command of MLflow that serves, on a port that stays the same from one start to the next."""

    def __init__(self, folder: Path, *command: str) -> None:
        self.address = free_address()
        port = self.address.rpartition(":")[2]
        self._folder, self._process = folder, None
        self._command = [sys.executable, "-m", "mlflow", *command, "--host", "127.0.0.1", "--port", port]

    def start(self) -> None:
        (uvicorn,) = [file for file in files("uvicorn") if file.name in ("uvicorn", "uvicorn.exe")]
        path = os.pathsep.join([str(Path(uvicorn.locate()).parent), os.environ["PATH"]])  # MLflow looks for it there
        environment = {**os.environ, "PATH": path, "PYTHONWARNINGS": "ignore"}
        environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{self._folder}/unused.db"
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # eight processes that these tests do not need
        with (self._folder / "log").open("a") as log:
            place = {"env": environment, "cwd": self._folder, "start_new_session": True}
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, **place)
        deadline = time.monotonic() + 180
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
def serve(tmp_path):
    """Starts a server that is killed at the end of the test."""
    servers = []

    def started(*command: str) -> Server:
        (tmp_path / "server").mkdir(exist_ok=True)
        servers.append(Server(tmp_path / "server", *command))
        servers[-1].start()
        return servers[-1]

    yield started
    for server in servers:
        server.kill()


def test_a_killed_server_has_everything_once(study, journal, narrator, serve, monkeypatch, tmp_path, empty_store):
    shutil.copy(empty_store, tmp_path / "store.db")
    store, artifacts = f"sqlite:///{tmp_path}/store.db", str(tmp_path / "artifacts")
    server = serve("server", "--backend-store-uri", store, "--artifacts-destination", artifacts, "--workers", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    settings = TrackingSettings()
    (sentence,) = send_all(study, settings, narrator)
    assert sentence.startswith(f"MLflow: {server.address}/#/experiments/")
    server.kill()
    journal.log_metrics("study", {"gain": 0.5})
    journal.end_run("study")
    stage = Sender(study, settings, narrator)
    assert stage.flush() == []
    assert narrator.warned[0].startswith("2 events not sent to mlflow") and "diffaug sync" in narrator.warned[0]
    server.start()
    for _ in range(2):
        send_all(study, settings, narrator)
    client = MlflowClient(tracking_uri=server.address)
    runs = runs_of(client, "diffaug/my study")
    assert set(runs) == {"digits", "fit"}
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


def test_a_server_of_the_model_answers_two_classes_with_the_same_images_each_time(saved_model, serve):
    server = serve("models", "serve", "-m", str(saved_model), "--env-manager", "local")
    rows = {"columns": ["label", "n"], "data": [["cat", 2], ["dog", 1]]}
    request = {"dataframe_split": rows, "params": {"seed": 5, "num_inference_steps": 3}}
    status, first = post(f"{server.address}/invocations", request)
    assert status == 200
    assert [row["label"] for row in first["predictions"]] == ["cat", "cat", "dog"]
    for row in first["predictions"]:
        image = Image.open(io.BytesIO(base64.b64decode(row["image"])))
        image.load()
        assert (image.format, image.size) == ("PNG", (8, 8))
    assert post(f"{server.address}/invocations", request) == (status, first)
    rows["data"][0][0] = "cow"
    status, refusal = post(f"{server.address}/invocations", request)
    assert status == 400 and "no class 'cow'" in refusal["message"]


def post(url, content):
    request = urllib.request.Request(url, json.dumps(content).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
