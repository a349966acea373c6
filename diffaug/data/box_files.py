"""Boxes around objects, from Pascal VOC (xml), YOLO (txt) and COCO (json), as masks."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffaug.decoding.object_masks import turned_as
from diffaug.errors import DataError

Mask = NDArray[np.bool_]

MAX_BYTES = 64 * 2**20
SUFFIXES = (".xml", ".txt", ".json")
ANOTHER = "correct the file, or use no masks: --masks none"
_ROUNDING = 0.01  # px


class Box(NamedTuple):
    """A box in px, and what is in it; an empty name if the file does not say."""

    left: float
    top: float
    right: float
    bottom: float
    name: str = ""


def is_of_boxes(file: str) -> bool:
    """Whether a file, found as that of a mask, holds boxes."""
    return file.lower().endswith(SUFFIXES)


def read_boxes(file: Path, image: Path, size: tuple[int, int], label: str) -> Mask:
    """The boxes of an image of a height and width in px as a mask, bool (H, W); it is empty if there are none.

    If some are named as the class of the image, the others are left out. Boxes on the stored pixels of an image that
    EXIF turns by 90 degrees, which the size in the file shows, are turned, too.

    Raises:
        DataError: The file is damaged, or was made for an image of another size.
    """
    made_for, boxes = boxes_in(file, image.name, size)
    if made_for in (size, size[::-1]):
        named = [box for box in boxes if box.name.casefold() == label.casefold()]
        mask = np.zeros(made_for, np.bool_)
        for box in named or boxes:
            mask[_touched(box.top, box.bottom, made_for[0]), _touched(box.left, box.right, made_for[1])] = True
        upright = mask if made_for == size else turned_as(image, mask)
        if upright.shape == size:
            return upright
    (h, w), (height, width) = made_for, size
    what = f"the boxes are for an image of {w} x {h} px, and this one has {width} x {height} px"
    raise DataError(what, where=file, fix=ANOTHER)


def _touched(begin: float, end: float, length: int) -> slice:
    """The pixels between two edges, which text gives rounded."""
    return slice(max(0, math.floor(begin + _ROUNDING)), min(length, max(0, math.ceil(end - _ROUNDING))))


def holds_boxes(file: Path) -> bool:
    """Whether a file of one image, xml or txt, looks like one of boxes, by its content."""
    try:
        if file.stat().st_size > MAX_BYTES:
            return False
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    if file.suffix.lower() == ".xml":
        return "<annotation" in text
    return all(YOLO_LINE.fullmatch(line.strip()) for line in text.splitlines() if line.strip())


def coco_images(file: Path) -> set[str]:
    """The names of the images with boxes in a file, without folders; empty if it is not one of COCO's."""
    try:
        status = file.stat()
        if status.st_size > MAX_BYTES or b'"annotations"' not in file.read_bytes():
            return set()
        return {name for name, (_, boxes) in coco_boxes(file, status.st_mtime_ns).items() if boxes}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()


def boxes_in(file: Path, image: str, size: tuple[int, int]) -> tuple[tuple[int, int], Sequence[Box]]:
    """The boxes that a file gives for an image, by its name, and the height and width in px that they are made for.

    Many files do not give that, or 0; then it is `size`. A DataError if the file can't be read.
    """
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ValueError(f"over {MAX_BYTES // 2**20} MB")
        made_for, boxes = _boxes_in(file, image, size)
        if not all(math.isfinite(edge) for box in boxes for edge in box[:4]):
            raise ValueError("an edge is not a finite number")
        return made_for if all(made_for) else size, boxes
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ET.ParseError) as error:
        what = f"the boxes can't be read: {' '.join(str(error).split()) or type(error).__name__}"
        raise DataError(what, where=file, fix=ANOTHER) from error


def _boxes_in(file: Path, image: str, size: tuple[int, int]) -> tuple[tuple[int, int], Sequence[Box]]:
    if file.suffix.lower() == ".xml":
        return _voc(file)
    if file.suffix.lower() == ".txt":
        return size, list(_yolo(file.read_text(encoding="utf-8"), size))
    return coco_boxes(file, file.stat().st_mtime_ns).get(image, (size, ()))


def _voc(file: Path) -> tuple[tuple[int, int], list[Box]]:
    content = file.read_bytes()
    if b"<!ENTITY" in content:
        raise ValueError("it defines entities")
    root = ET.fromstring(content)  # noqa: S314  (see above)
    height, width = (int(float(root.findtext(f"size/{name}") or 0)) for name in ("height", "width"))
    found = []
    for one in root.iter("object"):
        corner = one.find("bndbox")
        if corner is not None:
            left, top, right, bottom = (float(corner.findtext(name, "")) for name in ("xmin", "ymin", "xmax", "ymax"))
            found.append(Box(left - 1, top - 1, right, bottom, one.findtext("name", "")))  # VOC counts from 1
    return (height, width), found


_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
YOLO_LINE = re.compile(rf"\d+(?:\s+{_NUMBER}){{4}}\s*")


def _yolo(text: str, size: tuple[int, int]) -> Iterable[Box]:
    height, width = size
    for line in filter(str.strip, text.splitlines()):
        if not YOLO_LINE.fullmatch(line.strip()):
            raise ValueError(f"not a line of class, center, width and height: {line[:80]}")
        x, y, w, h = map(float, line.split()[1:5])
        yield Box((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)


@lru_cache(maxsize=8)
def coco_boxes(file: Path, _: int) -> dict[str, tuple[tuple[int, int], list[Box]]]:
    """Height and width, 0 if not given, and boxes of each image, by its name without folders.

    Images of equal names in several folders are left out. The second argument is the time of the last change.
    """
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    names = {one["id"]: str(one["file_name"]).replace("\\", "/").rpartition("/")[2] for one in content["images"]}
    kinds = {one["id"]: str(one["name"]) for one in content.get("categories", ())}
    found: dict[str, list[Box]] = {name: [] for name in names.values()}
    sizes = {names[one["id"]]: (int(one.get("height") or 0), int(one.get("width") or 0)) for one in content["images"]}
    for one in content["annotations"]:
        if one.get("bbox"):
            left, top, width, height = map(float, one["bbox"])
            box = Box(left, top, left + width, top + height, kinds.get(one.get("category_id"), ""))
            found[names[one["image_id"]]].append(box)
    times = Counter(names.values())
    return {name: (sizes[name], boxes) for name, boxes in found.items() if times[name] == 1}
