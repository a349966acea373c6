"""Chooses the range of a set from a bounded sample of its training files."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffaug.configuration.settings import DataSettings
from diffaug.decoding.intensity import KINDS, IntensityRange, SampleKind, kind_of
from diffaug.decoding.reading import read_file
from diffaug.decoding.result import Header, RejectedError, Samples

MOST_FILES = 200
QUANTILES = (np.arange(512) + 0.5) / 512
MOST_VALUES = 2**20  # of one image
# Chosen on made images (cameras of 8 to 14 bits in 16, thermal, fluorescence, CT, hot pixels), confirmed on others.
TAIL = 0.001  # share of values that may be clipped at each end if outliers stretch the range
OUTLIERS = 0.5  # values beyond a tail are outliers if they stretch the range by more than this share
PLAUSIBLE = 0.75  # share of 0 to white that the values of a set span if that white is theirs
OTHER_UNITS = 16.0  # ratio of ranges from which on floats and integers are in different units

_WHITES: dict[SampleKind, tuple[int, ...]] = {
    "integer": (255, 1023, 4095, 16383, 65535),  # of 8, 10, 12, 14 and 16 bits
    "float": (1, 255, 1023, 4095, 16383, 65535),
}


@dataclass(frozen=True)
class _Summary:
    """The values of one image."""

    kind: SampleKind
    quantiles: NDArray[np.float64]
    least: float
    most: float
    white: int
    declared_white: float
    window: tuple[float, float] | None

    @classmethod
    def of(cls, samples: Samples) -> "_Summary":
        values = samples.values
        step = max(1, int(np.sqrt(values.size / MOST_VALUES)))
        quantiles = np.quantile(values[::step, ::step], QUANTILES)
        return cls(
            kind_of(values),
            quantiles.astype(np.float64),
            float(values.min()),
            float(values.max()),
            samples.white,
            samples.declared_white,
            samples.window,
        )


def choose_intensity(headers: Mapping[Path, Header], settings: DataSettings) -> IntensityRange | None:
    """The range of a set from its training files, by path; None if all of them hold 8 bits.

    Reads at most 200 of the files with more than 8 bits, whatever their number, spread over all folders.
    """
    deep = [path for path, header in headers.items() if header.bits > 8]
    if not deep:
        return None
    if settings.intensity_range is not None:
        low, high = settings.intensity_range
        return IntensityRange(low, high, f"as set{_mixture(len(deep), len(headers))}")
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        found = [summary for summary in pool.map(_summarize, _spread(deep)) if summary]
    chosen = _range_of_all(found) if found else IntensityRange(0, 65535, "16 bits")
    return IntensityRange(**{**vars(chosen), "reason": chosen.reason + _mixture(len(deep), len(headers))})


def depth_remarks(labels: Sequence[str], bits: Sequence[int]) -> list[str]:
    """A sentence if some classes only have 8-bit images and others only deeper ones, which tells them apart."""
    depths: dict[str, set[bool]] = defaultdict(set)
    for label, depth in zip(labels, bits, strict=True):
        depths[label].add(depth > 8)
    shallow = sorted(label for label, found in depths.items() if found == {False})
    deep = sorted(label for label, found in depths.items() if found == {True})
    if not shallow or not deep:
        return []
    return [
        f"classes {', '.join(shallow)} hold 8-bit images and classes {', '.join(deep)} deeper ones; a classifier can "
        "learn the depth instead of what is shown; save all images the same way"
    ]


def _mixture(deep: int, total: int) -> str:
    if deep == total:
        return ""
    return f"; {total - deep} of {total} files hold 8 bits and stay as they are, which may make them brighter or darker"


def _spread(paths: Iterable[Path]) -> list[Path]:
    """At most `MOST_FILES` files, as many of each folder as possible, always the same."""
    folders: dict[Path, list[tuple[str, Path]]] = defaultdict(list)
    for path in paths:
        folders[path.parent].append((hashlib.sha256(path.name.encode(errors="surrogateescape")).hexdigest(), path))
    ranked = [(rank, digest, path) for found in folders.values() for rank, (digest, path) in enumerate(sorted(found))]
    return [path for _, _, path in sorted(ranked)[:MOST_FILES]]


def _summarize(path: Path) -> _Summary | None:
    try:
        samples = read_file(path)
    except RejectedError:
        return None
    return _Summary.of(samples) if samples.is_deep else None


def _range_of_all(found: Sequence[_Summary]) -> IntensityRange:
    """The range of all images, or of the more frequent kind if floats and integers are in different units."""
    by_kind = {kind: [item for item in found if item.kind == kind] for kind in KINDS}
    present = sorted((kind for kind in KINDS if by_kind[kind]), key=lambda kind: -len(by_kind[kind]))
    ranges = [_range_of(by_kind[kind]) for kind in present]
    if len(present) == 1:
        return ranges[0]
    spans = [chosen.high - chosen.low for chosen in ranges]
    if max(spans) >= OTHER_UNITS * min(spans):
        return ranges[0]
    return IntensityRange(**{**vars(_range_of(found)), "kinds": tuple(present)})


def _range_of(found: Sequence[_Summary]) -> IntensityRange:
    kind = found[0].kind
    windows = {item.window for item in found}
    if len(windows) == 1 and (window := windows.pop()):
        return IntensityRange(*window, "the window that all files give", kinds=(kind,))
    white = max(item.white for item in found) if all(item.white for item in found) else 0
    scaled = [(item, white / item.white if white else 1.0) for item in found]
    pooled = np.concatenate([item.quantiles * factor for item, factor in scaled])
    low, high = (float(value) for value in np.quantile(pooled, [TAIL, 1 - TAIL]))
    least = min(item.least * factor for item, factor in scaled)
    most = max(item.most * factor for item, factor in scaled)
    reach = OUTLIERS * (high - low)
    low, high = (least if low - least <= reach else low), (most if most - high <= reach else high)
    declared = {item.declared_white for item in found}
    candidates = [*_WHITES[kind], white, *(declared if len(declared) == 1 else ())]
    fitting = [top for top in sorted(candidates) if low >= 0 and high <= top and high - low >= PLAUSIBLE * top > 0]
    reason = f"the range of {len(found)} training files"
    if fitting:
        low, high, reason = 0.0, float(fitting[0]), f"{len(found)} training files use most of this range"
    if least < low or most > high:
        reason += ", without outliers"
    if high <= low:
        high = low + 1
    return IntensityRange(low, high, reason, white, (kind,))
