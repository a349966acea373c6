"""A trained network on disk: `network.json`, `model.safetensors` and, for autoguidance, `guide.safetensors`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save
from torch import Tensor

from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.network.unet import NetworkConfig
from diffaug.diffusion.process.normalization import Normalization
from diffaug.errors import DamagedError
from diffaug.files import storage
from diffaug.files.records import read_record, write_record
from diffaug.runtime.devices import use_fast_kernels

NETWORK, WEIGHTS, GUIDE = "network.json", "model.safetensors", "guide.safetensors"


@dataclass(frozen=True)
class NetworkRecord:
    """The content of `network.json`.

    Attributes:
        guide: Whether the averaged weights early in the training were kept, for autoguidance.
    """

    network: NetworkConfig
    normalization: Normalization
    guide: bool = False


_RECORD = TypeAdapter(NetworkRecord)


@dataclass(frozen=True)
class LoadedNetwork:
    """A network that is ready to denoise, and its guide, if one was kept."""

    denoiser: Denoiser
    normalization: Normalization
    guide: Denoiser | None


def write_network(
    folder: Path,
    network: NetworkConfig,
    normalization: Normalization,
    weights: Mapping[str, Tensor],
    guide: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes averaged weights, and those early in the training if they were kept, into a folder of the caller."""
    write_record(folder / NETWORK, _RECORD, NetworkRecord(network, normalization, guide is not None))
    for file, tensors in ((WEIGHTS, weights), (GUIDE, guide)):
        if tensors is not None:
            contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            storage.write_bytes(folder / file, save(contiguous))


def read_network_record(folder: Path) -> NetworkRecord:
    """Reads `network.json`."""
    return read_record(folder / NETWORK, _RECORD)


def read_network(folder: Path, device: str) -> LoadedNetwork:
    """Reads a network, for inference on `device`; a DamagedError if weights and configuration don't fit."""
    record = read_network_record(folder)
    guide = load_denoiser(record.network, folder / GUIDE, device) if record.guide else None
    return LoadedNetwork(load_denoiser(record.network, folder / WEIGHTS, device), record.normalization, guide)


def load_denoiser(network: NetworkConfig, file: Path, device: str) -> Denoiser:
    """Reads weights, for inference on `device`; a DamagedError if they belong to another network."""
    denoiser = Denoiser(network)
    try:
        denoiser.load_state_dict(load_file(file))
    except RuntimeError as error:
        raise DamagedError("the weights don't fit the configuration", where=file) from error
    return for_inference(denoiser, device)


def for_inference(denoiser: Denoiser, device: str) -> Denoiser:
    """Moves a denoiser to `device`, in evaluation mode and the fast memory format."""
    use_fast_kernels(device)
    denoiser.to(device=device)
    denoiser.to(memory_format=torch.channels_last)
    return denoiser.eval().requires_grad_(False)
