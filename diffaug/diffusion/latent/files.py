"""What a latent generator has on the disk besides its network: `latent.json`, and perhaps the autoencoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from diffaug.diffusion.latent.autoencoder import Autoencoder, open_autoencoder
from diffaug.diffusion.latent.folder import AutoencoderFolder
from diffaug.diffusion.latent.reconstruction import Reconstruction
from diffaug.errors import DamagedError, UsageError
from diffaug.files import storage
from diffaug.files.records import read_record, write_record

RECORD, COPY = "latent.json", "autoencoder"
LARGEST_COPY = 64 * 2**20
"""Bytes. A tiny autoencoder (10 MB) is copied, so that the generator is whole; a large one (335 MB) is named only,
since a study holds two generators and trackers store each."""


@dataclass(frozen=True)
class AutoencoderRecord:
    """Which autoencoder a generator needs.

    Attributes:
        path: Absolute, of the folder as it was when the generator was trained.
        sha256: Of the content of its files.
        is_copied: Whether the files lie in the generator's folder, too.
    """

    path: str
    class_name: str
    sha256: str
    is_copied: bool


@dataclass(frozen=True)
class LatentRecord:
    """The content of `latent.json`.

    Attributes:
        reconstruction: How much of real images the autoencoder kept; None if it could not be measured.
    """

    autoencoder: AutoencoderRecord
    reconstruction: Reconstruction | None = None


_RECORD = TypeAdapter(LatentRecord)


def write_autoencoder(folder: Path, autoencoder: AutoencoderFolder, reconstruction: Reconstruction | None) -> None:
    """Writes into the folder of a generator what it needs to find its autoencoder, or the autoencoder itself."""
    is_copied = autoencoder.size <= LARGEST_COPY
    if is_copied:
        autoencoder.copy_to(folder / COPY)
    record = AutoencoderRecord(str(autoencoder.path), autoencoder.class_name, autoencoder.sha256, is_copied)
    write_record(folder / RECORD, _RECORD, LatentRecord(record, reconstruction))


def read_latent_record(folder: Path) -> LatentRecord:
    """Reads `latent.json`."""
    return read_record(folder / RECORD, _RECORD)


def open_recorded(folder: Path, device: str) -> Autoencoder:
    """The autoencoder of the generator in a folder.

    Raises:
        UsageError: It lies elsewhere, and is gone or another one by now.
        DamagedError: The generator's own copy was changed.
        MissingExtraError: Its library is not installed.
    """
    record = read_latent_record(folder).autoencoder
    if record.is_copied:
        copied = AutoencoderFolder.find(folder / COPY)
        if copied.sha256 != record.sha256:
            raise DamagedError("the autoencoder was changed", where=copied.path, fix=storage.REPAIR_HINT)
        return open_autoencoder(copied, device)
    path = Path(record.path)
    if not path.is_dir():
        what = "the autoencoder of this generator is no longer where it was"
        raise UsageError(what, where=path, fix="move its folder back, or put a link to it there: ln -s NEW OLD")
    found = AutoencoderFolder.find(path)
    if found.sha256 != record.sha256:
        what = "the autoencoder in this folder is not the one that the generator was trained with"
        raise UsageError(what, where=path, fix=f"put back the files whose hash is {record.sha256[:12]}...")
    return open_autoencoder(found, device)
