"""A migrated store, a study that logs one event of each kind, a tiny generator and MLflow servers that misbehave."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient

from diffaug.diffusion.generator.files import write_generator
from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.network.unet import NetworkConfig
from diffaug.diffusion.process.normalization import Normalization
from diffaug.files import storage
from diffaug.runtime.console import SilentNarrator
from diffaug.study import Study
from diffaug.tracking.journal import Journal

CLASSES = ("cat", "dog", "rare/one")


class Listener(SilentNarrator):
    """Keeps what it is told."""

    def __init__(self):
        self.said, self.warned = [], []

    def say(self, text):
        self.said.append(text)

    def warn(self, text):
        self.warned.append(text)


@pytest.fixture
def narrator() -> Listener:
    return Listener()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """A migrated SQLite store; the migration takes seconds, so it is done once and copied."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture(scope="session")
def tiny_generator(tmp_path_factory) -> Path:
    """A finished generator of 8 px grey images, its weights drawn at random."""
    from diffaug.runtime.seeding import torch_global_seed

    folder = tmp_path_factory.mktemp("tiny") / "generator"
    folder.mkdir()
    network = NetworkConfig((8, 8), 1, 3, 1, 8, (1,), 1, 0.0)
    with torch_global_seed(0, "tiny"):
        weights = {
            name: tensor + 0.05 * torch.randn_like(tensor) for name, tensor in Denoiser(network).state_dict().items()
        }
    write_generator(
        folder,
        network=network,
        weights=weights,
        normalization=Normalization((0.0,), (0.5,)),
        counts=dict(zip(CLASSES, (9, 5, 2), strict=True)),
        training={"images seen": 0},
    )
    storage.commit_directory(folder, {})
    return folder


@pytest.fixture
def _no_destination(monkeypatch, tmp_path):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
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
def record(tiny_generator) -> Callable[[Study], Journal]:
    """Records one event of each kind at least, in a parent and a child run."""

    def record_events(study: Study) -> Journal:
        storage.write_bytes(study.path / "grid.png", storage.png_bytes(np.full((8, 8, 3), 90, np.uint8)))
        storage.write_text(study.path / "report.html", "<p>report</p>")
        storage.write_parquet(study.path / "pool.parquet", pd.DataFrame({"file": ["0.png"], "label": ["cat"]}))
        shutil.copytree(tiny_generator, study.generator)
        journal = Journal(study.journal)
        tags, params = {"diffaug.kind": "study"}, {"seed": 0}
        journal.start_run("study", name="digits", params=params, tags=tags, description="**hi**")
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

    return record_events


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
    environment = {
        "_MLFLOW_SERVER_FILE_STORE": store,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": root,
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
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

    Attributes:
        fault: None; or "hang": says nothing; "half": stops in the middle of an answer; "error": 500; "busy": 503 and
            asks to come back in an hour; "slow": answers after half a second; "lost": passes on and closes the
            connection without an answer; "dead": closes at once.
        passes: Requests that are passed on before the fault begins.
        count: Requests so far.
    """

    def __init__(self, upstream: str) -> None:
        self.fault, self.passes, self.count = None, 0, 0
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
                    outer.released.wait(30)
                if fault in ("hang", "dead"):
                    self.close_connection = True
                elif fault in ("error", "busy"):
                    self.reply(500 if fault == "error" else 503, b"{}", {"Retry-After": "3600"})
                else:
                    self.pass_on(body, fault)

            def pass_on(self, body, fault):
                if fault == "slow":
                    outer.released.wait(0.5)
                status, answer, kind = outer.ask(self.command, self.path, body, dict(self.headers))
                if fault == "lost":
                    self.close_connection = True
                elif fault == "half":
                    self.reply(status, answer + b" " * 99, {}, sent=len(answer) // 2)
                    outer.released.wait(30)
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
def faulty_server(flask_server) -> Iterator[FaultyServer]:
    server = FaultyServer(flask_server)
    yield server
    server.close()


@pytest.fixture
def closed_port() -> str:
    """An address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"
