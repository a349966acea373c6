"""How many planted copies the search for near-duplicates finds, how many distinct images it joins, and how fast it is.

Copies are made of some images of each set: series as a camera takes them (exposure, gamma, ..., mirrored) and what
augmentation tools export, two or three changes at once. With `--data DIR`, the sets are DIR/flowers and DIR/neu-lt
(`train` and `unlabelled`); of each the half that no threshold was chosen on. Without, they are made.

A distinct pair is a planted copy and one of the 16 images that the search tries for it, unless both show parts of one
surface: images that share a tenth of their content (many of neu-lt are cut from one sheet) are not distinct. The peer
is a perceptual hash (DCT, 64 bits, at most 10 differ), tried on the image and its mirror image as usual tools do.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from diffaug.runtime.seeding import numpy_generator
from diffaug.similarity.near_duplicates import matching_pairs

from measuring import write_report

Pixels = NDArray[np.uint8]
Random = np.random.Generator
Change = Callable[[Pixels, Random], Pixels]

MOST_PIXELS = 16_384
CANDIDATES = 16
LEAST_SHARED = 0.1  # of the content
MOST_BITS = 10
BORDERS = {"black": cv2.BORDER_CONSTANT, "reflected": cv2.BORDER_REFLECT, "repeated": cv2.BORDER_REPLICATE}
SUFFIXES = {".jpg", ".jpeg", ".png"}


def as_pixels(values: NDArray[Any]) -> Pixels:
    """Rounds to uint8 and clips."""
    return np.asarray(np.clip(np.round(values), 0, 255), np.uint8)


def move(
    image: Pixels,
    border: str,
    *,
    angle: float = 0,
    shear: float = 0,
    zoom: float = 1,
    shift: tuple[float, ...] = (0, 0),
) -> Pixels:
    """Turns and shears by degrees, zooms and shifts by shares of the sides, about the middle."""
    height, width = image.shape[:2]
    turn, slant = np.deg2rad(angle), np.tan(np.deg2rad(shear))
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = zoom * rotation @ np.array([[1, slant], [0, 1]])
    middle = np.array([width - 1, height - 1]) / 2
    matrix = np.column_stack([linear, middle - linear @ middle + np.array(shift) * (width, height)])
    moved = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=BORDERS[border])
    return np.asarray(moved, np.uint8).reshape(image.shape)


def compress(image: Pixels, quality: int = 50) -> Pixels:
    """Through JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze()).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer)).reshape(image.shape)


def crop(image: Pixels, random: Random, share: float = 0.9) -> Pixels:
    """A window of the image, which keeps its size in pixels."""
    height, width = (round(share * side) for side in image.shape[:2])
    top, left = random.integers(0, image.shape[0] - height + 1), random.integers(0, image.shape[1] - width + 1)
    return image[top : top + height, left : left + width]


def blurred(image: Pixels, random: Random) -> Pixels:
    """By 0.8 to 1.5 px."""
    return as_pixels(cv2.GaussianBlur(image, (0, 0), random.uniform(0.8, 1.5))).reshape(image.shape)


def augment(image: Pixels, random: Random) -> Pixels:
    """Two or three changes at once, as augmentation tools make them."""
    chosen = random.choice(
        ["turn", "quarter", "mirror", "shear", "zoom", "shift"], size=random.integers(2, 4), replace=False
    )
    if "quarter" in chosen:
        image = np.asarray(np.rot90(image, int(random.integers(1, 4))), np.uint8)
    if "mirror" in chosen:
        image = image[:, ::-1]
    return move(
        np.ascontiguousarray(image),
        random.choice(["black", "reflected"]),
        angle=random.uniform(-180, 180) if "turn" in chosen else 0,
        shear=random.uniform(-20, 20) if "shear" in chosen else 0,
        zoom=1.5 ** random.uniform(-1, 1) if "zoom" in chosen else 1,
        shift=tuple(random.uniform(-0.1, 0.1, 2)) if "shift" in chosen else (0, 0),
    )


def any_border(random: Random) -> str:
    """The name of a border."""
    return str(random.choice(list(BORDERS)))


CHANGES: dict[str, Change] = {
    "exposure": lambda image, random: as_pixels(image * 2.0 ** random.uniform(-1, 1)),
    "gamma": lambda image, random: as_pixels(255 * (image / 255) ** random.uniform(0.6, 1.6)),
    "contrast": lambda image, random: as_pixels((image - image.mean()) * random.uniform(0.6, 1.5) + image.mean()),
    "blur": blurred,
    "noise": lambda image, random: as_pixels(image + random.normal(0, 10, image.shape)),
    "shift": lambda image, random: move(image, any_border(random), shift=tuple(random.uniform(-0.05, 0.05, 2))),
    "turn by 3": lambda image, random: move(image, any_border(random), angle=random.uniform(-3, 3)),
    "JPEG 50": lambda image, random: compress(image),
    "crop 90 %": crop,
    "mirrored": lambda image, random: np.ascontiguousarray(image[:, ::-1]),
    "augmented": augment,
    "augmented, JPEG 70": lambda image, random: compress(augment(image, random), 70),
}


def reduced(image: Pixels) -> Pixels:
    """As the catalog keeps it: uint8 (h, w, C) of at most 16,384 px."""
    factor = min(1.0, (MOST_PIXELS / (image.shape[0] * image.shape[1])) ** 0.5)
    height, width = (max(1, int(side * factor)) for side in image.shape[:2])
    return np.asarray(Image.fromarray(image.squeeze()).resize((width, height), Image.Resampling.LANCZOS)).reshape(
        height, width, -1
    )


def made_images(kind: str, count: int) -> list[Pixels]:
    """Scenes in color, textures in gray, or parts on one background."""
    random = numpy_generator(0, "near duplicates", kind)

    def noise(size: int, reach: float, channels: int) -> NDArray[Any]:
        rough = random.normal(size=(size, size, channels)).astype(np.float32)
        smooth = cv2.GaussianBlur(rough, (0, 0), reach).reshape(rough.shape)
        return np.asarray(smooth / smooth.std())

    background = noise(160, 2, 1)
    images = []
    for _ in range(count):
        if kind == "parts":
            part, (top, left) = background.copy(), random.integers(40, 70, 2)
            part[top : top + 40, left : left + 40] = noise(40, 3, 1)
            images.append(as_pixels(128 + 40 * part + random.normal(0, 3, part.shape)))
        else:
            channels = 3 if kind == "scenes" else 1
            images.append(as_pixels(128 + 30 * noise(160, 2.5, channels) + 15 * noise(160, 12, channels)))
    return images


def read_images(folder: Path) -> list[Pixels]:
    """A random half of the images under a folder, but for test images."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    files = [file for file in files if "test" not in file.relative_to(folder).parts]
    order = np.random.default_rng(5).permutation(len(files))[1::2]  # thresholds were chosen on the others, [0::2]
    arrays = (np.asarray(Image.open(files[number])) for number in order)
    return [array.reshape(*array.shape[:2], -1) for array in arrays]


def joined(pairs: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """For each image the number of its group."""
    graph = coo_matrix((np.ones(len(pairs)), pairs.T), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1])


def measure(name: str, images: Sequence[Pixels], per_kind: int) -> tuple[list[dict[str, Any]], int, int]:
    """Rows of one set, false pairs, and distinct pairs."""
    random = numpy_generator(1, "near duplicates", name)
    base = [reduced(image) for image in images]
    began = time.perf_counter()
    own_pairs = matching_pairs(base)
    own = joined(own_pairs, len(base))
    seconds = time.perf_counter() - began
    planted = [
        (kind, int(number), reduced(change(images[number], random)))
        for kind, change in CHANGES.items()
        for number in random.permutation(len(images))[:per_kind]
    ]
    pictures = [*base, *(copy for _, _, copy in planted)]
    origins = np.array([*range(len(base)), *(number for _, number, _ in planted)])
    pairs = matching_pairs(pictures)
    with_copies = pairs[pairs.max(axis=1) >= len(base)]
    groups = joined(np.concatenate([pairs, own_pairs]), len(pictures))
    hashes = np.stack([perceptual_hash(picture) for picture in pictures])
    mirror = np.stack([perceptual_hash(picture[:, ::-1]) for picture in pictures])
    rows = []
    for kind in CHANGES:
        places = [(len(base) + place, number) for place, (of, number, _) in enumerate(planted) if of == kind]
        found = np.mean([groups[place] == groups[number] for place, number in places])
        bits = [min(np.sum(one[place] != hashes[number]) for one in (hashes, mirror)) for place, number in places]
        peer = np.mean(np.array(bits) <= MOST_BITS)
        rows.append({"set": name, "kind": kind, "found": float(found), "perceptual_hash": float(peer), "seconds": None})
    with patch("diffaug.similarity.keypoints.search.LEAST_OVERLAP", LEAST_SHARED):
        shared = joined(matching_pairs(base), len(base))
    false = np.count_nonzero(shared[origins[with_copies[:, 0]]] != shared[origins[with_copies[:, 1]]])
    repeated = len(base) - len(set(own.tolist()))
    row = {"set": name, "kind": "repeated in the set", "found": repeated / len(base)}
    rows.append(row | {"perceptual_hash": None, "seconds": seconds})
    return rows, int(false), len(planted) * min(CANDIDATES, len(base) - 1)


def perceptual_hash(picture: Pixels) -> NDArray[np.bool_]:
    """Signs of the 8 x 8 lowest frequencies against their median, bool (64,)."""
    gray = Image.fromarray(np.ascontiguousarray(picture).squeeze()).convert("L")
    low = dctn(np.asarray(gray.resize((32, 32), Image.Resampling.LANCZOS), np.float64))[:8, :8].ravel()
    return np.asarray(low > np.median(low))


def main(arguments: list[str] | None = None) -> None:
    """Measures all sets and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few images and copies")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, help="folder with flowers/ and neu-lt/  [default: made images]")
    options = parser.parse_args(arguments)
    count, per_kind = (60, 10) if options.quick else (1200, 100)
    if options.data:
        sets = {name: read_images(options.data / name)[:count] for name in ("flowers", "neu-lt")}
    else:
        sets = {kind: made_images(kind, min(count, 300)) for kind in ("scenes", "textures", "parts")}
    measured = [measure(name, images, per_kind) for name, images in sets.items()]
    rows = [row for part, _, _ in measured for row in part]
    kinds = [row for row in rows if row["kind"] in CHANGES]
    false, distinct = (sum(numbers) for numbers in zip(*(part[1:] for part in measured), strict=True))
    summary = {
        "recall_worst_kind": min(row["found"] for row in kinds),
        "recall_worst_kind_of_perceptual_hash": min(row["perceptual_hash"] for row in kinds),
        "false_pairs_per_1000": 1000 * false / distinct,
        "false_pairs": false,
        "distinct_pairs": distinct,
        "seconds_per_1000_images": 1000 * sum(r["seconds"] or 0 for r in rows) / sum(map(len, sets.values())),
    }
    write_report(options.json, summary, rows)


if __name__ == "__main__":
    main()
