"""Features kept on disk, so that an image is encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from diffaug.classifiers.encoders.encoder import Encoder, Images, selected
from diffaug.errors import DamagedError
from diffaug.files import storage
from diffaug.runtime.parallel import Progress

BLOCK = 1024  # images; after each, what is done is on disk
FEATURES, KEYS = "features", "keys"

Kept = dict[bytes, NDArray[np.float32]]


def cached_features(
    encoder: Encoder,
    images: Images,
    hashes: Sequence[str] | None,
    folder: Path,
    progress: Progress = lambda done, total: None,
) -> NDArray[np.float32]:
    """The encoder's features of images, float32 (N, D): what `folder` holds is read, the rest computed and kept.

    Features are found by the name of the encoder and the hash of an image, and without hashes by its pixels. Several
    encoders and processes may share a folder. `progress` is called after each block with the number of images done, and
    of all.
    """
    keys = [storage.sha256_bytes(text.encode()) for text in hashes or map(_hash_of, images)]
    home = folder / storage.sha256_bytes(encoder.name.encode())[:16]
    kept = _read_blocks(home)
    missing = list({key: position for position, key in enumerate(keys) if bytes.fromhex(key) not in kept}.values())
    for start in range(0, len(missing), BLOCK):
        block = missing[start : start + BLOCK]
        features = encoder.features(selected(images, block))
        _write_block(home, [keys[position] for position in block], features)
        kept |= {bytes.fromhex(keys[position]): row for position, row in zip(block, features, strict=True)}
        progress(len(keys) - len(missing) + start + len(block), len(keys))
    if not keys:
        return encoder.features(images)
    return np.stack([kept[bytes.fromhex(key)] for key in keys])


def _hash_of(image: NDArray[np.uint8]) -> str:
    return f"{image.shape} {storage.sha256_bytes(np.ascontiguousarray(image).tobytes())}"


def _read_blocks(home: Path) -> Kept:
    kept: Kept = {}
    for path in sorted(home.glob("*.safetensors")):
        try:
            block = load(storage.read_hashed(path))
            kept |= {key.tobytes(): row for key, row in zip(block[KEYS], block[FEATURES], strict=True)}
        except (DamagedError, SafetensorError, KeyError, ValueError):  # cut short by a full disk or the like
            storage.discard_directory(path)  # computed again
    return kept


def _write_block(home: Path, keys: list[str], features: NDArray[np.float32]) -> None:
    """Writes a file named by its images and its content, so that equal ones of several processes are one."""
    table = np.frombuffer(bytes.fromhex("".join(keys)), np.uint8).reshape(len(keys), -1)
    content = save({KEYS: np.ascontiguousarray(table), FEATURES: np.ascontiguousarray(features, np.float32)})
    storage.write_hashed(home, storage.short_hash("".join(keys).encode()), ".safetensors", content)
