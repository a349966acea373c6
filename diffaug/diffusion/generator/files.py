"""What the folders of all generators hold: `config.json`, `rows.parquet` and a model card. Nothing is unpickled."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import Field, TypeAdapter

from diffaug._version import __version__
from diffaug.decoding.intensity import IntensityRange
from diffaug.diffusion.planning.sources import InitialWeights, PretrainedModel, UnlabeledPlan, explain_sources
from diffaug.diffusion.process.boxes import ClassBoxes
from diffaug.errors import UsageError
from diffaug.files import storage
from diffaug.files.records import typed, write_record
from diffaug.similarity.intervals import Share

CONFIG, CARD, ROWS = "config.json", "README.md", "rows.parquet"
ROWS_COLUMNS = ("id", "pixel_sha256", "label", "part")
TRAINED, HELD_OUT, EARLIER = "trained", "held out", "earlier"  # the last: seen by the generator it continues from
SCHEMA_VERSION = 1
LARGEST_SIDE = 65_536  # px
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]


@dataclass(frozen=True)
class GeneratorRecord:
    """The content of `config.json`.

    Attributes:
        kind: Names the entry point of the group `diffaug.generators` that opens it.
        image_size: Height and width of its images in px.
        channels: 1 gray, 3 RGB.
        train_counts: Training images of each class by name, in class order.
        training: Facts for the model card: images seen, seconds, loss, seed.
        intensity: Which values of the training files black and white are; None if these held 8 bits.
        dataset_class_to_idx: Class name to label of the dataset that the images came from, if it has names.
        boxes: Of the training images, if each was learned in its own proportions.
        copied_classes: Classes whose samples are significantly often copies of training images.
        copies: Copies among the samples of each class that were looked at, by name; empty: not checked.
        unlabeled: How unlabeled images took part; None if none did.
        initial: The generator that it continues from; None if it began with random weights.
        pretrained: The model of others that it is built on; None if there is none.
    """

    kind: str
    image_size: tuple[Side, Side]
    channels: Annotated[int, Field(ge=1, le=3)]
    train_counts: Annotated[dict[str, Annotated[int, Field(ge=0)]], Field(min_length=1)]
    training: dict[str, str | int]
    intensity: IntensityRange | None = None
    dataset_class_to_idx: dict[str, int] | None = None
    boxes: ClassBoxes | None = None
    copied_classes: tuple[str, ...] = ()
    copies: dict[str, Share] = field(default_factory=dict)
    unlabeled: UnlabeledPlan | None = None
    initial: InitialWeights | None = None
    pretrained: PretrainedModel | None = None
    diffaug: str = __version__
    schema_version: int = SCHEMA_VERSION

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in index order."""
        return tuple(self.train_counts)


_RECORD = TypeAdapter(GeneratorRecord)


def write_generator(folder: Path, record: GeneratorRecord, rows: pd.DataFrame | None = None) -> None:
    """Writes the files that all generators have into `folder`, to which the caller adds the weights.

    `rows` has one row per image: its path in the data folder, the hash of its pixels, its class, empty for unlabeled
    ones, and its part: trained on, held out, or seen by the earlier generator.
    """
    write_record(folder / CONFIG, _RECORD, record)
    if rows is not None:
        storage.write_parquet(folder / ROWS, rows[list(ROWS_COLUMNS)])
    storage.write_text(folder / CARD, _model_card(record))


def read_record(folder: Path) -> GeneratorRecord:
    """Reads `config.json`.

    Raises:
        UsageError: Another version of diffaug wrote it.
        DamagedError: It is not as diffaug wrote it.
    """
    content = storage.read_json(folder / CONFIG)
    if isinstance(content, dict) and content.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
        fix = "install that version, or train the generator again"
        raise UsageError("another version of diffaug wrote this generator", where=folder, fix=fix)
    return typed(content, _RECORD, where=folder / CONFIG)


def read_rows(folder: Path) -> pd.DataFrame | None:
    """The rows that `write_generator` was given, None if there were none; a DamagedError if they were changed."""
    return storage.read_parquet(folder / ROWS, ROWS_COLUMNS) if (folder / ROWS).is_file() else None


def require_finished(folder: Path) -> None:
    """Raises a UsageError unless there is a finished generator in the folder."""
    if storage.committed_metadata(folder) is None:
        raise UsageError("there is no finished generator here", where=folder, fix="diffaug fit DATA")


def _model_card(record: GeneratorRecord) -> str:
    height, width = record.image_size
    rows = "\n".join(f"| {name} | {count} |" for name, count in record.train_counts.items())
    facts = "\n".join(f"- {name}: {value}" for name, value in record.training.items())
    told = explain_sources(record.unlabeled, record.initial, record.pretrained)
    sources = "".join(f"- {sentence}\n" for sentence in told)
    begun = "from an earlier generator on" if record.initial else "from scratch on"
    license_text = ""
    if record.pretrained is not None:
        begun = f"on top of '{record.pretrained.name}' on"
        license_text = (
            f"\n## License of '{record.pretrained.name}'\n\n{record.pretrained.license or 'None is stated.'}\n"
        )
    return (
        f"# Class-conditional image generator\n\n"
        f"A diffusion model that diffaug {__version__} trained {begun} {sum(record.train_counts.values())} labeled "
        f"images of {width} x {height} px, {record.channels} channel(s). Intended only to augment the training "
        f"set of a classifier of the same classes.\n\n"
        f"Its images can repeat training images, especially in small classes. Treat model and images as "
        f"carefully as the training images.\n\n"
        f"| class | training images |\n|---|---|\n{rows}\n\n{sources}{facts}\n{license_text}"
    )
