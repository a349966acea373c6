"""The points of an image that are found again in a changed copy, and what surrounds each (SIFT, Lowe 2004)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

FRAME_SIDE = 128  # px; smaller images are enlarged until their longer side has it
SMALLEST_FRAME = 12  # px; in a thinner frame no points are looked for
MOST_KEYPOINTS = 150
CONTRAST_THRESHOLD = 0.004  # a tenth of the default: the strongest points are kept, however faint the image is
EDGE_THRESHOLD = 15.0
BLACK = 8  # gray level up to which a region at the edge may be what a rotation left, after JPEG compression too

Frame = NDArray[np.uint8]
"""A gray image (h, w), at least 128 px on its longer side."""


@dataclass(frozen=True)
class Keypoints:
    """K points of a frame."""

    places: NDArray[np.float32]  # (K, 2), x and y in px of the frame
    turns: NDArray[np.complex64]  # (K,), size in px times exp(i angle), angles from x toward y
    descriptors: NDArray[np.float32]  # (K, D)


NO_KEYPOINTS = Keypoints(np.empty((0, 2), np.float32), np.empty(0, np.complex64), np.empty((0, 128), np.float32))


@contextmanager
def one_native_thread() -> Iterator[None]:
    """Lets OpenCV and the matrix products of NumPy use one thread in the block; small ones wait for each other else."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        cv2.setNumThreads(before)


def frame_of(picture: NDArray[np.uint8]) -> Frame:
    """A picture (h, w, C) in gray, enlarged if it is small."""
    pixels = np.ascontiguousarray(picture)
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) if pixels.shape[2] == 3 else pixels[:, :, 0]
    factor = FRAME_SIDE / max(gray.shape)
    if factor > 1:
        height, width = (max(1, round(side * factor)) for side in gray.shape)
        gray = cv2.resize(gray, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(gray, np.uint8)


def content_of(frame: Frame) -> NDArray[np.uint8]:
    """1 where a frame (h, w) shows something, 0 in black regions that reach its edge."""
    black = cv2.morphologyEx((frame <= BLACK).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    _, regions = cv2.connectedComponents(black, connectivity=4)
    at_edge = np.unique(np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]]))
    return np.asarray(~np.isin(regions, at_edge[at_edge > 0]), np.uint8)


def find_keypoints(frame: Frame) -> Keypoints:
    """The strongest keypoints of a frame, with RootSIFT descriptors (K, 128) of length 1."""
    if min(frame.shape) < SMALLEST_FRAME:
        return NO_KEYPOINTS
    sift = cv2.SIFT.create(MOST_KEYPOINTS, 3, CONTRAST_THRESHOLD, EDGE_THRESHOLD)
    found, descriptors = sift.detectAndCompute(_stretched(frame), None)
    if not len(found):
        return NO_KEYPOINTS
    found, descriptors = found[:MOST_KEYPOINTS], np.asarray(descriptors[:MOST_KEYPOINTS], np.float32)
    turns = [point.size * np.exp(1j * np.deg2rad(point.angle)) for point in found]
    root = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-9))
    return Keypoints(np.array([point.pt for point in found], np.float32), np.array(turns, np.complex64), root)


def mirrored(keypoints: Keypoints, width: int, descriptors: NDArray[np.float32]) -> Keypoints:
    """The keypoints of the mirrored frame, `width` px wide, given their descriptors there."""
    places = keypoints.places.copy()
    places[:, 0] = width - 1 - places[:, 0]
    return Keypoints(places, -keypoints.turns.conj(), descriptors)


def mirrored_descriptors(descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
    """SIFT descriptors (K, 128) of the mirrored surroundings: rows of cells and directions run the other way."""
    cells = descriptors.reshape(-1, 4, 4, 8)
    return np.ascontiguousarray(cells[:, ::-1][..., -np.arange(8) % 8]).reshape(-1, 128)


def _stretched(frame: Frame) -> Frame:
    """The gray levels of the content spread over the whole range."""
    values = frame[content_of(frame) > 0]
    if values.size == 0:
        return frame
    low, high = np.percentile(values, (1, 99))
    return np.asarray(np.clip((frame - low) * (255 / max(high - low, 8)), 0, 255), np.uint8)
