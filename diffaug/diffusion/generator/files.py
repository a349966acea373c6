"""The generator's folder: `config.json`, `model.safetensors`, `rows.parquet` and a model card. Nothing is unpickled."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save
from torch import Tensor

from diffaug._version import __version__
from diffaug.decoding.intensity import IntensityRange
from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.network.unet import NetworkConfig
from diffaug.diffusion.planning.sources import InitialWeights, UnlabeledPlan, explain_sources
from diffaug.diffusion.process.boxes import ClassBoxes
from diffaug.diffusion.process.normalization import Normalization
from diffaug.errors import DamagedError, UsageError
from diffaug.files import storage
from diffaug.runtime.devices import use_fast_kernels
from diffaug.similarity.intervals import Share

CONFIG, WEIGHTS, GUIDE, CARD = "config.json", "model.safetensors", "guide.safetensors", "README.md"
ROWS = "rows.parquet"
ROWS_COLUMNS = ("id", "pixel_sha256", "label", "part")
TRAINED, HELD_OUT, EARLIER = "trained", "held out", "earlier"  # the last: seen by the generator it continues from
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class GeneratorRecord:
    """The content of `config.json`.

    Attributes:
        train_counts: Training images of each class by name, in class order.
        training: Facts for the model card: images seen, seconds, loss, seed.
        intensity: Which values of the training files black and white are; None if these held 8 bits.
        guide: Whether the averaged weights early in the training were kept, for autoguidance.
        dataset_class_to_idx: Class name to label of the dataset that the images came from, if it has names.
        boxes: Of the training images, if each was learned in its own proportions.
        copied_classes: Classes whose samples are significantly often copies of training images.
        copies: Copies among the samples of each class that were looked at, by name; empty: not checked.
        unlabeled: How unlabeled images took part; None if none did.
        initial: The generator that it continues from; None if it began with random weights.
    """

    network: NetworkConfig
    normalization: Normalization
    train_counts: dict[str, int]
    training: dict[str, str | int]
    guide: bool = False
    intensity: IntensityRange | None = None
    dataset_class_to_idx: dict[str, int] | None = None
    boxes: ClassBoxes | None = None
    copied_classes: tuple[str, ...] = ()
    copies: dict[str, Share] = field(default_factory=dict)
    unlabeled: UnlabeledPlan | None = None
    initial: InitialWeights | None = None
    diffaug: str = __version__
    schema_version: int = SCHEMA_VERSION


_RECORD = TypeAdapter(GeneratorRecord)


def for_inference(denoiser: Denoiser, device: str) -> Denoiser:
    """Moves a denoiser to `device`, in evaluation mode and the fast memory format."""
    use_fast_kernels(device)
    denoiser.to(device=device)
    denoiser.to(memory_format=torch.channels_last)
    return denoiser.eval().requires_grad_(False)


def write_generator(
    folder: Path,
    record: GeneratorRecord,
    weights: Mapping[str, Tensor],
    guide: Mapping[str, Tensor] | None = None,
    rows: pd.DataFrame | None = None,
) -> None:
    """Writes the generator's files into `folder`, which the caller commits.

    The guide, averaged weights early in the training, is given exactly if the record says so. `rows` has one row per
    image: its path in the data folder, the hash of its pixels, its class, empty for unlabeled ones, and its part:
    trained on, held out, or seen by the earlier generator.
    """
    storage.write_json(folder / CONFIG, _RECORD.dump_python(record, mode="json"))
    for file, tensors in ((WEIGHTS, weights), (GUIDE, guide)):
        if tensors is not None:
            contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            storage.write_bytes(folder / file, save(contiguous))
    if rows is not None:
        storage.write_parquet(folder / ROWS, rows[list(ROWS_COLUMNS)])
    storage.write_text(folder / CARD, _model_card(record))


def read_record(folder: Path) -> GeneratorRecord:
    """Reads `config.json`; a UsageError if another version of diffaug wrote it."""
    content = storage.read_json(folder / CONFIG)
    if content["schema_version"] != SCHEMA_VERSION:
        raise UsageError("another version of diffaug wrote this generator", where=folder)
    return _RECORD.validate_python(content)


def load_denoiser(network: NetworkConfig, file: Path, device: str) -> Denoiser:
    """Reads weights, for inference on `device`; a DamagedError if they belong to another network."""
    denoiser = Denoiser(network)
    try:
        denoiser.load_state_dict(load_file(file))
    except RuntimeError as error:
        raise DamagedError("the weights don't fit the configuration", where=file) from error
    return for_inference(denoiser, device)


def _model_card(record: GeneratorRecord) -> str:
    height, width = record.network.image_size
    rows = "\n".join(f"| {name} | {count} |" for name, count in record.train_counts.items())
    facts = "\n".join(f"- {name}: {value}" for name, value in record.training.items())
    sources = "".join(f"- {sentence}\n" for sentence in explain_sources(record.unlabeled, record.initial))
    begun = "from an earlier generator on" if record.initial else "from scratch on"
    return (
        f"# Class-conditional image generator\n\n"
        f"A diffusion model that diffaug {__version__} trained {begun} {sum(record.train_counts.values())} labeled "
        f"images of {width} x {height} px, {record.network.channels} channel(s). Intended only to augment the training "
        f"set of a classifier of the same classes.\n\n"
        f"Its images can repeat training images, especially in small classes. Treat model and images as "
        f"carefully as the training images.\n\n"
        f"| class | training images |\n|---|---|\n{rows}\n\n{sources}{facts}\n"
    )
