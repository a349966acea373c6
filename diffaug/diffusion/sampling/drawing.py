"""What a generator is to draw, and the way through the noise levels to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.configuration.sampling import Sampling
from diffaug.diffusion.sampling.class_noise import ClassNoise
from diffaug.diffusion.sampling.editing import keep_known, require_strength, resampled
from diffaug.diffusion.sampling.guidance import DenoiseFunction
from diffaug.diffusion.sampling.samplers import run_solver

Path = Callable[[int, float], Tensor]
"""(number of steps, strength) to noise levels, as `karras_sigmas`."""


@dataclass(frozen=True)
class Drawing:
    """Images of one class: from noise, variations of real images, or parts of these made anew.

    Attributes:
        class_index, indices, seed, purpose: Name the random numbers, see `ClassNoise`.
        images: Real images uint8 (N, H, W, C), one per index. None: all comes from noise.
        strength: In (0, 1], how strongly the real images are varied.
        boxes: Of the real images, (N, 2), if they are known.
        masks: Which pixels are made anew, bool (N, H, W). None: all.
        resamplings: How often each step is repeated, so that new pixels fit the others.
    """

    class_index: int
    indices: Sequence[int]
    sampling: Sampling
    seed: int = 0
    purpose: str = "sample"
    images: NDArray[np.uint8] | None = None
    strength: float = 1.0
    boxes: NDArray[np.int64] | None = None
    masks: NDArray[np.bool_] | None = None
    resamplings: int = 0

    def varying(self, images: NDArray[np.uint8], strength: float, boxes: NDArray[np.int64] | None = None) -> Drawing:
        """The same as variations of real images; a UsageError if the strength is out of range."""
        require_strength(strength)
        return replace(self, purpose="variation", images=images, strength=strength, boxes=boxes)

    def painting(self, images: NDArray[np.uint8], masks: NDArray[np.bool_], resamplings: int) -> Drawing:
        """The same inside the masks of real images."""
        return replace(self, purpose="inpaint", images=images, masks=masks, resamplings=resamplings)

    def parts(self, size: int) -> Iterator[tuple[slice, Drawing]]:
        """At most `size` images at a time, and where they are."""
        for start in range(0, len(self.indices), size):
            part = slice(start, start + size)
            columns = {"images": self.images, "boxes": self.boxes, "masks": self.masks}
            cut = {name: column[part] for name, column in columns.items() if column is not None}
            yield part, replace(self, indices=self.indices[part], **cut)  # type: ignore[arg-type]

    def noise(self, shape: tuple[int, int, int], device: torch.device, of: str = "") -> ClassNoise:
        """Its random numbers; `of` names one of several kinds."""
        purpose = f"{self.purpose} {of}".rstrip()
        return ClassNoise(self.seed, purpose, self.class_index, self.indices, shape, device)

    def labels(self, device: torch.device) -> Tensor:
        """The class of each image, int64 (N,)."""
        return torch.full((len(self.indices),), self.class_index, device=device)


def solve(
    drawing: Drawing,
    path: Path,
    denoise: DenoiseFunction,
    noise: ClassNoise,
    *,
    known: Tensor | None = None,
    masks: Tensor | None = None,
    first: float = 1.0,
    fewest: int = 1,
) -> Tensor:
    """Follows the reverse process to what is drawn, (N, C, H, W).

    Variations add noise to real images and take it away again (Meng et al. 2022, SDEdit, arXiv 2108.01073): the
    fraction `strength` of the steps is taken. For masks see `keep_known` and `resampled`.

    Args:
        drawing: What is drawn.
        path: Gives the noise levels.
        denoise: The denoiser of these images.
        noise: Random numbers of this shape.
        known: The real images as the denoiser sees them.
        masks: What of them is made anew, bool (N, 1, H, W). None: all.
        first: Strength at which sampling from noise begins.
        fewest: Steps that are taken at least.
    """
    strength = min(first, drawing.strength)
    sigmas = path(max(fewest, round(strength * drawing.sampling.num_inference_steps)), strength)
    if known is not None and masks is not None:
        denoise, sigmas = keep_known(denoise, known, masks), resampled(sigmas, drawing.resamplings)
    begun = masks is not None or strength < first
    return run_solver(drawing.sampling, denoise, noise, sigmas, known if begun else None)
