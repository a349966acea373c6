"""Logs a generator to MLflow as a pyfunc model and registers it; doing so again changes nothing."""

import importlib.util
import json
import shutil
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.pyfunc
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Run
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from diffaug.configuration.sampling import DEFAULT_SAMPLING
from diffaug.diffusion.generator.files import CARD, read_record
from diffaug.diffusion.generator.generator import generator_kind
from diffaug.files.temporaries import scratch_folder
from diffaug.integrations.mlflow_limits import MAX_DESCRIPTION_LENGTH, clean_name, cut
from diffaug.tracking.events import Event

EVENT_TAG = "diffaug.event"
PARENT_TAG = "mlflow.parentRunId"
NOTE_TAG = "mlflow.note.content"
VERSIONS_TAG = "mlflow.modelVersions"
ARTIFACT, SAMPLES = "generator", "samples.png"


def signature() -> ModelSignature:
    """The input has rows of label and number; the output has one row per image, PNG."""
    rows = {"label": DataType.string, "n": DataType.long}
    images = {"label": DataType.string, "index": DataType.long, "seed": DataType.long, "image": DataType.binary}
    inputs, outputs = (Schema([ColSpec(kind, name) for name, kind in columns.items()]) for columns in (rows, images))
    params = [
        ParamSpec("seed", DataType.long, 0),
        ParamSpec("guidance_scale", DataType.double, None),  # what is usual for the generator
        ParamSpec("num_inference_steps", DataType.long, DEFAULT_SAMPLING.num_inference_steps),
    ]
    return ModelSignature(inputs, outputs, ParamSchema(params))


def save_generator(folder: Path, target: Path, description: Model | None = None) -> None:
    """Writes the generator in `folder` as an MLflow model: its files and the code that samples, nothing pickled."""
    code = importlib.util.find_spec("diffaug.integrations.mlflow_model")
    assert code is not None and code.origin is not None
    # Without the label of a build of torch, which no public index has.
    packages = generator_kind(read_record(folder).kind, folder).packages
    requirements = [f"{package}=={version(package).partition('+')[0]}" for package in packages]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about type hints, which a signature stands for
        mlflow.pyfunc.save_model(
            path=target,
            python_model=code.origin,
            artifacts={ARTIFACT: str(folder)},
            signature=signature(),
            pip_requirements=requirements,
            mlflow_model=description,
        )
    for cache in list(target.rglob("__pycache__")):
        shutil.rmtree(cache)


def log_generator(
    client: MlflowClient, run_id: str, event: Event, folder: Path, registered_name: str | None = None
) -> None:
    """Logs the generator in `folder` as the run's model, and registers it under the name, if there is one.

    Its pages show the generator's card and its last samples. The run that it lies under, where that is diffaug's own
    too, shows the model as well.
    """
    model = _logged_model(client, run_id, event)
    if model.status != LoggedModelStatus.READY:
        with scratch_folder() as temporary:
            target = Path(temporary) / "model"
            described = Model(artifact_path=model.artifact_location, run_id=run_id, model_id=model.model_id)
            save_generator(folder, target, described)
            if (sheet := _samples(folder)) is not None:
                shutil.copyfile(sheet, target / SAMPLES)
            client.log_model_artifacts(model.model_id, str(target))
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    run = client.get_run(run_id)
    _show(client, run, model)
    text = _description(folder, model)
    client.set_logged_model_tags(model.model_id, {NOTE_TAG: text})
    if registered_name is not None:
        version = _register(client, event, model, registered_name, text)
        versions = json.dumps([{"name": registered_name, "version": version}])
        client.set_logged_model_tags(model.model_id, {VERSIONS_TAG: versions})  # runs link registered models by it
    if PARENT_TAG in run.data.tags:
        parent = client.get_run(run.data.tags[PARENT_TAG])
        if EVENT_TAG in parent.data.tags:
            _show(client, parent, model)


def _show(client: MlflowClient, run: Run, model: LoggedModel) -> None:
    """Lists the model, once, among those that came out of the run, which is where its page shows models."""
    if not any(output.model_id == model.model_id for output in (run.outputs.model_outputs if run.outputs else [])):
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])


def _logged_model(client: MlflowClient, run_id: str, event: Event) -> LoggedModel:
    experiment = client.get_run(run_id).info.experiment_id
    found = client.search_logged_models([experiment], f"tags.`{EVENT_TAG}` = '{event.identity}'")
    own = [model for model in found if model.source_run_id == run_id]  # not that of a copied study
    if own:
        return own[0]
    return client.create_logged_model(
        experiment,
        clean_name(event.data["name"], ascii_only=True).replace("/", "_").replace(".", "_"),
        run_id,
        {EVENT_TAG: event.identity},
        model_type="diffaug.generator",
    )


def _samples(folder: Path) -> Path | None:
    """The sheet of samples drawn last in the training; None if there is none."""
    return max((folder / "samples").glob("*.png"), default=None)


def _description(folder: Path, model: LoggedModel) -> str:
    """The generator's card in Markdown, headed by its samples, with an address relative to the pages of MLflow."""
    card = folder / CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    if _samples(folder) is not None:
        address = f"ajax-api/2.0/mlflow/logged-models/{model.model_id}/artifacts/files?artifact_file_path={SAMPLES}"
        text = f"![Samples of each class]({address})\n\n{text}"
    return cut(text, MAX_DESCRIPTION_LENGTH)


def _register(client: MlflowClient, event: Event, model: LoggedModel, name: str, text: str) -> str:
    """Registers the model, once, and moves the event's alias to it; its version."""
    alias, run_id = event.data["alias"], model.source_run_id
    try:
        client.create_registered_model(name, description=text)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    of_run = client.search_model_versions(f"run_id = '{run_id}'")
    known = [found for found in of_run if found.tags.get(EVENT_TAG) == event.identity]
    if not known:
        tags = {EVENT_TAG: event.identity}
        source = model.artifact_location  # a source models:/ID would be looked up in MLflow's default store
        options: dict[str, Any] = {"description": text, "model_id": model.model_id, "await_creation_for": 0}
        known = [client.create_model_version(name, source, run_id, tags, **options)]
    version = str(known[0].version)
    if alias is not None:
        client.set_registered_model_alias(name, alias, version)
    return version
