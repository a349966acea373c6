"""A trained network on disk: `network.json`, `model.safetensors` and, for autoguidance, `guide.safetensors`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch import Tensor

from diffaug.diffusion.generator.files import GeneratorRecord
from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.network.unet import NetworkConfig
from diffaug.diffusion.network.weights import read_weights, write_weights
from diffaug.diffusion.process.normalization import Normalization
from diffaug.errors import DamagedError
from diffaug.files import storage
from diffaug.files.records import read_record, write_record
from diffaug.runtime.devices import use_fast_kernels

NETWORK, WEIGHTS, GUIDE = "network.json", "model.safetensors", "guide.safetensors"
MOST = {
    "image_size": 65_536,
    "channels": 1024,
    "num_classes": 10**6,
    "patch": 1024,
    "base_channels": 2**14,
    "channel_multipliers": 1024,
    "blocks": 1024,
}
"""The largest values of a network that is made at all; the weights decide whether it is the right one."""
OBJECTIVES, MOST_LEVELS = ("edm", "ddpm"), 16


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
            write_weights(folder / file, tensors)


def read_network_record(folder: Path) -> NetworkRecord:
    """Reads `network.json`; a DamagedError if there can be no such network."""
    record, where = read_record(folder / NETWORK, _RECORD), folder / NETWORK
    network, scales = record.network, record.normalization
    for name, most in MOST.items():
        value = getattr(network, name)
        if not all(1 <= one <= most for one in (value if isinstance(value, tuple) else (value,))):
            raise DamagedError(f"there is no network with {name} {value}", where=where, fix=storage.REPAIR_HINT)
    factors = (*scales.std, network.noise_scale)
    is_scaled = all(map(math.isfinite, scales.mean)) and all(0 < one < math.inf for one in factors)
    if not is_scaled or not len(scales.mean) == len(scales.std) == network.channels:
        raise DamagedError("images can't be scaled so", where=where, fix=storage.REPAIR_HINT)
    is_known = network.objective in OBJECTIVES and 0 <= network.dropout < 1
    if not is_known or len(network.channel_multipliers) > MOST_LEVELS:
        raise DamagedError("there is no such network", where=where, fix=storage.REPAIR_HINT)
    return record


def read_network(folder: Path, device: str) -> LoadedNetwork:
    """Reads a network, for inference on `device`; a DamagedError if weights and configuration don't fit."""
    record = read_network_record(folder)
    guide = load_denoiser(record.network, folder / GUIDE, device) if record.guide else None
    return LoadedNetwork(load_denoiser(record.network, folder / WEIGHTS, device), record.normalization, guide)


def load_denoiser(network: NetworkConfig, file: Path, device: str) -> Denoiser:
    """Reads weights, for inference on `device`; a DamagedError if they belong to another network."""
    try:
        weights = read_weights(file)
        if _shapes_of(network) != {name: tensor.shape for name, tensor in weights.items()}:
            raise ValueError("other tensors")
        denoiser = Denoiser(network)
        denoiser.load_state_dict(weights)
    except (RuntimeError, ValueError, TypeError, KeyError, AssertionError) as error:
        what = "the weights don't fit the configuration"
        raise DamagedError(what, where=file, fix=storage.REPAIR_HINT) from error
    return for_inference(denoiser, device)


@lru_cache(maxsize=8)
def _shapes_of(network: NetworkConfig) -> dict[str, torch.Size]:
    """The shapes of all weights, found without memory, however large the network is said to be."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in Denoiser(network).state_dict().items()}


def require_fitting(record: GeneratorRecord, network: NetworkConfig, folder: Path) -> None:
    """Raises DamagedError unless the network makes the images that the record of the generator promises."""
    promised = (record.image_size, record.channels, len(record.classes))
    if promised != (network.image_size, network.channels, network.num_classes):
        what = "the network makes other images than its generator"
        raise DamagedError(what, where=folder / NETWORK, fix=storage.REPAIR_HINT)


def for_inference(denoiser: Denoiser, device: str) -> Denoiser:
    """Moves a denoiser to `device`, in evaluation mode and the fast memory format."""
    use_fast_kernels(device)
    denoiser.to(device=device)
    denoiser.to(memory_format=torch.channels_last)
    return denoiser.eval().requires_grad_(False)
