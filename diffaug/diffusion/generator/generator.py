"""What every kind of generator does; pool, audit, transforms and tracking know no more of it than this."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, Self, Unpack

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from diffaug.configuration.sampling import Sampling, SamplingOptions
from diffaug.data.images import LabeledImages
from diffaug.data.labels import class_of
from diffaug.decoding.intensity import IntensityRange
from diffaug.diffusion.generator.files import GeneratorRecord, read_record, read_rows, require_finished
from diffaug.diffusion.generator.usual import USUAL, Usual
from diffaug.diffusion.process.boxes import ClassBoxes
from diffaug.diffusion.process.normalization import Decoded
from diffaug.diffusion.sampling.drawing import Drawing
from diffaug.diffusion.sampling.editing import require_images, require_masks
from diffaug.errors import DiffaugError, UsageError

ENTRY_POINT_GROUP = "diffaug.generators"


@dataclass(frozen=True, kw_only=True)
class Generator(ABC):
    """A class-conditional generator that is ready to sample.

    Image i of a class depends on (seed, class, i) alone. On one machine the same call gives the same bytes; another set
    of indices may change the last bit, since convolutions round differently by batch size.

    Attributes:
        classes: Class names. For what a label means see `diffaug.data.labels.class_of`.
        weights_sha256: Names the weights; part of every sample's provenance.
        folder: Where it was loaded from, or None.
        dataset_class_to_idx: Class name to label of the dataset that the images came from; None if they have no such
            numbering, as images in a folder.
        intensity: Which values of the training files black and white are, and the way back; None for 8-bit files.
        boxes: Of the training images, if it learned each in its own proportions. All images that it takes and gives
            fill the frame nevertheless; each is brought to a box of its class and back.
        copied_classes: Classes whose samples were significantly often copies of training images.
    """

    packages: ClassVar[tuple[str, ...]] = ("diffaug", "torch")
    """What must be installed where it is loaded."""

    classes: tuple[str, ...]
    weights_sha256: str
    folder: Path | None = None
    dataset_class_to_idx: Mapping[str, int] | None = None
    intensity: IntensityRange | None = None
    boxes: ClassBoxes | None = None
    copied_classes: tuple[str, ...] = ()

    @staticmethod
    def load(path: str | Path, *, device: str = "cpu") -> Generator:
        """Loads a generator of any kind, or that of a study; global random numbers are left as they are.

        Raises:
            UsageError: There is none, or its kind is not installed.
            DamagedError: A file was changed.
        """
        path = Path(path)
        folder = path / "generator" if (path / "generator").is_dir() else path
        require_finished(folder)
        record = read_record(folder)
        with torch.random.fork_rng(devices=[]):  # networks are made with random weights before theirs are read
            return generator_kind(record.kind, folder).open(folder, record, device)

    @classmethod
    @abstractmethod
    def open(cls, folder: Path, record: GeneratorRecord, device: str) -> Self:
        """Reads the files of this kind in a complete folder."""

    @property
    @abstractmethod
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images in px."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """1 gray, 3 RGB."""

    @property
    def usual(self) -> Usual:
        """How it is usually drawn from."""
        return USUAL

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where it runs."""

    @abstractmethod
    def draw(self, drawing: Drawing) -> Decoded:
        """Draws images, with the mask of finite ones. Pixels outside of masks may differ from the given ones."""

    @abstractmethod
    def require_sampling(self, sampling: Sampling) -> None:
        """Raises a UsageError if this generator can't draw images so."""

    def denoising_errors(self, images: LabeledImages, *, seed: int) -> NDArray[np.float64] | None:
        """How badly it denoises each of N images of its classes, (N,); smaller for images that it has memorized.

        None if this kind of generator has no such measure.
        """
        return None

    def rows(self) -> pd.DataFrame | None:
        """What it was trained on and what was held out, see `ROWS_COLUMNS`. None if that was not recorded."""
        return None if self.folder is None else read_rows(self.folder)

    def class_of(self, label: Any) -> str:
        """The class that a label means, see `diffaug.data.labels.class_of`; a UsageError if there is none."""
        return class_of(label, self.classes, self.dataset_class_to_idx, where="the generator")

    def class_index(self, label: Any) -> int:
        """The position of the class that a label means."""
        return self.classes.index(self.class_of(label))

    def sample(
        self, label: str | int, indices: Sequence[int], *, seed: int = 0, **options: Unpack[SamplingOptions]
    ) -> NDArray[np.uint8]:
        """Samples images of one class from noise; for the label see `class_of`, for the options `Sampling`.

        Returns:
            uint8 (N, H, W, C). An image with a non-finite value is all zero.

        Raises:
            UsageError: The class is unknown, an option is out of range, or autoguidance has no guide.
        """
        return self.draw(self._drawing(label, indices, seed, options)).pixels

    def variations(
        self,
        images: NDArray[np.uint8],
        label: str | int,
        indices: Sequence[int],
        *,
        strength: float,
        seed: int = 0,
        **options: Unpack[SamplingOptions],
    ) -> NDArray[np.uint8]:
        """Adds noise to real images and denoises them under their label (SDEdit, arXiv 2108.01073).

        Images are uint8 (N, H, W, C), one per index, at the generator's size. With another index the same image
        becomes another variation. All else is as for `sample`.

        The strength, in (0, 1], says where on the noise levels of `karras_sigmas` to begin: 0.25 is noise level 0.17,
        0.5 is 2.5 and 0.75 is 18. Near 0 the result is the image itself; 1 begins from noise alone. This fraction of
        `num_inference_steps` is taken.
        """
        images = require_images(images, (len(indices), *self.image_size, self.channels))
        return self.draw(self._drawing(label, indices, seed, options).varying(images, strength)).pixels

    def inpaint(
        self,
        images: NDArray[np.uint8],
        masks: NDArray[np.bool_],
        label: str | int,
        indices: Sequence[int],
        *,
        seed: int = 0,
        resamplings: int = 4,
        **options: Unpack[SamplingOptions],
    ) -> NDArray[np.uint8]:
        """Samples the masked part of real images anew, under their label and consistent with the rest.

        Images are uint8 (N, H, W, C), one per index, at the generator's size; masks are bool (N, H, W), true where
        pixels are to be replaced. Elsewhere the result is the given image bit for bit. All else is as for `sample`.

        Each step is repeated `resamplings` times, so that new and kept pixels fit together. Sampling takes 1 + this
        many times as long.
        """
        images = require_images(images, (len(indices), *self.image_size, self.channels))
        masks = require_masks(masks, (len(indices), *self.image_size))
        if not isinstance(resamplings, int) or resamplings < 0:
            raise UsageError(f"resamplings must be 0 or more, got {resamplings}", fix="0 repeats nothing; 4 is usual")
        drawing = self._drawing(label, indices, seed, options).painting(images, masks, resamplings)
        return np.where(masks[..., None], self.draw(drawing).pixels, images)

    @staticmethod
    def _shared(folder: Path, record: GeneratorRecord) -> dict[str, Any]:
        """What the record says about generators of all kinds, as arguments of their classes."""
        names = ("classes", "dataset_class_to_idx", "intensity", "boxes", "copied_classes")
        return {"folder": folder, **{name: getattr(record, name) for name in names}}

    def _drawing(self, label: str | int, indices: Sequence[int], seed: int, options: SamplingOptions) -> Drawing:
        settled: SamplingOptions = {"guidance_scale": self.usual.typical_guidance}
        settled.update(options)
        return Drawing(self.class_index(label), indices, Sampling.of(**settled), seed)


def generator_kind(kind: str, where: Path) -> type[Generator]:
    """The class that opens generators of a kind, which an entry point of the group `diffaug.generators` names."""
    points = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if kind not in points:
        what = f"the generator is of the kind '{kind}', which is not installed; known are {', '.join(sorted(points))}"
        raise UsageError(what, where=where, fix="install the package that it was made with")
    found = points[kind].load()
    if not (isinstance(found, type) and issubclass(found, Generator)):
        raise DiffaugError(f"the entry point {points[kind].value} is no Generator", where=ENTRY_POINT_GROUP)
    return found
