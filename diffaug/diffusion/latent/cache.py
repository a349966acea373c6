"""Latents kept on disk, so that an image is encoded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from diffaug.diffusion.latent.autoencoder import Encoded
from diffaug.diffusion.latent.codec import Codec
from diffaug.errors import DamagedError
from diffaug.files import storage
from diffaug.runtime.parallel import Progress

BLOCK = 128  # images; after each, what is done is on disk
KEYS, MEAN, LOG_VARIANCE = "keys", "mean", "log_variance"


@dataclass(frozen=True)
class LatentCache:
    """The latents of images, found by the content of each image.

    What is kept is the distribution, not a draw, so that each epoch can draw anew. It is float16, which is finer than
    the autoencoder is exact: latents have a deviation of about 1.

    Attributes:
        home: A folder that belongs to one autoencoder; processes may share it. See `of`.
    """

    codec: Codec
    home: Path
    _files: dict[Path, tuple[int, int]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _places: dict[str, tuple[Path, int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, codec: Codec, autoencoder_sha256: str, folder: Path) -> LatentCache:
        """The cache of an autoencoder in a folder that autoencoders share."""
        return cls(codec, folder / autoencoder_sha256[:16])

    def encode(self, pixels: NDArray[np.uint8], progress: Progress = lambda done, total: None) -> Encoded:
        """The latents of images uint8 (N, H, W, C), float16 (N, *latent_shape) on the CPU; new ones are computed.

        `progress` is called after each block with the number of images that are done, and of all.
        """
        keys = [_key(image) for image in pixels]
        self._look()
        missing = list({key: position for position, key in enumerate(keys) if key not in self._places}.values())
        for start in range(0, len(missing), BLOCK):
            block = missing[start : start + BLOCK]
            self._write([keys[position] for position in block], self.codec.encode(pixels[np.array(block)]))
            progress(len(keys) - len(missing) + start + len(block), len(keys))
        return self._read(keys)

    def _look(self) -> None:
        """Finds file and row of each image whose latents are kept; each file is looked at once."""
        present = {path: _version(path) for path in sorted(self.home.glob("*.safetensors"))}
        if not self._files.items() <= present.items():  # someone removed or changed a file
            self._files.clear()
            self._places.clear()
        for path in present.keys() - self._files.keys():
            try:
                keys = load(storage.read_hashed(path))[KEYS]
            except (DamagedError, SafetensorError, KeyError, ValueError):
                storage.discard_directory(path)  # cut short by a full disk or the like: computed again
                continue
            self._files[path] = present[path]
            self._places.update({bytes(key).hex(): (path, row) for row, key in enumerate(keys.numpy())})

    def _read(self, keys: Sequence[str]) -> Encoded:
        self._look()
        mean = torch.empty(len(keys), *self.codec.latent_shape, dtype=torch.float16)
        log_variance: Tensor | None = None
        for path, positions in _by_file([self._places[key][0] for key in keys]):
            rows = torch.tensor([self._places[keys[position]][1] for position in positions])
            with safe_open(path, "pt") as block:
                mean[positions] = _rows_of(block, MEAN, rows)
                if LOG_VARIANCE in block.keys():  # noqa: SIM118  (a file is no dictionary)
                    log_variance = torch.empty_like(mean) if log_variance is None else log_variance
                    log_variance[positions] = _rows_of(block, LOG_VARIANCE, rows)
        return Encoded(mean, log_variance)

    def _write(self, keys: Sequence[str], encoded: Encoded) -> None:
        """Writes a file named by its images, so that processes which compute the same write the same file."""
        table = np.frombuffer(bytes.fromhex("".join(keys)), np.uint8).reshape(len(keys), -1).copy()
        tensors = {KEYS: torch.from_numpy(table), MEAN: _halved(encoded.mean)}
        if encoded.log_variance is not None:
            tensors[LOG_VARIANCE] = _halved(encoded.log_variance)
        storage.write_hashed(self.home, storage.short_hash("".join(keys).encode()), ".safetensors", save(tensors))


def _version(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _rows_of(block: Any, name: str, rows: Tensor) -> Tensor:
    """Some rows of a tensor in an open file; no more is read than lies between them."""
    first, last = int(rows.min()), int(rows.max())
    found: Tensor = block.get_slice(name)[first : last + 1]
    return found[rows - first]


def _by_file(files: Sequence[Path]) -> Iterator[tuple[Path, list[int]]]:
    """Each file with its positions, so that one is in memory at a time."""
    positions: dict[Path, list[int]] = {}
    for position, file in enumerate(files):
        positions.setdefault(file, []).append(position)
    yield from positions.items()


def _key(image: NDArray[np.uint8]) -> str:
    shape = f"{image.shape} ".encode()
    return storage.sha256_bytes(shape + np.ascontiguousarray(image).tobytes())


def _halved(latents: Tensor) -> Tensor:
    limit = torch.finfo(torch.float16).max
    return latents.clamp(-limit, limit).to("cpu", torch.float16).contiguous()
