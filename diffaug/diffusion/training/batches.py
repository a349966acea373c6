"""The training images: which are held out, how often the others are drawn, and the batch of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.classifiers.pseudo_labels import PseudoLabels
from diffaug.data.catalog import Catalog
from diffaug.data.images import LabeledImages, UnlabeledImages
from diffaug.data.splits import choose_holdout
from diffaug.diffusion.network.denoiser import objective_of
from diffaug.diffusion.network.unet import NetworkConfig
from diffaug.diffusion.planning import defaults
from diffaug.diffusion.planning.planning import Plan
from diffaug.diffusion.process.boxes import ClassBoxes, box_masks, put_in_boxes
from diffaug.diffusion.process.ddpm import Ddpm
from diffaug.diffusion.process.edm import Edm
from diffaug.diffusion.process.normalization import Decoded, Normalization
from diffaug.diffusion.sampling.framing import Framing
from diffaug.diffusion.training.augmentation import augment
from diffaug.runtime import seeding
from diffaug.runtime.devices import free_bytes

SMALLEST_CLASS = 20
MAX_MEMORY_FRACTION = 0.5


@dataclass(frozen=True)
class Holdout:
    """The train split in two parts, and the unlabeled images that show nothing of what is held out.

    Attributes:
        groups: Of the trained images and then the unlabeled ones, int64 (N + U,); images of one group, with equal
            pixels or of one picture share a number.
    """

    trained: LabeledImages
    held: LabeledImages
    groups: NDArray[np.int64]
    unlabeled: UnlabeledImages | None = None

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """All images that are trained on, uint8 (N + U, H, W, C), as `groups` counts them."""
        return _joined(self.trained.pixels, self.unlabeled)


def hold_out(catalog: Catalog, *, fraction: float, seed: int, unlabeled: bool = False) -> Holdout:
    """Holds out a fraction of each class of at least 20 images; groups stay whole.

    Args:
        catalog: The images.
        fraction: In [0, 0.5).
        seed: Of the choice.
        unlabeled: Whether unlabeled images are trained on, too. Those that belong together with a held-out image are
            left out.
    """
    images, groups = catalog.images("train"), catalog.seen_groups(unlabeled=unlabeled)
    own, others = groups[: len(images)], groups[len(images) :]
    held = choose_holdout(catalog.rows("train"), own, fraction=fraction, smallest=SMALLEST_CLASS, seed=seed)
    trained, apart = (images.select(np.flatnonzero(chosen)) for chosen in (~held, held))
    if not unlabeled:
        return Holdout(trained, apart, own[~held])
    free = ~np.isin(others, own[held])
    rest = catalog.unlabeled_images().select(np.flatnonzero(free))
    return Holdout(trained, apart, np.concatenate([own[~held], others[free]]), rest if len(rest) else None)


@dataclass(frozen=True)
class UnlabeledPart:
    """How unlabeled images take part in a training.

    Attributes:
        share: Of each batch, in (0, 1/2].
        labels: Each image is drawn under its label with a probability of its weight, else without; None: without.
    """

    images: UnlabeledImages
    share: float
    labels: PseudoLabels | None = None


@dataclass(frozen=True)
class TrainingData:
    """The training images, uint8 (N + U, H, W, C), labeled ones first, on the device, or beside it if memory is short.

    With boxes, int64 (N + U, 2) on the device, each image has its own proportions inside its box, see `put_in_boxes`.

    Attributes:
        labels: int64 (N + U,) on the device; of an unlabeled image its pseudo-label, or the null label.
        draw_probabilities: How often each image is drawn, float64 (N + U,).
        normalization: Of the labeled images.
        label_probabilities: How often each image is drawn with its label, before any is hidden, float64 (N + U,).
        num_labeled: N.
    """

    pixels: Tensor
    labels: Tensor
    draw_probabilities: NDArray[np.float64]
    normalization: Normalization
    label_probabilities: NDArray[np.float64]
    num_labeled: int
    boxes: Tensor | None = None

    @classmethod
    def of(cls, images: LabeledImages, device: str, *, unlabeled: UnlabeledPart | None = None) -> TrainingData:
        """Copies the images to the device once, so that a batch is drawn without touching the host's memory.

        Pixels that would take more than half of the device's free memory stay on the CPU, and batches are copied.
        """
        others = None if unlabeled is None else unlabeled.images
        squeezed = np.require(_joined(images.pixels, others), requirements=["C", "W"])
        boxes = images.boxes
        if boxes is not None and others is not None and others.boxes is not None:
            boxes = np.concatenate([boxes, others.boxes])
        pixels = torch.from_numpy(squeezed if boxes is None else put_in_boxes(squeezed, boxes))
        labels, label_probabilities = _labels(images, unlabeled)
        return cls(
            pixels.to(device) if pixels.nbytes <= MAX_MEMORY_FRACTION * free_bytes(device) else pixels,
            torch.from_numpy(labels).to(device),
            _draw_probabilities(images, unlabeled),
            Normalization.of(np.asarray(images.pixels)),
            label_probabilities,
            len(images),
            None if boxes is None else torch.from_numpy(boxes).to(device),
        )

    @property
    def device(self) -> torch.device:
        """Where batches are wanted."""
        return self.labels.device

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what the network sees."""
        height, width, channels = self.pixels.shape[1:]
        return channels, height, width

    @property
    def is_on_device(self) -> bool:
        """Whether the pixels lie there, too."""
        return self.pixels.device == self.device

    def class_boxes(self, num_classes: int) -> ClassBoxes | None:
        """The boxes of each class, or None without boxes."""
        if self.boxes is None:
            return None
        boxes, labels = (column[: self.num_labeled].cpu().numpy() for column in (self.boxes, self.labels))
        return ClassBoxes.of(boxes, labels, num_classes)

    def pixels_at(self, positions: Tensor) -> Tensor:
        """Pixels uint8 (B, H, W, C) of positions int64 (B,) on the CPU, without waiting for the device."""
        if self.is_on_device:
            return self.pixels[positions.to(self.device, non_blocking=True)]
        return self.pixels[positions].pin_memory().to(self.device, non_blocking=True)

    def to_network(self, pixels: Tensor) -> Tensor:
        """uint8 (N, H, W, C) to what the network sees, float32 (N, *shape)."""
        return self.normalization.to_network(pixels)

    def to_pixels(self, images: Tensor) -> Decoded:
        """What the network makes (N, *shape) to uint8 (N, H, W, C)."""
        return self.normalization.to_pixels(images)

    def chosen(self, plan: Plan, draws: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Positions of a batch and which are mirrored, on the CPU, and labels, some of them the null label."""
        drawn = draws.choice(len(self.labels), size=plan.batch_size, p=self.draw_probabilities)
        hiding = defaults.LABEL_DROPOUT + (1 - defaults.LABEL_DROPOUT) * (1 - self.label_probabilities[drawn])
        hidden = torch.from_numpy(draws.random(len(drawn)) < hiding).to(self.device, non_blocking=True)
        mirrored = torch.from_numpy(draws.random(len(drawn)) < (0.5 if plan.horizontal_flip else 0.0))
        positions = torch.from_numpy(drawn)
        labels = self.labels[positions.to(self.device, non_blocking=True)]
        return positions, mirrored, labels.masked_fill(hidden, plan.network.null_label)

    def clean_images(self, positions: Tensor, mirrored: Tensor | None, seed: int, step: int) -> Tensor:
        """What the network sees of the images at positions int64 (B,) in a step, (B, *shape).

        Args:
            positions: On the CPU.
            mirrored: Which of them are mirrored left to right, bool (B,) on the CPU. None: none.
            seed: With `step`, of what is drawn, if anything is.
            step: Of the training.
        """
        images = self.to_network(self.pixels_at(positions))
        if mirrored is None:
            return images
        return torch.where(mirrored.to(self.device, non_blocking=True)[:, None, None, None], images.flip(-1), images)

    def compared(self, pixels: Tensor) -> Tensor:
        """Images uint8 (N, H, W, C) as they are compared with samples to find copies, float (N, c, h, w)."""
        return self.normalization.to_network(pixels.to(self.device))

    def compared_samples(self, images: Tensor, framing: Framing) -> Tensor:
        """What the network makes (N, *shape) as it is compared with images that fill the frame, float (N, c, h, w)."""
        return self.compared(torch.from_numpy(framing.squeezed(self.to_pixels(images)).pixels))

    def objective(self, network: NetworkConfig) -> Edm | Ddpm:
        """What a network is trained for on these images."""
        return objective_of(network, self.normalization)

    def draw(self, plan: Plan, seed: int, step: int) -> Batch:
        """The batch of a step, see `draw_batch`."""
        return draw_batch(self, plan, seed, step)


class Batch(NamedTuple):
    """The input of one step, all on one device: images and noise (B, C, H, W), labels and noise levels (B,).

    Attributes:
        x0: Clean images, normalized.
        labels: Some of them the null label.
        conditions: How the images were augmented, float32 (B, 9).
        masks: Which pixels are inside of the boxes, bool (B, 1, H, W). Outside, images and noise are zero. None: all.
    """

    x0: Tensor
    labels: Tensor
    sigma: Tensor
    noise: Tensor
    conditions: Tensor
    masks: Tensor | None = None

    def part(self, images: slice) -> Batch:
        """Some of the images."""
        return Batch(*(None if column is None else column[images] for column in self))  # type: ignore[arg-type]

    def split(self, parts: int) -> list[Batch]:
        """Nearly equal parts, in order; see `torch.tensor_split`."""
        columns = ([None] * parts if column is None else column.tensor_split(parts) for column in self)
        return [Batch(*part) for part in zip(*columns, strict=True)]


def draw_batch(data: TrainingData, plan: Plan, seed: int, step: int) -> Batch:
    """The batch of a step, which depends on (seed, step) alone, on the data's device."""
    device = data.device
    draws = seeding.numpy_generator(seed, "batch", step)
    chosen, mirrored, labels = data.chosen(plan, draws)
    x0 = data.clean_images(chosen, mirrored if plan.horizontal_flip else None, seed, step)
    randomness = seeding.torch_generator(seed, "noise", step, device=device.type)
    sigma = objective_of(plan.network).draw_sigmas(plan.batch_size, randomness)
    noise = torch.randn(x0.shape, generator=randomness, device=device)
    conditions = x0.new_zeros(plan.batch_size, plan.network.conditions)
    boxes = None if data.boxes is None else data.boxes[chosen.to(device, non_blocking=True)]
    if plan.augmentation:
        flips, strength = defaults.AUGMENTATION_MIRRORS, defaults.AUGMENTATION_STRENGTH
        x0, conditions = augment(x0, plan.augmentation, randomness, flips=flips, strength=strength, boxes=boxes)
    if boxes is None:
        return Batch(x0, labels, sigma, noise, conditions)
    masks = box_masks(boxes, plan.network.image_size)
    return Batch(x0 * masks, labels, sigma, noise * masks, conditions, masks)


def _joined(pixels: NDArray[np.uint8], unlabeled: UnlabeledImages | None) -> NDArray[np.uint8]:
    return pixels if unlabeled is None else np.concatenate([pixels, unlabeled.pixels])


def _labels(images: LabeledImages, unlabeled: UnlabeledPart | None) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The label of each image, and how often it is drawn with it, (N + U,) each."""
    labels, probabilities = images.labels, np.ones(len(images))
    if unlabeled is None:
        return labels, probabilities
    count, null_label = len(unlabeled.images), len(images.classes)
    pseudo = unlabeled.labels or PseudoLabels(np.full(count, null_label), np.zeros(count))
    return np.concatenate([labels, pseudo.labels]), np.concatenate([probabilities, pseudo.weights])


def _draw_probabilities(images: LabeledImages, unlabeled: UnlabeledPart | None) -> NDArray[np.float64]:
    """How often each image is drawn, float64 (N + U,); unlabeled ones in proportion to their weights."""
    limit = defaults.MAX_REPEATS_PER_IMAGE / defaults.EXPECTED_VIEWS / len(images)
    labeled = draw_probabilities(images.labels, defaults.CLASS_TEMPERATURE, limit)
    if unlabeled is None:
        return labeled
    weights = unlabeled.images.weights
    return np.concatenate([(1 - unlabeled.share) * labeled, unlabeled.share * weights / weights.sum()])


def draw_probabilities(labels: NDArray[np.int64], temperature: float, limit: float) -> NDArray[np.float64]:
    """How often each image is drawn, float64 (N,): a class of n images in proportion to n^temperature, within a limit.

    Images of rare classes that are seen too often are memorized. So no image gets more than `limit`, or an equal
    share if that is more. What is left over goes to the other classes.
    """
    counts = np.bincount(labels).astype(np.float64)
    weights = counts[labels] ** (temperature - 1)
    limit = max(limit, 1 / len(labels))
    capped = np.zeros(len(labels), dtype=bool)
    while True:
        share = weights * (1 - limit * capped.sum()) / weights[~capped].sum() if not capped.all() else weights
        probabilities = np.where(capped, limit, share)
        too_often = probabilities > limit * (1 + 1e-9)
        if not too_often.any():
            return np.asarray(probabilities / probabilities.sum(), dtype=np.float64)
        capped |= too_often
