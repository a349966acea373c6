"""A worker: one of the processes that trainings are done in, told what to do in lines of JSON.

It is started as `python -m diffaug.evaluation.experiment.workers FOLDER`. The folder holds the images as memory-mapped
arrays, so all workers share one copy. The user's program is not run again
in it; a network of the user's own is imported.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from diffaug.classifiers.fit import TrainingRecipe
from diffaug.classifiers.training import Classifier, classifier_of
from diffaug.configuration.settings import EvaluationSettings
from diffaug.data.images import LabeledImages
from diffaug.errors import DiffaugError
from diffaug.evaluation.experiment.portable import unpacked
from diffaug.evaluation.experiment.tasks import Stock, Task, Train, training_of
from diffaug.files import storage

ORDER, CLASSIFIER = "order.json", "classifier.pkl"


def write_order(
    place: Path, stock: Stock, settings: EvaluationSettings, recipe: TrainingRecipe, classifier: bytes | None
) -> None:
    """Writes what workers need to know and see into `place`.

    Args:
        place: The folder.
        stock: The images.
        settings: What the classifier is made by, unless it is given.
        recipe: How it is trained.
        classifier: The classifier, packed.
    """
    if classifier is not None:
        storage.write_bytes(place / CLASSIFIER, classifier)
    for name, images in stock.items():
        storage.write_array(place / f"{name}.pixels.npy", images.pixels)
        storage.write_array(place / f"{name}.labels.npy", images.labels)
    order = {
        "settings": settings.model_dump(mode="json"),
        "recipe": asdict(recipe),
        "sets": {name: images.classes for name, images in stock.items()},
    }
    storage.write_json(place / ORDER, order)


def _read_stock(place: Path, sets: Mapping[str, list[str]]) -> dict[str, LabeledImages]:
    stock = {}
    for name, classes in sets.items():
        pixels = np.load(place / f"{name}.pixels.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(place / f"{name}.labels.npy", allow_pickle=False)
        stock[name] = LabeledImages(pixels, labels, tuple(classes), tuple(map(str, range(len(labels)))))
    return stock


def main(place: Path) -> None:
    """A worker: does what it is told until it is told no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches it too; the process that started it decides
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no reply
    told = _listen()
    order = storage.read_json(place / ORDER)
    stock = _read_stock(place, order["sets"])
    recipe = TrainingRecipe(**order["recipe"])

    @cache
    def train_on(device: str) -> Train:
        return training_of(_classifier(place, order["settings"]), recipe, device)

    while True:
        message = json.loads(told.get())
        print(json.dumps(_answer(place, message, stock, train_on)), file=replies, flush=True)


def _classifier(place: Path, settings: Mapping[str, Any]) -> Classifier:
    given = place / CLASSIFIER
    if given.is_file():
        return unpacked(given.read_bytes())
    return classifier_of(EvaluationSettings.model_validate(settings))


def _listen() -> queue.SimpleQueue[str]:
    """Lines of the standard input; at its end, when whoever writes it is gone, the process ends at once."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    return lines


def _answer(place: Path, message: dict[str, Any], stock: Stock, train_on: Callable[[str], Train]) -> dict[str, Any]:
    try:
        outcome = Task.from_dict(message["task"]).run(stock, train_on(message["device"]))
        file = f"{message['name']}.npy"
        storage.write_array(place / file, outcome.answer)
    except DiffaugError as error:
        return {"error": {"kind": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}}
    except Exception:
        return {"error": {"kind": "", "what": traceback.format_exc()}}
    return {"answer": file, "seconds": outcome.seconds}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
