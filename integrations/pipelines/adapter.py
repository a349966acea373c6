"""The adapter: LoRA layers in the network and what was learned beside them; as safetensors on the disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from diffaug.diffusion.network.weights import read_weights, write_weights
from diffaug.errors import DamagedError
from diffaug.files import storage
from diffaug.integrations.pipelines.families import family_of
from diffaug.integrations.pipelines.learned import add_tokens, use_class_rows
from diffaug.integrations.pipelines.loading import LoadedPipeline
from diffaug.runtime import seeding

LORA, LEARNED = "pytorch_lora_weights.safetensors", "learned.safetensors"


@dataclass(frozen=True)
class Adapter:
    """What is learned on top of a frozen pipeline.

    Attributes:
        lora: Parameters of the LoRA layers by their name in the network.
        learned: Rows of tokens or classes.
    """

    loaded: LoadedPipeline
    lora: dict[str, nn.Parameter]
    learned: dict[str, nn.Parameter]

    @classmethod
    def install(
        cls, loaded: LoadedPipeline, classes: Sequence[str], *, rank: int, tokens: bool, seed: int = 0
    ) -> Adapter:
        """Puts a new adapter into a pipeline, which changes nothing yet; rank 0 has no LoRA.

        LoRA begins with B = 0 (Hu et al. 2021, arXiv 2106.09685). Networks of numbered classes always get rows.
        """
        family = family_of(loaded)
        if not family.takes_text:
            learned = use_class_rows(loaded, classes)
        else:
            learned = add_tokens(loaded, classes) if tokens else {}
        adapter = cls(loaded, _add_lora(loaded, rank, family.lora_targets, seed) if rank else {}, learned)
        for parameter in adapter.parameters.values():  # in float32, whatever the pipeline computes in
            parameter.data = parameter.data.to(loaded.device, torch.float32)
            parameter.requires_grad_(True)  # adding LoRA freezes all else
        return adapter

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """All that is learned, by name."""
        return {**self.lora, **self.learned}

    @property
    def encodes_learned(self) -> bool:
        """Whether the encoded prompts change as it learns."""
        return bool(self.learned) and family_of(self.loaded).takes_text

    def write(self, folder: Path) -> None:
        """Writes it; diffusers reads the LoRA file with `load_lora_weights`."""
        for file, tensors in ((LORA, self._exported()), (LEARNED, self.learned)):
            if tensors:
                write_weights(folder / file, tensors)

    def read(self, folder: Path) -> None:
        """Fills it with what `write` wrote; a DamagedError if that is of another shape."""
        named = self._exported() if self.lora else {}
        for file, own in ((LORA, named), (LEARNED, self.learned)):
            if own:
                fill(own, read_weights(folder / file), folder / file)

    def _exported(self) -> Mapping[str, nn.Parameter]:
        """The LoRA parameters under the names that diffusers gives them."""
        part = "unet" if "unet" in self.loaded.layout.parts else "transformer"
        return {f"{part}.{name.replace('.default.', '.')}": one for name, one in self.lora.items()}


def fill(own: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor], where: Path) -> None:
    """Copies tensors into parameters of the same names; a DamagedError if names or shapes differ."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != {name: tuple(one.shape) for name, one in own.items()}:
        raise DamagedError("the adapter is of another shape than the pipeline", where=where, fix=storage.REPAIR_HINT)
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[name])


def _add_lora(loaded: LoadedPipeline, rank: int, targets: Sequence[str], seed: int) -> dict[str, nn.Parameter]:
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(targets))
    with seeding.torch_global_seed(seed, "lora"):
        inject_adapter_in_model(config, loaded.network)
    return {name: one for name, one in loaded.network.named_parameters() if ".lora_" in name}
