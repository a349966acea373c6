"""What is known of a file before it is decoded: its pages, its depth, its memory, and why it is refused."""

import io
import struct
from itertools import product
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffaug.decoding.formats import jpeg_2000, pillow_files
from diffaug.decoding.formats.orientation import orientation_of
from diffaug.decoding.formats.pillow_files import bits_of, open_page, reduce_while_decoding, scale_of
from diffaug.decoding.result import RejectedError
from tests.decoding.odd_files import COLOR, COLOR_16, RAMP_8, RAMP_16, png_of, saved, tiff, tiff_of, tiff_page
from tests.decoding.test_jpeg_2000 import stream

GRAY_TAGS = tiff_page(RAMP_8)[1]
SECOND = [Image.fromarray(255 - RAMP_8)]


def refusal(call: Any, *arguments: Any, **options: Any) -> tuple[Any, ...]:
    with pytest.raises(RejectedError) as raised:
        call(*arguments, **options)
    found = raised.value.result
    return found.status, found.note, (found.width, found.height), found.mode


@pytest.mark.parametrize(
    ("content", "page", "status", "note"),
    [
        (saved(RAMP_8), 1, "truncated", "there is no page 1"),
        (tiff_of(RAMP_8, t50706=[1, 4, 0, 0]), 0, "unsupported format", "a camera's raw"),
        (tiff_of(RAMP_8, t270=b"Aperio"), 0, "unsupported format", "a whole-slide image"),
        (tiff_of(RAMP_8, t65420=1), 0, "unsupported format", "a whole-slide image"),
        (tiff_of(RAMP_8, t278=2), 0, "truncated", "2 of its strips are missing"),
        (tiff((b"", GRAY_TAGS | {322: 2048, 323: 2064})), 0, "truncated", "tiles of 2048 x 2064 px are larger"),
        (tiff_of(COLOR, t284=2), 0, "truncated", "2 of its strips are missing"),
        (tiff(tiff_page(RAMP_8), tiff_page(RAMP_8, t278=2)), 1, "truncated", "2 of its strips are missing"),
    ],
)
def test_a_refusal_names_reason_size_and_mode(content, page, status, note) -> None:
    mode = Image.open(io.BytesIO(content)).mode
    found = refusal(open_page, io.BytesIO(content), page)
    assert found == (status, found[1], (5, 6), mode) and found[1].startswith(note)


def test_a_mode_that_is_not_read_is_refused_by_name() -> None:
    found = refusal(pillow_files.require_decodable, Image.new("HSV", (5, 6)), io.BytesIO())
    assert found == ("unsupported mode", "mode HSV is not read", (5, 6), "HSV")


@pytest.mark.parametrize(
    "content",
    [
        tiff((RAMP_16.tobytes(), {k: v for k, v in tiff_page(RAMP_16)[1].items() if k != 277} | {284: 2})),
        tiff_of(COLOR_16),
        tiff((b"", GRAY_TAGS | {322: 2048, 323: 2048})),
        tiff((b"", GRAY_TAGS | {256: 2048, 257: 2048, 322: 4096, 323: 4096})),
        tiff(([b"", b""], GRAY_TAGS | {322: 16, 323: 4})),
    ],
    ids=["one plane of one channel", "16 bit color", "4 Mpx tile", "tile of 4 images", "wide tiles"],
)
def test_odd_but_whole_tiff_files_are_opened(content) -> None:
    assert open_page(io.BytesIO(content))[1] == [0]


def test_a_tile_may_be_as_large_as_four_images_but_not_as_five() -> None:
    content = tiff((b"", GRAY_TAGS | {256: 2048, 257: 2048, 322: 4096, 323: 4112}))
    assert refusal(open_page, io.BytesIO(content))[0] == "truncated"


@pytest.mark.parametrize(
    ("tags", "planes", "missing"),
    [
        ({278: 1, 273: [8] * 6}, 1, 0),
        ({278: 1, 273: [8] * 5}, 1, 1),
        ({278: 4, 273: [8] * 5}, 3, 1),
        ({273: [8]}, 1, 0),
        ({}, 1, 1),
        ({322: 2, 323: 6, 324: [8] * 2}, 1, 1),
        ({322: 1, 324: [8] * 4}, 1, 1),
        ({323: 1, 324: [8] * 4}, 1, 2),
        ({278: 0, 273: [8] * 6}, 1, 0),
    ],
)
def test_missing_strips_and_tiles_are_counted(tags, planes, missing) -> None:
    assert pillow_files._parts_missing({256: 5, 257: 6} | tags, planes) == missing


@pytest.mark.parametrize(
    ("content", "frames"),
    [
        (saved(RAMP_8, "MPO", save_all=True, append_images=SECOND), [0]),
        (saved(RAMP_8, save_all=True, append_images=SECOND), [0, 1]),
        (saved(RAMP_8, "GIF", save_all=True, append_images=SECOND), [0, 1]),
        (tiff(tiff_page(RAMP_8, t254=1), tiff_page(RAMP_8), tiff_page(RAMP_8, t255=2), tiff_page(RAMP_8)), [1, 3]),
        (tiff_of(RAMP_8, t254=1), [0]),
    ],
    ids=["MPO", "PNG", "GIF", "TIFF", "only a thumbnail"],
)
def test_pages_are_neither_previews_nor_thumbnails(content, frames) -> None:
    image, found = open_page(io.BytesIO(content), len(frames) - 1)
    assert found == frames and image.tell() == frames[-1]


@pytest.mark.parametrize(("of_all", "of_frame"), list(product([0, 7, 0x80, 0x87], repeat=2)))
def test_frames_of_a_gif_are_counted_across_tables_of_colors(of_all, of_frame) -> None:
    table = {0: b"", 7: b"", 0x80: b";" * 6, 0x87: b";" * 768}
    extension = b"!\xf9\4\0\0\0\0\0"
    frame = b"," + struct.pack("<4HB", 0, 0, 5, 6, of_frame) + table[of_frame] + b"\2\3abc\1d\0"
    content = b"GIF89a" + struct.pack("<HHBBB", 5, 6, of_all, 0, 0) + table[of_all] + (extension + frame) * 3
    file = io.BytesIO(content + b";,,,,")
    file.seek(9)
    assert (pillow_files._gif_frames(file), file.tell()) == (3, 9)
    assert pillow_files._gif_frames(io.BytesIO(content[: len(content) - len(frame) + 5])) == 3


def with_format(mode: str, file_format: str | None) -> Image.Image:
    image = Image.new(mode, (5, 6))
    image.format = file_format
    return image


@pytest.mark.parametrize(
    ("image", "bits"),
    [
        (with_format("I", "PNG"), 16),  # as Pillow before 11 names it
        (with_format("I", None), 32),
        (with_format("F", None), 32),
        (with_format("I;16", None), 16),
        (with_format("RGB", "PNG"), 8),
        (Image.open(io.BytesIO(tiff_of(RAMP_16))), 16),
        (Image.open(io.BytesIO(tiff_of(RAMP_8.view(np.int8)))), 16),
        (Image.open(io.BytesIO(png_of(COLOR_16, 2))), 16),
    ],
)
def test_bits_are_those_of_a_sample(image, bits) -> None:
    assert bits_of(image) == bits


def test_a_scale_is_the_least_that_makes_an_image_small(monkeypatch) -> None:
    monkeypatch.setattr(pillow_files, "LARGE", 100)
    sides = {(10, 10): 1, (10, 11): 2, (20, 20): 2, (20, 21): 4, (40, 40): 4, (40, 41): 8, (99, 99): 8}
    assert {size: scale_of(Image.new("L", size)) for size in sides} == sides


def bytes_per_pixel(content: bytes) -> float:
    asked = list[float]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pillow_files, "require_size", lambda size, count, mode: asked.append(count))
        open_page(io.BytesIO(content))
    return asked[0]


@pytest.mark.parametrize("pixels", [RAMP_8, COLOR])
def test_a_progressive_jpeg_takes_two_bytes_more_for_each_coefficient(monkeypatch, pixels) -> None:
    plain, progressive = saved(pixels, "JPEG"), saved(pixels, "JPEG", progressive=True)
    for large in (29, 30):
        monkeypatch.setattr(pillow_files, "LARGE", large)
        more = bytes_per_pixel(progressive) - bytes_per_pixel(plain)
        assert more == pytest.approx(2 * pixels[0, 0].size)
    whole = bytes_per_pixel(plain)
    monkeypatch.setattr(pillow_files, "LARGE", 29)
    assert whole > 4 * bytes_per_pixel(plain)  # the lesser part is decoded


def test_deep_colors_take_a_byte_more_for_each_sample() -> None:
    assert bytes_per_pixel(png_of(COLOR_16, 2)) - bytes_per_pixel(saved(COLOR)) == 3


def test_a_jpeg_2000_may_be_reduced_unless_it_must_be_whole() -> None:
    content = stream(4000, 4000)
    assert open_page(io.BytesIO(content))[0].size == (4000, 4000)
    assert refusal(open_page, io.BytesIO(content), whole=True)[0] == "too large"


def test_as_many_levels_are_left_out_as_memory_asks_for(monkeypatch) -> None:
    file = io.BytesIO(saved(Image.new("RGB", (64, 32)), "JPEG2000"))
    for of_pixel, size in ((99, (64, 32)), (14, (32, 16))):
        monkeypatch.setattr(jpeg_2000, "MAX_MEMORY", 64 * 32 * of_pixel)
        image = Image.open(file)
        reduce_while_decoding(image, file)
        assert image.size == size


def test_scans_of_a_progressive_jpeg_are_bounded(monkeypatch) -> None:
    content = saved(COLOR, "JPEG", progressive=True)
    file, scans = io.BytesIO(content), content.count(b"\xff\xda")
    image = Image.open(file)
    monkeypatch.setattr(pillow_files, "MAX_SCANS", scans)
    reduce_while_decoding(image, file)
    monkeypatch.setattr(pillow_files, "MAX_SCANS", scans - 1)
    note = f"a JPEG of more than {scans - 1} scans"
    assert refusal(reduce_while_decoding, image, file) == ("too large", note, (5, 6), "RGB")


def directories(order: str, *pages: list[tuple[int, int]], size: int, big: bool) -> io.BytesIO:
    """A TIFF of `size` bytes of directories, whose entries have a kind and a number of values."""
    count, link, entry = ("Q", "Q", "HHQ8x") if big else ("H", "I", "HHI4x")
    content = b"II" if order == "<" else b"MM"
    content += struct.pack(f"{order}HHHQ", 43, 8, 0, 16) if big else struct.pack(f"{order}HI", 42, 8)
    for number, page in enumerate(pages, start=1):
        content += struct.pack(f"{order}{count}", len(page))
        content += b"".join(struct.pack(f"{order}{entry}", 40_000, *kind_and_values) for kind_and_values in page)
        after = len(content) + struct.calcsize(f"{order}{link}")
        content += struct.pack(f"{order}{link}", after if number < len(pages) else 0)
    return io.BytesIO(content.ljust(size, b"\0"))


@pytest.mark.parametrize(("order", "big"), list(product("<>", [False, True])))
def test_tags_refer_to_no_more_bytes_than_a_file_has(order, big) -> None:
    fits = 8 if big else 4  # bytes of a value that stands in the entry itself
    for pages in (
        [[(2, 400)]],
        [[(3, 200)]],
        [[(5, 25), (12, 25)]],
        [[(99, 400)]],
        [[(1, 400 - fits - 1), (7, fits + 1)]],
        [[(1, 400), (7, fits)]],
        [[(4, 50)], [(4, 50)]],
    ):
        file = directories(order, *pages, size=400, big=big)
        pillow_files.require_small_tags(file)
        assert file.tell() == 0
        found = refusal(pillow_files.require_small_tags, directories(order, *pages, size=399, big=big))
        assert found == ("truncated", "its tags refer to more bytes than the file holds", (0, 0), "")


@pytest.mark.parametrize(("name", "bound"), [("MOST_ENTRIES", 4), ("MOST_DIRECTORIES", 2)])
def test_the_search_for_tags_is_bounded(monkeypatch, name, bound) -> None:
    pages = [[(1, 1)] * 2, [(1, 1)] * 2, [(1, 9999)]]
    monkeypatch.setattr(pillow_files, name, bound)
    pillow_files.require_small_tags(directories("<", *pages, size=300, big=False))
    monkeypatch.setattr(pillow_files, name, bound + 1)
    assert refusal(pillow_files.require_small_tags, directories("<", *pages, size=300, big=False))


@pytest.mark.parametrize(
    "content", [b"II*\0", b"II*\0\xff\xff\0\0".ljust(16, b"\0"), b"MM\0*\0\0\0\x0f".ljust(16, b"\1"), b"\x89PNG" * 9]
)
def test_what_is_cut_or_no_tiff_has_no_tags(content) -> None:
    file = io.BytesIO(content)
    pillow_files.require_small_tags(file)
    assert file.tell() == 0


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    "exif",
    [{270: "a picture"}, {274: 0}, {274: 9}, {274: 1}, None, b"Exif\0\0no tags at all", b"Exif\0\0MM\0*\0\0\0\x08\xff"],
)
def test_without_a_known_orientation_an_image_is_upright(file_format, exif) -> None:
    known = Image.Exif()
    known.update(exif if isinstance(exif, dict) else {})
    options = {} if exif is None else {"exif": exif if isinstance(exif, bytes) else known}
    assert orientation_of(Image.open(io.BytesIO(saved(RAMP_8, file_format, **options)))) == 1
