"""A pretrained network as what denoises latents, for the solvers that all generators share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffaug.diffusion.process.process import Moments
from diffaug.errors import DataError
from diffaug.integrations.pipelines.families import Condition, Family, family_of
from diffaug.integrations.pipelines.levels import Levels
from diffaug.integrations.pipelines.loading import LoadedPipeline

NO_PROMPT = ""
MOST_KEPT = 256
"""Encoded prompts that are kept, each some 100 kB."""


@dataclass(frozen=True)
class Encoder:
    """Encodes prompts, each once and by itself, so that none depends on what it is encoded with."""

    loaded: LoadedPipeline
    _kept: dict[str, Condition] = field(default_factory=dict)

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Condition:
        """The condition of each prompt, in order."""
        parts = []
        for prompt in prompts:
            if prompt not in self._kept:
                if len(self._kept) >= MOST_KEPT:
                    self._kept.clear()
                self._kept[prompt] = encode(self.loaded, [prompt])
            parts.append(self._kept[prompt])
        return join(parts)


def encode(loaded: LoadedPipeline, prompts: Sequence[str]) -> Condition:
    """Encodes prompts together; gradients reach learned tokens."""
    return family_of(loaded).encode(loaded, prompts)


def join(parts: Sequence[Condition]) -> Condition:
    """Several conditions as one."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def require_short(loaded: LoadedPipeline, prompts: Sequence[str]) -> None:
    """Raises DataError if the text encoder would cut the end of a prompt off."""
    tokenizer = loaded.pipe.components.get("tokenizer")
    if tokenizer is None or loaded.pipe.components.get("tokenizer_3") is not None or loaded.layout.family == "Flux":
        return  # a T5 reads the whole prompt
    most = tokenizer.model_max_length
    for prompt in dict.fromkeys(prompts):
        length = len(tokenizer(prompt, truncation=False, verbose=False).input_ids)
        if length > most:
            what = f"a prompt has {length} tokens, and the pipeline reads the first {most}"
            raise DataError(what, where=f"'{prompt[:60]}...'", fix="shorten it")


@dataclass(frozen=True)
class Denoiser:
    """The network with the prompts of one batch. It can be called as the networks of diffaug are.

    Attributes:
        condition: Of each row; labels name rows.
        guidance: The scale that a distilled network takes as an input.
    """

    loaded: LoadedPipeline
    levels: Levels
    condition: Condition
    guidance: float = 1.0

    def __call__(self, x: Tensor, sigma: Tensor, rows: Tensor) -> Moments:
        """Moments of the clean latents of x (N, C, H, W) at levels (N,); the variance, which is not known, is 0."""
        output = self.output(x, sigma, rows)
        mean = self.levels.clean(x, sigma, output)
        return Moments(mean, torch.zeros_like(mean))

    def output(self, x: Tensor, sigma: Tensor, rows: Tensor) -> Tensor:
        """What the network says, float32."""
        family: Family = family_of(self.loaded)
        dtype = self.loaded.dtype
        condition = {name: _as(values[rows], dtype) for name, values in self.condition.items()}
        if family.is_distilled(self.loaded):
            condition["guidance"] = x.new_full((len(x),), self.guidance, dtype=torch.float32)
        inputs, times = self.levels.inputs(x, sigma).to(dtype), self.levels.times(sigma).float()
        output: Tensor = family.predict(self.loaded, inputs, times, condition)
        return output.float()


def _as(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.to(dtype) if values.is_floating_point() else values
