"""Masks: told from images by the folder they lie in, by their name, or by being binary beside an image.

A name alone proves nothing: a folder `masks` may be a class of photos, and so may `shoe_label.png`. A few files
of each kind are opened in a small size to see whether they look like masks.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from diffaug.data.box_files import coco_images, holds_boxes, is_of_boxes
from diffaug.data.layouts.entries import (
    hints_at_masks,
    names_faces,
    names_masks,
    says_nothing,
    split_and_rest,
    split_named,
)
from diffaug.data.layouts.walk import Account, Folder, Walk, stem_of
from diffaug.errors import DataError

PEEKED = 5  # files opened per kind
MAX_VALUES = 32  # distinct colors of a mask at `PEEKED_SIZE`; photos have hundreds, label images one per object
PEEKED_SIZE = 64
MIN_BLACK_OR_WHITE = 0.95
MAX_PEEKED_BYTES = 1 << 24
MAX_PEEKED_PIXELS = 1 << 24

KEPT = "masks, set aside and not trained on"
_MORE = "masks of images that have one already, not used"
_ORPHANS = "masks without an image, left out"
_WORDS = "masks?|segmentations?|segs?|gts?|ground[ _-]?truths?|labels?|annotations?|anno|trimaps?"
_ANY_WORD = re.compile(_WORDS, re.IGNORECASE)
_SUFFIX = re.compile(rf"(?P<base>.+?)[ _.-]*[ _.-](?P<word>{_WORDS})(?:[ _.-]*\(?\d+\)?)?", re.IGNORECASE)
_PREFIX = re.compile(rf"(?P<word>{_WORDS})[ _.-]+(?P<base>.+)", re.IGNORECASE)

_T = TypeVar("_T")
_Pair = tuple[Folder, str, str]  # a folder, and the names of a mask and its image in it

Masks = dict[str, str]
"""Path of the mask, or of the file with the boxes, by path of its image."""


def set_aside_mask_folders(tree: Folder, root: Path, account: Account) -> Masks:
    """Takes the folders of masks out of the tree."""
    masks: Masks = {}
    for parent in tree.walk():
        named = [folder for folder in parent.filled() if names_masks(folder.name) or hints_at_masks(folder.name)]
        others = [folder for folder in parent.filled() if folder not in named]
        if not named or any(names_faces(folder.name) for folder in others):
            continue
        images = [*parent.own_images(), *(path for folder in others for path in folder.all_images())]
        for folder in named if images else []:
            if _are_masks(folder, parent, others, root):
                _assign(list(folder.all_images()), folder.path, images, masks, account)
                parent.folders.remove(folder)
    return masks


def set_aside_masks_by_name(tree: Folder, root: Path, account: Account, *, images: Set[str] = frozenset()) -> Masks:
    """Takes masks that lie beside their image out of the tree, except for files known as `images`.

    A mask is named after its image, such as `x_mask.png` beside `x.png`, or has the name of its image with another
    extension and is binary.
    """
    pairs: defaultdict[str, list[_Pair]] = defaultdict(list)
    for folder in tree.walk():
        for kind, name, image in [*_named_pairs(folder), *_binary_pairs(folder)]:
            if folder.below(name) not in images:
                pairs[kind].append((folder, name, image))
    masks: Masks = {}
    for kind, found in pairs.items():
        for folder, name, image in sorted(_believed(kind, found, root), key=lambda pair: (len(pair[1]), pair[1])):
            if name in folder.images:
                folder.images.remove(name)
                _note(folder.below(name), folder.below(image) if image else "", masks, account)
    return masks


def masks_of_folder(root: Path, folder: str, images: Iterable[str], account: Account) -> Masks:
    """The masks and boxes of a folder that was named, relative to the root, for images anywhere in the tree.

    Raises:
        DataError: None belongs to an image.
    """
    tree, of_folder = Walk(root / folder, Account()).tree(), sorted(images)
    masks: Masks = {}
    _assign([f"{folder}/{path}" for path in tree.all_images()], folder, of_folder, masks, account)
    others = {f"{folder}/{inner.below(name)}" for inner in tree.walk() for name in inner.others}
    masks = boxes_among(others, of_folder, root) | masks
    if not masks:
        fix = "name each mask as its image, such as 12.png or 12_mask.png; or leave --masks out"
        raise DataError("no mask in the folder belongs to an image", where=root / folder, fix=fix)
    return masks


def boxes_among(others: Iterable[str], images: Iterable[str], root: Path) -> Masks:
    """The files of boxes among those that are no images: one per image and named as it, or one of COCO's for many.

    Of files with equal names, the one in the folder of the image counts; where that does not decide, none does.
    """
    candidates = [path for path in others if is_of_boxes(path)]
    if not candidates:
        return {}
    by_stem: defaultdict[str, list[str]] = defaultdict(list)
    by_name: defaultdict[str, list[str]] = defaultdict(list)
    for image in images:
        by_stem[_stem(image)].append(image)
        by_name[image.rpartition("/")[2]].append(image)
    found: Masks = {}
    for path in sorted(candidates):
        if path.lower().endswith(".json"):
            named = [by_name[name] for name in coco_images(root / path) if name in by_name]
            found |= {images[0]: path for images in named if len(images) == 1}
            continue
        alike = by_stem.get(_stem(path), [])
        beside = [image for image in alike if image.rpartition("/")[0] == path.rpartition("/")[0]] or alike
        if len(beside) == 1 and beside[0] not in found and holds_boxes(root / path):
            found[beside[0]] = path
    return found


def _believed(kind: str, found: list[_Pair], root: Path) -> list[_Pair]:
    """The pairs of one kind whose masks are not seen to be images; each binary one must be seen to be a mask."""
    if "." in kind:
        masks = (root / folder.below(name) for folder, name, _ in _spread(found))
        images = (root / folder.below(image) for folder, _, image in _spread(found))
        believed = all(looks_like_mask(mask) for mask in masks) and not all(looks_like_mask(path) for path in images)
        return found if believed else []
    seen = [looks_like_mask(root / folder.below(name)) for folder, name, _ in _spread(found)]
    return [] if seen.count(False) * 2 > len(seen) else found


def looks_like_mask(path: Path) -> bool | None:
    """Whether a file has few colors, or nearly only black and white; None if it can't be read."""
    try:
        if path.stat().st_size > MAX_PEEKED_BYTES:
            return None
        with Image.open(path, formats=("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")) as image:
            if image.width * image.height > MAX_PEEKED_PIXELS:
                return None
            size = min(image.width, PEEKED_SIZE), min(image.height, PEEKED_SIZE)
            small = image.resize(size, Image.Resampling.NEAREST)
            pixels = np.asarray(small.convert("L") if small.mode in ("1", "L") else small.convert("RGB"))
    except Exception:  # whatever is wrong with the file shows when it is decoded
        return None
    values = pixels.reshape(size[0] * size[1], -1)
    black_or_white = ((values <= 10) | (values >= 245)).all(axis=1)  # JPEG blurs edges
    return len(np.unique(values, axis=0)) <= MAX_VALUES or float(black_or_white.mean()) > MIN_BLACK_OR_WHITE


def _are_masks(folder: Folder, parent: Folder, others: Sequence[Folder], root: Path) -> bool:
    """Whether a folder named as one of masks is no class: by what lies beside it, then by its pixels.

    One whose name only hints at masks must look like masks and be named as the images beside it.
    """
    is_named = names_masks(folder.name)
    if is_named and any(says_nothing(other.name) for other in others):
        return True
    seen = [looks_like_mask(root / path) for path in _spread(list(folder.all_images()))]
    if not is_named:
        images = [*parent.images, *(path for other in others for path in other.all_images())]
        return seen.count(True) * 2 > len(seen) and _is_of(images, folder)
    if seen.count(True) * 2 > len(seen):
        return True
    return seen.count(False) * 2 <= len(seen) and (_is_of(parent.images, folder) or _mirrors(folder, others))


def _is_of(images: Sequence[str], folder: Folder) -> bool:
    """Whether most files in a folder are named after images."""
    stems = {_stem(name) for name in images}
    named = [any(stem in stems for stem in _stems(_stem(path))) for path in folder.all_images()]
    return sum(named) * 2 > len(named)


def _mirrors(folder: Folder, others: Sequence[Folder]) -> bool:
    """Whether most folders in a folder are named as those beside it, or in those."""
    inner = {child.name for child in folder.filled()}
    beside = {other.name for other in others} | {child.name for other in others for child in other.filled()}
    return len(inner & beside) * 2 > len(inner)


def _spread(items: Sequence[_T]) -> Sequence[_T]:
    return items[:: max(1, len(items) // PEEKED)][:PEEKED]


def _assign(paths: list[str], folder: str, images: list[str], masks: Masks, account: Account) -> None:
    """Gives each mask of a folder to the image with the same name whose folders are most alike."""
    by_stem: defaultdict[str, list[str]] = defaultdict(list)
    for image in images:
        by_stem[_stem(image)].append(image)
    for path in sorted(paths, key=lambda path: (len(path), path)):
        parts = path.removeprefix(f"{folder}/").split("/")[:-1]
        found = next((by_stem[stem] for stem in _stems(_stem(path)) if stem in by_stem), [])
        alike = [image for image in found if image.split("/")[:-1][-len(parts) :] == parts] if parts else found
        if len(alike) > 1:  # `train_masks` and `test_masks` beside `train` and `test`
            split = split_and_rest(folder.rpartition("/")[2])[0]
            alike = [image for image in alike if split in map(split_named, image.split("/")[:-1])]
        _note(path, alike[0] if len(alike) == 1 else found[0] if len(found) == 1 else "", masks, account)


def _note(mask: str, image: str, masks: Masks, account: Account) -> None:
    if not image:
        account.add(_ORPHANS, [mask])
    elif image in masks:
        account.add(_MORE, [mask])
    else:
        masks[image] = mask


def _stem(path: str) -> str:
    return stem_of(path.rpartition("/")[2])


def _stems(stem: str) -> Iterator[str]:
    """What the image of a mask may be called."""
    yield stem
    for pattern in (_SUFFIX, _PREFIX):
        if match := pattern.fullmatch(stem):
            yield match["base"]


def _named_pairs(folder: Folder) -> Iterator[tuple[str, str, str]]:
    """Kind, mask and image for each file that is named after another one; no image where it is missing."""
    if not _ANY_WORD.search("/".join(folder.images)):
        return
    stems = {_stem(name): name for name in reversed(folder.images)}
    found = []
    for name in folder.images:
        for position, pattern in (("after", _SUFFIX), ("before", _PREFIX)):
            match = pattern.fullmatch(_stem(name))
            if match:
                kind = f"{position} {match['word'].casefold()}"
                found.append((kind, name, stems.get(match["base"], "")))
                break
    paired = {kind for kind, _, image in found if image}
    yield from (pair for pair in found if pair[2] or pair[0] in paired)


def _binary_pairs(folder: Folder) -> Iterator[tuple[str, str, str]]:
    """Kind, mask and image for files of one name, where those with a lossless extension may be masks of the others."""
    if len({name.rpartition(".")[2] for name in folder.images}) < 2:
        return
    by_stem: defaultdict[str, list[str]] = defaultdict(list)
    for name in folder.images:
        by_stem[_stem(name)].append(name)
    for names in by_stem.values():
        lossless = [name for name in names if name.lower().endswith((".png", ".bmp", ".gif", ".tif", ".tiff"))]
        others = [name for name in names if name not in lossless]
        if len(lossless) == 1 and len(others) == 1:
            yield f"{lossless[0].rpartition('.')[2]}.{others[0].rpartition('.')[2]}", lossless[0], others[0]
