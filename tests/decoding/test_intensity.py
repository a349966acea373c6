"""The range of a set: what each kind of camera gives, the same for all images, and back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffaug.configuration.settings import DataSettings
from diffaug.data.layouts.entries import Entry
from diffaug.data.reading.headers import find_intensity
from diffaug.decoding.decode import decode, peek
from diffaug.decoding.intensity import CLIPPED, FLATTENED, IntensityRange
from diffaug.decoding.intensity_of_set import MOST_FILES, choose_intensity, depth_remarks
from tests.decoding.odd_files import dicom, packed_12, png_of, ppm, saved, tiff, tiff_of, tiff_page

CLASSES = ("cat", "dog")


def picture(number: int, size: int = 64) -> np.ndarray:
    """Smooth values from 0 to 1, as in a picture, and the same in another picture of the set."""
    rows, columns = np.mgrid[:size, :size] / size
    random = np.random.default_rng(number)
    a, b, c = random.uniform(1, 4, 3)
    waves = np.sin(a * rows * 6 + c) * np.cos(b * columns * 6) + 0.1 * random.standard_normal((size, size))
    return (waves - waves.min()) / np.ptp(waves)


def write_set(root: Path, encode: Any, count: int = 12, extension: str = "png") -> list[Path]:
    files = []
    for number in range(count):
        file = root / CLASSES[number % 2] / f"{number}.{extension}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode(number))
        files.append(file)
    return files


def chosen(files: list[Path], **settings: Any) -> IntensityRange | None:
    headers = {file: peek(file) for file in files}
    return choose_intensity({file: header for file, header in headers.items() if header}, DataSettings(**settings))


def between(low: float, high: float, dtype: Any = np.uint16) -> Any:
    """Pictures whose values lie in this range, as a PNG or, if that has no such values, a TIFF."""

    def encode(number: int) -> bytes:
        values = low + picture(number) * (high - low)
        values = np.rint(values).astype(dtype) if np.dtype(dtype).kind in "ui" else values.astype(dtype)
        return png_of(values, 0) if values.dtype == np.uint16 else tiff_of(values)

    return encode


@pytest.mark.parametrize(
    ("kind", "encode", "low", "high"),
    [
        ("full", between(0, 65535), 0, 65535),
        ("8 bits in 16", between(0, 255), 0, 255),
        ("10-bit camera", between(0, 1023), 0, 1023),
        ("12-bit camera", between(30, 3900), 0, 4095),
        ("14-bit camera", between(200, 16000), 0, 16383),
        ("thermal camera", between(51241, 52181), 51241, 52181),
        ("microscope with an offset", between(32768, 36863), 32768, 36863),
        ("fluorescence", between(47, 1027), 47, 1027),
        ("CT plus 1024", between(0, 3071), 0, 3071),
        ("depth in mm", between(400, 1500), 400, 1500),
        ("CT in Hounsfield units", between(-1024, 2000, np.int16), -1024, 2000),
        ("counts in 32 bits", between(0, 2_000_000, np.uint32), 0, 2_000_000),
        ("floats in [0, 1]", between(0, 1, np.float32), 0, 1),
        ("floats in [0, 0.8]", between(0, 0.8, np.float32), 0, 1),
        ("floats in [0, 255]", between(3, 250, np.float32), 0, 255),
        ("floats in any unit", between(-7.5, 0.25, np.float64), -7.5, 0.25),
        ("two levels", lambda n: png_of((picture(n) > 0.5).astype(np.uint16), 0), 0, 1),
        ("12 bits by tag", lambda n: packed_tiff(between_values(n, 0, 4095)), 0, 4095),
        ("maximum by tag", lambda n: tiff_of(between_values(n, 0, 2900), t281=3000), 0, 3000),
        ("netpbm", lambda n: ppm(5, between_values(n, 0, 999), 999), 0, 999),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_kind_keeps_its_levels(tmp_path: Path, kind: str, encode: Any, low: float, high: float) -> None:
    files = write_set(tmp_path, encode)
    intensity = chosen(files)
    assert intensity is not None
    assert (intensity.low, intensity.high) == pytest.approx((low, high), abs=1e-3 * (high - low))
    levels = [len(np.unique(decode(file, intensity=intensity).pixels)) for file in files]
    possible = min(256, high - low + 1) if "float" not in kind else 256
    assert min(levels) >= 0.7 * possible


def between_values(number: int, low: int, high: int) -> np.ndarray:
    return np.rint(low + picture(number) * (high - low)).astype(np.uint16)


def packed_tiff(values: np.ndarray) -> bytes:
    return tiff((packed_12(values), {**tiff_page(values)[1], 258: 12}))


def test_a_few_outliers_do_not_stretch_the_range(tmp_path: Path) -> None:
    def with_hot_pixels(number: int) -> bytes:
        values = between_values(number, 100, 700)
        values[number, 5] = 65535
        return png_of(values, 0)

    intensity = chosen(write_set(tmp_path, with_hot_pixels))
    assert (intensity.low, intensity.high) == (100, pytest.approx(700, abs=40))
    assert "without outliers" in intensity.reason


def test_a_rare_bright_class_is_not_clipped(tmp_path: Path) -> None:
    """One image of 60 is ten times as bright; its values still differ from each other."""
    top = {59: 9000}
    files = write_set(tmp_path, lambda n: png_of(between_values(n, 0, top.get(n, 900)), 0), count=60)
    assert len(np.unique(decode(files[59], intensity=chosen(files)).pixels)) > 100


def test_the_rule_is_one_for_all_images(tmp_path: Path) -> None:
    """A dark image stays darker than a bright one: no image is stretched by itself."""
    files = write_set(tmp_path, lambda n: png_of(between_values(n, 0, 1000 + 3000 * (n % 2)), 0))
    means = [decode(file, intensity=chosen(files)).pixels.mean() for file in files]
    assert max(means[::2]) < min(means[1::2])


def test_a_range_that_the_user_gives_wins(tmp_path: Path) -> None:
    files = write_set(tmp_path, between(0, 4000))
    intensity = chosen(files, intensity_range=(1000, 2000))
    assert (intensity.low, intensity.high, intensity.reason) == (1000, 2000, "as set")


def test_sets_of_8_bits_have_no_range_and_a_mixture_is_told(tmp_path: Path) -> None:
    shallow = write_set(tmp_path / "a", lambda n: saved((picture(n) * 255).astype(np.uint8)))
    assert chosen(shallow) is None
    assert chosen(shallow, intensity_range=(0, 9)) is None
    mixed = chosen([*shallow, *write_set(tmp_path / "b", between(0, 65535))])
    assert "12 of 24 files hold 8 bits" in mixed.reason
    assert decode(shallow[0], intensity=mixed).pixel_sha256 == decode(shallow[0]).pixel_sha256
    assert depth_remarks(["a", "b", "b"], [8, 16, 8]) == depth_remarks(["a"], [16]) == []
    assert "classes a hold 8-bit images and classes b deeper ones" in depth_remarks(["a", "b"], [8, 16])[0]


@pytest.mark.parametrize(
    ("train", "test", "told"), [(16, 8, "train 16, test 8"), (8, 16, "train 8, test 16"), (16, 16, ""), (16, None, "")]
)
def test_given_splits_of_other_depths_are_told_of(tmp_path: Path, train: int, test: int | None, told: str) -> None:
    entries = []
    for split, bits in (("train", train), ("test", test)) if test else (("train", train),):
        entries.append(Entry(f"{split}.png", "cat", split))
        values = picture(0) * (2**bits - 1)
        (tmp_path / entries[-1].path).write_bytes(saved(values.astype(np.uint8 if bits == 8 else np.uint16)))
    _, remarks = find_intensity(tmp_path, entries, DataSettings())
    assert [f"({told})" in remark for remark in remarks] == [True] * bool(told)


def test_a_range_for_files_of_8_bits_is_told_to_have_no_effect(tmp_path: Path) -> None:
    entries = [Entry(f"{n}.png", "cat") for n in range(2)]
    for entry in entries:
        (tmp_path / entry.path).write_bytes(saved((picture(0) * 255).astype(np.uint8)))
    assert find_intensity(tmp_path, entries, DataSettings()) == (None, [])
    chosen, remarks = find_intensity(tmp_path, entries, DataSettings(intensity_range=(0, 9)))
    assert chosen is None
    assert "has no effect" in remarks[0]


def test_files_of_12_and_16_bits_by_tag_share_their_white(tmp_path: Path) -> None:
    twelve = write_set(tmp_path / "a", lambda n: packed_tiff(between_values(n, 0, 4095)), extension="tif")
    sixteen = write_set(tmp_path / "b", lambda n: tiff_of(between_values(n, 0, 65535)), extension="tif")
    intensity = chosen(twelve + sixteen)
    for a, b in zip(twelve, sixteen, strict=True):
        difference = decode(a, intensity=intensity).pixels.astype(int) - decode(b, intensity=intensity).pixels
        assert np.abs(difference).max() <= 1


def test_floats_among_integers_in_other_units_are_refused_by_name(tmp_path: Path) -> None:
    integers = write_set(tmp_path / "a", between(0, 65535))
    floats = write_set(tmp_path / "b", between(0, 1, np.float32), count=4)
    intensity = chosen(integers + floats)
    assert decode(integers[0], intensity=intensity).status == "ok"
    refused = decode(floats[0], intensity=intensity)
    assert (refused.status, refused.pixels) == ("unsupported mode", None)
    assert "other units" in refused.note
    same_unit = write_set(tmp_path / "c", between(-900, 60000, np.float32), count=4)
    assert decode(same_unit[0], intensity=chosen(integers + same_unit)).status == "ok"


@pytest.mark.parametrize(("widths", "low", "high"), [((400, 400), -160, 240), ((400, 1500), -1024, 2000)])
def test_a_window_that_all_dicom_files_share_is_the_range(tmp_path: Path, widths: Any, low: int, high: int) -> None:
    pytest.importorskip("pydicom")

    def encode(number: int) -> bytes:
        values = between_values(number, 0, 3024)
        window = {"WindowCenter": 40.5, "WindowWidth": widths[number % 2] + 1}
        return dicom(values, RescaleSlope=1, RescaleIntercept=-1024, **window)

    intensity = chosen(write_set(tmp_path, encode, extension="dcm"))
    assert (intensity.low, intensity.high) == pytest.approx((low, high), abs=2)


def test_a_bounded_number_of_files_is_read_from_all_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, *_ = write_set(tmp_path, between(0, 65535), count=2)
    header = peek(file)
    read: list[Path] = []
    monkeypatch.setattr("diffaug.decoding.intensity_of_set.read_file", lambda path: read.append(path) or real(file))
    counts = {"rare": 3, "common": 5000}
    headers = {Path(folder) / f"{n}.png": header for folder, count in counts.items() for n in range(count)}
    first = choose_intensity(headers, DataSettings())
    assert len(read) == MOST_FILES
    assert sum(path.parent.name == "rare" for path in read) == 3
    sample = set(read)
    read.clear()
    assert choose_intensity(dict(reversed(headers.items())), DataSettings()) == first
    assert set(read) == sample


def real(file: Path) -> Any:
    from diffaug.decoding.reading import read_file

    return read_file(file)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (between_values(0, 0, 900), FLATTENED),
        (between_values(0, 0, 6500), ""),  # dark, but 26 levels
        (between_values(0, 0, 65535), ""),
        (np.full((8, 8), 700, np.uint16), ""),  # nothing to lose
        ((picture(0) > 0.5).astype(np.uint16), ""),
        (np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8), FLATTENED),
        (np.where(picture(0) < 0, -32768, picture(0) * 900).astype(np.int16), FLATTENED),
        (np.rint(60000 + picture(0) * 40000).astype(np.uint32), CLIPPED),
        (np.rint(70000 + picture(0) * 40000).astype(np.uint32), f"{FLATTENED}; {CLIPPED}"),
        (between_values(0, 0, 900)[..., None].repeat(3, axis=2), FLATTENED),
    ],
)
def test_what_the_range_of_a_set_loses_is_told_of_each_file(tmp_path: Path, values: np.ndarray, told: str) -> None:
    """Such as a test split or a class of another depth, and values that stand for missing ones."""
    file = tmp_path / "image.tif"
    file.write_bytes(tiff_of(values))
    assert decode(file, intensity=IntensityRange(0, 65535, "")).note == told


def test_damaged_files_do_not_matter(tmp_path: Path) -> None:
    files = write_set(tmp_path, between(0, 4000))
    whole = chosen(files)
    headers = {file: peek(file) for file in files}
    files[3].write_bytes(files[3].read_bytes()[:-60])
    assert choose_intensity(headers, DataSettings()).high == whole.high
    for file in files:
        file.unlink()
    assert choose_intensity(headers, DataSettings()).high == 65535


@pytest.mark.parametrize(("low", "high"), [(0, 65535), (0, 4095), (51241, 52181), (47, 1027), (0, 255), (-1024, 2000)])
@pytest.mark.parametrize("kinds", [("integer",), ("float",)])
def test_going_back_is_monotone_and_exact_to_half_a_gray_level(low: float, high: float, kinds: Any) -> None:
    intensity = IntensityRange(low, high, "", kinds=kinds)
    pixels = np.arange(256, dtype=np.uint8)
    scale, offset = intensity.stored
    back = offset + scale * intensity.to_source_depth(pixels).astype(float)
    assert (np.diff(back) > 0).all()
    np.testing.assert_array_equal(intensity.to_8_bit(back), pixels)
    assert np.abs((back - low) / (high - low) * 255 - pixels).max() <= 0.5
    assert (scale, offset) == (1, 0) or low < 0 or kinds == ("float",)
