"""The experiment that a study is logged to: which one it is, and how MLflow's pages show it."""

import json
import os
import time
from dataclasses import dataclass
from typing import Any, Self

from mlflow import ActiveRun, MlflowClient
from mlflow.entities import Experiment, Run
from mlflow.environment_variables import MLFLOW_EXPERIMENT_ID, MLFLOW_EXPERIMENT_NAME, MLFLOW_RUN_ID
from mlflow.exceptions import MlflowException

from diffaug.errors import UsageError
from diffaug.integrations.mlflow_limits import experiment_name

NOT_FOUND = "RESOURCE_DOES_NOT_EXIST"
KIND_TAG, KIND = "mlflow.experimentKind", "custom_model_development"
VIEW_TAG, VIEW = "mlflow.sharedViewState.diffaug", "Verdicts (diffaug)"
COLUMNS = (
    "tags.`diffaug.verdict`",
    "metrics.`gain/points`",
    "metrics.`gain/low`",
    "metrics.`gain/high`",
    "tags.`diffaug.best_real_arm`",
    "metrics.`balanced_accuracy/real only`",
    "metrics.`balanced_accuracy/best real and synthetic`",
    "params.`train_images`",
    "params.`used_synthetic_images`",
    "attributes.`Models`",
)
"""The columns of the view, named as MLflow's pages name them."""


@dataclass(frozen=True)
class Destination:
    """Where in a store a study is logged, as far as the user has said.

    Attributes:
        name: Of the experiment; None: that of `experiment_id`, of the run, or of the study's own name.
        run_id: The run that becomes the study's, as `mlflow.start_run` would continue it.
        parent: The run that the study's lies under.
    """

    name: str | None = None
    experiment_id: str | None = None
    run_id: str | None = None
    parent: ActiveRun | None = None

    @classmethod
    def of(cls, configured: str | None, active: ActiveRun | None, *, has_uri: bool) -> Self:
        """What the settings, an active run and the environment say, the first of them that says something.

        An experiment's number says nothing without the URI of its store. `mlflow.set_experiment` sets the number.
        """
        name = configured and experiment_name(configured)
        if active is not None:
            return cls(name, None if name else active.info.experiment_id, parent=active)
        if run_id := os.environ.get(MLFLOW_RUN_ID.name):
            return cls(run_id=run_id)
        name = name or os.environ.get(MLFLOW_EXPERIMENT_NAME.name)
        number = os.environ.get(MLFLOW_EXPERIMENT_ID.name) if has_uri else None
        return cls(name or None, None if name else number or None)

    def holds(self, state: dict[str, Any]) -> bool:
        """Whether what was logged before lies where it belongs."""
        wanted = (self.name, self.experiment_id if self.parent is None else None, self.run_id)
        found = (state.get("experiment"), state.get("experiment_id"), state.get("runs", {}).get("study"))
        return all(want in (None, have) for want, have in zip(wanted, found, strict=True))

    def given_run(self, client: MlflowClient, identity: str, tag: str) -> Run:
        """The run `run_id`; a UsageError if it is not there, or if its `tag` names another study than `identity`."""
        run: Run = found(client.get_run, self.run_id, MLFLOW_RUN_ID.name)
        if run.info.lifecycle_stage != "active" or run.data.tags.get(tag, identity) != identity:
            what = "belongs to another study" if run.info.lifecycle_stage == "active" else "was deleted"
            raise UsageError(
                f"the run {self.run_id} {what}", where=MLFLOW_RUN_ID.name, fix=f"unset {MLFLOW_RUN_ID.name}"
            )
        return run

    def open(self, client: MlflowClient, default: str, artifacts: str | None) -> Experiment:
        """The experiment, made if there is none of its name; `artifacts`: where it must keep its files, if it matters.

        Raises:
            UsageError: It was deleted, keeps its files elsewhere, or the run or number given is not there.
        """
        if self.run_id is not None:
            run = found(client.get_run, self.run_id, MLFLOW_RUN_ID.name)
            return client.get_experiment(run.info.experiment_id)
        if self.experiment_id is not None:
            experiment: Experiment = found(client.get_experiment, self.experiment_id, MLFLOW_EXPERIMENT_ID.name)
            return experiment
        return _named(client, self.name or experiment_name(default), artifacts)


def found(get: Any, identity: str | None, variable: str) -> Any:
    """What `get` finds; a UsageError that names the environment variable if there is nothing."""
    try:
        return get(identity)
    except MlflowException as error:
        if error.error_code != NOT_FOUND:
            raise
        raise UsageError(
            f"the store has no {'run' if variable == MLFLOW_RUN_ID.name else 'experiment'} '{identity}'",
            where=variable,
            fix=f"unset {variable}, or set MLFLOW_TRACKING_URI to the store that has it",
        ) from error


def _named(client: MlflowClient, name: str, artifacts: str | None) -> Experiment:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return client.get_experiment(client.create_experiment(name, artifacts, _tags()))
    if experiment.lifecycle_stage != "active":
        raise UsageError(f"the MLflow experiment '{name}' was deleted", fix="restore it or set tracking.experiment")
    if artifacts is not None and experiment.artifact_location != artifacts:
        raise UsageError(
            f"the MLflow experiment '{name}' keeps its artifacts elsewhere: {experiment.artifact_location}",
            fix="set another tracking.experiment",
        )
    for tag, value in _tags().items():
        if tag not in experiment.tags:
            client.set_experiment_tag(experiment.experiment_id, tag, value)
    return experiment


def _tags() -> dict[str, str]:
    """Opens the page on model training, where MLflow would show traces of chats, and offers a view of the runs."""
    now = time.time_ns() // 1_000_000
    state = json.dumps({"selectedColumns": COLUMNS, "columnOrder": COLUMNS})
    view = {"name": VIEW, "createdAt": now, "updatedAt": now, "state": state}
    return {KIND_TAG: KIND, VIEW_TAG: json.dumps(view)}
