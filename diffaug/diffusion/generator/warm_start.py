"""A training that continues from an earlier generator, of other classes or another size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from diffaug.decoding.intensity import IntensityRange
from diffaug.diffusion.generator.files import GeneratorRecord, read_record, read_rows
from diffaug.diffusion.generator.network_files import WEIGHTS, NetworkRecord, read_network_record
from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.network.unet import NetworkConfig
from diffaug.diffusion.network.weights import read_weights
from diffaug.errors import UsageError
from diffaug.files import storage

PIXELS = "pixels"
LABELS = "unet.embedding.label.weight"


@dataclass(frozen=True)
class EarlierGenerator:
    """A finished generator whose weights a training begins with.

    Attributes:
        folder: Where it lies.
        network: Of its network.
        weights_sha256: Of its weights, which the result depends on.
        rows: Images that it, or one that it continued from, was trained on or watched with, see `ROWS_COLUMNS`.
    """

    folder: Path
    record: GeneratorRecord
    network: NetworkRecord
    weights_sha256: str
    rows: pd.DataFrame

    @classmethod
    def open(cls, path: str | Path) -> EarlierGenerator:
        """Opens a generator or that of a study.

        Raises:
            UsageError: There is no finished one, it has no network of its own, or it does not say which images it has
                seen.
            DamagedError: A file was changed.
        """
        path = Path(path)
        folder = path / "generator" if (path / "generator").is_dir() else path
        if storage.committed_metadata(folder) is None:
            fix = "give the folder of a study whose fit has ended, or of its generator"
            raise UsageError("--init: there is no finished generator here", where=path, fix=fix)
        rows = read_rows(folder)
        if rows is None:
            what = "--init: the generator does not say which images it has seen, so that test images may be among them"
            raise UsageError(what, where=folder, fix="continue from one that diffaug fit has trained")
        record = read_record(folder)
        if record.kind != PIXELS:
            what = f"--init: no training can begin with weights of the kind '{record.kind}'"
            raise UsageError(what, where=folder, fix="continue from one that was trained from scratch in pixels")
        sha256 = storage.sha256_file(folder / WEIGHTS)
        return cls(folder, record, read_network_record(folder), sha256, rows)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in index order."""
        return self.record.classes

    def weights(self) -> dict[str, Tensor]:
        """Its averaged weights by name, on the CPU."""
        return read_weights(self.folder / WEIGHTS)


def require_same_kind(
    earlier: EarlierGenerator, *, channels: int, objective: str, intensity: IntensityRange | None
) -> None:
    """Raises a UsageError if images or training are of another kind than those of the earlier generator.

    Black and white must mean the same values where both were made of images of more than 8 bits.
    """
    network, where = earlier.network.network, earlier.folder
    if network.channels != channels:
        kinds = {1: "gray", 3: "RGB"}
        what = f"--init: the generator makes {kinds[network.channels]} images, and these are {kinds[channels]}"
        raise UsageError(what, where=where, fix=f"--set data.channels={network.channels} converts them")
    if network.objective != objective:
        what = f"--init: the generator was trained with objective '{network.objective}', not '{objective}'"
        raise UsageError(what, where=where, fix=f"--set diffusion.objective={network.objective}")
    before = earlier.record.intensity
    if before and intensity and (before.low, before.high) != (intensity.low, intensity.high):
        what = (
            f"--init: black and white were {before.low:g} and {before.high:g} for the generator, and are "
            f"{intensity.low:g} and {intensity.high:g} for these images"
        )
        raise UsageError(what, where=where, fix=f"--set data.intensity_range=[{before.low:g},{before.high:g}]")


def network_like(earlier: EarlierGenerator, planned: NetworkConfig, *, is_set: bool) -> NetworkConfig:
    """The planned network with the widths and depths of the earlier one.

    Images of another size may fold into other channels; then first and last layer begin anew.

    Raises:
        UsageError: The user has set another network (`is_set`).
    """
    before = earlier.network.network
    shape = {name: getattr(before, name) for name in ("base_channels", "channel_multipliers", "blocks")}
    like = replace(planned, **shape)
    if is_set and like != planned:
        what = "--init: the generator has another network than the one that is set"
        fix = "leave out diffusion.preset and advanced.base_channels; the network then follows the generator"
        raise UsageError(what, where=earlier.folder, fix=fix)
    return like


def take_weights(denoiser: Denoiser, weights: Mapping[str, Tensor], before: Sequence[str], now: Sequence[str]) -> float:
    """Gives a new network the earlier weights of equal name and shape; returns their share of all, in [0, 1].

    Class embeddings go by the names of the classes, `before` and `now`. A class that is new begins with the embedding
    of "no label", that is as an image of any class.
    """
    own = denoiser.state_dict()
    taken = {
        name: tensor
        for name, tensor in weights.items()
        if name in own and name != LABELS and own[name].shape == tensor.shape
    }
    if weights[LABELS].shape[1] == own[LABELS].shape[1]:
        null = len(before)
        rows = [before.index(name) if name in before else null for name in now]
        taken[LABELS] = weights[LABELS][[*rows, null]]
    denoiser.load_state_dict(own | taken)
    numbers = [sum(tensor.numel() for tensor in tensors.values()) for tensors in (taken, own)]
    return numbers[0] / numbers[1]


def share_taken(network: NetworkConfig, earlier: EarlierGenerator, classes: Sequence[str]) -> float:
    """What `take_weights` would return for a network of this shape."""
    with torch.random.fork_rng(devices=[]):
        return take_weights(Denoiser(network), earlier.weights(), earlier.classes, classes)
