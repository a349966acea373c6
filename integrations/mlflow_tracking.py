"""Replays a study's journal to MLflow: a run for the study, child runs for its stages and trials.

MLflow's own settings hold: `MLFLOW_TRACKING_URI` or `mlflow.set_tracking_uri` name the destination. Where
neither is set it is a SQLite file in the study's folder. An active run becomes the parent and is left active.
A server that doesn't answer is given up after about 10 seconds, unless `MLFLOW_HTTP_REQUEST_TIMEOUT` and
`MLFLOW_HTTP_REQUEST_MAX_RETRIES` say otherwise.
"""

from __future__ import annotations

import json
import logging
import os
import posixpath
import re
import shlex
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from diffaug import storage
from diffaug.errors import DataError, MissingExtraError, UsageError
from diffaug.evaluation.tracking import Event, State
from diffaug.settings import TrackingSettings
from diffaug.study import Study

try:
    import mlflow
    from mlflow import MlflowClient
    from mlflow.data.pandas_dataset import from_pandas
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
    from mlflow.exceptions import MlflowException
except ImportError as error:
    raise MissingExtraError.of("mlflow", "mlflow") from error

MAX_PER_BATCH = {"metrics": 1000, "params": 100, "tags": 100}
MAX_PARAM_LENGTH = 6000
MAX_TAG_LENGTH = 8000
MAX_NAME_LENGTH = 250
MAX_DIGEST_LENGTH = 36

EVENT_TAG = "diffaug.event"
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")
_LIMITS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "4",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class MlflowTracker:
    """Sends events to MLflow through its client; the fluent API's active run is read and never changed.

    Args:
        study: Whose journal is replayed.
        settings: The experiment's name.
    """

    def __init__(self, study: Study, settings: TrackingSettings) -> None:
        self._root = study.path.resolve()
        self._active_run = mlflow.active_run()
        self._is_local = self._active_run is None and not mlflow.is_tracking_uri_set()  # type: ignore[no-untyped-call]
        self._uri = f"sqlite:///{self._root}/mlflow.db" if self._is_local else mlflow.get_tracking_uri()
        self._experiment = settings.experiment
        self._default_experiment = f"diffaug/{study.name}"
        with _short_patience():
            self._client = _RepeatableClient(tracking_uri=self._uri)

    def recognizes(self, state: State) -> bool:
        """Whether the experiment that `state` speaks of is the one wanted now and still there."""
        wanted = self._experiment or state.get("experiment")
        if (state.get("store"), state.get("experiment")) != (storage.fingerprint(self._uri), wanted):
            return False
        with _short_patience():
            try:
                experiment = self._client.get_experiment(state["experiment_id"])
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return False
                raise
        return bool(experiment.name == state["experiment"] and experiment.lifecycle_stage == "active")

    def replay(self, events: Sequence[Event], state: State) -> None:
        """Sends events, metrics in batches, and moves `state["cursor"]` behind each; sending again changes nothing."""
        with _short_patience():
            if "experiment_id" not in state:
                self._open_experiment(state)
            for batch in _batches(events):
                self._send(batch, state)
                state["cursor"] = batch[-1].number

    def describe(self, state: State) -> str:
        """The address of the study's run, or the command that shows it."""
        if self._uri.startswith("sqlite:"):
            return f"MLflow: mlflow ui --backend-store-uri {shlex.quote(self._uri)}"
        if not self._uri.startswith("http"):
            return f"MLflow: experiment '{state['experiment']}' in the store of MLFLOW_TRACKING_URI"
        scheme, _, address = self._uri.rstrip("/").partition("://")
        without_password = address.rpartition("@")[2]
        run = f"/runs/{state['runs']['study']}" if "study" in state["runs"] else ""
        return f"MLflow: {scheme}://{without_password}/#/experiments/{state['experiment_id']}{run}"

    def _open_experiment(self, state: State) -> None:
        if self._active_run is not None and self._experiment is None:
            experiment = self._client.get_experiment(self._active_run.info.experiment_id)
        else:
            experiment = self._named_experiment(self._experiment or self._default_experiment)
        state["store"] = storage.fingerprint(self._uri)
        state["experiment_id"], state["experiment"] = experiment.experiment_id, experiment.name
        state["runs"] = {}

    def _named_experiment(self, name: str) -> Any:
        artifacts = (self._root / "mlartifacts").as_uri() if self._is_local else None
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            experiment = self._client.get_experiment(self._client.create_experiment(name, artifacts))
        if experiment.lifecycle_stage != "active":
            raise UsageError(f"the MLflow experiment '{name}' was deleted", fix="restore it or set tracking.experiment")
        if artifacts is not None and experiment.artifact_location != artifacts:
            raise UsageError(
                f"the MLflow experiment '{name}' keeps its artifacts elsewhere: {experiment.artifact_location}",
                fix="set another tracking.experiment; in a study that was moved, remove mlflow.db to log all again",
            )
        return experiment

    def _send(self, batch: list[Event], state: State) -> None:
        event = batch[0]
        if event.kind == "start":
            state["runs"][event.key] = self._start_run(event, state)
            return
        try:
            self._log(state["runs"][event.key], batch)
        except DataError as error:
            state.setdefault("skipped", []).append(f"{event.key}: {error.what}: {error.where}")
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            state.setdefault("skipped", []).append(f"{event.key}: {event.kind}: {error.message}")

    def _start_run(self, event: Event, state: State) -> str:
        found = self._client.search_runs([state["experiment_id"]], f"tags.`{EVENT_TAG}` = '{event.identity}'")
        if found:
            return str(found[0].info.run_id)
        outer = self._active_run.info.run_id if self._active_run is not None else None
        parent = state["runs"].get(event.data["parent"], outer)
        tags = _tags(event.data["tags"]) | {EVENT_TAG: event.identity, "mlflow.source.name": "diffaug"}
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        if event.data["description"]:
            tags["mlflow.note.content"] = _text(event.data["description"], MAX_TAG_LENGTH)
        name = _text(event.data["name"], MAX_NAME_LENGTH)
        return str(self._client.create_run(state["experiment_id"], event.time, tags, name).info.run_id)

    def _log(self, run_id: str, batch: list[Event]) -> None:
        event, data, client = batch[0], batch[0].data, self._client
        match event.kind:
            case "metrics":
                self._log_metrics(run_id, batch)
            case "params":
                self._log_params(run_id, data["params"])
            case "tags":
                self._log_tags(run_id, data["tags"])
            case "description":
                client.set_tag(run_id, "mlflow.note.content", _text(data["description"], MAX_TAG_LENGTH))
            case "image":
                client.log_image_once(run_id, self._file(data), event)
            case "artifact":
                client.log_artifact(run_id, str(self._file(data)), data["folder"])
            case "table":
                self._log_table(run_id, data)
            case "dataset":
                self._log_dataset(run_id, data)
            case "end":
                client.set_terminated(run_id, data["status"], event.time)
            case unknown:
                raise UsageError(f"an event of unknown kind '{unknown}'", fix="update diffaug")

    def _log_metrics(self, run_id: str, batch: list[Event]) -> None:
        metrics = [
            Metric(clean_name(name), float(value), event.time, event.data["step"] or 0)
            for event in batch
            for name, value in event.data["metrics"].items()
        ]
        self._log_all(run_id, "metrics", metrics)

    def _log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """MLflow parameters can't change, so a changed one becomes a tag."""
        cut = {clean_name(name): _text(value, MAX_PARAM_LENGTH) for name, value in params.items()}
        known = self._client.get_run(run_id).data.params
        self._log_all(run_id, "params", [Param(name, value) for name, value in cut.items() if name not in known])
        self._log_tags(run_id, {f"changed.{name}": text for name, text in cut.items() if known.get(name, text) != text})

    def _log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        self._log_all(run_id, "tags", [RunTag(name, value) for name, value in _tags(tags).items()])

    def _log_all(self, run_id: str, kind: str, items: list[Any]) -> None:
        size = MAX_PER_BATCH[kind]
        for start in range(0, len(items), size):
            self._client.log_batch(run_id, **{kind: items[start : start + size]}, synchronous=True)

    def _log_table(self, run_id: str, table: dict[str, Any]) -> None:
        """What `log_table` writes, but replaced when sent again, where `log_table` would append."""
        file = clean_name(table["name"].removesuffix(".json"), ascii_only=True) + ".json"
        self._client.log_dict(run_id, {"columns": table["columns"], "data": table["data"]}, file)
        logged = json.loads(self._client.get_run(run_id).data.tags.get("mlflow.loggedArtifacts", "[]"))
        entry = {"path": file, "type": "table"}
        if entry not in logged:
            self._client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps([*logged, entry]))

    def _log_dataset(self, run_id: str, data: dict[str, Any]) -> None:
        file = self._file(data)
        digest = storage.sha256_file(file)[:MAX_DIGEST_LENGTH]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about sources and integer columns, both meant as they are
            dataset = from_pandas(
                pd.read_parquet(file), source=file.as_uri(), name=_text(data["name"], MAX_NAME_LENGTH), digest=digest
            )
            described = Dataset(**dataset.to_dict())
        context = InputTag("mlflow.data.context", data["context"])
        self._client.log_inputs(run_id, [DatasetInput(described, [context])])

    def _file(self, data: dict[str, Any]) -> Path:
        path: Path = self._root / data["file"]
        if not path.exists():
            raise DataError("the file is no longer there", where=path)
        return path


class _RepeatableClient(MlflowClient):
    """Names the files of an image after its event, so that sending it again replaces them.

    `log_image` itself draws a new file name at every call.
    """

    _file_id: str | None = None

    def log_image_once(self, run_id: str, file: Path, event: Event) -> None:
        key = clean_name(event.data["image"], ascii_only=True)
        self._file_id = str(uuid.uuid5(uuid.NAMESPACE_OID, event.identity))
        try:
            with Image.open(file) as image:
                self.log_image(run_id, image, key=key, step=event.data["step"], timestamp=event.time, synchronous=True)
        finally:
            self._file_id = None

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str | None = None) -> None:
        path = Path(local_path)
        if self._file_id is not None:
            path = path.rename(path.with_name(_UUID.sub(self._file_id, path.name)))
        super().log_artifact(run_id, str(path), artifact_path)


def clean_name(name: str, *, ascii_only: bool = False) -> str:
    """A name that MLflow takes: the name itself where it can be, else cleaned and followed by a hash of the original.

    Args:
        name: Any text, such as a metric's name that ends in a class name.
        ascii_only: Images and files allow no other letters.
    """
    flags = re.ASCII if ascii_only else re.UNICODE
    limit = 120 if ascii_only else MAX_NAME_LENGTH
    is_path = posixpath.normpath(name) == name and not name.startswith(("/", ".")) and len(name) <= limit
    if is_path and re.fullmatch(r"[\w.\- /]+", name, flags):
        return name
    cleaned = re.sub(r"[^\w.\- /]", "_", name, flags=flags)
    parts = [part for part in cleaned.split("/") if part.strip(". ")]
    digest = storage.sha256_bytes(name.encode("utf-8", "surrogatepass"))[:8]
    return f"{'/'.join(parts).lstrip('./ ')[: limit - 10]}-{digest}"


def _batches(events: Sequence[Event]) -> Iterator[list[Event]]:
    """Consecutive metrics of one run together, every other event alone."""
    batch: list[Event] = []
    size = 0
    for event in events:
        added = len(event.data.get("metrics", ()))
        joins = batch and event.kind == batch[0].kind == "metrics" and event.key == batch[0].key
        if batch and not (joins and size + added <= MAX_PER_BATCH["metrics"]):
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += added
    if batch:
        yield batch


def _tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {clean_name(name): _text(str(value), MAX_TAG_LENGTH) for name, value in tags.items()}


def _text(value: str, limit: int) -> str:
    whole = value.encode("utf-8", "replace").decode()
    return whole if len(whole) <= limit else whole[: limit - 1] + "…"


@contextmanager
def _short_patience() -> Iterator[None]:
    """MLflow retries for minutes and prints to stdout; inside the block it doesn't, unless the user set it so."""
    added = [name for name in _LIMITS if name not in os.environ]
    logger = logging.getLogger("mlflow.store.db.utils")
    level = logger.level
    os.environ.update({name: _LIMITS[name] for name in added})
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name in added:
            os.environ.pop(name, None)
