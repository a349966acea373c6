"""The affine movement that brings the keypoints of one image onto those of another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffaug.similarity.keypoints.detect import Keypoints
from diffaug.similarity.thresholds import LEAST_SUPPORT

Floats = NDArray[np.float32]
Match = NDArray[np.int64]

DISTINCT = 0.9  # Lowe's ratio: a match is this much nearer than the best one elsewhere
ELSEWHERE = 4.0  # px
LEAST_MATCHES = 4
ZOOM, STRETCH = 3.0, 2.5  # most by which a movement enlarges, and one direction more than the other
LOOSE, LOOSE_SHARE = 6.0, 0.12  # px, and share of the distance: what a similarity leaves of a shear of 20 degrees
TOLERANCES = (8.0, 5.0, 3.0, 3.0)  # px, of each fit
PLACE = 4.0  # px; points within it count once


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
