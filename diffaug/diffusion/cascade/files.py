"""The two networks of a cascade on disk: `base/` and `upscaler/` in the folder of the generator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from diffaug.diffusion.cascade.detail import DetailScale
from diffaug.diffusion.cascade.reducing import Reduction
from diffaug.diffusion.cascade.upscaler import Level, Upscaler
from diffaug.diffusion.generator.network_files import read_network
from diffaug.files.records import read_record, write_record

BASE, UPSCALER, RECORD = "base", "upscaler", "upscaler.json"


@dataclass(frozen=True)
class UpscalerRecord:
    """The content of `upscaler.json`.

    Attributes:
        ratios: See `DetailScale`.
        level: See `Level`.
        steps: For which it was trained.
    """

    base_size: tuple[int, int]
    ratios: tuple[float, ...]
    level: Level
    steps: int


_RECORD = TypeAdapter(UpscalerRecord)


def write_scale(folder: Path, scale: DetailScale, level: Level, steps: int) -> None:
    """Writes into `folder` what an upscaler is beside its network, see `write_network`."""
    write_record(folder / RECORD, _RECORD, UpscalerRecord(scale.reduction.base_size, scale.ratios, level, steps))


def read_upscaler_record(folder: Path) -> UpscalerRecord:
    """What the upscaler in `folder` is beside its network."""
    return read_record(folder / RECORD, _RECORD)


def read_upscaler(folder: Path, device: str) -> Upscaler:
    """Reads an upscaler, for inference on `device`; a DamagedError if its files don't fit together."""
    network, record = read_network(folder, device), read_upscaler_record(folder)
    reduction = Reduction(network.denoiser.config.image_size, record.base_size)
    scale = DetailScale(reduction, network.normalization, record.ratios)
    return Upscaler(network.denoiser, scale, record.level, network.guide)
