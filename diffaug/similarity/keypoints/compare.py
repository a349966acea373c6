"""Brings the keypoints of one image onto those of another, and says whether both show the same then."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from diffaug.similarity.keypoints.detect import BLACK, Frame, Keypoints, content_of
from diffaug.similarity.thresholds import LEAST_SUPPORT

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

Match = NDArray[np.int64]
DISTINCT = 0.9  # Lowe's ratio: a match is this much nearer than the best one elsewhere
ELSEWHERE = 4.0  # px
LEAST_MATCHES = 4
ZOOM, STRETCH = 3.0, 2.5  # most by which a movement enlarges, and one direction more than the other
LOOSE, LOOSE_SHARE = 6.0, 0.12  # px, and share of the distance: what a similarity leaves of a shear of 20 degrees
TOLERANCES = (8.0, 5.0, 3.0, 3.0)  # px, of each fit
PLACE = 4.0  # px; points within it count once


@dataclass(frozen=True)
class Agreement:
    """How two aligned frames compare where both show something."""

    overlap: float  # share of the smaller content that both show, in [0, 1]
    correlation: float  # in [-1, 1]
    difference: float  # 1 - correlation, in [0, 2], in the one percent of the area, with structure in both, most unlike
    difference_in_one: float  # the same with structure in one of them, which exposure or blur may have cost the other


NO_AGREEMENT = Agreement(0.0, -1.0, 2.0, 2.0)


def compare(query: Frame, reference: Frame, matrix: Floats) -> Agreement:
    """Lays the reference on the query, whose pixels `matrix` (2, 3) moves to the reference's, and compares both."""
    shown, content = content_of(query), content_of(reference)
    soft = [np.asarray(cv2.GaussianBlur(frame, (0, 0), SOFT), np.uint8) for frame in (query, reference)]
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


@dataclass(frozen=True)
class Alignment:
    """How a query lies on a reference."""

    matrix: Floats  # (2, 3), from x, y in the query's frame to x, y in the reference's
    support: int  # matched points that agree with it, in distinct places


def align(query: Keypoints, reference: Keypoints) -> Alignment | None:
    """The movement that most matched keypoints agree on; None where fewer than ten do.

    Each match proposes a similarity by the sizes and angles of its two points, and the one with most votes is refined
    to an affine movement by least squares. Nothing is drawn at random.
    """
    matches = _matches(query, reference)
    if len(matches) < LEAST_SUPPORT:
        return None
    source, target = query.places[matches[:, 0]], reference.places[matches[:, 1]]
    turn = reference.turns[matches[:, 1]] / query.turns[matches[:, 0]]
    votes = _votes(source, target, turn)
    best = int(votes.sum(axis=1).argmax())
    if votes[best].sum() < LEAST_SUPPORT:
        return None
    found = _refined(source, target, votes[best], turn[best])
    return found if found and found.support >= LEAST_SUPPORT else None


def _matches(query: Keypoints, reference: Keypoints) -> Match:
    """Pairs (M, 2) of keypoints that resemble each other more than anything elsewhere in the reference."""
    if min(len(query.places), len(reference.places)) < LEAST_SUPPORT:
        return np.empty((0, 2), np.int64)
    lengths = np.square(query.descriptors).sum(axis=1)[:, None] + np.square(reference.descriptors).sum(axis=1)
    squares = np.maximum(lengths - 2 * query.descriptors @ reference.descriptors.T, 0)
    rows, places = np.arange(len(squares)), reference.places
    nearest, distances = [], []
    for _ in range(3):
        nearest.append(squares.argmin(axis=1))
        distances.append(squares[rows, nearest[-1]].copy())
        squares[rows, nearest[-1]] = np.inf
    repeated = np.abs(places[nearest[1]] - places[nearest[0]]).max(axis=1) < ELSEWHERE  # one point may have two angles
    distinct = distances[0] < DISTINCT**2 * np.where(repeated, distances[2], distances[1])
    return np.stack([rows[distinct], nearest[0][distinct]], axis=1)


def _votes(source: Floats, target: Floats, turn: NDArray[np.complex64]) -> NDArray[np.bool_]:
    """Which matches (columns) agree with the similarity that each match (rows) proposes, bool (M, M)."""
    start, end = source[:, 0] + 1j * source[:, 1], target[:, 0] + 1j * target[:, 1]
    apart = start[None] - start[:, None]
    zoom = np.abs(turn)
    errors = np.abs(end[:, None] + turn[:, None] * apart - end[None])
    tolerated = LOOSE + LOOSE_SHARE * np.abs(apart) * zoom[:, None]
    relative = turn[None] / turn[:, None]
    alike = (np.abs(np.log(np.abs(relative))) < 0.6) & (np.abs(np.angle(relative)) < 0.6)
    possible = (zoom < ZOOM) & (zoom > 1 / ZOOM)
    return np.asarray((errors < tolerated) & alike & possible[:, None])


def _refined(source: Floats, target: Floats, chosen: NDArray[np.bool_], turn: np.complex64) -> Alignment | None:
    """Least squares on the chosen matches, drawn a little toward the similarity, with ever smaller tolerances."""
    extended = np.column_stack([source, np.ones(len(source), np.float32)])
    prior = np.array([[turn.real, turn.imag], [-turn.imag, turn.real]])
    matrix = np.zeros((3, 2))
    for tolerance in TOLERANCES:
        if chosen.sum() < LEAST_MATCHES:
            return None
        points = np.vstack([extended[chosen], 2 * np.eye(2, 3)])
        matrix = np.linalg.lstsq(points, np.vstack([target[chosen], 2 * prior]), rcond=None)[0]
        chosen = np.linalg.norm(extended @ matrix - target, axis=1) < tolerance
    largest, smallest = np.linalg.svd(matrix[:2], compute_uv=False)
    if largest > ZOOM or smallest < 1 / ZOOM or largest > STRETCH * smallest:
        return None
    support = min(len(np.unique(np.round(places[chosen] / PLACE), axis=0)) for places in (source, target))
    return Alignment(matrix.T.astype(np.float32), support)
