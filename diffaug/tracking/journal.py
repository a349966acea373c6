"""The local record of everything that a study logs, from which trackers are served afterwards.

The journal holds one JSON line an event, numbered.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diffaug.errors import DamagedError
from diffaug.files import storage

if TYPE_CHECKING:
    import pandas as pd

Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class Event:
    """One line of the journal.

    Attributes:
        number: Running number, from 1.
        time: When it was recorded, milliseconds since 1970; later events have later times.
        kind: start, params, metrics, image, confusion, artifact, table, dataset, model, tags, description, end or
            superseded.
        key: The run it belongs to: "study", "fit", "trial/<arm>/<seed>".
        data: What was logged. A `file` is relative to the study where it lies inside.
    """

    number: int
    time: int
    kind: str
    key: str
    data: dict[str, Any]

    @property
    def identity(self) -> str:
        """A name by which a tracker recognises that it has this event already."""
        return storage.sha256_bytes(json.dumps(asdict(self)).encode())[:32]


@dataclass
class _Run:
    is_open: bool = True
    is_superseded: bool = False
    params: dict[str, str] = field(default_factory=dict)
    results: dict[str, float | str] = field(default_factory=dict)
    logged: set[tuple[str, str, int]] = field(default_factory=set)


class Journal:
    """The append-only record of everything a study logs.

    Args:
        path: The file, which lies in the study's folder; a last line cut short by a crash is ignored.

    Raises:
        DamagedError: A line before the last is not an event.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number = self._time = 0
        self._runs: dict[str, _Run] = {}
        for event in read_events(path):
            self._remember(event)

    def status(self, key: str) -> Literal["open", "ended"] | None:
        """Whether a run is open, was ended, or, None, was never started."""
        run = self._runs.get(key)
        return None if run is None else "open" if run.is_open else "ended"

    def start_run(
        self,
        key: str,
        *,
        name: str,
        parent: str | None = None,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        description: str | None = None,
    ) -> None:
        """Begins a run, or continues it while it is open; a key that was ended begins a new run.

        Args:
            key: By which the other methods name the run.
            name: The run's title.
            parent: Key of the run it belongs under.
            tags: Short texts to search by.
            params: Settings; recorded as text.
            description: Markdown.
        """
        if key in self._runs and self._runs[key].is_open:
            if tags:
                self.set_tags(key, tags)
            if description is not None:
                self.set_description(key, description)
        else:
            data = {"name": name, "parent": parent, "tags": dict(tags or {}), "description": description}
            self._append("start", key, data)
        self.log_params(key, params or {})

    def log_params(self, key: str, params: Mapping[str, Any]) -> None:
        """Records settings that the run doesn't have yet or that changed."""
        known = self._run(key).params
        changed = {name: str(value) for name, value in params.items() if known.get(name) != str(value)}
        if changed:
            self._append("params", key, {"params": changed})

    def log_metrics(self, key: str, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Records figures.

        Args:
            key: The run.
            metrics: Figures by name.
            step: Place on a curve; a figure that the curve has there already is left as it is, since a resumed
                training passes again through the steps after its last checkpoint. None: a result, which is recorded
                again when it changed.
        """
        run = self._run(key)
        numbers = {name: _number(value) for name, value in metrics.items()}
        if step is None:
            fresh = {name: number for name, number in numbers.items() if run.results.get(name) != number}
        else:
            fresh = {name: number for name, number in numbers.items() if ("metrics", name, step) not in run.logged}
        if fresh:
            self._append("metrics", key, {"metrics": fresh, "step": step})

    def results(self, key: str) -> dict[str, float]:
        """The latest value of every result of a run."""
        return {name: float(value) for name, value in self._run(key).results.items()}

    def log_image(self, key: str, image_key: str, file: Path, step: int = 0) -> None:
        """Records an image file shown by step under `image_key`, once a step."""
        if ("image", image_key, step) not in self._run(key).logged:
            self._append("image", key, {"image": image_key, "file": self._locate(file), "step": step})

    def log_artifact(self, key: str, file: Path, folder: str | None = None) -> None:
        """Records a file or a folder of files; a later one of the same name replaces it."""
        self._append("artifact", key, {"file": self._locate(file), "folder": folder})

    def log_table(self, key: str, name: str, rows: pd.DataFrame | Sequence[Mapping[str, Any]]) -> None:
        """Records a table, comparable across runs; a later one of the same name replaces it."""
        import pandas as pd

        table = json.loads(pd.DataFrame(rows).to_json(orient="split", index=False, date_format="iso"))
        self._append("table", key, {"name": name, **table})

    def log_confusion(self, key: str, counts: Sequence[Sequence[int]], classes: Sequence[str]) -> None:
        """Records a confusion matrix: test images by true class (row) and predicted class; a later one replaces it."""
        rows = [[int(count) for count in row] for row in counts]
        self._append("confusion", key, {"counts": rows, "classes": list(classes)})

    def log_dataset(self, key: str, manifest_file: Path, name: str, context: str, *, digest: str | None = None) -> None:
        """Records, once, that a run used images of `manifest_file`.

        Args:
            key: The run.
            manifest_file: A parquet table of images.
            name: The data set's name, such as that of a split.
            context: What it served for: training, test, synthetic.
            digest: Names the content, where it is a part of the file; none: the file's sha256.
        """
        content = digest or storage.sha256_file(manifest_file)
        if ("dataset", f"{name}\x1f{context}\x1f{content}", 0) not in self._run(key).logged:
            data = {"file": self._locate(manifest_file), "name": name, "context": context, "digest": content}
            self._append("dataset", key, data)

    def log_model(
        self, key: str, folder: Path, name: str, *, registered_name: str | None = None, alias: str | None = None
    ) -> None:
        """Records the generator in `folder`, finished, as the run's model.

        Args:
            key: The run.
            folder: The generator's directory.
            name: The model's name within the experiment.
            registered_name: The name to register it under as a new version; none: not registered.
            alias: A name for that version, moved from the version that had it.
        """
        data = {"file": self._locate(folder), "name": name, "registered_name": registered_name, "alias": alias}
        self._append("model", key, data)

    def set_tags(self, key: str, tags: Mapping[str, str]) -> None:
        """Records tags; a later value replaces an earlier one."""
        self._append("tags", key, {"tags": dict(tags)})

    def set_description(self, key: str, text: str) -> None:
        """Records the run's description, in Markdown."""
        self._append("description", key, {"description": text})

    def end_run(self, key: str, status: Status = "FINISHED") -> None:
        """Records the end of a run that is open."""
        if self._run(key).is_open:
            self._append("end", key, {"status": status})

    def supersede_runs(self, prefix: str, *, but: Collection[str]) -> None:
        """Records, once, that runs no longer stand for the study, since later ones took their place.

        Args:
            prefix: What the keys of the runs begin with.
            but: Keys of those that still stand.
        """
        older = [key for key, run in self._runs.items() if key.startswith(prefix) and not run.is_superseded]
        for key in older:
            if key not in but:
                self.end_run(key, "KILLED")
                self._append("superseded", key, {})

    def _run(self, key: str) -> _Run:
        if key not in self._runs:
            raise ValueError(f"the run '{key}' was not started")
        return self._runs[key]

    def _locate(self, file: Path) -> str:
        root, target = self._path.parent.resolve(), file.resolve()
        return target.relative_to(root).as_posix() if target.is_relative_to(root) else str(target)

    def _append(self, kind: str, key: str, data: dict[str, Any]) -> None:
        if kind != "start":
            self._run(key)
        now = max(time.time_ns() // 1_000_000, self._time + 1)
        event = Event(self._number + 1, now, kind, key, data)
        storage.append_line(self._path, json.dumps(asdict(event), allow_nan=False))
        self._remember(event)

    def _remember(self, event: Event) -> None:
        self._number, self._time = event.number, event.time
        if event.kind == "start":
            self._runs[event.key] = _Run()
        run = self._runs[event.key]
        if event.kind == "end":
            run.is_open = False
        elif event.kind == "superseded":
            run.is_superseded = True
        elif event.kind == "params":
            run.params.update(event.data["params"])
        elif event.kind == "metrics" and event.data["step"] is None:
            run.results.update(event.data["metrics"])
        elif event.kind == "metrics":
            run.logged.update(("metrics", name, event.data["step"]) for name in event.data["metrics"])
        elif event.kind == "image":
            run.logged.add(("image", event.data["image"], event.data["step"]))
        elif event.kind == "dataset":
            content = (event.data.get(part) or "" for part in ("name", "context", "digest"))
            run.logged.add(("dataset", "\x1f".join(content), 0))


def read_events(path: Path) -> list[Event]:
    """The events of a journal, none where there is no file; a last line cut short is ignored.

    Raises:
        DamagedError: A line before the last is not an event.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    try:
        return [Event(**json.loads(line)) for line in lines]
    except (ValueError, TypeError) as error:
        raise DamagedError(
            f"a line is not an event ({error})",
            where=path,
            fix="restore the file, or remove it: trackers keep what they had, and log to new runs from then on",
        ) from error


def _number(value: float) -> float | str:
    """JSON has no NaN or infinity: they are kept as text that `float` reads back."""
    number = float(value)
    return number if math.isfinite(number) else str(number)
