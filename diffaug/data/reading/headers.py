"""What headers decide before anything is decoded: the pages to read, and the range of values of images over 8 bits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from diffaug.configuration.settings import DataSettings
from diffaug.data.layouts.entries import PAGE, Entry, Split
from diffaug.decoding.decode import peek, strict_pillow
from diffaug.decoding.intensity import IntensityRange
from diffaug.decoding.intensity_of_set import choose_intensity, depth_remarks
from diffaug.runtime.parallel import in_threads

SAMPLED = 256  # files

_EIGHT_BITS = (b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM")  # begin of JPEG, GIF, WebP and BMP
_PNG, _PNG_DEPTH = b"\x89PNG\r\n\x1a\n", 24  # and the place of its bit depth


def all_pages(root: Path, entries: Sequence[Entry]) -> Iterator[tuple[Entry, int]]:
    """Each page of each file, counted from 0; the pages of one file are one group."""
    with strict_pillow():
        headers = in_threads(lambda entry: peek(root / entry.path), entries)
        for entry, header in zip(entries, headers, strict=True):
            count = header.pages if header else 1
            whole = replace(entry, group=entry.group or entry.path) if count > 1 else entry
            yield whole, 0
            for page in range(1, count):
                yield replace(whole, path=f"{entry.path}{PAGE}{page + 1}"), page


def file_of(entry: Entry, page: int) -> str:
    """The file of a page of `all_pages`, relative to the root."""
    return entry.path.removesuffix(f"{PAGE}{page + 1}") if page else entry.path


def find_intensity(
    root: Path, entries: Sequence[Entry], settings: DataSettings, *, sure: bool = False
) -> tuple[IntensityRange | None, list[str]]:
    """The range that training images of over 8 bits share, None if there is none, and what to know about it.

    Where only other images have more than 8 bits, it is theirs. Headers are read if a sample of the files holds such
    images, or if it is `sure` that there are some.
    """
    sample = entries[:: len(entries) // SAMPLED + 1]
    if not sure and not any(_may_be_deep(root / entry.path) for entry in sample):
        return None, _without_effect(settings)
    paths = [root / entry.path for entry in entries]
    with strict_pillow():
        headers = in_threads(peek, paths)
        known = [(path, entry, header) for path, entry, header in zip(paths, entries, headers, strict=True) if header]
    trained = {path: header for path, entry, header in known if entry.split in (None, "train")}
    chosen = choose_intensity(trained, settings)
    chosen = chosen or choose_intensity({path: header for path, _, header in known}, settings)
    if chosen is None:
        return None, _without_effect(settings)
    labeled = [(entry.label, header.bits) for _, entry, header in known if entry.label]
    remarks = depth_remarks([label for label, _ in labeled], [bits for _, bits in labeled])
    return chosen, [*remarks, *_depths_of_splits((entry.split, header.bits) for _, entry, header in known)]


def _depths_of_splits(split_and_bits: Iterable[tuple[Split | None, int]]) -> list[str]:
    """A sentence if a given split holds images of depths that train has none of."""
    depths: defaultdict[Split, set[int]] = defaultdict(set)
    for split, bits in split_and_bits:
        depths[split or "train"].add(bits)
    odd = {split: depths[split] - depths["train"] for split in ("val", "test", "unlabeled") if depths[split]}
    shown = [f"{split} {_bits(found)}" for split, found in odd.items() if found and depths["train"]]
    if not shown:
        return []
    found = ", ".join([f"train {_bits(depths['train'])}", *shown])
    return [f"splits differ in bits per value ({found}), so some may become brighter or darker; save all the same way"]


def _bits(depths: Iterable[int]) -> str:
    return " and ".join(map(str, sorted(depths)))


def _without_effect(settings: DataSettings) -> list[str]:
    if settings.intensity_range is None:
        return []
    return ["data.intensity_range has no effect, since no file has more than 8 bits per value"]


def _may_be_deep(path: Path) -> bool:
    """Whether the first bytes leave room for more than 8 bits per value."""
    try:
        if not path.is_file():  # opening a pipe could wait for ever
            return False
        with path.open("rb", buffering=0) as file:
            begin = file.read(_PNG_DEPTH + 1)
    except (OSError, ValueError):
        return False
    if begin.startswith(_PNG):
        return begin[_PNG_DEPTH:] == b"\x10"
    return len(begin) > _PNG_DEPTH and not begin.startswith(_EIGHT_BITS)
