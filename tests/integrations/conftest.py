"""A migrated store, a study that logs one event of each kind, a tiny generator and MLflow servers that misbehave."""

import http.client
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient

from diffaug.diffusion.generator.files import GeneratorRecord, write_generator
from diffaug.diffusion.generator.network_files import write_network
from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.network.unet import NetworkConfig
from diffaug.diffusion.process.normalization import Normalization
from diffaug.files import storage
from diffaug.integrations import mlflow_generator
from diffaug.runtime.console import SilentNarrator
from diffaug.runtime.seeding import torch_global_seed
from diffaug.study import Study
from diffaug.tracking.journal import Journal

CLASSES = ("cat", "dog", "rare/one")


def files_of(client: MlflowClient, run_id: str, folder: str | None = None) -> list[str]:
    """All artifacts of a run."""
    found = []
    for entry in client.list_artifacts(run_id, folder):
        found += files_of(client, run_id, entry.path) if entry.is_dir else [entry.path]
    return sorted(found)


def runs_of(client: MlflowClient, experiment: str | None = None) -> dict[str, mlflow.entities.Run]:
    """The runs of an experiment, or of all, by name, each of which must be there once."""
    experiments = [found.experiment_id for found in client.search_experiments() if experiment in (None, found.name)]
    runs = client.search_runs(experiments) if experiments else []
    names = [run.info.run_name for run in runs]
    assert len(names) == len(set(names)), f"doubled runs: {names}"
    return dict(zip(names, runs, strict=True))


def content(client: MlflowClient, experiment: str | None = None) -> dict:
    """All that the store holds of an experiment, or of all, without the ids that it draws itself."""
    runs = runs_of(client, experiment)
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
            "datasets": [(use.dataset.name, use.dataset.digest, use.tags[0].value) for use in used],
        }
        for name, run in runs.items()
        for run_id, used in [(run.info.run_id, run.inputs.dataset_inputs)]
    }


@pytest.fixture
def narrator() -> SilentNarrator:
    """Keeps the warnings."""
    narrator = SilentNarrator()
    narrator.warned = []
    narrator.warn = narrator.warned.append
    return narrator


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """A migrated SQLite store; the migration takes seconds, so it is done once and copied."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture(scope="session")
def tiny_generator(tmp_path_factory) -> Path:
    """A finished generator of 8 px grey images, its weights drawn at random."""
    folder = tmp_path_factory.mktemp("tiny") / "generator"
    folder.mkdir()
    network = NetworkConfig((8, 8), 1, 3, 1, 8, (1,), 1, 0.0)
    with torch_global_seed(0, "tiny"):
        untrained = Denoiser(network).state_dict()
        weights = {name: tensor + 0.05 * torch.randn_like(tensor) for name, tensor in untrained.items()}
    counts = dict(zip(CLASSES, (9, 5, 2), strict=True))
    write_network(folder, network, Normalization((0.0,), (0.5,)), weights)
    write_generator(folder, GeneratorRecord("pixels", network.image_size, network.channels, counts, {"images seen": 0}))
    storage.commit_directory(folder, {})
    return folder


@pytest.fixture
def _no_destination(monkeypatch, tmp_path):
    given = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID")
    for name in (*given, "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(None)
    yield
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(None)


@pytest.fixture
def study(tmp_path, empty_store, _no_destination) -> Study:
    path = tmp_path / "my study"
    path.mkdir()
    shutil.copy(empty_store, path / "mlflow.db")
    return Study(path)


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory, tiny_generator) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    mlflow_generator.save_generator(tiny_generator, folder)
    return folder


@pytest.fixture
def _saved_once(monkeypatch, saved_model):
    """Copies the MLflow model of the tiny generator, since to save it takes a second."""
    monkeypatch.setattr(
        mlflow_generator, "save_generator", lambda folder, target, _: shutil.copytree(saved_model, target)
    )


@pytest.fixture
def journal(study, tiny_generator) -> Journal:
    """The journal of `study` with one event of each kind at least, in a parent and a child run."""
    storage.write_bytes(study.path / "grid.png", storage.png_bytes(np.full((8, 8, 3), 90, np.uint8)))
    storage.write_text(study.path / "report.html", "<p>report</p>")
    storage.write_parquet(study.path / "pool.parquet", pd.DataFrame({"file": ["0.png"], "label": ["cat"]}))
    shutil.copytree(tiny_generator, study.generator)
    journal = Journal(study.journal)
    with journal.batch():
        journal.start_run("study", name="digits", params={"seed": 0}, tags={"diffaug.kind": "study"})
        journal.set_description("study", "**hi**")
        journal.start_run("fit", name="fit", parent="study")
        for step in range(3):
            journal.log_metrics("fit", {"loss": 1 / (step + 1), "recall/<cat>": 0.5}, step)
        journal.log_image("fit", "samples/cat", study.path / "grid.png", 2)
        journal.log_model("fit", study.generator, "generator", registered_name="digits' model", alias="champion")
        journal.end_run("fit")
        journal.log_artifact("study", study.path / "report.html", "reports")
        journal.log_table("study", "per_class", [{"class": "cat", "recall": 0.5}])
        journal.log_confusion("study", [[2, 1, 0], [0, 3, 0], [1, 1, 1]], CLASSES)
        journal.log_dataset("study", study.path / "pool.parquet", "pool", "synthetic")
    return journal


@pytest.fixture(scope="module")
def flask_server(tmp_path_factory, empty_store) -> Iterator[str]:
    """The address of MLflow's own server, in a thread, with a store of its own and artifacts sent through it.

    Its settings are the process's environment, so it is not there for tests of other modules.
    """
    from mlflow.server import app, handlers
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *arguments):
            pass

    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, folder / "mlflow.db")
    store, root = f"sqlite:///{folder}/mlflow.db", "mlflow-artifacts:/"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("_MLFLOW_SERVER_FILE_STORE", store)
        patch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", root)
        patch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", str(folder / "artifacts"))
        patch.setenv("_MLFLOW_SERVER_SERVE_ARTIFACTS", "true")
        handlers.initialize_backend_stores(store, None, root)
        # It makes its store the registry of this whole process, clients of other stores included.
        mlflow.set_registry_uri("")
        patch.delenv("MLFLOW_REGISTRY_URI", raising=False)
        server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.port}"
        server.shutdown()


class FaultyServer:
    """Stands before another server and passes requests on, until `fault` says otherwise.

    "hang" says nothing; "half" stops in the middle of an answer; "error" is 500; "busy" is 503 and asks to come back in
    an hour; "slow" answers after half a second; "lost" passes on and closes without an answer; "dead" closes at once.
    The fault begins after `passes` of the requests that `count` counts; `unanswered` is the number that hang.
    """

    def __init__(self, upstream: str) -> None:
        self.fault, self.passes, self.count, self.unanswered = None, 0, 0, 0
        self.released = threading.Event()
        self._upstream = upstream.removeprefix("http://")
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_request(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.count += 1
                fault = outer.fault if outer.count > outer.passes else None
                if fault == "hang":
                    self.hang()
                if fault in ("hang", "dead"):
                    self.close_connection = True
                elif fault in ("error", "busy"):
                    self.reply(500 if fault == "error" else 503, b"{}", {"Retry-After": "3600"})
                else:
                    self.pass_on(body, fault)

            def hang(self):
                outer.unanswered += 1
                outer.released.wait(30)
                outer.unanswered -= 1

            def pass_on(self, body, fault):
                if fault == "slow":
                    outer.released.wait(0.5)
                status, answer, kind = outer.ask(self.command, self.path, body, dict(self.headers))
                if fault == "lost":
                    self.close_connection = True
                elif fault == "half":
                    self.reply(status, answer + b" " * 99, {}, sent=len(answer) // 2)
                    self.hang()
                    self.close_connection = True
                else:
                    self.reply(status, answer, {"Content-Type": kind})

            def reply(self, status, content, headers, sent=None):
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content[:sent])
                self.wfile.flush()

            def log_message(self, *arguments):
                pass

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_request

        class Server(ThreadingHTTPServer):
            def handle_error(self, request, client_address):
                pass  # clients that gave up

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def ask(self, method, path, body, headers):
        connection = http.client.HTTPConnection(self._upstream, timeout=30)
        connection.request(method, path, body, {**headers, "Host": self._upstream, "Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read(), response.headers.get("Content-Type", "application/json")

    def close(self):
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def faulty_server(flask_server, study, monkeypatch) -> Iterator[FaultyServer]:
    """The destination of `study`."""
    server = FaultyServer(flask_server)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    yield server
    server.close()


def free_address() -> str:
    """An address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"
