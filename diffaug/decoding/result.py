"""What reading a file gives: its header, its samples, its pixels, or the reason why there are none."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

DecodeStatus = Literal[
    "ok",
    "not an image",
    "unsupported format",
    "truncated",  # also covers damage inside the file
    "too large",
    "unsupported mode",
    "unreadable",
    "too small",
]
Pixels = NDArray[np.uint8]
Values = NDArray[Any]  # of integers or floats
STRIP_BYTES = 2**22  # work on large images goes by strips of rows, so that temporary arrays stay small


@dataclass(frozen=True)
class Header:
    """What the header of a file promises."""

    height: int  # of the upright image, in px
    width: int  # of the upright image, in px
    pages: int = 1  # pictures in the file, without thumbnails; `decode` takes a page from 0 to this
    bits: int = 8  # 8, or more if `decode` needs an `IntensityRange` to show the values of the file


@dataclass
class Samples:
    """The values of one page as they are in the file, upright."""

    values: Values  # (H, W, C), C being 1 or 3. uint8 values are pixels; all others need an `IntensityRange`
    mode: str  # pillow's, or that of the format
    # width and height of the upright image in px; larger than `values` if those are of a reduced image
    size: tuple[int, int]
    white: int = 0  # the value that is white by the file's bit depth; 0 if the depth says nothing, as for floats
    declared_white: float = 0  # the largest value by a tag of its own; 0 if there is none
    alpha: Pixels | None = None  # opacity of each pixel, uint8 (H, W)
    inverted: bool = False  # small values are bright
    window: tuple[float, float] | None = None  # the values that the file itself wants to be black and white
    notes: tuple[str, ...] = ()  # details for a person

    @property
    def is_deep(self) -> bool:
        """Whether values are no pixels yet."""
        return self.values.dtype != np.uint8


@dataclass(frozen=True)
class Decoded:
    """What one page of a file holds; what is unknown is 0 or empty."""

    status: DecodeStatus
    pixels: Pixels | None = None  # uint8 (H, W, C), upright; C is 1 when every pixel is gray, else 3
    width: int = 0  # of the upright image, in px. Large images have fewer `pixels`
    height: int = 0  # of the upright image, in px
    mode: str = ""  # pillow's, of the file's image
    pixel_sha256: str = ""
    sha256: str = ""  # of the file's content
    note: str = ""  # details for a person
    is_deep: bool = False  # whether the file's values needed an `IntensityRange`


class RejectedError(Exception):
    """A file can't be used; `result` says why."""

    def __init__(
        self, status: DecodeStatus, note: str, size: tuple[int, int] = (0, 0), mode: str = "", *, is_deep: bool = False
    ) -> None:
        super().__init__(note)
        self.result = Decoded(status, None, *size, mode, note=note, is_deep=is_deep)


def strips(height: int, row_bytes: int) -> list[slice]:
    """Slices of rows that hold about `STRIP_BYTES` each."""
    rows = max(1, STRIP_BYTES // max(1, row_bytes))
    return [slice(top, min(top + rows, height)) for top in range(0, height, rows)]
