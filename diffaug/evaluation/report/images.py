"""Which images the report shows, and how they are put into it."""

import base64
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffaug.data.images import LabeledImages
from diffaug.evaluation.report.pool import Pair, RejectedSample
from diffaug.files import storage
from diffaug.runtime import seeding

IMAGES_PER_SIDE = 12
MAX_SHOWN_PX = 160
MARKUP_BYTES = 250  # of one image in the page, beside its pixels and its name

K = TypeVar("K")
T = TypeVar("T")


def take_in_turns(queues: Mapping[K, Sequence[T]], cost: Callable[[T], int], budget: int) -> dict[K, list[T]]:
    """Takes the first item of every queue, then the second of every queue, until the sum of the costs is too large."""
    taken: dict[K, list[T]] = {key: [] for key in queues}
    for turn in range(max(map(len, queues.values()), default=0)):
        for key, queue in queues.items():
            if turn < len(queue):
                budget -= cost(queue[turn])
                if budget < 0:
                    return taken
                taken[key].append(queue[turn])
    return taken


def choose_images(
    real: LabeledImages, synthetic: LabeledImages, seed: int, budget: int
) -> dict[str, tuple[list[int], list[int]]]:
    """Positions of up to 12 images per class and side, at random; the rarest class first if HTML bytes are short."""
    queues = {
        (name, side): [(images, position) for position in _shuffled(images, name, seed, side)]
        for name in sorted(real.classes, key=real.counts_by_name.__getitem__)
        for side, images in (("real", real), ("synthetic", synthetic))
    }
    chosen = take_in_turns(queues, lambda item: _tile_bytes(*item), budget)
    sides = {key: [position for _, position in items] for key, items in chosen.items()}
    return {name: (sides[name, "real"], sides[name, "synthetic"]) for name in real.classes}


def choose_pairs(
    pairs: Mapping[str, Sequence[Pair]], real: LabeledImages, synthetic: LabeledImages, budget: int
) -> dict[str, list[Pair]]:
    """The closest pairs of each class whose images are both at hand, as many as the budget (bytes of HTML) allows."""
    theirs, ours = positions_by_id(synthetic), positions_by_id(real)
    queues = {
        name: [pair for pair in found if pair.synthetic in theirs and pair.nearest in ours]
        for name, found in pairs.items()
    }

    def cost(pair: Pair) -> int:
        return _tile_bytes(synthetic, theirs[pair.synthetic]) + _tile_bytes(real, ours[pair.nearest])

    return take_in_turns(queues, cost, budget)


def choose_rejected(samples: Sequence[RejectedSample], budget: int) -> dict[str, list[RejectedSample]]:
    """The samples by reason, as many as the budget (bytes of HTML) allows."""
    queues: dict[str, list[RejectedSample]] = {}
    for sample in samples:
        queues.setdefault(sample.reason, []).append(sample)
    return take_in_turns(queues, lambda sample: tile_bytes(sample.pixels, sample.file + sample.label), budget)


def positions_by_id(images: LabeledImages) -> dict[str, int]:
    """Where each image is, by its name."""
    return {name: position for position, name in enumerate(images.ids)}


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """The image as the source of an `img` tag."""
    return "data:image/png;base64," + base64.b64encode(_png(pixels)).decode()


def tile_bytes(pixels: NDArray[np.uint8], name: str) -> int:
    """About the size of an image in the page, where the name stands twice."""
    return 4 * len(_png(pixels)) // 3 + 2 * len(escape(name).encode(errors="replace")) + MARKUP_BYTES


def _tile_bytes(images: LabeledImages, position: int) -> int:
    return tile_bytes(images.pixels[position], images.ids[position])


def _shuffled(images: LabeledImages, name: str, seed: int, side: str) -> list[int]:
    if name not in images.classes:
        return []
    positions = np.flatnonzero(images.labels == images.classes.index(name))
    order = seeding.numpy_generator(seed, "report", side, name).permutation(positions)
    return [int(position) for position in order[:IMAGES_PER_SIDE]]


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """PNG of uint8 (H, W, C), made smaller where a side is over 160 px."""
    longest = max(pixels.shape[:2])
    if longest > MAX_SHOWN_PX:
        squeezed = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
        height, width = (max(1, round(side * MAX_SHOWN_PX / longest)) for side in pixels.shape[:2])
        pixels = np.asarray(Image.fromarray(squeezed).resize((width, height), Image.Resampling.LANCZOS))
    return storage.png_bytes(np.asarray(pixels))
