"""What a fine-tuning learns beside LoRA: a token per class, or in networks of numbered classes a row per class.

Learned rows lie in a parameter of their own behind the frozen table. So the table keeps its rows bit for bit, and no
row begins at random, both unlike `resize_token_embeddings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffaug.integrations.pipelines.base import Layout
from diffaug.integrations.pipelines.loading import LoadedPipeline

CLASS_ROWS = "diffaug_class_rows"
ENCODERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2", "text_encoder_3": "tokenizer_3"}


class ExtendedEmbedding(nn.Module):
    """A frozen embedding, and learned rows for ids from `first` on."""

    def __init__(self, frozen: nn.Embedding, learned: Tensor, first: int) -> None:
        super().__init__()
        self.frozen, self.first = frozen, first
        self.learned = nn.Parameter(learned.detach().clone().float())

    def forward(self, ids: Tensor) -> Tensor:
        """The rows of ids of any shape."""
        is_learned = ids >= self.first
        frozen = self.frozen(ids.masked_fill(is_learned, 0))
        learned = self.learned[(ids - self.first).clamp_min(0)]
        return torch.where(is_learned[..., None], learned.to(frozen.dtype), frozen)

    @property
    def weight(self) -> Tensor:
        """That of the frozen table, which libraries look at."""
        return self.frozen.weight


def token_of(number: int) -> str:
    """The learned token of a class."""
    return f"<diffaug-{number}>"


def add_tokens(loaded: LoadedPipeline, classes: Sequence[str]) -> dict[str, nn.Parameter]:
    """Gives each text encoder a token per class, which begins as the mean of the tokens of the class's name.

    Returns:
        The learned rows (K, D) of each encoder, by its name.
    """
    learned = {}
    for name, tokenizer_name in ENCODERS.items():
        encoder, tokenizer = (loaded.pipe.components.get(part) for part in (name, tokenizer_name))
        if encoder is None or tokenizer is None:
            continue
        table, first = encoder.get_input_embeddings(), len(tokenizer)
        rows = [table.weight[_ids_of(tokenizer, label)].float().mean(dim=0) for label in classes]
        tokenizer.add_tokens([token_of(number) for number in range(len(classes))])
        extended = ExtendedEmbedding(table, torch.stack(rows), first)
        encoder.set_input_embeddings(extended)
        _end_at_token(encoder, tokenizer)
        learned[name] = extended.learned
    return learned


def _ids_of(tokenizer: Any, label: str) -> list[int]:
    ids: list[int] = tokenizer(label.replace("_", " "), add_special_tokens=False).input_ids
    return ids or [tokenizer.unk_token_id or 0]


def _end_at_token(encoder: Any, tokenizer: Any) -> None:
    """Makes CLIP pool at the end of the text.

    Older configurations have it pool at the largest id, which a learned token has.
    """
    for module in encoder.modules():
        if hasattr(module, "eos_token_id"):
            module.eos_token_id = tokenizer.eos_token_id


def use_class_rows(loaded: LoadedPipeline, classes: Sequence[str]) -> dict[str, nn.Parameter]:
    """Gives each table of classes in a network a learned row per class; the class without a name keeps its own.

    A row begins as that of the class whose name it has, if the pipeline names its classes, else as "no class".

    Returns:
        The learned rows (K, D) of each table, by its number.
    """
    network, learned = loaded.network, {}
    tables = [module for module in network.modules() if type(module).__name__ == "LabelEmbedding"]
    starts = known_classes(loaded.layout, classes)
    for number, module in enumerate(tables):
        table = module.embedding_table
        null, first = module.num_classes, table.num_embeddings
        rows = table.weight[[null if start is None else start for start in starts]]
        module.embedding_table = ExtendedEmbedding(table, rows, first)
        learned[f"class_rows_{number:03d}"] = module.embedding_table.learned
    names = {label: tables[0].embedding_table.first + row for row, label in enumerate(classes)}
    setattr(network, CLASS_ROWS, {**names, "": tables[0].num_classes})
    return learned


def known_classes(layout: Layout, classes: Sequence[str]) -> list[int | None]:
    """The pipeline's own number of each class, None for one that it does not name."""
    own = {word.strip().casefold(): number for number, names in layout.labels.items() for word in names.split(",")}
    return [own.get(label.replace("_", " ").casefold()) for label in classes]
