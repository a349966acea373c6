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
    """What the header of a file promises.

    Attributes:
        height: Of the upright image, in px.
        width: Of the upright image, in px.
        pages: Pictures in the file, without thumbnails; `decode` takes a page from 0 to this.
        bits: 8, or more if `decode` needs an `IntensityRange` to show the values of the file.
    """

    height: int
    width: int
    pages: int = 1
    bits: int = 8


@dataclass
class Samples:
    """The values of one page as they are in the file, upright.

    Attributes:
        values: (H, W, C), C being 1 or 3. uint8 values are pixels; all others need an `IntensityRange`.
        mode: Pillow's, or that of the format.
        size: Width and height of the upright image in px; larger than `values` if those are of a reduced image.
        white: The value that is white by the file's bit depth; 0 if the depth says nothing, as for floats.
        declared_white: The largest value by a tag of its own; 0 if there is none.
        alpha: Opacity of each pixel, uint8 (H, W).
        inverted: Small values are bright.
        window: The values that the file itself wants to be black and white.
        notes: Details for a person.
    """

    values: Values
    mode: str
    size: tuple[int, int]
    white: int = 0
    declared_white: float = 0
    alpha: Pixels | None = None
    inverted: bool = False
    window: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_deep(self) -> bool:
        """Whether values are no pixels yet."""
        return self.values.dtype != np.uint8


@dataclass(frozen=True)
class Decoded:
    """What one page of a file holds; what is unknown is 0 or empty.

    Attributes:
        pixels: uint8 (H, W, C), upright; C is 1 when every pixel is gray, else 3.
        width: Of the upright image, in px. A JPEG or PNG of over 16 Mpx has fewer `pixels`.
        height: Of the upright image, in px.
        mode: Pillow's, of the file's image.
        sha256: Of the file's content.
        note: Details for a person.
        is_deep: Whether the file's values needed an `IntensityRange`.
    """

    status: DecodeStatus
    pixels: Pixels | None = None
    width: int = 0
    height: int = 0
    mode: str = ""
    pixel_sha256: str = ""
    sha256: str = ""
    note: str = ""
    is_deep: bool = False


class RejectedError(Exception):
    """A file can't be used; `result` says why."""

    def __init__(
        self,
        status: DecodeStatus,
        note: str,
        size: tuple[int, int] = (0, 0),
        mode: str = "",
        *,
        is_deep: bool = False,
    ) -> None:
        super().__init__(note)
        self.result = Decoded(status, None, *size, mode, note=note, is_deep=is_deep)


def strips(height: int, row_bytes: int) -> list[slice]:
    """Slices of rows that hold about `STRIP_BYTES` each."""
    rows = max(1, STRIP_BYTES // max(1, row_bytes))
    return [slice(top, min(top + rows, height)) for top in range(0, height, rows)]
