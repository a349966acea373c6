"""The trained generator, ready to sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.configuration.sampling import GuidanceMethod, Sampling, SamplingOptions
from diffaug.diffusion.generator.files import GUIDE, ROWS, WEIGHTS, load_denoiser, read_record
from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.process.normalization import Decoded, Normalization
from diffaug.diffusion.process.process import karras_sigmas
from diffaug.diffusion.sampling.class_noise import ClassNoise
from diffaug.diffusion.sampling.editing import inpaint, require_images, require_masks, vary
from diffaug.diffusion.sampling.guidance import DenoiseFunction, autoguidance, classifier_free
from diffaug.diffusion.sampling.samplers import run_solver
from diffaug.errors import UsageError, did_you_mean
from diffaug.files import storage
from diffaug.runtime.devices import repeatable_kernels


@dataclass(frozen=True)
class Generator:
    """A class-conditional generator that is ready to sample.

    Attributes:
        denoiser: The network with averaged weights, in evaluation mode.
        classes: Class names. A label is a position here.
        weights_sha256: Names the weights; part of every sample's provenance.
        guide: The same network after less training, for autoguidance. None if none was kept.
        folder: Where it was loaded from, or None.
    """

    denoiser: Denoiser
    normalization: Normalization
    classes: tuple[str, ...]
    weights_sha256: str
    guide: Denoiser | None = None
    folder: Path | None = None

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
        """Samples images of one class, by name or index, from noise; for the options see `Sampling`.

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
        denoise, replaced = self._denoise(noise, sampling), torch.from_numpy(masks[:, None]).to(self.device)
        made = inpaint(denoise, self._normalized(images), replaced, noise, sampling, resamplings=resamplings)
        return np.where(masks[..., None], self.normalization.to_pixels(made).pixels, images)

    @repeatable_kernels()
    def draw_samples(self, label: str | int, indices: Sequence[int], sampling: Sampling, seed: int) -> Decoded:
        """As `sample`, with the mask of finite images."""
        noise = self._noise("sample", seed, label, indices)
        sigmas = karras_sigmas(sampling.num_inference_steps)
        return self.normalization.to_pixels(run_solver(sampling, self._denoise(noise, sampling), noise, sigmas))

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
    ) -> Decoded:
        """As `variations`, with the mask of finite images."""
        images = require_images(images, (len(indices), *self.image_size, self.channels))
        noise = self._noise("variation", seed, label, indices)
        denoise = self._denoise(noise, sampling)
        return self.normalization.to_pixels(vary(denoise, self._normalized(images), noise, sampling, strength))

    def class_index(self, label: str | int) -> int:
        """The index of a class given by name or index; a UsageError if there is none."""
        if isinstance(label, str) and label in self.classes:
            return self.classes.index(label)
        if isinstance(label, int | np.integer) and not isinstance(label, bool) and 0 <= label < len(self.classes):
            return int(label)
        raise UsageError(f"the generator has no class {label!r}", fix=did_you_mean(str(label), self.classes))

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
        return ClassNoise(seed, purpose, self.class_index(label), indices, shape, self.device)

    def _normalized(self, images: NDArray[np.uint8]) -> Tensor:
        return self.normalization.to_network(torch.from_numpy(images).to(self.device))

    def _denoise(self, noise: ClassNoise, sampling: Sampling) -> DenoiseFunction:
        self.require_guide(sampling.guidance_method)
        labels = torch.full((len(noise.indices),), noise.class_index, device=self.device)
        scale = sampling.guidance_scale
        if sampling.guidance_method == "autoguidance" and self.guide is not None:
            return autoguidance(self.denoiser, self.guide, labels, scale)
        null_label = self.denoiser.config.null_label
        return classifier_free(self.denoiser, labels, null_label, scale, sampling.guidance_interval)
