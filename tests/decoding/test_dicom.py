"""Values, units, windows and refusals of DICOM files, whose frames can have their own."""

import io
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from diffaug.decoding import limits
from diffaug.decoding.result import RejectedError, Samples
from tests.decoding.odd_files import COLOR, RAMP_8, RAMP_16, H, W, dicom, saved
from tests.decoding.test_jpeg_2000 import compressed_dicom

pydicom = pytest.importorskip("pydicom")
from diffaug.decoding.formats.dicom import read_header, read_samples  # noqa: E402

TWO = np.stack([RAMP_8, RAMP_8[::-1]])
MPEG_2, JPEG = "1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.50"


def item(**attributes: Any) -> Any:
    dataset = pydicom.Dataset()
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


def group(name: str, **attributes: Any) -> Any:
    return item(**{name: [item(**attributes)]})


def read(values: np.ndarray, *arguments: Any, page: int = 0, **attributes: Any) -> Samples:
    return read_samples(io.BytesIO(dicom(values, *arguments, **attributes)), page)


def refusal(content: bytes, page: int = 0) -> tuple[Any, ...]:
    with pytest.raises(RejectedError) as raised:
        read_samples(io.BytesIO(content), page)
    found = raised.value.result
    return found.status, found.note, (found.width, found.height), found.mode


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize(
    ("values", "attributes", "page", "status", "note"),
    [
        (RAMP_8, {}, 1, "truncated", "there is no frame 1"),
        (TWO, {}, 2, "truncated", "there is no frame 2"),
        (RAMP_8, {"RescaleSlope": "1e300"}, 0, "unsupported mode", "its values contain NaN or infinity"),
    ],
)
def test_a_refusal_names_reason_size_and_kind(values, attributes, page, status, note) -> None:
    assert refusal(dicom(values, **attributes), page) == (status, note, (W, H), "MONOCHROME2")


def test_a_deflated_file_is_refused() -> None:
    note = "deflated DICOM: decompress it, such as with dcmconv"
    assert refusal(dicom(RAMP_8, deflated=True)) == ("unsupported format", note, (0, 0), "")


def test_what_nothing_decompresses_is_named() -> None:
    status, note, *size_and_mode = refusal(compressed_dicom(b"\0\0", MPEG_2, 6))
    assert (status, size_and_mode) == ("unsupported format", [(6, 6), "MONOCHROME2"])
    assert note.startswith("DICOM compressed as MPEG2 Main") and "gdcmconv" in note


def test_what_a_decoder_does_not_support_is_named(monkeypatch) -> None:
    monkeypatch.setattr("pydicom.pixels.utils.pixel_array", Mock(side_effect=RuntimeError("it does not support this")))
    content = compressed_dicom(saved(RAMP_8[:5], "JPEG"), JPEG, 5)
    assert refusal(content)[1].startswith("DICOM compressed as JPEG Baseline")


def test_a_frame_of_another_size_is_refused() -> None:
    note = "a frame has another size than the file says"
    assert refusal(compressed_dicom(saved(RAMP_8, "JPEG"), JPEG, 6)) == ("truncated", note, (6, 6), "L")


def test_colors_take_three_times_the_memory(monkeypatch) -> None:
    monkeypatch.setattr(limits, "MAX_MEMORY", 20 * H * W)
    assert read(RAMP_8).values.shape == (H, W, 1)
    assert refusal(dicom(COLOR, "RGB"))[0] == "too large"


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_gives_the_upper_8_bits_of_its_colors(bits) -> None:
    random = np.random.default_rng(0)
    tables = random.integers(0, 2**bits, (3, 256)).astype(f"<u{bits // 8}")
    names = ("Red", "Green", "Blue")
    attributes = {f"{name}PaletteColorLookupTableDescriptor": [256, 0, bits] for name in names}
    attributes |= {f"{n}PaletteColorLookupTableData": table.tobytes() for n, table in zip(names, tables, strict=True)}
    found = read(RAMP_8, "PALETTE COLOR", **attributes)
    np.testing.assert_array_equal(found.values, (tables >> bits - 8).T[RAMP_8])
    assert found.values.dtype == np.uint8


@pytest.mark.parametrize(
    ("slope", "intercept", "kind"), [("2", "-5", np.int32), ("0.5", "0", np.float32), ("1", "0.5", np.float32)]
)
def test_units_are_whole_numbers_where_their_rule_is(slope, intercept, kind) -> None:
    found = read(RAMP_16, RescaleSlope=slope, RescaleIntercept=intercept)
    np.testing.assert_array_equal(found.values[..., 0], RAMP_16 * float(slope) + float(intercept))
    assert found.values.dtype == kind and found.white == 0


def test_a_table_gives_the_units() -> None:
    table = np.random.default_rng(0).integers(0, 2**16, 256).astype(np.uint16)
    lut = item(LUTDescriptor=[256, 0, 16], LUTData=table.tobytes(), ModalityLUTType="US")
    found = read(RAMP_8, ModalityLUTSequence=[lut])
    np.testing.assert_array_equal(found.values[..., 0], table[RAMP_8])


@pytest.mark.parametrize(("kind", "takes"), [("MONOCHROME1", 55_000), ("MONOCHROME2", 9)])
def test_padding_becomes_black(kind, takes) -> None:
    values = np.full((H, W), 9, np.uint16)
    values[1], values[2], values[3] = 55_000, 60_000, 60_010
    found = read(values, kind, PixelPaddingValue=60_010, PixelPaddingRangeLimit=60_000).values[..., 0]
    np.testing.assert_array_equal(found, np.where(values >= 60_000, takes, values))
    found = read(values, kind, PixelPaddingValue=60_010).values[..., 0]
    np.testing.assert_array_equal(found, np.where(values == 60_010, max(takes, 9) if takes == 9 else 60_000, values))


# The first is the example of PS3.3 C.11.2.1.2.1.
@pytest.mark.parametrize(
    ("center", "width", "window"),
    [
        (2048, 4096, (0, 4095)),
        ([40, 400], [80, 2000], (0, 79)),
        (40, 1, None),
        (None, 80, None),
        (40, None, None),
    ],
)
def test_the_first_window_is_found(center, width, window) -> None:
    assert read(RAMP_16, WindowCenter=center, WindowWidth=width).window == window


def test_frames_have_their_own_units_and_windows() -> None:
    transformed, windowed = "PixelValueTransformationSequence", "FrameVOILUTSequence"
    own = [item(), group(transformed, RescaleSlope=3, RescaleIntercept=1)]
    shared = [group(windowed, WindowCenter=2048, WindowWidth=4096)]
    content = dicom(TWO, PerFrameFunctionalGroupsSequence=own, SharedFunctionalGroupsSequence=shared)
    first, second = (read_samples(io.BytesIO(content), page) for page in range(2))
    np.testing.assert_array_equal(first.values[..., 0], TWO[0])
    np.testing.assert_array_equal(second.values[..., 0], TWO[1].astype(int) * 3 + 1)
    assert first.window == second.window == (0, 4095)
    assert (first.notes, second.notes) == (("first of 2 frames",), ())
    header = read_header(io.BytesIO(content))
    assert (header.pages, header.bits) == (2, 8)


@pytest.mark.parametrize(
    ("values", "stored", "bits"), [(RAMP_8, 8, 8), (RAMP_8, 4, 8), (RAMP_16, 9, 9), (RAMP_16, 12, 12)]
)
def test_a_header_says_how_deep_values_are(values, stored, bits) -> None:
    assert read_header(io.BytesIO(dicom(values, BitsStored=stored))).bits == bits
    assert read(RAMP_8).notes == ()
    assert read_header(io.BytesIO(dicom(values, BitsStored=stored, RescaleSlope=2))).bits == max(9, bits)
