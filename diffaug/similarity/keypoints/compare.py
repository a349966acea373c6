"""Whether two frames show the same once one is laid on the other, whatever their exposure, gamma and contrast."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from diffaug.similarity.keypoints.detect import BLACK, Frame, content_of

Floats = NDArray[np.float32]

SOFT = 1.5  # px, blur that hides noise and resampling
SURROUNDINGS = 6.0  # px, standard deviation of what mean and contrast are taken from
FAINT = 9.0  # variance in gray levels that is no contrast
BLOCK = 15  # px
NOISE = 25  # percentile of the difference of blocks that is taken for noise
STRUCTURE, ABOVE_NOISE = 0.3, 3.0  # least contrast of a block, of 1, that has structure; more where there is noise
CLIPPED = 0.02  # share of a block whose structure may be lost by clipping
WORST = 99  # percentile
LEAST_PIXELS = 100
CRITERIA = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 15, 1e-3)


@dataclass(frozen=True)
class Agreement:
    """How two aligned frames compare where both show something."""

    overlap: float  # share of the smaller content that both show, in [0, 1]
    correlation: float  # in [-1, 1]
    difference: float  # 1 - correlation, in [0, 2], in the one percent of the area, with structure in both, most unlike
    difference_in_one: (
        float  # the same with structure in one of them, which exposure or blur may have lost in the other
    )


NO_AGREEMENT = Agreement(0.0, -1.0, 2.0, 2.0)


def compare(query: Frame, reference: Frame, matrix: Floats) -> Agreement:
    """Lays the reference on the query, whose pixels `matrix` (2, 3) moves to the reference's, and compares both."""
    shown, content = content_of(query), content_of(reference)
    soft = [_softened(frame) for frame in (query, reference)]
    matrix = _settled(soft[0], soft[1], matrix, content)
    size, how = query.shape[::-1], cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    laid = np.asarray(cv2.warpAffine(soft[1], matrix, size, flags=how, borderMode=cv2.BORDER_REPLICATE), np.uint8)
    both = ((cv2.warpAffine(255 * content, matrix, size, flags=how) > 250) & (shown > 0)).astype(np.uint8)
    reach = abs(float(np.linalg.det(matrix[:, :2])))
    overlap = min(1.0, float(both.sum()) / max(1.0, min(float(shown.sum()), float(content.sum()) / reach)))
    both = np.asarray(cv2.erode(both, np.ones((3, 3), np.uint8), borderValue=0), np.uint8)
    if both.sum() < LEAST_PIXELS:
        return NO_AGREEMENT
    return _agreement((soft[0], laid), both, overlap)


def _softened(frame: Frame) -> Frame:
    return np.asarray(cv2.GaussianBlur(frame, (0, 0), SOFT), np.uint8)


def _settled(query: Frame, reference: Frame, matrix: Floats, content: NDArray[np.uint8]) -> Floats:
    """The matrix moved on to where the correlation is greatest nearby (Evangelidis and Psarakis 2008).

    Both frames are halved for it, which takes a quarter of the time.
    """
    halves = [cv2.resize(frame, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for frame in (query, reference)]
    half = cv2.resize(content, halves[1].shape[::-1], interpolation=cv2.INTER_NEAREST)
    between = (matrix[:, :2].sum(axis=1) - 1) / 2  # centers of halved pixels lie between whole ones
    start = np.column_stack([matrix[:, :2], (matrix[:, 2] + between) / 2]).astype(np.float32)
    try:
        moved = cv2.findTransformECC(halves[0], halves[1], start, cv2.MOTION_AFFINE, CRITERIA, half, 1)[1]
    except cv2.error:  # without contrast or overlap there is nothing to improve
        return matrix
    if not np.isfinite(moved).all():
        return matrix
    between = (moved[:, :2].sum(axis=1) - 1) / 2
    return np.column_stack([moved[:, :2], 2 * moved[:, 2] - between]).astype(np.float32)


def _evened(frame: Frame, shown: NDArray[np.uint8]) -> Floats:
    """A frame without the mean and contrast of its surroundings; 0 where nothing is shown, near 0 where it is flat."""
    mask, values = shown.astype(np.float32), frame.astype(np.float32)
    weight = _blurred(mask) + np.float32(1e-3)
    mean, square = _blurred(values * mask) / weight, _blurred(values**2 * mask) / weight
    return np.asarray((values - mean) * mask / np.sqrt(np.maximum(square - mean**2, 0) + FAINT), np.float32)


def _blurred(values: Floats) -> Floats:
    return np.asarray(cv2.GaussianBlur(values, (0, 0), SURROUNDINGS), np.float32)


def _agreement(frames: tuple[Frame, Frame], shown: NDArray[np.uint8], overlap: float) -> Agreement:
    first, second = (_evened(frame, shown) for frame in frames)
    inside = shown > 0
    both, *contrasts = (_block_means(part) for part in (first * second, first**2, second**2))
    noise = np.percentile((contrasts[0] + contrasts[1] - 2 * both)[inside], NOISE)
    extreme = [(frame <= BLACK) | (frame >= 255 - BLACK) for frame in frames]
    kept = _block_means((extreme[0] | extreme[1]).astype(np.float32)) < CLIPPED
    in_both = np.minimum(*contrasts) > STRUCTURE
    in_one = (np.maximum(*contrasts) > STRUCTURE + ABOVE_NOISE * noise) & kept
    distances = 1 - both / np.sqrt(np.maximum(contrasts[0] * contrasts[1], 1e-6))
    largest = [np.percentile(np.where(where, distances, 0)[inside], WORST) for where in (in_both, in_both | in_one)]
    whole = (first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum() + 1e-6)
    return Agreement(overlap, float(whole), *map(float, largest))


def _block_means(values: Floats) -> Floats:
    return np.asarray(cv2.boxFilter(values, -1, (BLOCK, BLOCK)), np.float32)
