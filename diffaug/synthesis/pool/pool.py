"""The pool: synthetic images as PNG in class folders, with a manifest that says where each came from."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from diffaug.data.images import LabeledImages
from diffaug.errors import DamagedError, UsageError
from diffaug.files import storage

T = TypeVar("T")
MANIFEST, REJECTED, SUMMARY, AUDIT = "manifest.parquet", "rejected.parquet", "summary.json", "audit.json"
PROVENANCE_COLUMNS = (
    "file",
    "label",
    "class_index",
    "origin",
    "source",
    "strength",
    "seed",
    "index",
    "guidance",
    "guidance_scale",
    "solver",
    "num_inference_steps",
    "generator_sha256",
    "judge",
)


def manifest_columns(score_names: Iterable[str]) -> list[str]:
    """Columns of the manifest: where an image came from, the judge's scores, and what identifies it."""
    return [*PROVENANCE_COLUMNS, *score_names, "nearest", "sha256"]


@dataclass(frozen=True)
class Problem:
    """A file of a pool that is not as it was written.

    Attributes:
        file: Path relative to the pool.
        what: `missing`, `changed` or `foreign`.
    """

    file: str
    what: str


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
        path, root = Path(path), _root(Path(path))
        facts = _undisturbed(root, storage.committed_facts)
        if facts is None or "image_size" not in facts:  # or it is finished, and no pool
            raise _unfinished(path)
        height, width = facts["image_size"]
        return cls(root, tuple(facts["classes"]), (height, width), facts["channels"])

    def __len__(self) -> int:
        return len(self.manifest)

    @cached_property
    def manifest(self) -> pd.DataFrame:
        """One row an image; see `manifest_columns`."""
        return pd.read_parquet(io.BytesIO((self.root / MANIFEST).read_bytes()))

    @property
    def unsafe_to_publish(self) -> tuple[str, ...]:
        """Why the pool should not leave the house, in sentences; empty where it was not seen to repeat real images."""
        file = self.root / AUDIT
        return tuple(storage.read_json(file)["reasons"]) if file.is_file() else ()

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

    def verify(self) -> list[Problem]:
        """Every file that is missing, changed or foreign; see `verify_pool`."""
        return verify_pool(self.root)

    def images(self) -> LabeledImages:
        """All images in memory."""
        height, width = self.image_size
        pixels = np.empty((len(self), height, width, self.channels), np.uint8)
        for index in range(len(self)):
            pixels[index] = self.read(index)
        return LabeledImages(pixels, self.labels, self.classes, self.files)


def verify_pool(path: str | Path) -> list[Problem]:
    """Compares every byte of a finished pool with what was written, also of one too damaged to open.

    Args:
        path: The pool's folder or the study's.

    Returns:
        Every file that is missing, changed or foreign, by name; none where all is well.

    Raises:
        UsageError: There is no finished pool.
    """
    root = _root(Path(path))
    changes = _undisturbed(root, storage.changes_since_commit)
    is_or_was_pool = (root / MANIFEST).is_file() or MANIFEST in changes or changes.get(storage.DONE) == "changed"
    if not is_or_was_pool:
        raise _unfinished(Path(path))
    return [Problem(file, what) for file, what in changes.items()]


def _root(path: Path) -> Path:
    return path / "pool" if (path / "pool").is_dir() else path


def _undisturbed(root: Path, look: Callable[[Path], T]) -> T:
    """What is seen of a pool; again where another process put a new pool in its place meanwhile."""
    while True:
        before = _identity(root)
        try:
            seen = look(root)
        except (DamagedError, FileNotFoundError):
            if _identity(root) == before:
                raise
        else:
            if _identity(root) == before:
                return seen


def _identity(root: Path) -> int | None:
    return root.stat().st_ino if root.exists() else None


def _unfinished(path: Path) -> UsageError:
    study = path.parent if path.name == "pool" else path
    return UsageError("there is no finished pool here", where=path, fix=f"diffaug generate {study}")
