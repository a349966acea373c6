"""The state of an unfinished training on disk: safetensors and JSON in committed directories."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import TypeAdapter
from torch import Tensor

from diffaug.diffusion.network.weights import read_weights, write_weights
from diffaug.diffusion.training.pace import Pace
from diffaug.diffusion.training.training import TrainingState
from diffaug.errors import DamagedError
from diffaug.files import storage
from diffaug.files.records import read_record, write_record

T = TypeVar("T")
KEPT = 2
TENSORS, COUNTERS = "state.safetensors", "counters.json"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")
SNAPSHOTS = ("guide", "safe")


@dataclass(frozen=True)
class Counters:
    """What a `TrainingState` holds besides tensors."""

    step: int
    skipped: int
    skipped_in_a_row: int
    rollbacks: int
    micro_batches: int
    safe_step: int
    pace: Pace | None
    seconds: float


_COUNTERS = TypeAdapter(Counters)


def save_checkpoint(folder: Path, state: TrainingState) -> None:
    """Writes a checkpoint, and only then removes all but the newest two."""
    weights = {"model": state.loss.state_dict(), "averaged": state.averaged.state_dict()}
    sections = weights | {name: getattr(state, name) or {} for name in SNAPSHOTS}
    counters = Counters(
        state.step,
        int(state.skipped),
        int(state.skipped_in_a_row),
        state.rollbacks,
        state.micro_batches,
        state.safe_step,
        state.pace,
        state.seconds,
    )
    write_checkpoint(
        folder, state.step, {**sections, **moments_of(state.optimizer, state.trained)}, _COUNTERS, counters
    )


def restore_latest(folder: Path, state: TrainingState) -> tuple[int | None, list[str]]:
    """Fills `state` from the newest checkpoint that is whole, see `read_latest`."""

    def fill(sections: Sections, counters: Counters, _: Path) -> None:
        state.loss.load_state_dict(sections["model"])
        state.averaged.load_state_dict(sections["averaged"])
        restore_moments(state.optimizer, state.trained, sections)
        for name in SNAPSHOTS:
            snapshot = sections.get(name)
            on_device = snapshot and {key: tensor.to(state.skipped.device) for key, tensor in snapshot.items()}
            setattr(state, name, on_device)
        state.skipped.fill_(counters.skipped)
        state.skipped_in_a_row.fill_(counters.skipped_in_a_row)
        for name in ("step", "rollbacks", "micro_batches", "safe_step", "pace", "seconds"):
            setattr(state, name, getattr(counters, name))

    notes = read_latest(folder, _COUNTERS, fill)
    return None if notes is None else state.step, notes or []


Sections = Mapping[str, Mapping[str, Tensor]]
"""Named tensors by what they are."""


def write_checkpoint(folder: Path, step: int, sections: Sections, kind: TypeAdapter[T], counters: T) -> None:
    """Writes a checkpoint of any training, and only then removes all but the newest two."""
    tensors = {f"{section}.{name}": tensor for section, own in sections.items() for name, tensor in own.items()}
    with storage.new_directory(folder / f"step-{step:08d}", {"step": step}) as target:
        write_weights(target / TENSORS, tensors)
        write_record(target / COUNTERS, kind, counters)
    for old in _newest_first(folder)[KEPT:]:
        storage.discard_directory(old)


def read_latest(folder: Path, kind: TypeAdapter[T], fill: Callable[[Sections, T, Path], None]) -> list[str] | None:
    """Gives `fill` the newest checkpoint that is whole, and where it lies.

    Returns:
        A sentence for each checkpoint that was passed over. None if there is no checkpoint.

    Raises:
        DamagedError: There are checkpoints, and none is whole.
    """
    notes: list[str] = []
    candidates = _newest_first(folder)
    for candidate in candidates:
        try:
            if storage.committed_metadata(candidate, verify=True) is not None:
                sections: dict[str, dict[str, Tensor]] = {}
                for name, tensor in read_weights(candidate / TENSORS).items():
                    section, _, rest = name.partition(".")
                    sections.setdefault(section, {})[rest] = tensor
                fill(sections, read_record(candidate / COUNTERS, kind), candidate)
                return notes
            notes.append(f"checkpoint {candidate.name} was not finished; the one before it is used")
        except DamagedError as error:
            notes.append(f"checkpoint {candidate.name} is damaged ({error.what}); the one before it is used")
    if candidates:
        raise DamagedError(f"no checkpoint is whole: {'; '.join(notes)}", where=folder, fix="remove it to train anew")
    return None


def moments_of(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> Sections:
    """What Adam keeps of parameters by name, each kind a section."""
    kept = {name: optimizer.state.get(parameter, {}) for name, parameter in parameters.items()}
    return {moment: {name: own[moment] for name, own in kept.items() if moment in own} for moment in MOMENTS}


def restore_moments(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], sections: Sections) -> None:
    """Gives Adam back what `moments_of` returned."""
    for name in sections.get("step", {}):
        parameter = parameters[name]
        moments = {one: torch.empty_like(parameter).copy_(sections[one][name]) for one in MOMENTS[:2]}
        place = parameter.device if optimizer.defaults["fused"] else "cpu"  # as Adam wants it
        optimizer.state[parameter] = {"step": sections["step"][name].to(place), **moments}


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)
