"""What differs between families of pipelines: how they take a prompt, and how their network is called."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import exp
from typing import Any

import torch
from torch import Tensor

from diffaug.errors import UsageError
from diffaug.integrations.pipelines.learned import CLASS_ROWS
from diffaug.integrations.pipelines.levels import FlowMatching, Levels, VariancePreserving
from diffaug.integrations.pipelines.loading import LoadedPipeline

Condition = dict[str, Tensor]
"""The conditions of a network beside noisy latents; the first axis of each tensor is that of the prompts."""

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
JOINT_ATTENTION = (*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
TEXT_TOKENS = 256  # most tokens of T5 that Flux-schnell takes; the default of Stable Diffusion 3
LARGE = 1024  # px; Flux names no size


class Family(ABC):
    """A family of pipelines.

    Attributes:
        lora_targets: Ends of the names of the layers that LoRA adapts.
        is_square: Whether its network makes square images only.
        takes_text: Whether classes are given as text; else as numbers.
    """

    lora_targets: tuple[str, ...] = ATTENTION
    is_square = False
    takes_text = True

    @abstractmethod
    def encode(self, loaded: LoadedPipeline, prompts: Sequence[str]) -> Condition:
        """Encodes prompts; the empty one stands for no prompt. Gradients flow unless they are switched off."""

    @abstractmethod
    def inputs(self, loaded: LoadedPipeline, x: Tensor, times: Tensor, condition: Condition) -> dict[str, Any]:
        """What its network takes by name, for latents x (N, C, H, W) of its own scale and times (N,)."""

    def latents(self, output: Tensor, x: Tensor) -> Tensor:
        """What the network gives out, in the shape of x; some also predict a variance, which is not used."""
        return output[:, : x.shape[1]]

    def predict(self, loaded: LoadedPipeline, x: Tensor, times: Tensor, condition: Condition) -> Tensor:
        """The network's output (N, C, H, W); for the arguments see `inputs`."""
        return self.latents(loaded.network(**self.inputs(loaded, x, times, condition), return_dict=False)[0], x)

    def levels(self, loaded: LoadedPipeline, size: tuple[int, int]) -> Levels:
        """The noise levels for latents of this height and width."""
        return VariancePreserving.of(loaded.pipe.scheduler)

    def native_side(self, loaded: LoadedPipeline) -> int:
        """The side in px of the square images that the network was trained on."""
        side = loaded.network.config.sample_size
        return (side if isinstance(side, int) else side[0]) * vae_factor(loaded)

    def multiple(self, loaded: LoadedPipeline) -> int:
        """Height and width in px must be multiples of this."""
        patch: int = loaded.network.config.get("patch_size", 1)
        return vae_factor(loaded) * patch

    def is_distilled(self, loaded: LoadedPipeline) -> bool:
        """Whether the network takes the guidance scale as an input, so that one pass does."""
        return False

    def is_guided(self, loaded: LoadedPipeline) -> bool:
        """Whether it was trained such that guidance makes sense."""
        return True


class StableDiffusion(Family):
    """Stable Diffusion 1 and 2: a UNet and one CLIP."""

    def encode(self, loaded: LoadedPipeline, prompts: Sequence[str]) -> Condition:
        """See `Family.encode`."""
        embeds, _ = loaded.pipe.encode_prompt(list(prompts), loaded.device, 1, do_classifier_free_guidance=False)
        return {"text": embeds}

    def inputs(self, loaded: LoadedPipeline, x: Tensor, times: Tensor, condition: Condition) -> dict[str, Any]:
        """See `Family.inputs`."""
        return {"sample": x, "timestep": times, "encoder_hidden_states": condition["text"]}


class StableDiffusionXL(Family):
    """A UNet that is also told a pooled text and sizes. Many have zeros where there is no prompt."""

    def encode(self, loaded: LoadedPipeline, prompts: Sequence[str]) -> Condition:
        """See `Family.encode`."""
        embeds, _, pooled, _ = loaded.pipe.encode_prompt(
            list(prompts), device=loaded.device, do_classifier_free_guidance=False
        )
        if loaded.pipe.config.get("force_zeros_for_empty_prompt", True):
            said = torch.tensor([bool(prompt) for prompt in prompts], device=embeds.device)
            embeds, pooled = embeds * said[:, None, None], pooled * said[:, None]
        return {"text": embeds, "pooled": pooled}

    def inputs(self, loaded: LoadedPipeline, x: Tensor, times: Tensor, condition: Condition) -> dict[str, Any]:
        """See `Family.inputs`."""
        height, width = (vae_factor(loaded) * side for side in x.shape[2:])
        sizes = x.new_tensor([height, width, 0, 0, height, width]).expand(len(x), -1)  # whole, uncropped
        added = {"text_embeds": condition["pooled"], "time_ids": sizes}
        text = condition["text"]
        return {"sample": x, "timestep": times, "encoder_hidden_states": text, "added_cond_kwargs": added}


class StableDiffusion3(Family):
    """A transformer over text and image, two CLIPs and perhaps a T5; rectified flow."""

    lora_targets = JOINT_ATTENTION

    def encode(self, loaded: LoadedPipeline, prompts: Sequence[str]) -> Condition:
        """See `Family.encode`."""
        same = [list(prompts)] * 3
        embeds, _, pooled, _ = loaded.pipe.encode_prompt(
            *same, device=loaded.device, do_classifier_free_guidance=False, max_sequence_length=TEXT_TOKENS
        )
        return {"text": embeds, "pooled": pooled}

    def inputs(self, loaded: LoadedPipeline, x: Tensor, times: Tensor, condition: Condition) -> dict[str, Any]:
        """See `Family.inputs`."""
        text, pooled = condition["text"], condition["pooled"]
        return {"hidden_states": x, "timestep": times, "encoder_hidden_states": text, "pooled_projections": pooled}

    def levels(self, loaded: LoadedPipeline, size: tuple[int, int]) -> Levels:
        """See `Family.levels`."""
        tokens = size[0] * size[1] // loaded.network.config.get("patch_size", 1) ** 2
        return FlowMatching(_shift(loaded.pipe.scheduler, tokens))


class Flux(Family):
    """A transformer over text and image that takes latents in patches of 2 x 2; rectified flow."""

    lora_targets = JOINT_ATTENTION

    def encode(self, loaded: LoadedPipeline, prompts: Sequence[str]) -> Condition:
        """See `Family.encode`."""
        embeds, pooled, _ = loaded.pipe.encode_prompt(
            list(prompts), list(prompts), device=loaded.device, max_sequence_length=TEXT_TOKENS
        )
        return {"text": embeds, "pooled": pooled}

    def inputs(self, loaded: LoadedPipeline, x: Tensor, times: Tensor, condition: Condition) -> dict[str, Any]:
        """See `Family.inputs`."""
        count, channels, height, width = x.shape
        text = condition["text"]
        packed = x.reshape(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
        return {
            "hidden_states": packed.reshape(count, height * width // 4, channels * 4),
            "timestep": times / 1000,
            "guidance": condition["guidance"] if self.is_distilled(loaded) else None,
            "pooled_projections": condition["pooled"],
            "encoder_hidden_states": text,
            "txt_ids": text.new_zeros(text.shape[1], 3),
            "img_ids": _places(height // 2, width // 2).to(x),
        }

    def latents(self, output: Tensor, x: Tensor) -> Tensor:
        """See `Family.latents`."""
        count, channels, height, width = x.shape
        patches = output.reshape(count, height // 2, width // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return patches.reshape(count, channels, height, width)

    def levels(self, loaded: LoadedPipeline, size: tuple[int, int]) -> Levels:
        """See `Family.levels`."""
        return FlowMatching(_shift(loaded.pipe.scheduler, size[0] * size[1] // 4))

    def native_side(self, loaded: LoadedPipeline) -> int:
        """See `Family.native_side`."""
        return LARGE

    def multiple(self, loaded: LoadedPipeline) -> int:
        """See `Family.multiple`."""
        return 2 * vae_factor(loaded)

    def is_distilled(self, loaded: LoadedPipeline) -> bool:
        """See `Family.is_distilled`."""
        return bool(loaded.network.config.guidance_embeds)

    def is_guided(self, loaded: LoadedPipeline) -> bool:
        """See `Family.is_guided`; the one of few steps was distilled without."""
        return self.is_distilled(loaded)


class PixArt(Family):
    """PixArt-alpha and -sigma: a transformer, a T5, and a variance that is not used."""

    def encode(self, loaded: LoadedPipeline, prompts: Sequence[str]) -> Condition:
        """See `Family.encode`."""
        embeds, mask, _, _ = loaded.pipe.encode_prompt(
            list(prompts), do_classifier_free_guidance=False, device=loaded.device, clean_caption=False
        )
        return {"text": embeds, "mask": mask}

    def inputs(self, loaded: LoadedPipeline, x: Tensor, times: Tensor, condition: Condition) -> dict[str, Any]:
        """See `Family.inputs`."""
        added: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if loaded.network.use_additional_conditions:
            height, width = (vae_factor(loaded) * side for side in x.shape[2:])
            added["resolution"] = x.new_tensor([height, width]).expand(len(x), -1)
            added["aspect_ratio"] = x.new_tensor([height / width]).expand(len(x), -1)
        text, mask = condition["text"], condition["mask"]
        prompt = {"encoder_hidden_states": text, "encoder_attention_mask": mask, "added_cond_kwargs": added}
        return {"hidden_states": x, "timestep": times, **prompt}


class DiT(Family):
    """A transformer of numbered classes. The pipeline of diffusers counts on 1000 of them, its network does not."""

    is_square = True
    takes_text = False

    def encode(self, loaded: LoadedPipeline, prompts: Sequence[str]) -> Condition:
        """The rows of the classes of these names, see `learned.use_class_rows`."""
        rows: dict[str, int] = getattr(loaded.network, CLASS_ROWS)
        unknown = [prompt for prompt in prompts if prompt not in rows]
        if unknown:
            raise UsageError(f"the pipeline has no class '{unknown[0]}'", fix=f"classes: {', '.join(rows)}")
        return {"rows": torch.tensor([rows[prompt] for prompt in prompts], device=loaded.device)}

    def inputs(self, loaded: LoadedPipeline, x: Tensor, times: Tensor, condition: Condition) -> dict[str, Any]:
        """See `Family.inputs`."""
        return {"hidden_states": x, "timestep": times, "class_labels": condition["rows"]}


BY_NAME: dict[str, Family] = {
    "Stable Diffusion": StableDiffusion(),
    "Stable Diffusion XL": StableDiffusionXL(),
    "Stable Diffusion 3": StableDiffusion3(),
    "Flux": Flux(),
    "PixArt": PixArt(),
    "DiT": DiT(),
}


def family_of(loaded: LoadedPipeline) -> Family:
    """The family of a loaded pipeline."""
    return BY_NAME[loaded.layout.family]


def vae_factor(loaded: LoadedPipeline) -> int:
    """Pixels along each side of a latent."""
    return int(2 ** (len(loaded.vae.config.block_out_channels) - 1))


def _places(rows: int, columns: int) -> Tensor:
    """Row and column of each patch, after a 0 that stands for the image, (rows * columns, 3)."""
    places = torch.cartesian_prod(torch.arange(1), torch.arange(rows), torch.arange(columns))
    return places.reshape(-1, 3)


def _shift(scheduler: Any, tokens: int) -> float:
    """The shift of the noise levels; of pipelines that shift by size, exp(mu) with mu linear in the tokens."""
    config = scheduler.config
    if not config.get("use_dynamic_shifting", False):
        return float(config.get("shift", 1.0))
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    base, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return exp(base + (most - base) * (tokens - low) / (high - low))
