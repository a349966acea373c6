"""Do the samples of a pool look like real images at all? Noise and blur don't, whatever the classifiers say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffaug.classifiers.encoders.trained import ClassifierOutput
from diffaug.data.images import LabeledImages
from diffaug.runtime.seeding import numpy_generator
from diffaug.synthesis.filters.held_out import HeldOut

LARGEST_KERNEL_DISTANCE = 1 / 3
"""KID of samples and real images of a class, in shares of that between classes, from which on nothing was learned.

For digits it is 0.5 after 300 images seen, 0.4 after 1,500, 0.2 after 4,000, 0.01 after 12,000, and 0.6 to 1.4 for
blurred images and noise.
"""

LARGEST_TEXTURE_SHIFT = 1.0
"""Shift of the contrast at some scale, in deviations among real images of a class, from which on nothing was learned.

For digits it is 2.6 after 300 images seen, 1.1 after 1,500, 0.2 after 4,000 and 0.1 after 12,000.
"""

LEAST_DEVIATION = 0.3  # of the logarithm of a contrast, so that a third more or less is never a finding
LEAST_SAMPLES = 10
MAX_IMAGES = 600
ROUNDING_VARIANCE = 0.25  # of pixels that were rounded to whole levels, roughly

Floats = NDArray[np.floating]


def measure_realism(
    held_out: HeldOut,
    real: LabeledImages,
    synthetic: LabeledImages,
    outputs: tuple[Sequence[ClassifierOutput], Sequence[ClassifierOutput]],
    is_sampled: NDArray[np.bool_],
    *,
    seed: int,
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Compares the samples of a pool with real images; returns the figures and, in sentences, what is wrong.

    Args:
        held_out: Which real images each classifier was not trained on.
        real: All training images.
        synthetic: The M images of the pool.
        outputs: Of each classifier for the real and for the synthetic images.
        is_sampled: (M,); variations stay near real images and are left out.
        seed: Decides which images are compared where there are many.
    """
    chosen = _some(np.flatnonzero(is_sampled), seed)
    if len(chosen) < LEAST_SAMPLES:
        return {}, ()
    figures, reasons = {}, []
    shift = texture_shift(real, synthetic.select(chosen))
    if shift is not None:
        figures["texture_shift"] = shift.deviations
        if abs(shift.deviations) > LARGEST_TEXTURE_SHIFT:
            how = "more" if shift.deviations > 0 else "less"
            reasons.append(
                f"samples have {how} contrast in details of {shift.size} px than real images of their class, by "
                f"{abs(shift.deviations):.1f} standard deviations (limit {LARGEST_TEXTURE_SHIFT:.0f})"
            )
    distance = _relative_distance(held_out, outputs, synthetic.labels, chosen)
    if distance is not None:
        figures["relative_kernel_distance"] = distance
        if distance > LARGEST_KERNEL_DISTANCE:
            reasons.append(
                f"samples differ from real images of their class by {distance:.0%} of what classes differ from each "
                f"other (KID; limit {LARGEST_KERNEL_DISTANCE:.0%})"
            )
    return figures, tuple(reasons)


def _some(positions: NDArray[np.intp], seed: int) -> NDArray[np.intp]:
    return np.sort(numpy_generator(seed, "realism", len(positions)).permutation(positions)[:MAX_IMAGES])


def contrasts(pixels: NDArray[np.uint8]) -> Floats:
    """Logarithm of the contrast of images (N, H, W, C) at each scale, float (N, S).

    The scales are octaves: the deviation of pixels from the mean of 2 x 2, of those means from the mean of 2 x 2, and
    so on (a Haar pyramid). Noise has too much of it at the finest scale, a blurred image too little.
    """
    levels = pixels.astype(np.float32)
    found = []
    while min(levels.shape[1:3]) >= 2:
        count, height, width, channels = levels.shape
        height, width = height // 2, width // 2
        blocks = levels[:, : 2 * height, : 2 * width].reshape(count, height, 2, width, 2, channels)
        levels = blocks.mean(axis=(2, 4))
        variance = np.square(blocks - levels[:, :, None, :, None]).mean(axis=(1, 2, 3, 4, 5))
        found.append(np.log(variance + ROUNDING_VARIANCE) / 2)
    return np.stack(found, axis=1) if found else np.empty((len(pixels), 0))


@dataclass(frozen=True)
class TextureShift:
    """How much more contrast images have in details of a size in px, in deviations among real images of a class."""

    deviations: float
    size: int


def texture_shift(real: LabeledImages, synthetic: LabeledImages) -> TextureShift | None:
    """The largest shift over all scales of `contrasts`, mean over the classes.

    None if no class has two real images and a synthetic one, or if images of one pixel's height have no scales.
    """
    of_real, of_synthetic = contrasts(real.pixels), contrasts(synthetic.pixels)
    pairs = [
        (of_real[real.labels == label], of_synthetic[synthetic.labels == label]) for label in range(len(real.classes))
    ]
    pairs = [(own, made) for own, made in pairs if len(own) >= 2 and len(made)]
    if not pairs or not of_real.shape[1]:
        return None
    deviation = np.sqrt(np.mean([own.var(axis=0) for own, _ in pairs], axis=0)).clip(LEAST_DEVIATION)
    shifts = np.mean([made.mean(axis=0) - own.mean(axis=0) for own, made in pairs], axis=0) / deviation
    largest = int(np.abs(shifts).argmax())
    return TextureShift(float(shifts[largest]), 2**largest)


def _relative_distance(
    held: HeldOut,
    outputs: tuple[Sequence[ClassifierOutput], Sequence[ClassifierOutput]],
    labels: NDArray[np.int64],
    chosen: NDArray[np.intp],
) -> float | None:
    """Mean over the classifiers of `relative_kernel_distance`, each on real images that it was not trained on."""
    found = []
    for fold, (of_real, of_synthetic) in enumerate(zip(*outputs, strict=True)):
        left_out = _some(np.flatnonzero(held.folds == fold), fold)
        real = of_real.features[left_out], held.labels[left_out]
        found.append(relative_kernel_distance(*real, of_synthetic.features[chosen], labels[chosen]))
    known = [one for one in found if one is not None]
    return float(np.mean(known)) if known else None


def relative_kernel_distance(
    real: Floats, real_labels: NDArray[np.int64], other: Floats, other_labels: NDArray[np.int64]
) -> float | None:
    """KID between real (N, D) and other (M, D) features of a class, in shares of the mean KID between two classes.

    The mean over classes of two images or more on both sides; None if there are none, or no two classes. For KID see
    `quality.kernel_distance`, from which the kernel is taken.
    """
    both, labels = np.concatenate([real, other]).astype(np.float64), np.concatenate([real_labels, other_labels])
    sets = [(np.arange(len(labels)) < len(real)) & (labels == one) for one in np.unique(labels)]
    others = [(np.arange(len(labels)) >= len(real)) & (labels == one) for one in np.unique(labels)]
    count = len(sets)
    members = np.array([*sets, *others], np.float64)  # (2 K, N + M)
    kernel = (both @ both.T / both.shape[1] + 1) ** 3
    sums, sizes, own = members @ kernel @ members.T, members.sum(axis=1), members @ np.diag(kernel)
    with np.errstate(divide="ignore", invalid="ignore"):
        within = (np.diag(sums) - own) / (sizes * (sizes - 1))
        between = sums / np.outer(sizes, sizes)
    within[sizes < 2] = np.nan
    distances = within[:, None] + within[None, :] - 2 * between
    same = np.array([distances[one, count + one] for one in range(count)])
    classes = distances[:count, :count][np.triu_indices(count, 1)]
    if not np.isfinite(same).any() or not np.isfinite(classes).any():
        return None
    return float(np.nanmean(same) / max(np.nanmean(classes), 1e-12))
