"""Replays a study's journal to MLflow: a run for the study, child runs for its stages and trials.

MLflow's own settings apply: `MLFLOW_TRACKING_URI` or `mlflow.set_tracking_uri` set the destination. By default it is a
SQLite file in the study's folder. An active run becomes the parent and stays active; the run of `MLFLOW_RUN_ID` becomes
the study's. `MLFLOW_EXPERIMENT_NAME` and `mlflow.set_experiment` name the experiment. While stages work, a request to a
server ends after 2 seconds and one retry, in `diffaug sync` after 30 seconds and two, unless
`MLFLOW_HTTP_REQUEST_TIMEOUT` and `MLFLOW_HTTP_REQUEST_MAX_RETRIES` are set.
"""

import os
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote, urlsplit

from diffaug.configuration.settings import TrackingSettings
from diffaug.errors import DataError, MissingExtraError, UsageError
from diffaug.files import storage
from diffaug.files.temporaries import host
from diffaug.runtime.console import printable
from diffaug.study import Study
from diffaug.tracking.delivery import State, without_secrets
from diffaug.tracking.events import Event

try:
    import mlflow
    from mlflow.entities import RunTag
    from mlflow.exceptions import MlflowException
    from mlflow.tracking._tracking_service.utils import _artifact_repos_cache
except ImportError as error:
    raise MissingExtraError.of("mlflow", "mlflow") from error

from diffaug.integrations.mlflow_database import (
    ARTIFACTS,
    make_database,
    make_own_database,
    move_addresses,
    sqlite_file,
)
from diffaug.integrations.mlflow_events import SUPERSEDED_TAG, EventLogger, RepeatableClient, batches
from diffaug.integrations.mlflow_experiment import NOT_FOUND, Destination
from diffaug.integrations.mlflow_generator import EVENT_TAG, PARENT_TAG
from diffaug.integrations.mlflow_limits import LONG, MAX_NAME_LENGTH, SHORT, clean_tags, cut, patience

OWN_STORE = "mlflow.db"
SERVICES = ("databricks", "databricks-uc", "uc")
REFUSALS = ("INVALID_PARAMETER_VALUE", NOT_FOUND, "ENDPOINT_NOT_FOUND")
TRAP = (
    "The folder mlruns here is an old store of MLflow, which makes a plain `mlflow ui` fail. diffaug does not use it; "
    "to keep its runs: {fix}"
)


class MlflowTracker:
    """Sends events to MLflow through its client; the fluent API's active run is read and never changed."""

    def __init__(self, study: Study, settings: TrackingSettings, *, patient: bool = False) -> None:
        self._root = study.path.resolve()
        active = mlflow.active_run()
        self._is_local = active is None and not mlflow.is_tracking_uri_set()  # type: ignore[no-untyped-call]
        self._uri = f"sqlite:///{self._root}/{OWN_STORE}" if self._is_local else mlflow.get_tracking_uri()
        self._destination = Destination.of(settings.experiment, active, has_uri=not self._is_local)
        self._default_experiment = f"diffaug/{study.name}"
        self._limits = LONG if patient else SHORT
        # That of the study's own database is no address, since a study may be moved.
        self._store = storage.fingerprint(OWN_STORE if self._is_local else self._uri)
        self._is_copy = False
        self._moved: Path | None = None
        self._renamed: list[str] = []

    @property
    def is_local(self) -> bool:
        """Whether MLflow writes to a file on this machine, not to a server."""
        return self._uri.startswith("sqlite:") or _file_store(self._uri) is not None

    def recognizes(self, state: State) -> bool:
        """Whether the experiment that `state` refers to is the configured one and still exists."""
        if state.get("store") != self._store or not self._destination.holds(state):
            return False
        if not self._is_local and self._is_copied(state):  # the runs on a server are those of the original
            self._is_copy = True
            return False
        try:
            with patience(self._limits):
                experiment = self._client.get_experiment(state["experiment_id"])
        except MlflowException as error:
            if error.error_code == NOT_FOUND:
                return False
            raise
        is_wanted = self._destination.name in (None, experiment.name)  # without a configured name it may be renamed
        return bool(is_wanted and experiment.lifecycle_stage == "active")

    def replay(self, events: Iterable[Event], state: State) -> None:
        """Sends events, metrics in batches, and moves `state["cursor"]` after each; sending again changes nothing."""
        with patience(self._limits):
            if not state.get("runs"):  # nothing is logged yet, also where an earlier attempt was refused
                self._open_experiment(state)
            state |= {"root": str(self._root), "place": self._place}
            if self._is_local:  # MLflow remembers folders by run, and a copy of a study has the same runs
                _artifact_repos_cache.clear()
            for batch in batches(events):
                self._send(batch, state)
                state["cursor"] = batch[-1].number

    def describe(self, state: State) -> str:
        """The address of the study's run, or the command that displays it."""
        return "\n".join([self._where(state), *self._renamed])

    def _where(self, state: State) -> str:
        url = self.links(state)["url"]
        if url is not None:
            return f"MLflow: {url}"
        if not self._uri.startswith("sqlite:"):
            return f"MLflow: experiment '{state['experiment']}' in the store of MLFLOW_TRACKING_URI"
        command = printable(f"MLflow: mlflow ui --backend-store-uri {shlex.quote(without_secrets(self._uri))}")
        if self._moved is not None:
            command += f"\nThe database was damaged and was made again from the journal; the old one: {self._moved}"
        if any(Path("mlruns").glob("[0-9]*/meta.yaml")):  # which MLflow by default would choose, and then refuse
            return f"{command}\n{TRAP.format(fix=_migration(Path.cwd() / 'mlruns'))}"
        return command

    def links(self, state: State) -> dict[str, str | None]:
        """Ids of the study's run and experiment, the store, and on a server the run's page; without secrets."""
        run_id = state["runs"].get("study")
        store = without_secrets(self._uri).rstrip("/")
        page = f"{store}/#/experiments/{state['experiment_id']}" + (f"/runs/{run_id}" if run_id else "")
        url = page if store.startswith(("http:", "https:")) else None
        return {"run_id": run_id, "experiment_id": state["experiment_id"], "tracking_uri": store, "url": url}

    @property
    def _place(self) -> list[str | int]:
        """What tells this machine from others, and the folder of the study from copies of it."""
        return [host(), self._root.stat().st_ino]

    @cached_property
    def _client(self) -> RepeatableClient:
        file_store = _file_store(self._uri)
        if file_store is not None and os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in ("true", "1"):
            raise UsageError(f"MLflow no longer writes to a folder such as {file_store}", fix=_migration(file_store))
        database = sqlite_file(self._uri)
        if database is not None and self._is_local:
            self._moved = make_own_database(database)
            move_addresses(database, self._root)
        elif database is not None:
            make_database(database)
        return RepeatableClient(tracking_uri=self._uri, registry_uri=self._uri if self._is_local else None)

    @cached_property
    def _logger(self) -> EventLogger:
        return EventLogger(self._client, self._root, self._renamed)

    def _is_copied(self, state: State) -> bool:
        """Whether the study is a copy of another one that has the same journal and is still there, or may be.

        A study that came from another machine may have been copied or moved. As a copy it writes into no run of others.
        """
        host, folder = state.get("place", self._place)
        if host != self._place[0] and folder != self._place[1]:  # else it is one folder that two machines share
            return True
        original, own = Path(state.get("root", self._root)) / Study.journal.name, self._root / Study.journal.name
        if not original.is_file() or original.samefile(own):
            return False
        with original.open("rb") as first, own.open("rb") as second:
            return first.readline() == second.readline()

    def _open_experiment(self, state: State) -> None:
        artifacts = (self._root / ARTIFACTS).as_uri() if self._is_local else None
        experiment = self._destination.open(self._client, self._default_experiment, artifacts)
        state["store"] = self._store
        if self._is_copy:
            state["copy"] = storage.fingerprint([str(self._root), *self._place])[:8]
        state["experiment_id"], state["experiment"] = experiment.experiment_id, experiment.name
        state["runs"] = {}

    def _send(self, batch: list[Event], state: State) -> None:
        event, known = batch[0], state["runs"].get(batch[0].key)
        run_id = self._start_run(event, state) if event.kind == "start" else known
        with _skipping_refused(event, state):
            if event.kind != "start":
                self._logger.log(run_id, batch)
            elif known not in (None, run_id):
                self._logger.supersede(known)
        state["runs"][event.key] = run_id

    def _start_run(self, event: Event, state: State) -> str:
        identity = event.identity + state.get("copy", "")
        found = self._client.search_runs([state["experiment_id"]], f"tags.`{EVENT_TAG}` = '{identity}'")
        if found:
            return str(found[0].info.run_id)
        tags = clean_tags(event.data["tags"])
        tags |= {EVENT_TAG: identity, "mlflow.source.name": "diffaug", SUPERSEDED_TAG: "false"}
        if event.key == "study" and self._destination.run_id is not None:
            run = self._destination.given_run(self._client, identity, EVENT_TAG)
            self._client.log_batch(run.info.run_id, tags=[RunTag(*tag) for tag in tags.items()], synchronous=True)
            return str(run.info.run_id)
        outer = self._destination.parent.info.run_id if self._destination.parent is not None else None
        parent = state["runs"].get(event.data["parent"], outer)
        if parent is not None:
            tags[PARENT_TAG] = parent
        name = cut(event.data["name"], MAX_NAME_LENGTH)
        return str(self._client.create_run(state["experiment_id"], event.time, tags, name).info.run_id)


@contextmanager
def _skipping_refused(event: Event, state: State) -> Iterator[None]:
    """Records in `state["skipped"]` what MLflow refuses and would refuse again."""
    try:
        yield
    except DataError as error:
        state.setdefault("skipped", []).append(f"{event.key}: {error.what}: {error.where}")
    except MlflowException as error:
        if error.error_code not in REFUSALS:
            raise
        state.setdefault("skipped", []).append(f"{event.key}: {event.kind}: {error.message}")


def _file_store(uri: str) -> Path | None:
    """The folder that a tracking URI names; None for a server or a database."""
    if uri in SERVICES:
        return None
    parts = urlsplit(uri)
    return Path(unquote(parts.path)).absolute() if parts.scheme in ("", "file") and parts.path else None


def _migration(folder: Path) -> str:
    """The command that moves the runs of an old store to a database that MLflow reads."""
    target = shlex.quote(f"sqlite:///{folder.parent}/mlflow.db")
    migrate = f"mlflow migrate-filestore --source {shlex.quote(str(folder))} --target {target}"
    return f"{migrate} && export MLFLOW_TRACKING_URI={target}"
