"""Which values of 16-bit, float and DICOM images become black and white: one rule for all images of a set."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diffaug.decoding.result import Pixels, RejectedError, Samples, Values, strips

SampleKind = Literal["integer", "float"]
KINDS: tuple[SampleKind, ...] = ("integer", "float")
FEW_LEVELS = 16  # of 256
SEVERAL = 4  # times as many values as levels are left by a range that does not fit
FLATTENED = f"under {FEW_LEVELS} gray levels are left, so consider data.intensity_range"
CLIPPED = "most values are above the range and became equal, so consider data.intensity_range"
_LARGEST_16_BIT = 2**16 - 1
_COMPARED = 2**18  # values of one image


@dataclass(frozen=True)
class IntensityRange:
    """The values that become black and white."""

    low: float  # becomes 0, as does everything below
    high: float  # becomes 255, as does everything above
    reason: str  # where the two values come from, for a person
    # the value that is white by the bit depth that `low` and `high` refer to. Values of another depth are brought to
    # it first. 0 if depths are not compared
    white: int = 0
    kinds: tuple[SampleKind, ...] = field(default=KINDS)  # kinds of values that the range is for

    def to_8_bit(self, values: Values) -> Pixels:
        """Maps values of any shape linearly to 0 to 255, rounded."""
        # In float64, since float32 does not tell neighboring 32-bit integers apart.
        levels = (values.astype(np.float64) - self.low) * (255 / (self.high - self.low))
        return np.asarray(np.rint(levels.clip(0, 255, out=levels), out=levels), np.uint8)

    def to_source_depth(self, pixels: Pixels) -> NDArray[np.uint16]:
        """The inverse of `to_8_bit`, of any shape; see `stored` for what the 16-bit values mean."""
        scale, offset = self.stored
        values = (self.low + pixels.astype(np.float64) * ((self.high - self.low) / 255) - offset) / scale
        return np.asarray(np.rint(values), np.uint16)

    @property
    def stored(self) -> tuple[float, float]:
        """Scale and offset: the source's value is offset + scale * the value of `to_source_depth`.

        (1, 0) unless the range has negative values, values over 65535 or fractions.
        """
        fits = self.low >= 0 and self.high <= _LARGEST_16_BIT and self.high - self.low >= 1 and "integer" in self.kinds
        return (1.0, 0.0) if fits else ((self.high - self.low) / _LARGEST_16_BIT, self.low)

    def describe(self) -> str:
        """The rule in one sentence."""
        return f"values from {self.low:g} to {self.high:g} become black to white: {self.reason}"


def kind_of(values: Values) -> SampleKind:
    """Whether values are floats."""
    return "float" if values.dtype.kind == "f" else "integer"


def show(samples: Samples, intensity: IntensityRange | None) -> Pixels:
    """The samples as pixels, uint8 (H, W, C), transparent ones over white.

    Without a range the bit depth of the samples counts; a RejectedError if that says nothing.
    """
    values = samples.values
    if not samples.is_deep:
        return 255 - values if samples.inverted else values
    if intensity is None:
        if not samples.white:
            what = f"{samples.mode}: nothing says which value is white; set data.intensity_range"
            raise RejectedError("unsupported mode", what, samples.size, samples.mode, is_deep=True)
        intensity = IntensityRange(0, samples.white, "bit depth")
    kind = kind_of(values)
    if kind not in intensity.kinds:
        what = f"{kind} values, while those of the training images are {intensity.kinds[0]} values in other units"
        raise RejectedError("unsupported mode", what, samples.size, samples.mode, is_deep=True)
    factor = intensity.white / samples.white if intensity.white and samples.white else 1
    pixels = np.empty(values.shape, np.uint8)
    used, above = np.zeros(256, np.bool_), 0
    for rows in strips(len(values), values[:1].size * 16):
        part = intensity.to_8_bit(values[rows] if factor == 1 else values[rows] * factor)
        used[part] = True
        above += int(np.count_nonzero(values[rows] > intensity.high / factor))
        if samples.inverted:
            part = 255 - part
        if samples.alpha is not None:
            opacity = samples.alpha[rows, :, None] / 255
            part = np.rint(255 - (255 - part) * opacity).astype(np.uint8)
        pixels[rows] = part
    samples.notes = (*samples.notes, *_what_is_lost(values, int(np.count_nonzero(used)), above))
    return pixels


def _what_is_lost(values: Values, levels: int, above: int) -> tuple[str, ...]:
    """Notes if a range leaves few gray levels of values (H, W, C), or lies below most of them."""
    step = max(1, int(np.sqrt(values.size / _COMPARED)))
    flattened = levels < FEW_LEVELS and len(np.unique(values[::step, ::step])) >= SEVERAL * levels
    notes = {FLATTENED: flattened, CLIPPED: 2 * above > values.size}
    return tuple(note for note, applies in notes.items() if applies)
