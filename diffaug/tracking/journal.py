"""The local event log of a study; trackers are fed from it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diffaug.errors import DamagedError
from diffaug.files import storage
from diffaug.tracking.events import Event, JournalReader

if TYPE_CHECKING:
    import pandas as pd

Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass
class _Run:
    is_open: bool = True
    is_superseded: bool = False
    params: dict[str, str] = field(default_factory=dict)
    results: dict[str, float | str] = field(default_factory=dict)
    logged: set[tuple[str, str, int]] = field(default_factory=set)


class Journal:
    """The append-only record of everything a study logs.

    `path` lies in the study's folder. A last line cut short by a crash is ignored; DamagedError is raised where
    another line is not an event. A run is named by its `key`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._batch: list[Event] | None = None
        self._reload()

    def refresh(self) -> None:
        """Reads what other processes that share the study have appended."""
        for event in self._reader.read():
            try:
                self._remember(event)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                what = f"event {event.number} is not as diffaug wrote it ({error})"
                raise DamagedError(what, where=self._path, fix=storage.REPAIR_HINT) from error

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Writes the events of the block together at its end, with one flush of the disk."""
        if self._batch is not None:
            yield
            return
        self.refresh()
        self._batch = []
        try:
            yield
        finally:
            events, self._batch = self._batch, None
            try:
                if events:
                    storage.append_lines(self._path, [event.line() for event in events])
                    self.refresh()
            except BaseException:
                self._reload()
                raise

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
    ) -> None:
        """Begins a run, or continues it while it is open; a key that was ended begins a new run.

        `name` is its title, `parent` the key of the run it belongs under; `params` are recorded as text.
        """
        with self.batch():
            if key in self._runs and self._runs[key].is_open:
                if tags:
                    self.set_tags(key, tags)
            else:
                self._append("start", key, {"name": name, "parent": parent, "tags": dict(tags or {})})
            self.log_params(key, params or {})

    def log_params(self, key: str, params: Mapping[str, Any]) -> None:
        """Records settings that the run doesn't have yet or that changed."""
        known = self._run(key).params
        changed = {name: str(value) for name, value in params.items() if known.get(name) != str(value)}
        if changed:
            self._append("params", key, {"params": changed})

    def log_metrics(self, key: str, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Records figures by name.

        A figure that exists at its `step` is not recorded again, since a resumed training repeats the steps after its
        last checkpoint. Without a step it is a result, which is recorded again if it changed.
        """
        run = self._run(key)

        def is_fresh(name: str, number: float | str) -> bool:
            return run.results.get(name) != number if step is None else ("metrics", name, step) not in run.logged

        numbers = {name: _number(value) for name, value in metrics.items()}
        fresh = {name: number for name, number in numbers.items() if is_fresh(name, number)}
        if fresh:
            self._append("metrics", key, {"metrics": fresh, "step": step})

    def results(self, key: str) -> dict[str, float]:
        """The latest value of every result of a run."""
        return {name: float(value) for name, value in self._run(key).results.items()}

    def log_image(self, key: str, image_key: str, file: Path, step: int = 0) -> None:
        """Records an image file shown by step under `image_key`, once per step."""
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

    def log_dataset(
        self,
        key: str,
        manifest_file: Path,
        name: str,
        context: str,
        *,
        digest: str | None = None,
        rows: int | None = None,
    ) -> None:
        """Records, once, that a run used images of `manifest_file`, a parquet table.

        `context` is their use, such as training; `digest` identifies a part of the file and `rows` is its number of
        rows, by default all of it.
        """
        content = digest or storage.sha256_file(manifest_file)
        if _dataset(name, context, content) not in self._run(key).logged:
            data = {
                "file": self._locate(manifest_file),
                "name": name,
                "context": context,
                "digest": content,
                "rows": rows,
            }
            self._append("dataset", key, data)

    def log_model(
        self, key: str, folder: Path, name: str, *, registered_name: str | None = None, alias: str | None = None
    ) -> None:
        """Records the finished generator in `folder`; a registered version takes the alias from the former one."""
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
        """Records, once, that later runs took the place of those whose key begins with `prefix`, `but` some."""
        for key, run in list(self._runs.items()):
            if key.startswith(prefix) and key not in but and not run.is_superseded:
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
        with self.batch():
            now = max(time.time_ns() // 1_000_000, self._time + 1)
            event = Event(self._number + 1, now, kind, key, data)
            self._remember(event)
            assert self._batch is not None
            self._batch.append(event)

    def _reload(self) -> None:
        self._reader = JournalReader(self._path)
        self._number = self._time = 0
        self._runs: dict[str, _Run] = {}
        self.refresh()

    def _remember(self, event: Event) -> None:
        self._number, self._time = event.number, event.time
        if event.kind == "start":
            self._runs[event.key] = _Run()
        run = self._runs[event.key]
        match event.kind, event.data:
            case "end", _:
                run.is_open = False
            case "superseded", _:
                run.is_superseded = True
            case "params", data:
                run.params.update(data["params"])
            case "metrics", {"step": None, "metrics": metrics}:
                run.results.update(metrics)
            case "metrics", {"step": step, "metrics": metrics}:
                run.logged.update(("metrics", name, step) for name in metrics)
            case "image", data:
                run.logged.add(("image", data["image"], data["step"]))
            case "dataset", data:
                run.logged.add(_dataset(data["name"], data["context"], data["digest"]))


def _dataset(*parts: str) -> tuple[str, str, int]:
    return "dataset", "\x1f".join(parts), 0


def _number(value: float) -> float | str:
    """JSON has no NaN or infinity: they are kept as text that `float` reads back."""
    number = float(value)
    return number if math.isfinite(number) else str(number)
