"""Large JPEG 2000 files are decoded at a lower resolution, and what their header promises is bounded."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageFile

from diffaug.decoding import limits
from diffaug.decoding.decode import decode
from diffaug.decoding.formats import jpeg_2000
from diffaug.decoding.limits import MAX_MEMORY
from diffaug.decoding.object_masks import read_mask
from diffaug.decoding.result import RejectedError
from tests.decoding.odd_files import dicom, saved

SMOOTH = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)).resize((149, 121), 3)
)


def segment(marker: int, *content: bytes) -> bytes:
    return struct.pack(">HH", marker, 2 + sum(map(len, content))) + b"".join(content)


def stream(
    side: int, tile: int, block: int = 6, levels: int = 5, precincts: bytes = b"", of_tile: bytes = b""
) -> bytes:
    """A code stream of three components without any data."""
    size = struct.pack(">H8IH", 0, side, side, 0, 0, tile, tile, 0, 0, 3) + bytes([7, 1, 1]) * 3
    coding = bytes([bool(precincts), 0, 0, 1, 0, levels, block - 2, block - 2, 0, 1]) + precincts
    steps = b"\x40" + b"\x48" * (3 * levels + 1)
    head = b"\xff\x4f" + segment(0xFF51, size) + segment(0xFF52, coding) + segment(0xFF5C, steps)
    data = of_tile + b"\xff\x93" + bytes(64)
    return head + segment(0xFF90, struct.pack(">HIBB", 0, 12 + len(data), 0, 1)) + data + b"\xff\xd9"


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
@pytest.mark.parametrize("options", [{}, {"no_jp2": True}, {"tile_size": (64, 64)}, {"num_resolutions": 2}])
def test_a_large_image_is_decoded_smaller(tmp_path, monkeypatch, mode, options) -> None:
    image = Image.fromarray(SMOOTH[..., 0].astype(np.uint16) * 200 if mode == "I;16" else SMOOTH)
    file = tmp_path / "a.jp2"
    file.write_bytes(saved(image if mode == "I;16" else image.convert(mode), "JPEG2000", **options))
    whole = decode(file)
    monkeypatch.setattr(jpeg_2000, "MAX_MEMORY", 149 * 121 * 20 / 4)
    found = decode(file)
    assert (found.status, found.width, found.height, found.mode) == ("ok", 149, 121, whole.mode)
    assert found.pixels.size < whole.pixels.size and found.pixels.shape[0] in (61, 31, 16)
    same_size = np.asarray(
        Image.fromarray(whole.pixels.squeeze()).resize(found.pixels.shape[1::-1], Image.Resampling.BOX)
    )
    # The wavelets keep every second pixel, so what is left lies half a pixel beside the mean of two.
    assert np.abs(same_size.astype(int) - found.pixels.squeeze()).mean() < 8


@pytest.mark.parametrize(
    ("options", "levels"),
    [
        ({"tile_size": (64, 64)}, 5),
        ({"tile_size": (256, 256), "offset": (6, 0), "tile_offset": (0, 0)}, 0),
        ({"tile_size": (64, 64), "offset": (8, 16), "tile_offset": (8, 16)}, 0),
        ({"tile_size": (49, 64)}, 2),  # the last column of tiles has 2 px, 147 and 148
        ({"tile_size": (256, 40)}, 3),  # the last row has 1 px, 120
    ],
)
def test_no_level_is_left_out_that_pillow_cannot_decode_without(tmp_path, monkeypatch, options, levels) -> None:
    file = tmp_path / "a.jp2"
    file.write_bytes(saved(Image.fromarray(SMOOTH), "JPEG2000", **options))
    assert promised(file.read_bytes()).levels == levels
    image = Image.open(file)
    jpeg_2000.leave_out(image, promised(file.read_bytes()), levels)
    image.load()
    for module in (jpeg_2000, limits):
        monkeypatch.setattr(module, "MAX_MEMORY", 149 * 121 * 20 / 4**5)
    assert decode(file).status == "too large"


def test_sides_are_rounded_up_at_each_level() -> None:
    image = Image.open(io.BytesIO(saved(Image.fromarray(SMOOTH), "JPEG2000")))
    promise = jpeg_2000.promise_of(image, image.fp)
    jpeg_2000.leave_out(image, promise, 2)  # both sides are 1 above a multiple of 4
    image.load()
    assert (promise.size(2), image.size, promise.levels) == ((38, 31), (38, 31), 5)


def promised(content: bytes) -> jpeg_2000.Promise:
    return jpeg_2000.promise_of(Image.open(io.BytesIO(content)), io.BytesIO(content))


def test_blocks_and_tiles_are_counted() -> None:
    one = promised(stream(1024, 1024, levels=0))
    assert one.blocks * 1024**2 == pytest.approx(3 * (1024 / 64) ** 2)
    cut = promised(stream(1024, 1024, block=6, levels=1, precincts=bytes([0x44, 0x55])))
    assert cut.blocks * 1024**2 == pytest.approx(3 * (512**2 / 8**2 + 1024**2 / 16**2))
    assert promised(stream(1024, 100)).tiles == 11**2
    tiny = bytes([0, 0, 0, 1, 0, 3, 0, 0, 0, 1])
    in_tile = promised(stream(1024, 1024, of_tile=segment(0xFF52, tiny)))
    assert in_tile.levels == 3 and in_tile.blocks > 3 / 16
    of_one = promised(stream(1024, 1024, of_tile=segment(0xFF53, b"\2", tiny[:1], tiny[5:])))
    assert of_one == in_tile


@pytest.mark.parametrize("precincts", [b"\x11\x11", b"\0\x11"])
def test_the_least_precinct_is_one_sample(precincts) -> None:
    assert promised(stream(64, 64, levels=1, precincts=precincts)).blocks == 3 * (1 + 1 / 4)


def test_an_offset_is_no_part_of_the_size() -> None:
    assert jpeg_2000.Promise((6, 3, 155, 124), 1, 0, 0).size() == (149, 121)


def test_a_lower_resolution_is_that_of_pillow() -> None:
    content = saved(Image.fromarray(SMOOTH[:64, :32]), "JPEG2000")
    image, oracle = Image.open(io.BytesIO(content)), Image.open(io.BytesIO(content))
    jpeg_2000.leave_out(image, promised(content), 2)
    oracle.reduce = 2
    np.testing.assert_array_equal(np.asarray(image), np.asarray(oracle))
    assert image.size == (8, 16)


def test_all_segments_of_a_tile_are_read() -> None:
    coding = segment(0xFF52, bytes([1, 0, 0, 1, 0, 1, 4, 4, 0, 1]) + b"\x11\x11")
    found = promised(stream(64, 64, of_tile=segment(0xFF64, b"a comment") + coding))
    assert (found.levels, found.blocks) == (1, 3 * (1 + 1 / 4))


def box(kind: bytes, content: bytes, *, extended: bool) -> bytes:
    length = 8 + 8 * extended + len(content)
    return struct.pack(">I4s", 1 if extended else length, kind) + struct.pack(">Q", length) * extended + content


@pytest.mark.parametrize("extended", [False, True])
def test_a_code_stream_is_found_in_boxes_of_any_length(extended) -> None:
    content, image = stream(64, 32), Image.new("RGB", (64, 64))
    boxed = box(b"free", b"nothing", extended=extended) + box(b"jp2c", content, extended=extended)
    file = io.BytesIO(boxed)
    file.seek(5)
    assert jpeg_2000.promise_of(image, file) == promised(content)
    assert file.tell() == 5


def test_components_of_large_numbers_have_two_bytes() -> None:
    content = bytearray(stream(64, 64, of_tile=segment(0xFF53, b"\0\2\0", bytes([2, 4, 4, 0, 1]))))
    content[40:42] = struct.pack(">H", 257)
    found = jpeg_2000.promise_of(Image.new("RGB", (64, 64)), io.BytesIO(content))
    assert found.levels == 2


@pytest.mark.parametrize(
    ("content", "note", "size", "mode"),
    [
        (stream(64, 64)[:2] + segment(0xFF64, b"x") + stream(64, 64)[2:], "the size is missing", (32, 32), "RGB"),
        (stream(64, 64), "its header says two sizes", (32, 32), "RGB"),
        (struct.pack(">I4s", 4, b"free") + bytes(99), "there is no code stream", (0, 0), ""),
        (struct.pack(">I4s", 0, b"free") + bytes(99), "there is no code stream", (0, 0), ""),
    ],
)
def test_a_contradiction_is_named(content, note, size, mode) -> None:
    with pytest.raises(RejectedError) as raised:
        jpeg_2000.promise_of(Image.new("RGB", (32, 32)), io.BytesIO(content))
    found = raised.value.result
    assert (found.status, found.note, (found.width, found.height), found.mode) == ("truncated", note, size, mode)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (stream(3400, 3400, block=2), "too large"),
        (stream(3400, 3400, levels=1, precincts=b"\x11\x11"), "too large"),
        (stream(1020, 4), "too large"),
        (stream(40_000, 40_000, levels=1), "too large"),
        (stream(64, 64)[:-30], "truncated"),
        (stream(64, 64)[:99], "truncated"),
        (stream(64, 0), "truncated"),
    ],
)
def test_a_small_file_that_promises_much_is_refused_before_memory_is_taken(
    tmp_path, monkeypatch, content, status
) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    (tmp_path / "a.j2k").write_bytes(content)
    assert decode(tmp_path / "a.j2k").status == status


def test_a_header_of_two_sizes_is_refused(tmp_path) -> None:
    content = saved(Image.new("RGB", (64, 64)), "JPEG2000")
    place = content.index(b"ihdr") + 4
    (tmp_path / "a.jp2").write_bytes(content[:place] + struct.pack(">II", 32, 32) + content[place + 8 :])
    assert decode(tmp_path / "a.jp2").status == "truncated"


def test_a_mask_is_never_reduced(tmp_path, monkeypatch) -> None:
    (tmp_path / "a.jp2").write_bytes(saved(Image.fromarray(SMOOTH), "JPEG2000"))
    assert read_mask(tmp_path / "a.jp2").shape == (121, 149)
    content = stream(4000, 4000)
    (tmp_path / "b.j2k").write_bytes(content)
    assert promised(content).left_out(20) == 1 and MAX_MEMORY < 4000**2 * 20
    with pytest.raises(RejectedError, match="at most"):
        read_mask(tmp_path / "b.j2k")


def compressed_dicom(frame: bytes, syntax: str, side: int) -> bytes:
    """A DICOM file of one compressed frame."""
    import pydicom
    from pydicom.encaps import encapsulate

    dataset = pydicom.dcmread(io.BytesIO(dicom(np.zeros((side, side), np.uint8))))
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].is_undefined_length = True
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "syntax"), [("JPEG2000", "1.2.840.10008.1.2.4.90"), ("JPEG", "1.2.840.10008.1.2.4.50")]
)
def test_a_frame_of_dicom_is_bounded_too(tmp_path, monkeypatch, kind, syntax) -> None:
    pytest.importorskip("pydicom")
    file, frame = tmp_path / "a.dcm", saved(Image.new("L", (64, 64), 99), kind)
    file.write_bytes(compressed_dicom(frame, syntax, 64))
    assert decode(file).status == "ok" and (decode(file).pixels == 99).all()
    monkeypatch.setattr("pydicom.pixels.utils.pixel_array", lambda *_, **__: pytest.fail("decoded"))
    file.write_bytes(compressed_dicom(frame, syntax, 65))
    assert "another size" in decode(file).note
    if kind == "JPEG2000":
        file.write_bytes(compressed_dicom(stream(3400, 3400, levels=1, precincts=b"\x11\x11"), syntax, 3400))
        assert decode(file).status == "too large"
