"""Weights on disk, as safetensors. Nothing is unpickled."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from diffaug.errors import DamagedError
from diffaug.files import storage


def write_weights(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors by name."""
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    storage.write_bytes(file, save(content))


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors in a file by name, on the CPU; a DamagedError if it holds something else."""
    storage.require_file(file)
    try:
        return load_file(file)
    except (SafetensorError, ValueError, KeyError) as error:
        raise DamagedError(f"no weights can be read ({error})", where=file, fix=storage.REPAIR_HINT) from error
