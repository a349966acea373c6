"""The generator of two stages: a small one in pixels, and the network that enlarges its images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from diffaug.configuration.sampling import Sampling
from diffaug.diffusion.cascade.detail import View
from diffaug.diffusion.cascade.files import BASE, UPSCALER, read_upscaler
from diffaug.diffusion.cascade.reducing import Reduction
from diffaug.diffusion.cascade.upscaler import Known, Task, Upscaler
from diffaug.diffusion.generator.denoising_errors import denoising_errors
from diffaug.diffusion.generator.files import GeneratorRecord
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.generator.guided import require_guide
from diffaug.diffusion.generator.network_files import WEIGHTS, require_fitting
from diffaug.diffusion.generator.pixels import PixelGenerator
from diffaug.diffusion.process.boxes import ClassBoxes
from diffaug.diffusion.process.normalization import Decoded
from diffaug.diffusion.sampling.editing import require_images, require_strength
from diffaug.files import storage
from diffaug.runtime.devices import repeatable_kernels

LEAST_BASE_STRENGTH = 0.2
"""Strength from which on the base takes part in a variation: noise level 0.08, a sixth of the images' own deviation.
Weaker variations redraw fine detail alone. Chosen by hand."""


@dataclass(frozen=True, kw_only=True)
class CascadeGenerator(Generator):
    """A base generator that makes small images, and an upscaler that draws their detail, or enlarges them plainly.

    An image is brought to the base's proportions and back by the base; the upscaler sees it filling the frame.
    """

    base: PixelGenerator
    upscaler: Upscaler

    @classmethod
    def open(cls, folder: Path, record: GeneratorRecord, device: str) -> Self:
        """See `Generator.open`."""
        sha256 = [storage.sha256_file(folder / part / WEIGHTS) for part in (BASE, UPSCALER)]
        upscaler = read_upscaler(folder / UPSCALER, device)
        boxes = None if record.boxes is None else reduced_boxes(record.boxes, upscaler.scale.reduction)
        require_fitting(record, upscaler.denoiser.config, folder / UPSCALER)
        reduced = replace(record, boxes=boxes, image_size=upscaler.scale.reduction.base_size)
        return cls(
            classes=record.classes,
            weights_sha256=hashlib.sha256(" ".join(sha256).encode()).hexdigest(),
            folder=folder,
            dataset_class_to_idx=record.dataset_class_to_idx,
            intensity=record.intensity,
            boxes=record.boxes,
            copied_classes=record.copied_classes,
            base=PixelGenerator.open(folder / BASE, reduced, device),
            upscaler=upscaler,
        )

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images in px."""
        return self.upscaler.denoiser.config.image_size

    @property
    def channels(self) -> int:
        """1 gray, 3 RGB."""
        return self.upscaler.denoiser.config.channels

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.upscaler.device

    @property
    def reduction(self) -> Reduction:
        """To the size of the base."""
        return self.upscaler.scale.reduction

    def require_sampling(self, sampling: Sampling) -> None:
        """Raises a UsageError if the method is autoguidance and no guide was kept."""
        self.base.require_sampling(sampling)
        if not self.upscaler.is_plain:
            require_guide(sampling, self.upscaler.guide)

    @repeatable_kernels()
    def draw_samples(self, label: str | int, indices: Sequence[int], sampling: Sampling, seed: int) -> Decoded:
        """See `Generator.draw_samples`."""
        small = self.base.draw_samples(label, indices, sampling, seed)
        return self._enlarged(small, self._task("sample", label, indices, sampling, seed))

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
        """See `Generator.draw_variations`.

        The base changes the reduced image. What the real image shows beyond it is added to the changed one and varied
        with the same strength by the upscaler. So fine detail is forgotten before coarse structure, and where nothing
        changed the real image stays.
        """
        require_strength(strength)
        images = require_images(images, (len(indices), *self.image_size, self.channels))
        task = self._task("variation", label, indices, sampling, seed)
        before = self.reduction.reduced(images)
        small = Decoded(before, np.ones(len(images), np.bool_))
        if strength >= LEAST_BASE_STRENGTH or self.upscaler.is_plain:
            own = self.reduction.boxes(boxes)
            small = self.base.draw_variations(
                before, label, indices, strength=strength, sampling=sampling, seed=seed, boxes=own
            )
            before = self.reduction.as_the_base_makes_them(images, boxes)
        known = Known(self._with_detail_of(images, before, small.pixels), strength)
        return self._enlarged(small, task, known)

    @repeatable_kernels()
    def draw_inpainted(
        self,
        images: NDArray[np.uint8],
        masks: NDArray[np.bool_],
        label: str | int,
        indices: Sequence[int],
        *,
        sampling: Sampling,
        seed: int,
        resamplings: int,
    ) -> Decoded:
        """See `Generator.draw_inpainted`."""
        task = self._task("inpaint", label, indices, sampling, seed)
        small, covered = self.reduction.reduced(images), self.reduction.masks(masks)
        made = self.base.draw_inpainted(
            small, covered, label, indices, sampling=sampling, seed=seed, resamplings=resamplings
        )
        joined = Decoded(np.where(covered[..., None], made.pixels, small), made.finite)
        return self._enlarged(joined, task, Known(images, masks=masks, resamplings=resamplings))

    def denoising_errors(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        *,
        seed: int,
        boxes: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float64]:
        """See `Generator.denoising_errors`: the mean of those of base and upscaler, if it draws detail."""
        own, small = self.reduction.boxes(boxes), self.reduction.reduced(images)
        of_base = self.base.denoising_errors(small, labels, seed=seed, boxes=own)
        if self.upscaler.is_plain:
            return of_base
        seen, size = self.reduction.as_the_base_makes_them(images, boxes), self.upscaler.images_at_once
        parts = [slice(start, start + size) for start in range(0, len(images), size)]
        of_detail = [self._detail_errors(images[one], seen[one], labels[one], seed) for one in parts]
        return np.asarray((of_base + np.concatenate([np.empty(0), *of_detail])) / 2)

    def _detail_errors(
        self, images: NDArray[np.uint8], small: NDArray[np.uint8], labels: NDArray[np.int64], seed: int
    ) -> NDArray[np.float64]:
        shape = (len(small), self.channels, *self.reduction.base_size)
        view: View = self.upscaler.view(small, torch.zeros(shape, device=self.device), 0.0)
        full = self.upscaler.scale.normalization.to_network(torch.from_numpy(images).to(self.device))
        classes = torch.from_numpy(labels).to(self.device)
        return denoising_errors(self.upscaler.denoise_given(view), view.detail(full), classes, seed=seed)

    def _task(self, purpose: str, label: str | int, indices: Sequence[int], sampling: Sampling, seed: int) -> Task:
        return Task(purpose, self.class_index(label), indices, seed, sampling)

    def _enlarged(self, small: Decoded, task: Task, known: Known | None = None) -> Decoded:
        made = self.upscaler.enlarge(small.pixels, task, known)
        finite = made.finite & small.finite
        return Decoded(np.where(finite[:, None, None, None], made.pixels, np.uint8(0)), finite)

    def _with_detail_of(
        self, images: NDArray[np.uint8], before: NDArray[np.uint8], after: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        """Images changed as their reduced ones were, with their own detail."""
        change = torch.from_numpy(after.astype(np.float32) - before.astype(np.float32)).permute(0, 3, 1, 2)
        enlarged = self.reduction.enlarged(change).permute(0, 2, 3, 1).numpy()
        return np.asarray(np.clip(np.rint(images + enlarged), 0, 255), np.uint8)


def reduced_boxes(boxes: ClassBoxes, reduction: Reduction) -> ClassBoxes:
    """The boxes of the base for those of the full images."""
    by_class = []
    for rows in boxes.by_class:
        own = reduction.boxes(np.array([row[:2] for row in rows], np.int64).reshape(-1, 2))
        assert own is not None
        counts = np.array([row[2] for row in rows], np.int64)
        repeated = np.repeat(own, counts, axis=0)
        by_class += list(ClassBoxes.of(repeated, np.zeros(len(repeated), np.int64), 1).by_class)
    return ClassBoxes(tuple(by_class))
