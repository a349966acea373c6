"""The trained generator, ready to sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.configuration.sampling import GuidanceMethod, Sampling, SamplingOptions
from diffaug.data.labels import class_of
from diffaug.decoding.intensity import IntensityRange
from diffaug.diffusion.generator.files import GUIDE, ROWS, WEIGHTS, load_denoiser, read_record
from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.process.boxes import ClassBoxes
from diffaug.diffusion.process.normalization import Decoded, Normalization
from diffaug.diffusion.process.process import karras_sigmas
from diffaug.diffusion.sampling.class_noise import ClassNoise
from diffaug.diffusion.sampling.editing import inpaint, require_images, require_masks, vary
from diffaug.diffusion.sampling.framing import Framing
from diffaug.diffusion.sampling.guidance import DenoiseFunction, autoguidance, classifier_free
from diffaug.diffusion.sampling.samplers import run_solver
from diffaug.errors import UsageError
from diffaug.files import storage
from diffaug.runtime.devices import repeatable_kernels


@dataclass(frozen=True)
class Generator:
    """A class-conditional generator that is ready to sample.

    Attributes:
        denoiser: The network with averaged weights, in evaluation mode.
        classes: Class names. For what a label means see `diffaug.data.labels.class_of`.
        weights_sha256: Names the weights; part of every sample's provenance.
        guide: The same network after less training, for autoguidance. None if none was kept.
        folder: Where it was loaded from, or None.
        dataset_class_to_idx: Class name to label of the dataset that the images came from; None if they have no such
            numbering, as images in a folder.
        intensity: Which values of the training files black and white are, and the way back; None for 8-bit files.
        boxes: Of the training images, if it learned each in its own proportions. All images that it takes and gives
            fill the frame nevertheless; each is brought to a box of its class and back.
        copied_classes: Classes whose samples were significantly often copies of training images.
    """

    denoiser: Denoiser
    normalization: Normalization
    classes: tuple[str, ...]
    weights_sha256: str
    guide: Denoiser | None = None
    folder: Path | None = None
    dataset_class_to_idx: Mapping[str, int] | None = None
    intensity: IntensityRange | None = None
    boxes: ClassBoxes | None = None
    copied_classes: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu") -> Generator:
        """Loads a generator or that of a study; a UsageError without one, a DamagedError if a file was changed."""
        path = Path(path)
        folder = path / "generator" if (path / "generator").is_dir() else path
        if storage.committed_metadata(folder, verify=True) is None:
            raise UsageError("there is no finished generator here", where=path, fix="diffaug fit DATA")
        record = read_record(folder)
        return cls(
            load_denoiser(record.network, folder / WEIGHTS, device),
            record.normalization,
            tuple(record.train_counts),
            storage.sha256_file(folder / WEIGHTS),
            load_denoiser(record.network, folder / GUIDE, device) if record.guide else None,
            folder,
            record.dataset_class_to_idx,
            record.intensity,
            record.boxes,
            record.copied_classes,
        )

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images in px."""
        return self.denoiser.config.image_size

    @property
    def channels(self) -> int:
        """1 gray, 3 RGB."""
        return self.denoiser.config.channels

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self.denoiser.parameters()).device

    def rows(self) -> pd.DataFrame | None:
        """What it was trained on and what was held out, see `ROWS_COLUMNS`. None if that was not recorded."""
        if self.folder is None or not (self.folder / ROWS).is_file():
            return None
        return pd.read_parquet(self.folder / ROWS)

    def sample(
        self, label: str | int, indices: Sequence[int], *, seed: int = 0, **options: Unpack[SamplingOptions]
    ) -> NDArray[np.uint8]:
        """Samples images of one class from noise; for the label see `class_of`, for the options `Sampling`.

        Image i of `indices` depends on (seed, class, i) alone. On one machine the same call gives the same bytes.
        Another set of indices may change the last bit, since convolutions round differently by batch size.

        Returns:
            uint8 (N, H, W, C). An image with a non-finite value is all zero.

        Raises:
            UsageError: The class is unknown, an option is out of range, or autoguidance has no guide.
        """
        return self.draw_samples(label, indices, Sampling.of(**options), seed).pixels

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
        sampling = Sampling.of(**options)
        return self.draw_variations(images, label, indices, strength=strength, sampling=sampling, seed=seed).pixels

    @repeatable_kernels()
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
        sampling = Sampling.of(**options)
        noise = self._noise("inpaint", seed, label, indices)
        framing = self._framing(noise)
        denoise, replaced = self._denoise(noise, sampling, framing), framing.boxed_masks(masks).to(self.device)
        known = self.framed(images, framing)
        made = inpaint(denoise, known, replaced, noise, sampling, resamplings=resamplings)
        return np.where(masks[..., None], framing.squeezed(self.normalization.to_pixels(made)).pixels, images)

    @repeatable_kernels()
    def draw_samples(self, label: str | int, indices: Sequence[int], sampling: Sampling, seed: int) -> Decoded:
        """As `sample`, with the mask of finite images."""
        noise = self._noise("sample", seed, label, indices)
        framing = self._framing(noise)
        denoise, sigmas = self._denoise(noise, sampling, framing), karras_sigmas(sampling.num_inference_steps)
        return framing.squeezed(self.normalization.to_pixels(run_solver(sampling, denoise, noise, sigmas)))

    @repeatable_kernels()
    def draw_variations(
        self,
        images: NDArray[np.uint8],
        label: str | int,
        indices: Sequence[int],
        *,
        strength: float,
        sampling: Sampling,
        seed: int,
        boxes: NDArray[np.int64] | None = None,
    ) -> Decoded:
        """As `variations`, with the mask of finite images, and the images' own boxes (N, 2) if they are known."""
        images = require_images(images, (len(indices), *self.image_size, self.channels))
        noise = self._noise("variation", seed, label, indices)
        framing = self._framing(noise) if boxes is None else self.framing(boxes)
        denoise, known = self._denoise(noise, sampling, framing), self.framed(images, framing)
        return framing.squeezed(self.normalization.to_pixels(vary(denoise, known, noise, sampling, strength)))

    def framing(self, boxes: NDArray[np.int64] | None) -> Framing:
        """How images with these boxes (N, 2) lie in the frame; all of it, if the generator knows no boxes."""
        return Framing(None if self.boxes is None else boxes, self.image_size, self.device)

    def framed(self, images: NDArray[np.uint8], framing: Framing) -> Tensor:
        """Images (N, H, W, C) as the network sees them, normalized (N, C, H, W), zero outside of their boxes."""
        known = self.normalization.to_network(torch.from_numpy(framing.framed(images)).to(self.device))
        return known if framing.masks is None else known * framing.masks

    def class_of(self, label: Any) -> str:
        """The class that a label means, see `diffaug.data.labels.class_of`; a UsageError if there is none."""
        return class_of(label, self.classes, self.dataset_class_to_idx, where="the generator")

    def require_guide(self, method: GuidanceMethod) -> None:
        """Raises a UsageError if the method is autoguidance and no guide was kept."""
        if method == "autoguidance" and self.guide is None:
            raise UsageError(
                "autoguidance needs a guide, and this generator was saved without one",
                where=GUIDE,
                fix="use guidance_method='classifier_free', or train the generator again",
            )

    def _noise(self, purpose: str, seed: int, label: str | int, indices: Sequence[int]) -> ClassNoise:
        shape = (self.channels, *self.image_size)
        return ClassNoise(seed, purpose, self.classes.index(self.class_of(label)), indices, shape, self.device)

    def _framing(self, noise: ClassNoise) -> Framing:
        """A box for each image, drawn from those of its class."""
        if self.boxes is None:
            return self.framing(None)
        return self.framing(self.boxes.draw(noise.class_index, noise.indices, noise.seed, noise.purpose))

    def _denoise(self, noise: ClassNoise, sampling: Sampling, framing: Framing) -> DenoiseFunction:
        return framing.inside(self._guided(noise, sampling))

    def _guided(self, noise: ClassNoise, sampling: Sampling) -> DenoiseFunction:
        self.require_guide(sampling.guidance_method)
        labels = torch.full((len(noise.indices),), noise.class_index, device=self.device)
        scale = sampling.guidance_scale
        if sampling.guidance_method == "autoguidance" and self.guide is not None:
            return autoguidance(self.denoiser, self.guide, labels, scale)
        null_label = self.denoiser.config.null_label
        return classifier_free(self.denoiser, labels, null_label, scale, sampling.guidance_interval)
