"""The pool: synthetic images as PNG in class folders, with a manifest that says where each came from."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from diffaug import storage
from diffaug.data.images import LabeledImages
from diffaug.errors import DamagedError, UsageError

MANIFEST = "manifest.parquet"
MANIFEST_COLUMNS = (
    "file",
    "label",
    "class_index",
    "origin",
    "seed",
    "index",
    "guidance",
    "guidance_scale",
    "solver",
    "num_inference_steps",
    "generator_sha256",
    "own_class_probability",
    "sha256",
)


@dataclass(frozen=True)
class Pool:
    """A finished pool on disk.

    Attributes:
        root: Its folder; the manifest's `file` column is relative to it.
        classes: All class names of the generator, also those without a synthetic image.
        image_size: Height and width in px.
        channels: 1 grey, 3 RGB.
    """

    root: Path
    classes: tuple[str, ...]
    image_size: tuple[int, int]
    channels: int

    @classmethod
    def open(cls, path: str | Path) -> Pool:
        """Opens a pool, or the pool of a study.

        Args:
            path: The pool's folder or the study's.

        Raises:
            UsageError: There is no finished pool.
            DamagedError: Files are missing or cut short.
        """
        path = Path(path)
        root = path / "pool" if (path / "pool").is_dir() else path
        facts = storage.committed_facts(root)
        if facts is None:
            study = path.parent if path.name == "pool" else path
            raise UsageError("there is no finished pool here", where=path, fix=f"diffaug generate {study}")
        height, width = facts["image_size"]
        return cls(root, tuple(facts["classes"]), (height, width), facts["channels"])

    def __len__(self) -> int:
        return len(self.manifest)

    @cached_property
    def manifest(self) -> pd.DataFrame:
        """One row an image; `MANIFEST_COLUMNS` name the columns."""
        return pd.read_parquet(self.root / MANIFEST)

    @property
    def class_to_idx(self) -> dict[str, int]:
        """Class name to index."""
        return {name: index for index, name in enumerate(self.classes)}

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Class index of every image, int64 (N,)."""
        return self.manifest["class_index"].to_numpy(np.int64)

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Path of every image, relative to `root`."""
        return tuple(self.manifest["file"])

    @cached_property
    def _sha256(self) -> tuple[str, ...]:
        return tuple(self.manifest["sha256"])

    def indices_of(self, class_index: int) -> NDArray[np.int64]:
        """Positions of a class's images in the manifest, int64."""
        return np.flatnonzero(self.labels == class_index).astype(np.int64)

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels of image `index`, uint8 (H, W, C).

        Raises:
            DamagedError: The file is missing or was changed since it was written.
        """
        path = storage.safe_join(self.root, self.files[index])
        content = path.read_bytes() if path.is_file() else b""
        if storage.sha256_bytes(content) != self._sha256[index]:
            raise DamagedError(
                "an image of the pool is missing or was changed",
                where=path,
                fix="remove the pool's folder and generate it again: the images will be the same",
            )
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image, dtype=np.uint8)
        return pixels.reshape(*self.image_size, self.channels)

    def images(self) -> LabeledImages:
        """All images in memory."""
        height, width = self.image_size
        pixels = np.empty((len(self), height, width, self.channels), np.uint8)
        for index in range(len(self)):
            pixels[index] = self.read(index)
        return LabeledImages(pixels, self.labels, self.classes, self.files)
