"""A pretrained diffusers pipeline on disk, perhaps fine-tuned, as a generator of diffaug."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.configuration.sampling import Sampling
from diffaug.data.images import LabeledImages
from diffaug.diffusion.generator.denoising_errors import denoising_errors
from diffaug.diffusion.generator.files import GeneratorRecord
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.generator.usual import Usual
from diffaug.diffusion.process.normalization import Decoded
from diffaug.diffusion.sampling.drawing import Drawing, solve
from diffaug.diffusion.sampling.guidance import DenoiseFunction, classifier_free, conditional
from diffaug.errors import UsageError
from diffaug.integrations.pipelines.adapter import Adapter
from diffaug.integrations.pipelines.base import require_same_base
from diffaug.integrations.pipelines.denoising import NO_PROMPT, Denoiser, Encoder
from diffaug.integrations.pipelines.families import family_of
from diffaug.integrations.pipelines.frame import Frame, decode_latents, latent_moments
from diffaug.integrations.pipelines.levels import Levels
from diffaug.integrations.pipelines.loading import LoadedPipeline, load_pipeline
from diffaug.integrations.pipelines.prompts import Prompts
from diffaug.integrations.pipelines.records import ADAPTER, read_pipeline_record
from diffaug.runtime.devices import repeatable_kernels

MOVED = "DIFFAUG_DIFFUSION__PIPELINE"
"""Environment variable that says where the pipeline lies, if it was moved; it is the setting `diffusion.pipeline`."""
STRENGTHS = ((0.25, 0.35), (0.45, 0.55), (0.65, 0.75), (0.85, 0.95))
"""Around 0.3, 0.5, 0.7 and 0.9. Low ones were best where a pipeline does not know the domain, high ones where it does
(UniDiffDA, arXiv 2603.08364)."""
GUIDANCE = (2.0, 3.0)
"""The 5 to 7.5 of the pipelines is for single pictures: it leaves little diversity. Chosen by hand."""


@dataclass(frozen=True, kw_only=True)
class PipelineGenerator(Generator):
    """A pretrained pipeline whose network denoises latents, told about the class by a prompt.

    Images pass through it at its own size. The solvers are those of all generators; noise levels are scaled such that
    strengths and guidance intervals mean what they mean elsewhere, see `pipelines.levels`.

    Attributes:
        loaded: The pipeline, with the adapter in it.
        prompts: By class.
        only_varies: Whether it is meant to vary real images, since it was not fine-tuned.
    """

    packages: ClassVar[tuple[str, ...]] = (*Generator.packages, "diffusers", "transformers", "peft")

    loaded: LoadedPipeline
    prompts: Prompts
    frame: Frame
    encoder: Encoder
    only_varies: bool = False

    @classmethod
    def open(cls, folder: Path, record: GeneratorRecord, device: str) -> Self:
        """See `Generator.open`; a UsageError if the pretrained pipeline is gone or was changed."""
        about = read_pipeline_record(folder)
        moved = os.environ.get(MOVED)
        loaded = load_pipeline(require_same_base(about.base, Path(moved) if moved else None), device)
        adapter = Adapter.install(loaded, record.classes, rank=about.rank, tokens=about.prompts.use_tokens)
        adapter.read(folder / ADAPTER)
        return cls(
            **cls._shared(folder, record),
            weights_sha256=about.fingerprint(folder),
            loaded=loaded,
            prompts=about.prompts,
            frame=about.frame,
            encoder=Encoder(loaded),
            only_varies=not about.is_trained,
        )

    @classmethod
    def of(cls, loaded: LoadedPipeline, prompts: Prompts, frame: Frame, *, only_varies: bool = False) -> Self:
        """A generator that is not on disk; the classes are those of the prompts."""
        own = {"prompts": prompts, "frame": frame, "encoder": Encoder(loaded), "only_varies": only_varies}
        return cls(classes=tuple(prompts.by_class), weights_sha256="", loaded=loaded, **own)

    @property
    def usual(self) -> Usual:
        """Variations at strengths of 0.9, 0.7, 0.5 or 0.3, the strongest that keeps the class; little guidance."""
        family = family_of(self.loaded)
        scale = GUIDANCE if family.is_guided(self.loaded) else 1.0
        return Usual(STRENGTHS, len(STRENGTHS) - 1, scale, self.only_varies)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images in px."""
        size: tuple[int, int] = self.frame.image_size
        return size

    @property
    def channels(self) -> int:
        """1 gray, 3 RGB."""
        channels: int = self.frame.channels
        return channels

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        device: torch.device = self.loaded.device
        return device

    @repeatable_kernels()
    def draw(self, drawing: Drawing) -> Decoded:
        """See `Generator.draw`. A call always splits its images alike.

        The strength is the fraction of the pipeline's own time, as in diffusers. What latents show of a masked pixel is
        made anew.
        """
        parts = (self._drawn(part) for _, part in drawing.parts(self.frame.at_once))
        return Decoded.joined(parts, (*self.image_size, self.channels))

    def _drawn(self, drawing: Drawing) -> Decoded:
        noise = drawing.noise(self.frame.latent_shape(self.loaded), self.device)
        known = None if drawing.images is None else self._latents(drawing.images)
        masks = drawing.masks
        covered = None if masks is None else self.frame.latent_masks(masks, self.loaded).to(self.device)
        denoise = self._denoise(drawing)
        latents = solve(drawing, self._levels.path, denoise, noise, known=known, masks=covered)
        decoded: Decoded = self.frame.reduced(decode_latents(self.loaded, latents))
        return decoded

    @torch.no_grad()
    def denoising_errors(self, images: LabeledImages, *, seed: int) -> NDArray[np.float64]:
        """See `Generator.denoising_errors`; each class with the first of its prompts."""
        condition = self.encoder([self.prompts.by_class[label][0] for label in self.classes])
        denoiser = Denoiser(self.loaded, self._levels, condition)
        errors = [np.empty(0)]
        for chosen in np.array_split(np.arange(len(images)), -(-len(images) // self.frame.at_once) or 1):
            x0, rows = self._latents(images.pixels[chosen]), torch.from_numpy(images.labels[chosen]).to(self.device)
            errors.append(denoising_errors(denoiser, x0, rows, seed=seed))
        return np.concatenate(errors)

    def require_sampling(self, sampling: Sampling) -> None:
        """Raises a UsageError if the method is autoguidance: a pretrained pipeline has no early version of itself."""
        if sampling.guidance_method == "autoguidance":
            what = "a pretrained pipeline has no guide for autoguidance"
            raise UsageError(what, where="guidance_method", fix="use guidance_method='classifier_free'")

    @property
    def _levels(self) -> Levels:
        return family_of(self.loaded).levels(self.loaded, self.frame.latent_shape(self.loaded)[1:])

    def _denoise(self, drawing: Drawing) -> DenoiseFunction:
        self.require_sampling(drawing.sampling)
        label = self.classes[drawing.class_index]
        prompts = self.prompts.of_class(label, drawing.indices, drawing.seed, drawing.purpose)
        unique = list(dict.fromkeys(prompts))
        rows = torch.tensor([unique.index(prompt) for prompt in prompts], device=self.device)
        scale, interval = drawing.sampling.guidance_scale, drawing.sampling.guidance_interval
        denoiser = Denoiser(self.loaded, self._levels, self.encoder([*unique, NO_PROMPT]), scale)
        if family_of(self.loaded).is_distilled(self.loaded):
            return conditional(denoiser, rows)
        return classifier_free(denoiser, rows, len(unique), scale, interval)

    def _latents(self, images: NDArray[np.uint8]) -> Tensor:
        means: Tensor = latent_moments(self.loaded, self.frame.enlarged(images))[0]
        return means
