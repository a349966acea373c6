"""Logs each kind of event to an MLflow run; logging one again changes nothing."""

import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.types.schema import AnyType, ColSpec, DataType, Schema, TensorSpec
from PIL import Image
from pyarrow.parquet import read_table

from diffaug.errors import DataError, UsageError
from diffaug.files import storage
from diffaug.files.temporaries import scratch_folder
from diffaug.integrations import mlflow_limits as limits
from diffaug.integrations.mlflow_confusion import confusion_png
from diffaug.integrations.mlflow_generator import NOTE_TAG, log_generator
from diffaug.integrations.mlflow_limits import clean_name, clean_tags, cut, model_name
from diffaug.runtime.console import printable
from diffaug.tracking.events import Event

SUPERSEDED_TAG = "diffaug.superseded"
SUPERSEDED = "superseded: "
COLUMN_TYPES = {
    pa.types.is_boolean: DataType.boolean,
    pa.types.is_integer: DataType.long,
    pa.types.is_floating: DataType.double,
    pa.types.is_timestamp: DataType.datetime,
    pa.types.is_string: DataType.string,
    pa.types.is_large_string: DataType.string,
}
ANY = AnyType()  # type: ignore[no-untyped-call]
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class RepeatableClient(MlflowClient):
    """Names the files of an image after its event, so that sending it again replaces them.

    `MlflowClient.log_image` draws a new UUID for the name of its temporary file at each call. The UUID in that private
    name is replaced here, so `pyproject.toml` limits MLflow to versions for which this is tested.
    """

    _file_id: str | None = None

    def log_image_once(self, run_id: str, file: Path, event: Event) -> None:
        """Logs an image file at the event's step."""
        key = clean_name(event.data["image"], ascii_only=True)
        self._file_id = str(uuid.uuid5(uuid.NAMESPACE_OID, event.identity))
        try:
            with Image.open(file) as image:
                self.log_image(run_id, image, key=key, step=event.data["step"], timestamp=event.time, synchronous=True)
        finally:
            self._file_id = None

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str | None = None) -> None:
        """As of `MlflowClient`."""
        path = Path(local_path)
        if self._file_id is not None:
            path = path.rename(path.with_name(_UUID.sub(self._file_id, path.name)))
        super().log_artifact(run_id, str(path), artifact_path)


class EventLogger:
    """Logs events, other than the start of a run, to runs that exist.

    `root` is the study's folder. What MLflow gets to know under another name is added to `renamed`, in sentences.
    """

    def __init__(self, client: RepeatableClient, root: Path, renamed: list[str]) -> None:
        self._client, self._root, self._renamed = client, root, renamed
        self._datasets: dict[tuple[str, str, str], Dataset] = {}

    def log(self, run_id: str, batch: Sequence[Event]) -> None:
        """Logs one event, or several of metrics; raises DataError if a file of the event is missing."""
        event, data, client = batch[0], batch[0].data, self._client
        match event.kind:
            case "metrics":
                self._log_metrics(run_id, batch)
            case "params":
                self._log_params(run_id, data["params"])
            case "tags" | "description":
                self._log_tags(run_id, data["tags"] if event.kind == "tags" else {NOTE_TAG: data["description"]})
            case "image":
                client.log_image_once(run_id, self._file(data), event)
            case "confusion":
                self._log_confusion(run_id, data)
            case "artifact":
                client.log_artifact(run_id, str(self._file(data)), data["folder"])
            case "table":
                self._log_table(run_id, data)
            case "dataset":
                self._log_dataset(run_id, data)
            case "model":
                self._log_model(run_id, event)
            case "end":
                client.set_terminated(run_id, data["status"], event.time)
            case "superseded":
                self.supersede(run_id)
            case unknown:
                raise UsageError(f"an event of unknown kind '{unknown}'", fix="update diffaug")

    def supersede(self, run_id: str) -> None:
        """Marks a run that a later one replaced, in its tags and in its name; its content stays."""
        self._client.set_tag(run_id, SUPERSEDED_TAG, "true")
        name = self._client.get_run(run_id).info.run_name or ""
        if not name.startswith(SUPERSEDED):
            self._client.update_run(run_id, name=cut(f"{SUPERSEDED}{name}", limits.MAX_NAME_LENGTH))

    def _log_metrics(self, run_id: str, batch: Sequence[Event]) -> None:
        metrics = [
            Metric(clean_name(name), float(value), event.time, event.data["step"] or 0)
            for event in batch
            for name, value in event.data["metrics"].items()
        ]
        self._log_all(run_id, "metrics", metrics)

    def _log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """MLflow parameters can't change, so a changed one becomes a tag."""
        short = {clean_name(name): cut(value, limits.MAX_PARAM_LENGTH) for name, value in params.items()}
        known = self._client.get_run(run_id).data.params
        self._log_all(run_id, "params", [Param(name, value) for name, value in short.items() if name not in known])
        changed = {f"changed.{name}": text for name, text in short.items() if known.get(name, text) != text}
        self._log_tags(run_id, changed)

    def _log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        self._log_all(run_id, "tags", [RunTag(name, value) for name, value in clean_tags(tags).items()])

    def _log_all(self, run_id: str, kind: str, items: list[Any]) -> None:
        size = limits.MAX_PER_BATCH[kind]
        for start in range(0, len(items), size):
            self._client.log_batch(run_id, **{kind: items[start : start + size]}, synchronous=True)

    def _log_confusion(self, run_id: str, data: dict[str, Any]) -> None:
        with scratch_folder() as folder:
            file = Path(folder) / "confusion_matrix.png"
            storage.write_bytes(file, confusion_png(data["counts"], data["classes"]))
            self._client.log_artifact(run_id, str(file))

    def _log_table(self, run_id: str, table: dict[str, Any]) -> None:
        """Writes what `log_table` writes, but replaces a table that is sent again, where `log_table` would append."""
        file = clean_name(table["name"].removesuffix(".json"), ascii_only=True) + ".json"
        self._client.log_dict(run_id, {"columns": table["columns"], "data": table["data"]}, file)
        logged = json.loads(self._client.get_run(run_id).data.tags.get("mlflow.loggedArtifacts", "[]"))
        entry = {"path": file, "type": "table"}
        if entry not in logged:
            self._client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps([*logged, entry]))

    def _log_dataset(self, run_id: str, data: dict[str, Any]) -> None:
        """The file is read once, since all trials of an experiment share it."""
        file = self._file(data)
        known = (str(file), data["name"], data["digest"])
        if known not in self._datasets:
            self._datasets[known] = _describe(file, data["name"], data["digest"], data["rows"])
        context = InputTag("mlflow.data.context", data["context"])
        self._client.log_inputs(run_id, [DatasetInput(self._datasets[known], [context])])

    def _log_model(self, run_id: str, event: Event) -> None:
        asked = event.data["registered_name"]
        name = None if asked is None else model_name(asked)
        log_generator(self._client, run_id, event, self._file(event.data), name)
        if name != asked:
            self._renamed.append(
                f"MLflow refuses '{printable(asked)}' as the name of a model; it is registered as '{name}'."
            )

    def _file(self, data: dict[str, Any]) -> Path:
        path: Path = self._root / data["file"]
        if not path.exists():
            raise DataError("the file is missing", where=path)
        return path


def _describe(file: Path, name: str, digest: str, rows: int | None) -> Dataset:
    """Describes a parquet file as `mlflow.data.from_pandas` does, without warnings, which no thread can suppress.

    A dataset of some of its rows, `rows`, has their number.
    """
    table = read_table(file, use_threads=False, pre_buffer=False)
    rows = table.num_rows if rows is None else rows
    columns: list[ColSpec | TensorSpec] = []
    for field in table.schema:
        kind = next((kind for holds, kind in COLUMN_TYPES.items() if holds(field.type)), ANY)
        columns.append(ColSpec(kind, field.name, required=not table[field.name].null_count))
    return Dataset(
        name=cut(name, limits.MAX_NAME_LENGTH),
        digest=digest[: limits.MAX_DIGEST_LENGTH],
        source_type="local",
        source=json.dumps({"uri": file.as_uri()}),
        schema=json.dumps({"mlflow_colspec": Schema(columns).to_dict()}),
        profile=json.dumps({"num_rows": rows, "num_elements": rows * table.num_columns}),
    )


def batches(events: Iterable[Event]) -> Iterator[list[Event]]:
    """Consecutive metrics of one run together, every other event alone."""
    batch: list[Event] = []
    size = 0
    for event in events:
        added = len(event.data.get("metrics", ()))
        joins = batch and event.kind == batch[0].kind == "metrics" and event.key == batch[0].key
        if batch and not (joins and size + added <= limits.MAX_PER_BATCH["metrics"]):
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += added
    if batch:
        yield batch
