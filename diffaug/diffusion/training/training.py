"""Training as a generator of step records; the caller logs and saves.

Everything random in step k depends on (seed, k) alone, so a training that goes on from a checkpoint ends,
on one machine with one number of threads, in exactly the weights of one that was never stopped.

Any number of processes train on the same batches: each draws the whole batch and learns from its contiguous part.
Without dropout every step is that of one process up to the order of summation. Dropout depends on (seed, k, process),
because masks can't be cut in parts like a batch: with it, only the same number of processes repeats itself.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from diffaug.configuration.settings import DiffusionSettings
from diffaug.diffusion.network.denoiser import Denoiser, objective_of
from diffaug.diffusion.network.weight_blocks import join_weights
from diffaug.diffusion.planning.planning import Plan
from diffaug.diffusion.training.batches import Batch, TrainingData, draw_batch
from diffaug.diffusion.training.loss import TrainingLoss
from diffaug.diffusion.training.schedules import ema_decay_at, learning_rate_at
from diffaug.errors import DiffaugError
from diffaug.runtime import seeding
from diffaug.runtime.devices import use_fast_kernels
from diffaug.runtime.distributed import ALONE, Workers

MAX_GRADIENT_NORM = 1.0
ADAM_BETAS = (0.9, 0.99)
CHECK_EVERY = 16
MAX_SKIPPED_IN_A_ROW = 16
MAX_ROLLBACKS = 3
GUIDE_SHARE = 1 / 16
DENOISER = "denoiser"

Weights = dict[str, Tensor]


@dataclass
class TrainingState:
    """All that a training needs to go on.

    Attributes:
        loss: The network being trained, inside its loss.
        averaged: The network's exponential moving average, which is what samples.
        trained: What the optimiser changes, by name: the network's joined weights, and what else the loss learns.
        average: The average's joined weights.
        optimizer: AdamW.
        step: Steps done.
        skipped: Steps without an update because a gradient was not finite, a scalar tensor on the device.
        skipped_in_a_row: Those since the last update.
        rollbacks: How often the averaged weights were put back; each halves the learning rate.
        micro_batches: Parts in which a process passes its batch through the network, more where memory is short.
        guide: The averaged weights after 1/16 of the steps, for autoguidance (Karras et al. 2024, arXiv 2406.02507).
        safe: The averaged weights of the last watch point without copying.
        safe_step: Steps done at that point.
    """

    loss: TrainingLoss
    averaged: Denoiser
    trained: dict[str, nn.Parameter]
    average: Tensor
    optimizer: torch.optim.AdamW
    step: int = 0
    skipped: Tensor = field(default_factory=lambda: torch.zeros(()))
    skipped_in_a_row: Tensor = field(default_factory=lambda: torch.zeros(()))
    rollbacks: int = 0
    micro_batches: int = 1
    guide: Weights | None = None
    safe: Weights | None = None
    safe_step: int = 0

    @property
    def denoiser(self) -> Denoiser:
        """The network being trained."""
        return self.loss.denoiser

    def keep_safe(self) -> None:
        """Remembers the averaged weights as they are now."""
        self.safe, self.safe_step = snapshot(self.averaged), self.step

    def return_to_safe(self) -> None:
        """Puts the remembered averaged weights back, to be written; the training can't go on from there."""
        if self.safe is not None:
            self.averaged.load_state_dict(self.safe)
            self.step = self.safe_step


def snapshot(denoiser: Denoiser) -> Weights:
    """A copy of the weights on their device."""
    return {name: tensor.detach().clone() for name, tensor in denoiser.state_dict().items()}


def guide_step(plan: Plan) -> int:
    """The step after which the averaged weights are kept as the guide."""
    return max(1, round(GUIDE_SHARE * plan.steps))


@dataclass(frozen=True)
class StepRecord:
    """What one step did.

    Attributes:
        step: Steps done, this one included.
        images_seen: Images drawn so far.
        loss: Mean weighted denoising error, a scalar tensor; read it seldom, reading waits for the device.
        learning_rate: Used in this step.
    """

    step: int
    images_seen: int
    loss: Tensor
    learning_rate: float


def new_state(plan: Plan, settings: DiffusionSettings, device: str, seed: int) -> TrainingState:
    """The state before the first step; initial weights depend on the seed alone."""
    use_fast_kernels(device)
    with seeding.torch_global_seed(seed, "initial weights"):
        loss = TrainingLoss(
            Denoiser(plan.network),
            uncertainty=settings.uncertainty_weighting and plan.network.objective == "edm",
            class_balancing=settings.long_tail_strength if settings.long_tail == "class balancing" else 0.0,
        )
    loss.to(device=device)
    loss.to(memory_format=torch.channels_last)
    if plan.compiled:
        loss.compile(dynamic=False)
    averaged = copy.deepcopy(loss.denoiser).eval().requires_grad_(False)
    trained = {DENOISER: join_weights(loss.denoiser)}
    trained |= {name: one for name, one in loss.named_parameters() if not name.startswith(DENOISER)}
    optimizer = torch.optim.AdamW(
        trained.values(), lr=plan.learning_rate, betas=ADAM_BETAS, weight_decay=0.0, fused=True
    )
    zero = torch.zeros((), device=device)
    average = join_weights(averaged).data
    return TrainingState(loss, averaged, trained, average, optimizer, skipped=zero, skipped_in_a_row=zero.clone())


def train(
    state: TrainingState,
    data: TrainingData,
    plan: Plan,
    settings: DiffusionSettings,
    seed: int,
    *,
    workers: Workers = ALONE,
) -> Iterator[StepRecord]:
    """Trains until the plan's budget is spent, yielding after every step.

    A step whose gradient is not finite changes nothing. After 16 of them in a row the averaged weights are put
    back and the learning rate is halved; the fourth time the training fails.

    Args:
        state: Changed in place; between two records it is whole and may be saved.
        data: The training images.
        plan: Budget, batch and learning rate.
        settings: How images are drawn, changed and labelled.
        seed: Seed of the whole training.
        workers: The processes that train together; all must take the same steps from the same state.

    Raises:
        DiffaugError: The training diverged again after three roll-backs.
    """
    state.loss.train()
    state.denoiser.objective = objective_of(plan.network, data.normalization)
    gradients = _Gradients(state, plan, workers, seed)
    while state.step < plan.steps:
        rate = learning_rate_at(state.step, plan) * 0.5**state.rollbacks
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        batch = draw_batch(data, plan, settings, seed, state.step)
        loss = gradients.leave(batch)
        _update(state, ema_decay_at(state.step, plan.batch_size))
        state.step += 1
        if state.step == guide_step(plan):
            state.guide = snapshot(state.averaged)
        if state.step % CHECK_EVERY == 0 and state.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            _roll_back(state, plan)
        yield StepRecord(state.step, state.step * plan.batch_size, loss, rate)


class _Gradients:
    """Leaves the gradients of a batch's mean loss in the parameters, the same in every process."""

    def __init__(self, state: TrainingState, plan: Plan, workers: Workers, seed: int) -> None:
        self.state, self.plan, self.workers, self.seed = state, plan, workers, seed
        self.module = workers.synchronized(state.loss)
        self.held: tuple[bool, ...] | None = None

    def leave(self, batch: Batch) -> Tensor:
        """Goes backward; returns the whole batch's mean denoising error."""
        whole, part = len(batch.labels), Batch._make(column[self.workers.share(len(batch.labels))] for column in batch)
        self.state.micro_batches = min(self.state.micro_batches, len(part.labels))
        if self.workers.size == 1:
            return self._in_parts(part, whole)
        held = bool(self.state.optimizer.state), self.state.guide is None, self.state.safe is None
        if held != self.held:
            self._try(part, whole)
            self.held = held
        return self.workers.total(self._backward(part, whole))

    def _try(self, part: Batch, whole: int) -> None:
        """Finds out what this process's memory holds beside what the training keeps by now.

        A process that begins again in the midst of an exchange would leave the others waiting, so each one tries by
        itself. Shapes never change, so what fits goes on fitting until more is kept: moments of Adam, a snapshot.

        Raises:
            RuntimeError: The first step failed, in this process or another.
        """
        failure = None
        try:
            with self.workers.apart(self.module):
                self._in_parts(part, whole)
        except RuntimeError as error:
            failure = error
        if self.held is None and self.workers.any(failure is not None) and failure is None:
            failure = RuntimeError("another process failed in the first step")
        if failure is not None:
            raise failure

    def _in_parts(self, batch: Batch, whole: int) -> Tensor:
        """Halves the parts for as long as memory runs out.

        Noise and noise levels belong to the batch, so they stay the same in any number of parts.
        """
        while True:
            try:
                return self._backward(batch, whole)
            except RuntimeError as error:
                if not _is_out_of_memory(error) or 2 * self.state.micro_batches > len(batch.labels):
                    raise
            self.state.micro_batches *= 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _backward(self, batch: Batch, whole: int) -> Tensor:
        """One pass over this process's part of a batch of `whole` images; the last backward exchanges gradients."""
        device = batch.x0.device.type
        self.state.optimizer.zero_grad(set_to_none=False)
        logged = torch.zeros((), device=batch.x0.device)
        parts = list(zip(*(column.tensor_split(self.state.micro_batches) for column in batch), strict=True))
        with seeding.torch_global_seed(self.seed, "dropout", self.state.step, self.workers.rank):
            for number, part in enumerate(map(Batch._make, parts), start=1):
                with nullcontext() if number == len(parts) else self.workers.apart(self.module):
                    with torch.autocast(device, torch.bfloat16, enabled=self.plan.precision == "bfloat16"):
                        loss, denoising = self.module(part)
                    share = len(part.labels) / whole
                    (self.workers.size * share * loss).backward()  # processes are averaged, images are to be
                logged += share * denoising
        return logged


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _update(state: TrainingState, ema_decay: float) -> None:
    """One optimiser step and one step of the average; the device decides whether the gradient is finite.

    The fused optimiser skips the update by itself when `found_inf` is 1, so the host never waits for the answer.
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
