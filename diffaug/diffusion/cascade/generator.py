"""The generator of two stages: a small one in pixels, and the network that enlarges its images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from diffaug.configuration.sampling import Sampling
from diffaug.data.images import LabeledImages
from diffaug.data.resize import boxes_of
from diffaug.diffusion.cascade.detail import View
from diffaug.diffusion.cascade.files import BASE, UPSCALER, read_upscaler
from diffaug.diffusion.cascade.reducing import Reduction
from diffaug.diffusion.cascade.upscaler import Upscaler
from diffaug.diffusion.generator.denoising_errors import denoising_errors
from diffaug.diffusion.generator.files import GeneratorRecord
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.generator.guided import require_guide
from diffaug.diffusion.generator.network_files import WEIGHTS, require_fitting
from diffaug.diffusion.generator.pixels import PixelGenerator
from diffaug.diffusion.process.boxes import ClassBoxes
from diffaug.diffusion.process.normalization import Decoded
from diffaug.diffusion.sampling.drawing import Drawing
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
        named = hashlib.sha256(" ".join(sha256).encode()).hexdigest()
        base = PixelGenerator.open(folder / BASE, reduced, device)
        return cls(**cls._shared(folder, record), weights_sha256=named, base=base, upscaler=upscaler)

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
    def draw(self, drawing: Drawing) -> Decoded:
        """See `Generator.draw`.

        The base changes the reduced image of a variation. What the real image shows beyond it is added to the changed
        one and varied with the same strength by the upscaler. So fine detail is forgotten before coarse structure, and
        where nothing changed the real image stays.
        """
        if drawing.images is None:
            return self._enlarged(self.base.draw(drawing), drawing)
        if drawing.masks is None:
            return self._varied(drawing, drawing.images)
        small, covered = self.reduction.reduced(drawing.images), self.reduction.masks(drawing.masks)
        made = self.base.draw(replace(drawing, images=small, masks=covered))
        return self._enlarged(Decoded(np.where(covered[..., None], made.pixels, small), made.finite), drawing)

    def denoising_errors(self, images: LabeledImages, *, seed: int) -> NDArray[np.float64]:
        """See `Generator.denoising_errors`: the mean of those of base and upscaler, if it draws detail."""
        of_base = self.base.denoising_errors(self.reduction.images(images), seed=seed)
        if self.upscaler.is_plain:
            return of_base
        of_detail, size = [np.empty(0)], self.upscaler.images_at_once
        for start in range(0, len(images), size):
            part = images.select(np.arange(start, min(start + size, len(images))))
            of_detail.append(self._detail_errors(part, seed))
        return np.asarray((of_base + np.concatenate(of_detail)) / 2)

    def _detail_errors(self, images: LabeledImages, seed: int) -> NDArray[np.float64]:
        small = self.reduction.as_the_base_makes_them(images.pixels, images.boxes)
        shape = (len(small), self.channels, *self.reduction.base_size)
        view: View = self.upscaler.view(small, torch.zeros(shape, device=self.device), 0.0)
        full = self.upscaler.scale.normalization.to_network(torch.from_numpy(images.pixels).to(self.device))
        labels = torch.from_numpy(images.labels).to(self.device)
        return denoising_errors(self.upscaler.denoise_given(view), view.detail(full), labels, seed=seed)

    def _varied(self, drawing: Drawing, images: NDArray[np.uint8]) -> Decoded:
        before = self.reduction.reduced(images)
        small = Decoded(before, np.ones(len(images), np.bool_))
        if drawing.strength >= LEAST_BASE_STRENGTH or self.upscaler.is_plain:
            small = self.base.draw(replace(drawing, images=before, boxes=self.reduction.boxes(drawing.boxes)))
            before = self.reduction.as_the_base_makes_them(images, drawing.boxes)
        return self._enlarged(small, replace(drawing, images=self._with_detail_of(images, before, small.pixels)))

    def _enlarged(self, small: Decoded, drawing: Drawing) -> Decoded:
        made = self.upscaler.enlarge(small.pixels, drawing)
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
    rows = [(*row, label) for label, of_class in enumerate(boxes.by_class) for row in of_class]
    height, width, counts, labels = np.array(rows, np.int64).reshape(-1, 4).T
    own = boxes_of(np.stack([height, width], axis=1), reduction.base_size)
    return ClassBoxes.of(np.repeat(own, counts, axis=0), np.repeat(labels, counts), len(boxes.by_class))
