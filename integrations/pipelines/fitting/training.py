"""Fine-tunes an adapter on the latents of images: one step at a time, and everything that is needed to resume.

Everything random in step k depends on (seed, k) alone, so a training that resumes from a checkpoint ends, on one
machine with one number of threads, in exactly the weights of one that was never stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from torch import Tensor, nn

from diffaug.data.images import NO_LABEL
from diffaug.diffusion.planning.planning import Plan
from diffaug.diffusion.process.process import diffuse
from diffaug.diffusion.training.checkpoints import (
    Sections,
    moments_of,
    read_latest,
    restore_moments,
    write_checkpoint,
)
from diffaug.diffusion.training.pace import Pace, learning_rate_at
from diffaug.diffusion.training.training import StepRecord, halving
from diffaug.integrations.pipelines.adapter import Adapter, fill
from diffaug.integrations.pipelines.denoising import NO_PROMPT, Denoiser, Encoder, encode
from diffaug.integrations.pipelines.families import family_of
from diffaug.integrations.pipelines.levels import Levels
from diffaug.integrations.pipelines.loading import LoadedPipeline
from diffaug.integrations.pipelines.prompts import Prompts
from diffaug.runtime import seeding

PROMPT_DROPOUT = 0.1
"""Fraction of prompts hidden, which makes guidance possible. As in Ho & Salimans 2022 (arXiv 2207.12598)."""
LEARNED_RATE = 5.0
"""Learning rate of tokens and class rows relative to LoRA's, as usual in textual inversion (5e-4 beside 1e-4)."""
MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class TrainingLatents:
    """The images to train on, encoded once.

    Attributes:
        means: Of the latents (N, C, h, w), float16 on the CPU.
        deviations: The same.
        ids: Paths.
        labels: Class indices, `NO_LABEL` for images without.
        draw_probabilities: How often each image is drawn.
        label_probabilities: How often each is drawn with its prompt, before any is hidden.
    """

    means: Tensor
    deviations: Tensor
    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    draw_probabilities: NDArray[np.float64]
    label_probabilities: NDArray[np.float64]


@dataclass(frozen=True)
class Batch:
    """The input of a step: latents, noise (B, C, h, w), levels (B,), and prompts."""

    x0: Tensor
    noise: Tensor
    sigma: Tensor
    prompts: list[str]


@dataclass(frozen=True)
class Counters:
    """What a checkpoint holds besides tensors; `seconds` were spent on the fit."""

    step: int
    skipped: int
    micro_batches: int
    pace: Pace | None
    seconds: float


_COUNTERS = TypeAdapter(Counters)


class FineTuning:
    """The training of an adapter by a plan.

    Attributes:
        step: Steps taken.
        skipped: Steps that changed nothing, since a gradient was not finite.
        micro_batches: Parts in which a batch passes through the network; more if memory is short.
        pace: None until a deadline has changed what the plan says.
        seconds: Spent on the fit when the state was saved.
    """

    def __init__(
        self,
        loaded: LoadedPipeline,
        adapter: Adapter,
        latents: TrainingLatents,
        prompts: Prompts,
        plan: Plan,
        *,
        seed: int,
    ) -> None:
        self.loaded, self.adapter, self.latents, self.prompts = loaded, adapter, latents, prompts
        self.plan, self.seed = plan, seed
        self.levels: Levels = family_of(loaded).levels(loaded, latents.means.shape[2:])
        self.encoder, self.classes = Encoder(loaded), tuple(prompts.by_class)
        self.step = self.skipped = 0
        self.micro_batches = 1
        self.pace: Pace | None = None
        self.seconds = 0.0
        groups = [
            {"params": list(part.values()), "scale": scale}
            for part, scale in ((adapter.lora, 1.0), (adapter.learned, LEARNED_RATE))
            if part
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=plan.learning_rate, weight_decay=0.0)

    def pace_of(self, plan: Plan) -> Pace:
        """The present pace of a training by this plan."""
        return self.pace or Pace(plan.steps)

    @property
    def averaged(self) -> LoadedPipeline:
        """What draws samples: the pipeline with the adapter as it is, since nothing is averaged."""
        return self.loaded

    def steps(self) -> Iterator[StepRecord]:
        """Takes the steps that are left."""
        while self.step < self.pace_of(self.plan).steps:
            rate, loss = learning_rate_at(self.step, self.plan, self.pace), self.take_step()
            yield StepRecord(self.step, self.step * self.plan.batch_size, torch.tensor(loss), rate)

    def take_step(self) -> float:
        """Takes the next step and returns its loss, the mean squared error of what the network says."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["scale"] * learning_rate_at(self.step, self.plan, self.pace)
        batch = self.batch_of(self.step)
        loss = halving(self, len(batch.prompts), lambda: self._backward(batch))
        parameters = list(self.adapter.parameters.values())
        norm = nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
        if torch.isfinite(norm):
            self.optimizer.step()
        else:
            self.skipped += 1
        self.step += 1
        return loss

    def batch_of(self, step: int) -> Batch:
        """The batch of a step, which depends on (seed, step) alone."""
        data, count = self.latents, self.plan.batch_size
        draws = seeding.numpy_generator(self.seed, "batch", step)
        chosen = draws.choice(len(data.ids), size=count, p=data.draw_probabilities)
        hiding = PROMPT_DROPOUT + (1 - PROMPT_DROPOUT) * (1 - data.label_probabilities[chosen])
        hidden = draws.random(count) < hiding
        captions = draws.integers(2**31, size=count)
        random = seeding.torch_generator(self.seed, "noise", step)
        means, deviations = data.means[chosen].float(), data.deviations[chosen].float()
        x0 = means + deviations * torch.randn(means.shape, generator=random)
        noise = torch.randn(means.shape, generator=random)
        sigma = self.levels.draw(torch.rand(count, generator=random).clamp(1e-6, 1 - 1e-6))
        device = self.loaded.device
        prompts = [
            self._prompt(int(place), int(caption), hidden=bool(is_hidden))
            for place, caption, is_hidden in zip(chosen, captions, hidden, strict=True)
        ]
        return Batch(x0.to(device), noise.to(device), sigma.to(device), prompts)

    def _prompt(self, place: int, caption: int, *, hidden: bool) -> str:
        label = int(self.latents.labels[place])
        prompt: str = NO_PROMPT
        if not hidden and label != NO_LABEL:
            prompt = self.prompts.of_image(self.latents.ids[place], self.classes[label], caption)
        return prompt

    def _backward(self, batch: Batch) -> float:
        self.optimizer.zero_grad(set_to_none=False)
        total = 0.0
        for part in np.array_split(np.arange(len(batch.prompts)), self.micro_batches):
            x0, noise, sigma = batch.x0[part], batch.noise[part], batch.sigma[part]
            unique = list(dict.fromkeys(batch.prompts[place] for place in part))
            rows = torch.tensor([unique.index(batch.prompts[place]) for place in part], device=x0.device)
            condition = encode(self.loaded, unique) if self.adapter.encodes_learned else self.encoder(unique)
            denoiser = Denoiser(self.loaded, self.levels, condition)
            output = denoiser.output(diffuse(x0, sigma, noise), sigma, rows)
            error = (output - self.levels.target(x0, noise, sigma)).square().flatten(1).mean(dim=1)
            loss = error.sum() / len(batch.prompts)
            loss.backward()
            total += float(loss.detach())
        return total


def save_checkpoint(folder: Path, state: FineTuning) -> None:
    """Writes a checkpoint, and only then removes all but the newest two."""
    parameters = state.adapter.parameters
    counters = Counters(state.step, state.skipped, state.micro_batches, state.pace, state.seconds)
    sections = {"value": parameters, **moments_of(state.optimizer, parameters)}
    write_checkpoint(folder, state.step, sections, _COUNTERS, counters)


def restore_latest(folder: Path, state: FineTuning) -> tuple[int | None, list[str]]:
    """Fills `state` from the newest checkpoint that is whole, see `read_latest`."""

    def fill_state(sections: Sections, counters: Counters, where: Path) -> None:
        fill(state.adapter.parameters, sections["value"], where)
        restore_moments(state.optimizer, state.adapter.parameters, sections)
        for name in ("step", "skipped", "micro_batches", "pace", "seconds"):
            setattr(state, name, getattr(counters, name))

    notes = read_latest(folder, _COUNTERS, fill_state)
    return None if notes is None else state.step, notes or []
