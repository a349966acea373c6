"""Images in their own proportions inside the frame that all images share (`data.resize=pad`).

Outside of the generator an image always fills the frame, squeezed. Inside, it fills a centered box with its own
proportions. What lies outside of the box is zero to the network and has no weight in the loss, so it is never content.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffaug.data.resize import fit_to_size
from diffaug.runtime.seeding import numpy_generator

Box = tuple[int, int]
"""Height and width in px; the box is centered in the frame."""


@dataclass(frozen=True)
class ClassBoxes:
    """The boxes of the training images.

    Attributes:
        by_class: For each class the height, width and number of images of each box, rising.
    """

    by_class: tuple[tuple[tuple[int, int, int], ...], ...]

    @classmethod
    def of(cls, boxes: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int) -> ClassBoxes:
        """Counts the boxes (N, 2) of images with these labels (N,)."""
        counts = [Counter(map(tuple, boxes[labels == index].tolist())) for index in range(num_classes)]
        return cls(tuple(tuple((h, w, count) for (h, w), count in sorted(one.items())) for one in counts))

    def draw(self, class_index: int, indices: Sequence[int], seed: int, purpose: str) -> NDArray[np.int64]:
        """Boxes (N, 2) as frequent as in the class, or in all classes if it has none.

        That of image i depends on (seed, purpose, class, i) alone.
        """
        rows = self.by_class[class_index] or tuple(row for rows in self.by_class for row in rows)
        boxes = np.repeat([row[:2] for row in rows], [row[2] for row in rows], axis=0)
        draws = [numpy_generator(seed, f"{purpose} box", class_index, i).integers(len(boxes)) for i in indices]
        return np.asarray(boxes[np.array(draws, np.int64)], np.int64)


def box_masks(boxes: Tensor, frame: Box) -> Tensor:
    """Whether each pixel of the frame is inside the box, bool (N, 1, H, W), for boxes int64 (N, 2)."""
    inside = []
    for size, lengths in zip(frame, boxes.unbind(1), strict=True):
        start = (size - lengths) // 2
        places = torch.arange(size, device=boxes.device)
        inside.append((places >= start[:, None]) & (places < (start + lengths)[:, None]))
    return inside[0][:, None, :, None] & inside[1][:, None, None, :]


def put_in_boxes(pixels: NDArray[np.uint8], boxes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Gives squeezed images (N, H, W, C) their boxes (N, 2) inside a frame of the same size, antialiased.

    Outside of its box each image goes on mirrored, so that resampling near the border reads nothing else.
    """
    frames = np.empty(pixels.shape, np.uint8)
    for frame, image, box in zip(frames, pixels, boxes.tolist(), strict=True):
        top, left = _corner(box, frame.shape)
        below, right = frame.shape[0] - top - box[0], frame.shape[1] - left - box[1]
        margins = ((top, below), (left, right), (0, 0))
        frame[:] = np.pad(fit_to_size(image, (box[0], box[1])), margins, mode="symmetric")
    return frames


def take_out_of_boxes(frames: NDArray[np.uint8], boxes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The inverse of `put_in_boxes`, but for the detail that it lost: what is in each box, squeezed to the frame."""
    pixels = np.empty(frames.shape, np.uint8)
    for image, frame, box in zip(pixels, frames, boxes.tolist(), strict=True):
        top, left = _corner(box, frame.shape)
        inside = np.ascontiguousarray(frame[top : top + box[0], left : left + box[1]])
        image[:] = fit_to_size(inside, (frame.shape[0], frame.shape[1]))
    return pixels


def image_mean(values: Tensor, masks: Tensor | None) -> Tensor:
    """The mean of each image (N, C, H, W), (N,); with masks, bool (N, 1, H, W), of the pixels inside."""
    if masks is None:
        return values.flatten(1).mean(dim=1)
    inside = torch.where(masks, values, torch.zeros_like(values)).flatten(1).sum(dim=1)
    return inside / (masks.flatten(1).sum(dim=1) * values.shape[1])


def _corner(box: Sequence[int], shape: Sequence[int]) -> Box:
    return (shape[0] - box[0]) // 2, (shape[1] - box[1]) // 2
