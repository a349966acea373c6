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

from diffaug.diffusion.generator.files import GUIDE, ROWS, WEIGHTS, load_denoiser, read_config
from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.network.unet import NetworkConfig
from diffaug.diffusion.process.normalization import Normalization
from diffaug.diffusion.process.process import karras_sigmas
from diffaug.diffusion.sampling.editing import inpaint, require_images, require_masks, require_strength, vary
from diffaug.diffusion.sampling.guidance import DenoiseFunction, autoguidance, classifier_free
from diffaug.diffusion.sampling.sampling import ClassNoise, Sampling, SamplingOptions
from diffaug.errors import UsageError
from diffaug.files import storage
from diffaug.runtime.devices import repeatable_kernels


@dataclass(frozen=True)
class Generator:
    """A class-conditional generator that is ready to sample.

    Attributes:
        denoiser: The network with averaged weights, in evaluation mode.
        normalization: Maps pixels to what the network sees and back.
        classes: Class names; a label is a position here.
        weights_sha256: Names the weights; part of every sample's provenance.
        guide: The same network after less training, for autoguidance; none where none was kept.
        folder: Where it was loaded from; none where it was not.
    """

    denoiser: Denoiser
    normalization: Normalization
    classes: tuple[str, ...]
    weights_sha256: str
    guide: Denoiser | None = None
    folder: Path | None = None

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu") -> Generator:
        """Loads a generator, or the generator of a study.

        Raises:
            UsageError: There is none.
            DamagedError: A file was changed since it was written.
        """
        path = Path(path)
        folder = path / "generator" if (path / "generator").is_dir() else path
        if storage.committed_facts(folder, verify=True) is None:
            raise UsageError("there is no finished generator here", where=path, fix="diffaug fit DATA")
        config = read_config(folder)
        network = NetworkConfig.from_dict(config["network"])
        return cls(
            load_denoiser(network, folder / WEIGHTS, device),
            Normalization(tuple(config["mean"]), tuple(config["std"])),
            tuple(config["classes"]),
            storage.sha256_file(folder / WEIGHTS),
            load_denoiser(network, folder / GUIDE, device) if config.get("guide") else None,
            folder,
        )

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images in px."""
        return self.denoiser.config.image_size

    @property
    def channels(self) -> int:
        """1 grey, 3 RGB."""
        return self.denoiser.config.channels

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self.denoiser.parameters()).device

    def rows(self) -> pd.DataFrame | None:
        """What it was trained on and what was held out, see `ROWS_COLUMNS`; None where that was not recorded."""
        if self.folder is None or not (self.folder / ROWS).is_file():
            return None
        return pd.read_parquet(self.folder / ROWS)

    @repeatable_kernels()
    def sample(
        self, label: str | int, indices: Sequence[int], *, seed: int = 0, **options: Unpack[SamplingOptions]
    ) -> NDArray[np.uint8]:
        """Samples images of one class from noise.

        Image i depends on (seed, class, i) alone. On one machine the same call gives the same bytes; another
        set of `indices` may change the last bit, since convolutions round differently by batch size.

        Args:
            label: Class name or index.
            indices: Numbers of the images; each stands for one image.
            seed: Seed of the whole series.
            **options: Solver, steps and guidance; see `Sampling`.

        Returns:
            uint8 (N, H, W, C); an image with a non-finite value comes back all zero.

        Raises:
            UsageError: There is no such class, an option is out of range, or autoguidance has no guide.
        """
        sampling = Sampling(**options)
        noise = self._noise("sample", seed, label, indices)
        sigmas = karras_sigmas(sampling.num_inference_steps)
        return self.decode(sampling.run(self._denoise(noise, sampling), noise, sigmas))

    @repeatable_kernels()
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
        """Noises real images part of the way and denoises them under their label (SDEdit, arXiv 2108.01073).

        Args:
            images: uint8 (N, H, W, C), one for each index, at the generator's size.
            label: Class name or index of all of them.
            indices: Numbers of the variations; with another number the same image becomes another variation.
            strength: In (0, 1], the position on the noise levels of `karras_sigmas` to begin at: 0.25 is noise level
                0.17, 0.5 is 2.5 and 0.75 is 18. Towards 0 the image itself returns; 1 begins from noise alone. The
                steps are this share of `num_inference_steps`.
            seed: Seed of the whole series.
            **options: Solver, steps and guidance; see `Sampling`.

        Returns:
            uint8 (N, H, W, C); an image with a non-finite value comes back all zero.

        Raises:
            UsageError: Images, strength or an option is not as above, or autoguidance has no guide.
        """
        images = require_images(images, (len(indices), *self.image_size, self.channels))
        require_strength(strength)
        sampling = Sampling(**options)
        noise = self._noise("variation", seed, label, indices)
        denoise = self._denoise(noise, sampling)
        return self.decode(vary(denoise, self._normalised(images), noise, sampling, strength))

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
        """Makes the masked part of real images anew, under their label and in keeping with the rest.

        Args:
            images: uint8 (N, H, W, C), one for each index, at the generator's size.
            masks: bool (N, H, W), true where pixels are to be replaced.
            label: Class name or index of all of them.
            indices: Numbers of the results.
            seed: Seed of the whole series.
            resamplings: How often each step is taken again, so that new and kept pixels fit together; sampling
                then takes 1 + this many times as long.
            **options: Solver, steps and guidance; see `Sampling`.

        Returns:
            uint8 (N, H, W, C), bit for bit the given image where the mask is false.

        Raises:
            UsageError: Images, masks or an option is not as above, or autoguidance has no guide.
        """
        images = require_images(images, (len(indices), *self.image_size, self.channels))
        masks = require_masks(masks, (len(indices), *self.image_size))
        if not isinstance(resamplings, int) or resamplings < 0:
            raise UsageError(f"{resamplings} resamplings make no sense", fix="0 for none, 4 as a rule")
        sampling = Sampling(**options)
        noise = self._noise("inpaint", seed, label, indices)
        denoise, anew = self._denoise(noise, sampling), torch.from_numpy(masks[:, None]).to(self.device)
        made = inpaint(denoise, self._normalised(images), anew, noise, sampling, resamplings=resamplings)
        return np.where(masks[..., None], self.decode(made), images)

    def decode(self, images: Tensor) -> NDArray[np.uint8]:
        """Normalised images (N, C, H, W) to uint8 (N, H, W, C)."""
        return self.normalization.to_pixels(images)

    def class_index(self, label: str | int) -> int:
        """The index of a class given by name or index.

        Raises:
            UsageError: There is no such class.
        """
        if isinstance(label, str) and label in self.classes:
            return self.classes.index(label)
        if isinstance(label, int | np.integer) and not isinstance(label, bool) and 0 <= label < len(self.classes):
            return int(label)
        raise UsageError(f"the generator knows no class {label!r}", fix=f"classes: {', '.join(self.classes)}")

    def require_guide(self, guidance: str) -> None:
        """Checks that this generator can be sampled with `guidance`.

        Raises:
            UsageError: It is autoguidance, and no guide was kept.
        """
        if guidance == "autoguidance" and self.guide is None:
            raise UsageError(
                "autoguidance needs a guide, and this generator was trained without keeping one",
                where=GUIDE,
                fix="use guidance 'classifier_free', or train the generator again",
            )

    def _noise(self, purpose: str, seed: int, label: str | int, indices: Sequence[int]) -> ClassNoise:
        shape = (self.channels, *self.image_size)
        return ClassNoise(seed, purpose, self.class_index(label), indices, shape, self.device)

    def _normalised(self, images: NDArray[np.uint8]) -> Tensor:
        return self.normalization.to_network(torch.from_numpy(images).to(self.device))

    def _denoise(self, noise: ClassNoise, sampling: Sampling) -> DenoiseFunction:
        self.require_guide(sampling.guidance)
        labels = torch.full((len(noise.indices),), noise.class_index, device=self.device)
        scale = sampling.guidance_scale
        if sampling.guidance == "autoguidance" and self.guide is not None:
            return autoguidance(self.denoiser, self.guide, labels, scale)
        null_label = self.denoiser.config.null_label
        return classifier_free(self.denoiser, labels, null_label, scale, sampling.guidance_interval)
