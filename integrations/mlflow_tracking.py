"""Replays a study's journal to MLflow: a run for the study, child runs for its stages and trials.

MLflow's own settings hold: `MLFLOW_TRACKING_URI` or `mlflow.set_tracking_uri` name the destination. Where
neither is set it is a SQLite file in the study's folder. An active run becomes the parent and is left active.
While stages work a request to a server is given up after 2 seconds and one repetition, by `diffaug sync` after 30,
unless `MLFLOW_HTTP_REQUEST_TIMEOUT` and `MLFLOW_HTTP_REQUEST_MAX_RETRIES` say otherwise.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from diffaug.configuration.settings import TrackingSettings
from diffaug.errors import DataError, MissingExtraError, UsageError
from diffaug.files import storage
from diffaug.study import Study
from diffaug.tracking.channel import State, without_secrets
from diffaug.tracking.journal import Event

try:
    import mlflow
    from mlflow.exceptions import MlflowException
except ImportError as error:
    raise MissingExtraError.of("mlflow", "mlflow") from error

from diffaug.integrations.mlflow_events import NOTE_TAG, SUPERSEDED_TAG, EventLogger, RepeatableClient, batches
from diffaug.integrations.mlflow_generator import EVENT_TAG, PARENT_TAG
from diffaug.integrations.mlflow_limits import LONG, MAX_NAME_LENGTH, MAX_TAG_LENGTH, SHORT, clean_tags, cut, patience

SERVICES = ("databricks", "databricks-uc", "uc")
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "ENDPOINT_NOT_FOUND")


class MlflowTracker:
    """Sends events to MLflow through its client; the fluent API's active run is read and never changed.

    Args:
        study: Whose journal is replayed.
        settings: The experiment's name.
        patient: Whether to give a slow server time.
    """

    def __init__(self, study: Study, settings: TrackingSettings, *, patient: bool = False) -> None:
        self._root = study.path.resolve()
        self._active_run = mlflow.active_run()
        self._is_local = self._active_run is None and not mlflow.is_tracking_uri_set()  # type: ignore[no-untyped-call]
        self._uri = f"sqlite:///{self._root}/mlflow.db" if self._is_local else mlflow.get_tracking_uri()
        self._experiment = settings.experiment
        self._default_experiment = f"diffaug/{study.name}"
        self._limits = LONG if patient else SHORT

    @property
    def is_local(self) -> bool:
        """Whether MLflow writes to a file here and asks no server."""
        return self._uri.startswith("sqlite:") or _file_store(self._uri) is not None

    def recognizes(self, state: State) -> bool:
        """Whether the experiment that `state` speaks of is the one wanted now and still there."""
        if state.get("store") != storage.fingerprint(self._uri):
            return False
        if self._experiment is not None and state.get("experiment") != self._experiment:
            return False
        with patience(self._limits):
            try:
                experiment = self._client.get_experiment(state["experiment_id"])
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return False
                raise
        is_wanted = self._experiment in (None, experiment.name)  # one that no setting names may be renamed in MLflow
        return bool(is_wanted and experiment.lifecycle_stage == "active")

    def replay(self, events: Iterable[Event], state: State) -> None:
        """Sends events, metrics in batches, and moves `state["cursor"]` behind each; sending again changes nothing."""
        with patience(self._limits):
            if "experiment_id" not in state:
                self._open_experiment(state)
            for batch in batches(events):
                self._send(batch, state)
                state["cursor"] = batch[-1].number

    def describe(self, state: State) -> str:
        """The address of the study's run, or the command that shows it."""
        url = self.links(state)["url"]
        if url is not None:
            return f"MLflow: {url}"
        if not self._uri.startswith("sqlite:"):
            return f"MLflow: experiment '{state['experiment']}' in the store of MLFLOW_TRACKING_URI"
        command = f"MLflow: mlflow ui --backend-store-uri {shlex.quote(without_secrets(self._uri))}"
        return f"{command}\n{_TRAP.format(fix=_migration(Path.cwd() / 'mlruns'))}" if _is_trap_here() else command

    def links(self, state: State) -> dict[str, str | None]:
        """Ids of the study's run and experiment, the store, and on a server the run's page; without secrets."""
        run_id = state["runs"].get("study")
        store = without_secrets(self._uri).rstrip("/")
        page = f"{store}/#/experiments/{state['experiment_id']}" + (f"/runs/{run_id}" if run_id else "")
        return {
            "run_id": run_id,
            "experiment_id": state["experiment_id"],
            "tracking_uri": store,
            "url": page if store.startswith(("http:", "https:")) else None,
        }

    @cached_property
    def _client(self) -> RepeatableClient:
        file_store = _file_store(self._uri)
        if file_store is not None and os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in ("true", "1"):
            raise UsageError(f"MLflow no longer writes to a folder such as {file_store}", fix=_migration(file_store))
        return RepeatableClient(tracking_uri=self._uri, registry_uri=self._uri if self._is_local else None)

    @cached_property
    def _logger(self) -> EventLogger:
        return EventLogger(self._client, self._root)

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
            run_id, former = self._start_run(event, state), state["runs"].get(event.key)
            if former not in (None, run_id):
                with _leaving_out_what_is_refused(event, state):
                    self._logger.supersede(former)
            state["runs"][event.key] = run_id
            return
        with _leaving_out_what_is_refused(event, state):
            self._logger.log(state["runs"][event.key], batch)

    def _start_run(self, event: Event, state: State) -> str:
        found = self._client.search_runs([state["experiment_id"]], f"tags.`{EVENT_TAG}` = '{event.identity}'")
        if found:
            return str(found[0].info.run_id)
        outer = self._active_run.info.run_id if self._active_run is not None else None
        parent = state["runs"].get(event.data["parent"], outer)
        own = {EVENT_TAG: event.identity, "mlflow.source.name": "diffaug", SUPERSEDED_TAG: "false"}
        tags = clean_tags(event.data["tags"]) | own
        if parent is not None:
            tags[PARENT_TAG] = parent
        if event.data["description"]:
            tags[NOTE_TAG] = cut(event.data["description"], MAX_TAG_LENGTH)
        name = cut(event.data["name"], MAX_NAME_LENGTH)
        return str(self._client.create_run(state["experiment_id"], event.time, tags, name).info.run_id)


@contextmanager
def _leaving_out_what_is_refused(event: Event, state: State) -> Iterator[None]:
    """Notes in `state["skipped"]` what can't be logged, however often it is tried."""
    try:
        yield
    except DataError as error:
        state.setdefault("skipped", []).append(f"{event.key}: {error.what}: {error.where}")
    except MlflowException as error:
        if error.error_code not in REFUSALS:
            raise
        state.setdefault("skipped", []).append(f"{event.key}: {event.kind}: {error.message}")


_TRAP = (
    "The folder mlruns here is an old store of MLflow, which makes a plain `mlflow ui` fail. diffaug does not use it; "
    "to keep its runs: {fix}"
)


def _file_store(uri: str) -> Path | None:
    """The folder that a tracking URI names; none where it names a server or a database."""
    if uri in SERVICES:
        return None
    parts = urlsplit(uri)
    return Path(unquote(parts.path)).absolute() if parts.scheme in ("", "file") and parts.path else None


def _migration(folder: Path) -> str:
    """The command that moves the runs of an old store to a database that MLflow reads."""
    target = shlex.quote(f"sqlite:///{folder.parent}/mlflow.db")
    migrate = f"mlflow migrate-filestore --source {shlex.quote(str(folder))} --target {target}"
    return f"{migrate} && export MLFLOW_TRACKING_URI={target}"


def _is_trap_here() -> bool:
    """Whether MLflow, left to itself, would choose ./mlruns and then refuse it."""
    return any(Path("mlruns").glob("[0-9]*/meta.yaml"))
