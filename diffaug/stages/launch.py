"""One job in several processes: the main one works as if alone, the others join in where it trains or fills a pool.

For a training the main process sends images, plan and state along, so that the others need no file of the study and
may be on other machines; a pool is filled through the study's folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from diffaug.configuration.settings import DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.planning.planning import Plan
from diffaug.diffusion.training.batches import TrainingData
from diffaug.diffusion.training.checkpoints import pack_state, unpack_state
from diffaug.diffusion.training.measuring import measure_images_per_second
from diffaug.diffusion.training.training import TrainingState, new_state, train
from diffaug.errors import Interrupted, UsageError
from diffaug.runtime.distributed import Group, Workers, current, joined
from diffaug.stages.generating.filling import help_to_generate
from diffaug.stages.signals import stop_requests

Task = Literal["measure", "train", "generate"]


@dataclass(frozen=True)
class Training:
    """What the processes of one training have in common.

    Attributes:
        images: The training images.
        plan: Network, batch and length.
        settings: The settings of the diffusion stage.
        device: `cpu` or `cuda`.
        seed: Seed of the training.
    """

    images: LabeledImages
    plan: Plan
    settings: DiffusionSettings
    device: str
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """All but the images' pixels and labels, JSON-like."""
        return {
            "classes": self.images.classes,
            "plan": self.plan.to_dict(),
            "settings": self.settings.model_dump(mode="json"),
            "device": self.device,
            "seed": self.seed,
        }

    @classmethod
    def receive(cls, workers: Workers, content: dict[str, Any]) -> Training:
        """What `to_dict` made, with the images that the main process sends next."""
        pixels, labels = workers.share_array(), workers.share_array()
        images = LabeledImages(pixels, labels, tuple(content["classes"]), tuple(map(str, range(len(labels)))))
        plan, settings = Plan.from_dict(content["plan"]), DiffusionSettings.model_validate(content["settings"])
        return cls(images, plan, settings, content["device"], content["seed"])


@contextmanager
def taking_part(task: Task, training: Training, state: TrainingState | None = None) -> Iterator[Workers]:
    """Calls the other processes, if any, to the task; in the block the main process does its part of it.

    Args:
        task: What to do.
        training: On what.
        state: Where the training stands; None: at its beginning.

    Raises:
        UsageError: There are more processes than images in a batch, or devices.
    """
    workers = current()
    if not isinstance(workers, Group):
        yield workers
        return
    if training.plan.batch_size < workers.size:
        raise UsageError(
            f"a batch of {training.plan.batch_size} images can't be shared by {workers.size} processes",
            fix=f"start fewer processes, or --set diffusion.batch_size={workers.size}",
        )
    workers.use_device(training.device)
    workers.share_json({"task": task, **training.to_dict()})
    with workers.at_work():
        workers.share_array(training.images.pixels)
        workers.share_array(training.images.labels)
        share_state(workers, state)
        yield workers


@contextmanager
def helped(task: Task, order: dict[str, Any]) -> Iterator[None]:
    """Calls the other processes, if any, to a task that they do beside the main one, each at its own pace.

    Args:
        task: What to do.
        order: JSON-like, with `device`: all that they need to know.
    """
    workers = current()
    if not isinstance(workers, Group):
        yield
        return
    workers.use_device(order["device"])
    workers.share_json({"task": task, **order})
    with workers.at_work():
        yield


def share_state(workers: Workers, state: TrainingState | None) -> None:
    """Puts every process where the main one stands; its state is None at the beginning of a training."""
    packed = pack_state(state) if workers.is_main and state is not None else None
    counters = workers.share_json(packed[1] if packed else None)
    if counters is not None:
        content = workers.share_array(np.frombuffer(packed[0], np.uint8) if packed else None)
        if not workers.is_main and state is not None:
            unpack_state(state, content.tobytes(), counters)


def run_together(command: Callable[[], None]) -> None:
    """Runs a command in the main process of a launch, and what it asks for in the others."""
    with joined() as workers:
        if workers.is_main:
            _lead(workers, command)
        else:
            follow(workers)


def _lead(workers: Group, command: Callable[[], None]) -> None:
    try:
        command()
    finally:
        if workers.is_idle:
            workers.share_json()


def follow(workers: Workers) -> None:
    """Does what the main process asks for until it asks for nothing more."""
    tasks: dict[Task, Callable[[dict[str, Any]], None]] = {
        "measure": lambda order: _measure(workers, Training.receive(workers, order)),
        "train": lambda order: _train(workers, Training.receive(workers, order)),
        "generate": help_to_generate,
    }
    try:
        while order := workers.share_json():
            workers.use_device(order["device"])
            tasks[order["task"]](order)
    except KeyboardInterrupt:
        raise SystemExit(Interrupted.exit_code) from None  # the main process says it for all


def measured(workers: Workers, data: TrainingData, training: Training) -> tuple[float, RuntimeError | None]:
    """Images per second of all processes; or 0, in each of them, and why the network can't be compiled."""
    try:
        return measure_images_per_second(data, training.plan, training.settings, workers), None
    except RuntimeError as error:
        if not training.plan.compiled:
            raise
        return 0.0, error


def _measure(workers: Workers, training: Training) -> None:
    share_state(workers, None)
    data = TrainingData.of(training.images, training.settings, training.device)
    measured(workers, data, training)


def _train(workers: Workers, training: Training) -> None:
    plan, settings = training.plan, training.settings
    data = TrainingData.of(training.images, settings, training.device, plan.images)
    state = new_state(plan, settings, training.device, training.seed)
    share_state(workers, state)
    with stop_requests() as stop_requested:
        for _ in train(state, data, plan, settings, training.seed, workers=workers):
            if workers.any(stop_requested()):
                break
