"""Training as a Python generator of step records; the caller logs and saves.

Everything random in step k depends on (seed, k) alone. So a training that resumes from a checkpoint ends, on one
machine with one number of threads, in exactly the weights of one that was never stopped.

A training that is behind its deadline is given fewer steps, and its learning rate goes on from where it is to 0 at the
new end, see `Pace`. Then the result depends on the clock; without a deadline it does not.

Any number of processes train on the same batches, each on its contiguous part. Without dropout every step equals that
of one process up to the order of summation. Dropout depends on (seed, k, process), so with dropout only the same
number of processes repeats itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from diffaug.diffusion.network.denoiser import Denoiser, join_weights
from diffaug.diffusion.network.unet import NetworkConfig
from diffaug.diffusion.planning import defaults
from diffaug.diffusion.planning.planning import Plan
from diffaug.diffusion.process.ddpm import Ddpm
from diffaug.diffusion.process.edm import Edm
from diffaug.diffusion.training.batches import Batch
from diffaug.diffusion.training.loss import TrainingLoss
from diffaug.diffusion.training.pace import Pace, ema_decay_at, learning_rate_at
from diffaug.errors import DiffaugError
from diffaug.runtime import seeding
from diffaug.runtime.devices import use_fast_kernels
from diffaug.runtime.distributed import ALONE, ProcessGroup

MAX_GRADIENT_NORM = 1.0
ADAM_BETAS = (0.9, 0.99)
MAX_SKIPPED_STEPS_IN_A_ROW = 16
MAX_ROLLBACKS = 3
GUIDE_FRACTION = 1 / 16
DENOISER = "denoiser"

T = TypeVar("T")
Weights = dict[str, Tensor]


class Batches(Protocol):
    """What a network is trained on, such as `TrainingData`."""

    def draw(self, plan: Plan, seed: int, step: int) -> Batch:
        """The batch of a step, which depends on (seed, step) alone."""

    def objective(self, network: NetworkConfig) -> Edm | Ddpm:
        """What the network is trained for."""


@dataclass
class TrainingState:
    """All that a training needs to resume.

    Attributes:
        loss: The network being trained, inside its loss.
        averaged: The network's exponential moving average, which is what samples.
        trained: What the optimizer changes, by name: the network's joined weights, and what else the loss learns.
        skipped: Steps without an update because a gradient was not finite; a scalar tensor on the device.
        rollbacks: How often the averaged weights were put back; each halves the learning rate.
        micro_batches: Parts in which a process passes its batch through the network; more if memory is short.
        guide: The averaged weights after 1/16 of the steps, for autoguidance (Karras et al. 2024, arXiv 2406.02507).
        safe: The averaged weights at the last check without copying, after `safe_step` steps.
        pace: None until a deadline has changed what the plan says.
        seconds: Spent on the fit when the state was saved.
    """

    loss: TrainingLoss
    averaged: Denoiser
    trained: dict[str, nn.Parameter]
    average: Tensor
    optimizer: torch.optim.AdamW
    skipped: Tensor
    skipped_in_a_row: Tensor
    step: int = 0
    rollbacks: int = 0
    micro_batches: int = 1
    guide: Weights | None = None
    safe: Weights | None = None
    safe_step: int = 0
    pace: Pace | None = None
    seconds: float = 0.0

    def pace_of(self, plan: Plan) -> Pace:
        """The pace of a training by this plan."""
        return self.pace or Pace(plan.steps)

    @property
    def denoiser(self) -> Denoiser:
        """The network being trained."""
        return self.loss.denoiser

    def keep_safe(self) -> None:
        """Remembers the averaged weights as they are now."""
        self.safe, self.safe_step = snapshot(self.averaged), self.step

    def return_to_safe(self) -> None:
        """Puts the remembered averaged weights back, to be written. The training can't resume from there."""
        if self.safe is not None:
            self.averaged.load_state_dict(self.safe)
            self.step = self.safe_step


def snapshot(denoiser: Denoiser) -> Weights:
    """A copy of the weights on their device."""
    return {name: tensor.detach().clone() for name, tensor in denoiser.state_dict().items()}


def guide_step(plan: Plan) -> int:
    """The step after which the averaged weights are kept as the guide."""
    return max(1, round(GUIDE_FRACTION * plan.steps))


@dataclass(frozen=True)
class StepRecord:
    """One step; the loss is the mean weighted denoising error, and reading it waits for the device."""

    step: int
    images_seen: int
    loss: Tensor
    learning_rate: float


def new_state(plan: Plan, device: str, seed: int) -> TrainingState:
    """The state before the first step; initial weights depend on the seed alone."""
    use_fast_kernels(device)
    with seeding.torch_global_seed(seed, "initial weights"):
        denoiser = Denoiser(plan.network)
        uncertainty = defaults.UNCERTAINTY_WEIGHTING and denoiser.config.objective == "edm"
        loss = TrainingLoss(denoiser, uncertainty=uncertainty)
    loss.to(device=device)
    loss.to(memory_format=torch.channels_last)
    if plan.compiled:
        loss.compile(dynamic=False)
    averaged = copy.deepcopy(loss.denoiser).eval().requires_grad_(False)
    trained = {DENOISER: join_weights(loss.denoiser)}
    trained |= {name: one for name, one in loss.named_parameters() if not name.startswith(DENOISER)}
    rate, average = plan.learning_rate, join_weights(averaged).data
    optimizer = torch.optim.AdamW(trained.values(), lr=rate, betas=ADAM_BETAS, weight_decay=0.0, fused=True)
    skipped = torch.zeros((), device=device)
    return TrainingState(loss, averaged, trained, average, optimizer, skipped, skipped.clone())


def train(
    state: TrainingState, data: Batches, plan: Plan, seed: int, *, group: ProcessGroup = ALONE
) -> Iterator[StepRecord]:
    """Trains to the end of the state's pace, at first that of the plan.

    Yields after every step, when `state` is complete and may be saved.

    A step whose gradient is not finite changes nothing. After 16 of them in a row the averaged weights are put
    back and the learning rate is halved; the fourth time the training fails with a DiffaugError. All processes of the
    group must take the same steps from the same state.
    """
    state.loss.train()
    state.denoiser.objective = data.objective(plan.network)
    gradients = _Gradients(state, plan, group, seed)
    while state.step < state.pace_of(plan).steps:
        rate = learning_rate_at(state.step, plan, state.pace) * 0.5**state.rollbacks
        for parameters in state.optimizer.param_groups:
            parameters["lr"] = rate
        batch = data.draw(plan, seed, state.step)
        loss = gradients.compute(batch)
        _update(state, ema_decay_at(state.step, plan.batch_size))
        state.step += 1
        if state.step == guide_step(plan):
            state.guide = snapshot(state.averaged)
        if state.step % MAX_SKIPPED_STEPS_IN_A_ROW == 0 and state.skipped_in_a_row >= MAX_SKIPPED_STEPS_IN_A_ROW:
            _roll_back(state, plan)
        yield StepRecord(state.step, state.step * plan.batch_size, loss, rate)


class _Gradients:
    """Computes the gradients of a batch's mean loss, the same in every process."""

    def __init__(self, state: TrainingState, plan: Plan, group: ProcessGroup, seed: int) -> None:
        self.state, self.plan, self.group, self.seed = state, plan, group, seed
        self.module = group.synchronized(state.loss)
        self.held: tuple[bool, ...] | None = None

    def compute(self, batch: Batch) -> Tensor:
        """Runs forward and backward; returns the whole batch's mean denoising error."""
        whole, part = len(batch.labels), batch.part(self.group.share(len(batch.labels)))
        self.state.micro_batches = min(self.state.micro_batches, len(part.labels))
        if self.group.size == 1:
            return self._in_parts(part, whole)
        held = bool(self.state.optimizer.state), self.state.guide is None, self.state.safe is None
        if held != self.held:
            self._try_alone(part, whole)
            self.held = held
        return self.group.total(self._backward(part, whole))

    def _try_alone(self, part: Batch, whole: int) -> None:
        """Finds how many parts fit into this process's memory.

        A process that starts again in the middle of an exchange would leave the others waiting, so each one tries by
        itself. Shapes never change, so what fits keeps fitting until more is stored: moments of Adam, a snapshot.
        """
        failure = None
        try:
            with self.group.apart(self.module):
                self._in_parts(part, whole)
        except RuntimeError as error:
            failure = error
        if self.held is None and self.group.any(failure is not None) and failure is None:
            failure = RuntimeError("another process failed in the first step")
        if failure is not None:
            raise failure

    def _in_parts(self, batch: Batch, whole: int) -> Tensor:
        """In smaller parts if memory is short; noise belongs to the batch, so it stays the same."""
        return halving(self.state, len(batch.labels), lambda: self._backward(batch, whole))

    def _backward(self, batch: Batch, whole: int) -> Tensor:
        """One pass over this process's part of a batch of `whole` images; the last backward exchanges gradients."""
        device = batch.x0.device.type
        self.state.optimizer.zero_grad(set_to_none=False)
        logged = torch.zeros((), device=batch.x0.device)
        parts = batch.split(self.state.micro_batches)
        with seeding.torch_global_seed(self.seed, "dropout", self.state.step, self.group.rank):
            for number, part in enumerate(parts, start=1):
                with nullcontext() if number == len(parts) else self.group.apart(self.module):
                    with torch.autocast(device, torch.bfloat16, enabled=self.plan.precision == "bfloat16"):
                        loss, denoising = self.module(part)
                    share = len(part.labels) / whole
                    (self.group.size * share * loss).backward()  # processes are averaged, images are to be
                logged += share * denoising
        return logged


class InParts(Protocol):
    """A training whose batches pass through the network in parts."""

    micro_batches: int


def halving(state: InParts, images: int, compute: Callable[[], T]) -> T:
    """What `compute` returns, which is called again with parts half as large as long as memory runs out."""
    while True:
        try:
            return compute()
        except RuntimeError as error:
            short = isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
            if not short or 2 * state.micro_batches > images:
                raise
        state.micro_batches *= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _update(state: TrainingState, ema_decay: float) -> None:
    """One optimizer step and one step of the average. The device decides whether the gradient is finite.

    The fused optimizer skips the update by itself if `found_inf` is 1, so the host never waits.
    """
    norm = torch.nn.utils.clip_grad_norm_(state.trained.values(), MAX_GRADIENT_NORM, foreach=True)
    bad = (~torch.isfinite(norm)).float()
    state.optimizer.found_inf = bad  # type: ignore[attr-defined]
    state.optimizer.step()
    state.skipped += bad
    state.skipped_in_a_row.add_(1).mul_(bad)
    state.average.lerp_(state.trained[DENOISER].detach(), (1 - ema_decay) * (1 - bad))


def _roll_back(state: TrainingState, plan: Plan) -> None:
    if state.rollbacks == MAX_ROLLBACKS:
        smaller = plan.learning_rate * 0.5 ** (MAX_ROLLBACKS + 1)
        raise DiffaugError(
            f"training diverged: the gradients of steps {state.step - int(state.skipped_in_a_row) + 1} to {state.step} "
            f"are not finite, after {MAX_ROLLBACKS} attempts with a smaller learning rate",
            fix=f"lower the learning rate: --set diffusion.learning_rate={smaller:.1g}",
        )
    state.denoiser.load_state_dict(state.averaged.state_dict())
    state.optimizer.state.clear()
    state.skipped_in_a_row.zero_()
    state.rollbacks += 1
