"""The state of an unfinished training on disk: safetensors and JSON in committed directories."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save
from torch import Tensor

from diffaug.diffusion.training.pace import Pace
from diffaug.diffusion.training.training import TrainingState
from diffaug.errors import DamagedError
from diffaug.files import storage
from diffaug.files.records import read_record, write_record

KEPT = 2
TENSORS, COUNTERS = "state.safetensors", "counters.json"
MOMENTS = ("exp_avg", "exp_avg_sq")
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

    @classmethod
    def of(cls, state: TrainingState) -> Counters:
        """The counters of a state."""
        return cls(
            state.step,
            int(state.skipped),
            int(state.skipped_in_a_row),
            state.rollbacks,
            state.micro_batches,
            state.safe_step,
            state.pace,
            state.seconds,
        )


_COUNTERS = TypeAdapter(Counters)


def save_checkpoint(folder: Path, state: TrainingState) -> None:
    """Writes a checkpoint, and only then removes all but the newest two."""
    with storage.new_directory(folder / f"step-{state.step:08d}", {"step": state.step}) as target:
        storage.write_bytes(target / TENSORS, save(_tensors_of(state)))
        write_record(target / COUNTERS, _COUNTERS, Counters.of(state))
    for old in _newest_first(folder)[KEPT:]:
        storage.discard_directory(old)


def restore_latest(folder: Path, state: TrainingState) -> tuple[int | None, list[str]]:
    """Fills `state` from the newest checkpoint that is whole; a DamagedError if there are checkpoints and none is.

    Returns its step, None without a checkpoint; and a sentence for each damaged checkpoint that was passed over.
    """
    notes: list[str] = []
    candidates = _newest_first(folder)
    for candidate in candidates:
        try:
            if storage.committed_metadata(candidate, verify=True) is not None:
                _fill(state, load_file(candidate / TENSORS), read_record(candidate / COUNTERS, _COUNTERS))
                return state.step, notes
            notes.append(f"checkpoint {candidate.name} was not finished; the one before it is used")
        except DamagedError as error:
            notes.append(f"checkpoint {candidate.name} is damaged ({error.what}); the one before it is used")
    if candidates:
        raise DamagedError(f"no checkpoint is whole: {'; '.join(notes)}", where=folder, fix="remove it to train anew")
    return None, notes


def _fill(state: TrainingState, tensors: dict[str, Tensor], counters: Counters) -> None:
    state.loss.load_state_dict(_section(tensors, "model"))
    state.averaged.load_state_dict(_section(tensors, "averaged"))
    moments = {moment: _section(tensors, moment) for moment in (*MOMENTS, "step")}
    for name, parameter in state.trained.items():
        if name in moments["step"]:
            state.optimizer.state[parameter] = {
                "step": moments["step"][name].to(parameter.device),
                **{moment: torch.empty_like(parameter).copy_(moments[moment][name]) for moment in MOMENTS},
            }
    device = state.skipped.device
    state.guide, state.safe = (
        {name: tensor.to(device) for name, tensor in _section(tensors, section).items()} or None
        for section in SNAPSHOTS
    )
    for name in ("step", "rollbacks", "micro_batches", "safe_step", "pace", "seconds"):
        setattr(state, name, getattr(counters, name))
    state.skipped.fill_(counters.skipped)
    state.skipped_in_a_row.fill_(counters.skipped_in_a_row)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _tensors_of(state: TrainingState) -> dict[str, Tensor]:
    tensors = {f"model.{name}": tensor for name, tensor in state.loss.state_dict().items()}
    tensors |= {f"averaged.{name}": tensor for name, tensor in state.averaged.state_dict().items()}
    for section in SNAPSHOTS:
        tensors |= {f"{section}.{name}": tensor for name, tensor in (getattr(state, section) or {}).items()}
    for name, parameter in state.trained.items():
        moments = state.optimizer.state.get(parameter, {})
        tensors |= {f"{moment}.{name}": moments[moment] for moment in (*MOMENTS, "step") if moment in moments}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _section(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")
    }
