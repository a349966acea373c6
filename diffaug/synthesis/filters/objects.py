"""Whether a painted object looks like the real ones of its class.

The classifiers of the filters judge whole images, and to them noise in the shape of a scratch can be a scratch. So what
is painted is compared with real objects under their masks. Its distance to these is calibrated like other scores, by
real objects that are held out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter, generate_binary_structure
from scipy.stats import t as student

from diffaug.runtime.seeding import numpy_generator
from diffaug.similarity.intervals import Share

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Features = NDArray[np.float64]

EDGE, RING = 1, 3
"""Pixels: what lies this close to an outline belongs to the edge of the object, and this close, to the ground."""

NEIGHBORS = 3
"""Real objects that a painted one is compared with. By hand; noise in made marks is found alike with 1 and 5."""

REJECTED = 0.01
"""Share of real objects that may be rejected if logarithms of distances are normal.

Of new made marks (`benchmarks/marks.py`), 4 to 50 of which were known, 2 to 4 % were rejected; at 0.05, 4 to 12 %.
"""

FEWEST_GROUPS = 4  # of real objects that show the same; of made marks, 10 % were rejected where 3 were known
MOST_OBJECTS = 64  # of a class that are compared
LEAST_TOLD = 0.5
"""Real objects with shuffled pixels that must be told from real ones: a convention."""

LEAST_SPREAD = 0.05  # of a feature, so that one that hardly differs decides nothing; by hand


@dataclass(frozen=True)
class ObjectCheck:
    """What tells the real objects of a class from others.

    Attributes:
        references: Features (M, F) of real objects.
        scale: (F,), by which differences of features are divided.
        limit: The distance beyond which an object is unlike real ones; infinite if none could be held out.
        told: Real objects whose pixels were shuffled that are found to be unlike real ones, of all that were.
    """

    references: Features
    scale: Features
    limit: float
    told: Share

    def unlike(self, images: Iterable[Image], outlines: Iterable[Mask]) -> NDArray[np.bool_]:
        """Marks painted objects, by images (H, W, C) and outlines (H, W), that are unlike real ones, bool (N,)."""
        if not len(self.references):
            return np.array([False for _ in images])
        found = [object_features(image, outline) for image, outline in zip(images, outlines, strict=True)]
        return np.array([_distance(one, self.references, self.scale) > self.limit for one in found], np.bool_)


@dataclass(frozen=True)
class RealObjects:
    """Real images (H, W, C) of a class, the masks (H, W) of their objects, and groups that show the same."""

    images: Sequence[Image]
    masks: Sequence[Mask]
    groups: NDArray[np.int64]


def calibrated_checks(classes: Sequence[RealObjects], seed: int) -> list[ObjectCheck]:
    """The check of each class.

    Features are scaled by their spread inside of classes, averaged over all classes with objects: that of a few objects
    says little.
    """
    chosen = [_some_of(one) for one in classes]
    features = [_stacked(object_features(*pair) for pair in zip(one.images, one.masks, strict=True)) for one in chosen]
    spreads = [own.var(axis=0, ddof=1) for own in features if len(own) > 1]
    scale = np.sqrt(np.mean(spreads, axis=0)) + LEAST_SPREAD if spreads else np.ones(1)
    checks = []
    for one, own in zip(chosen, features, strict=True):
        check = ObjectCheck(own, scale, upper_bound(_held_out_distances(own, one.groups, scale)), Share(0, 0))
        checks.append(replace(check, told=_told(check, one, seed)) if np.isfinite(check.limit) else check)
    return checks


def is_blind(told: Share) -> bool:
    """Whether a check that tells so many shuffled objects from real ones tells nothing, or too little."""
    return not told.total or told.value < LEAST_TOLD


def object_features(image: Image, outline: Mask) -> Features:
    """How an object (H, W, C) differs from the ground around it, and how rough it is, float64 (8 C,).

    Of each channel: mean of the object and of its edge above the ground, spread of both, root mean square of steps
    between neighbors inside, along the edge and across it, and of what a blur takes away; all but means as logarithms.
    """
    box = tuple(_widened(np.asarray(outline.any(axis=1 - axis))) for axis in (0, 1))
    inside = outline[box]
    painted = grown(inside, EDGE)
    edge, ring = painted & ~inside, grown(inside, RING) & ~painted
    return np.concatenate(
        [_of_channel(plane, inside, edge, ring) for plane in np.moveaxis(image[box].astype(float), 2, 0)]
    )


def grown(mask: Mask, pixels: int) -> Mask:
    """The mask and what lies within so many pixels of it."""
    if not pixels:
        return mask
    return np.asarray(binary_dilation(mask, generate_binary_structure(2, 2), iterations=pixels))


def _of_channel(plane: Features, inside: Mask, edge: Mask, ring: Mask) -> list[float]:
    painted = inside | edge
    ground = float(np.median(plane[ring])) if ring.any() else float(plane.mean())
    blurred_away = plane - gaussian_filter(plane, 1.0)
    return [
        plane[inside].mean() - ground,
        plane[edge].mean() - ground if edge.any() else 0.0,
        np.log1p(plane[inside].std()),
        np.log1p(plane[edge].std()) if edge.any() else 0.0,
        _steps(plane, inside, inside),
        _steps(plane, edge, edge),
        _steps(plane, painted, ~painted),
        np.log1p(np.sqrt(np.square(blurred_away[painted]).mean())),
    ]


def _steps(plane: Features, here: Mask, there: Mask) -> float:
    """Logarithm of the root mean square of steps from one part to a neighbor in another one; 0 without any."""
    steps = []
    for axis in (0, 1):
        before, after = (slice(None, -1), slice(None)), (slice(1, None), slice(None))
        first, second = (before, after) if axis == 0 else (before[::-1], after[::-1])
        chosen = (here[first] & there[second]) | (there[first] & here[second])
        steps.append(np.diff(plane, axis=axis)[chosen])
    all_steps = np.concatenate(steps)
    return float(np.log1p(np.sqrt(np.square(all_steps).mean()))) if len(all_steps) else 0.0


def upper_bound(distances: Features) -> float:
    """The bound that one more distance exceeds with probability `REJECTED`, from those (M,) of held-out objects.

    The one-sided prediction interval of Student's t for logarithms that are normal. Infinite without distances.
    """
    if not len(distances):
        return np.inf
    logs = np.log(distances + np.finfo(float).tiny)
    reach = student.ppf(1 - REJECTED, len(logs) - 1) * np.sqrt(1 + 1 / len(logs))
    return float(np.exp(logs.mean() + reach * logs.std(ddof=1)))


def _held_out_distances(features: Features, groups: NDArray[np.int64], scale: Features) -> Features:
    """Distance of each object to those of other groups, (M,); empty if there are too few."""
    if len(np.unique(groups)) < FEWEST_GROUPS:
        return np.empty(0)
    others = (features[groups != group] for group in groups)
    return np.array([_distance(*pair, scale) for pair in zip(features, others, strict=True)])


def _told(check: ObjectCheck, real: RealObjects, seed: int) -> Share:
    """Which shuffled objects the check finds unlike real ones of other groups."""
    random, count = numpy_generator(seed, "shuffled objects"), 0
    for image, mask, group in zip(real.images, real.masks, real.groups, strict=True):
        others = replace(check, references=check.references[real.groups != group])
        count += int(others.unlike([_shuffled(image, mask, random)], [mask])[0])
    return Share(count, len(real.groups))


def _distance(features: Features, references: Features, scale: Features) -> float:
    """Mean distance to the nearest references (M, F), in scaled features; 0 without any."""
    distances = np.sort(np.sqrt(np.square((features - references) / scale).mean(axis=1)))
    return float(distances[:NEIGHBORS].mean()) if len(distances) else 0.0


def _shuffled(image: Image, outline: Mask, random: np.random.Generator) -> Image:
    """The image with the pixels of object and edge in another order: the same values, and noise."""
    painted, made = grown(outline, EDGE), image.copy()
    made[painted] = random.permutation(image[painted])
    return made


def _some_of(real: RealObjects) -> RealObjects:
    count = len(real.groups)
    chosen = np.unique(np.linspace(0, count - 1, min(count, MOST_OBJECTS)).astype(int)).tolist()
    images, masks = ([all_of[number] for number in chosen] for all_of in (real.images, real.masks))
    return RealObjects(images, masks, real.groups[chosen])


def _stacked(features: Iterable[Features]) -> Features:
    rows = list(features)
    return np.stack(rows) if rows else np.empty((0, 1))


def _widened(shown: NDArray[np.bool_]) -> slice:
    """The interval of what is shown, with the ring around it and what the blur sees."""
    first, last = np.flatnonzero(shown)[[0, -1]]
    return slice(max(0, int(first) - 2 * RING), int(last) + 1 + 2 * RING)
