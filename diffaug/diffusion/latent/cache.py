"""Latents kept on disk, so that an image is encoded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from diffaug.diffusion.latent.autoencoder import Encoded
from diffaug.diffusion.latent.codec import Codec
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

    @classmethod
    def of(cls, codec: Codec, autoencoder_sha256: str, folder: Path) -> LatentCache:
        """The cache of an autoencoder in a folder that autoencoders share."""
        return cls(codec, folder / autoencoder_sha256[:16])

    def encode(self, pixels: NDArray[np.uint8], progress: Progress = lambda done, total: None) -> Encoded:
        """The latents of images uint8 (N, H, W, C), float16 (N, *latent_shape) on the CPU; new ones are computed.

        `progress` is called after each block with the number of images that are done, and of all.
        """
        keys = [_key(image) for image in pixels]
        known = self._known()
        missing = list({key: position for position, key in enumerate(keys) if key not in known}.values())
        for start in range(0, len(missing), BLOCK):
            block = missing[start : start + BLOCK]
            self._write([keys[position] for position in block], self.codec.encode(pixels[np.array(block)]))
            progress(len(keys) - len(missing) + start + len(block), len(keys))
        return self._read(keys)

    def _known(self) -> dict[str, tuple[Path, int]]:
        """File and row of each image whose latents are kept."""
        places: dict[str, tuple[Path, int]] = {}
        for path in sorted(self.home.glob("*.safetensors")):
            try:
                with safe_open(path, "pt") as block:
                    keys = block.get_tensor(KEYS)
            except (SafetensorError, ValueError):
                path.unlink(missing_ok=True)  # cut short by a full disk or the like: computed again
                continue
            places |= {bytes(key).hex(): (path, row) for row, key in enumerate(keys.numpy())}
        return places

    def _read(self, keys: Sequence[str]) -> Encoded:
        known = self._known()
        mean = torch.empty(len(keys), *self.codec.latent_shape, dtype=torch.float16)
        log_variance: Tensor | None = None
        for path, positions in _by_file([known[key][0] for key in keys]):
            block = load_file(path)
            rows = torch.tensor([known[keys[position]][1] for position in positions])
            mean[positions] = block[MEAN][rows]
            if LOG_VARIANCE in block:
                log_variance = torch.empty_like(mean) if log_variance is None else log_variance
                log_variance[positions] = block[LOG_VARIANCE][rows]
        return Encoded(mean, log_variance)

    def _write(self, keys: Sequence[str], encoded: Encoded) -> None:
        """Writes a file named by its images, so that processes which compute the same write the same file."""
        table = np.frombuffer(bytes.fromhex("".join(keys)), np.uint8).reshape(len(keys), -1).copy()
        tensors = {KEYS: torch.from_numpy(table), MEAN: _halved(encoded.mean)}
        if encoded.log_variance is not None:
            tensors[LOG_VARIANCE] = _halved(encoded.log_variance)
        name = storage.sha256_bytes("".join(keys).encode())[:16]
        storage.write_bytes(self.home / f"{name}.safetensors", save(tensors))


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
