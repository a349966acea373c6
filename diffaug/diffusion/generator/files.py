"""The generator's folder: `config.json`, `model.safetensors`, `rows.parquet` and a model card. Nothing is unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from diffaug._version import __version__
from diffaug.diffusion.generator.model_card import model_card
from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.network.unet import NetworkConfig
from diffaug.diffusion.process.normalization import Normalization
from diffaug.errors import DamagedError, UsageError
from diffaug.files import storage
from diffaug.runtime.devices import use_fast_kernels

CONFIG, WEIGHTS, GUIDE, CARD = "config.json", "model.safetensors", "guide.safetensors", "README.md"
ROWS = "rows.parquet"
ROWS_COLUMNS = ("id", "pixel_sha256", "label", "part")
TRAINED, HELD_OUT = "trained", "held out"
SCHEMA_VERSION = 4


def for_inference(denoiser: Denoiser, device: str) -> Denoiser:
    """Moves a denoiser to `device`, in evaluation mode and the fast memory format."""
    use_fast_kernels(device)
    denoiser.to(device=device)
    denoiser.to(memory_format=torch.channels_last)
    return denoiser.eval().requires_grad_(False)


def write_generator(
    folder: Path,
    *,
    network: NetworkConfig,
    weights: Mapping[str, Tensor],
    normalization: Normalization,
    counts: Mapping[str, int],
    training: Mapping[str, Any],
    guide: Mapping[str, Tensor] | None = None,
    rows: pd.DataFrame | None = None,
) -> None:
    """Writes the artifact's files into `folder`; committing it is the caller's part.

    Args:
        folder: An empty directory.
        network: The shape of the network.
        weights: The averaged weights by name.
        normalization: As used in training.
        counts: Training images of each class, in class order.
        training: Facts for the model card: images seen, seconds, loss, seed.
        guide: The averaged weights early in the training, for autoguidance; none: not offered.
        rows: One row a training image, columns `ROWS_COLUMNS`: its path in the data folder, the hash of its pixels,
            its class, and whether it was trained on or held out; none: not recorded.
    """
    config = {
        "schema_version": SCHEMA_VERSION,
        "diffaug": __version__,
        "classes": list(counts),
        "train_counts": dict(counts),
        "network": asdict(network),
        "mean": normalization.mean,
        "std": normalization.std,
        "training": dict(training),
        "guide": guide is not None,
    }
    storage.write_json(folder / CONFIG, config)
    for file, tensors in ((WEIGHTS, weights), (GUIDE, guide)):
        if tensors is not None:
            contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            storage.write_bytes(folder / file, save(contiguous))
    if rows is not None:
        storage.write_parquet(folder / ROWS, rows[list(ROWS_COLUMNS)])
    storage.write_text(folder / CARD, model_card(network, counts, training))


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a generator.

    Raises:
        UsageError: It was written by another version of diffaug.
    """
    config = dict(storage.read_json(folder / CONFIG))
    if config["schema_version"] != SCHEMA_VERSION:
        raise UsageError("this generator was written by another version of diffaug", where=folder)
    return config


def load_denoiser(network: NetworkConfig, file: Path, device: str) -> Denoiser:
    """Reads weights, for inference on `device`.

    Raises:
        DamagedError: They are not those of such a network.
    """
    denoiser = Denoiser(network)
    try:
        denoiser.load_state_dict(load_file(file))
    except RuntimeError as error:
        raise DamagedError("the weights don't fit the configuration", where=file) from error
    return for_inference(denoiser, device)
