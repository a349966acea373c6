import errno
import io
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from diffaug.decoding import result
from diffaug.decoding.formats import pillow_files, reduced
from diffaug.decoding.object_masks import read_mask, turned_as
from diffaug.decoding.result import RejectedError
from tests.decoding.odd_files import png_of

OBJECT = np.zeros((12, 20), bool)
OBJECT[3:7, 5:16] = True
LEVELS = OBJECT.astype(np.uint8)


def palette() -> Image.Image:
    image = Image.fromarray(LEVELS * 3, "P")
    image.putpalette([0, 0, 0, 9, 9, 9, 9, 9, 9, 128, 0, 0])
    return image


def transparent(ink: int) -> Image.Image:
    return Image.fromarray(np.dstack([LEVELS * ink] * 3 + [LEVELS * 255]))


MASKS = {
    "1 bit": Image.fromarray(OBJECT),
    "0 and 255": Image.fromarray(LEVELS * 255),
    "0 and 1": Image.fromarray(LEVELS),
    "blue alone": Image.fromarray(np.dstack([LEVELS * 0, LEVELS * 0, LEVELS * 3])),
    "palette": palette(),
    "16 bit, 0 and 1": Image.fromarray(LEVELS.astype(np.uint16)),
    "16 bit, 0 and 256": Image.fromarray(LEVELS.astype(np.uint16) * 256),
    "white on transparent": transparent(255),
    "black on transparent": transparent(0),
    "gray with alpha": Image.fromarray(np.dstack([LEVELS * 0 + 9, LEVELS * 255]), "LA"),
    "white on opaque black": Image.fromarray(np.dstack([LEVELS * 255] * 3 + [LEVELS * 0 + 255])),
    "two objects": Image.fromarray(LEVELS * np.where(np.arange(20) < 10, 1, 255).astype(np.uint8)),
}


@pytest.mark.parametrize("name", MASKS)
def test_whatever_is_not_0_is_the_object(tmp_path, name) -> None:
    MASKS[name].save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), OBJECT)


def test_strips_of_a_mask_make_up_the_whole(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(result, "STRIP_BYTES", 5 * 16 * OBJECT.shape[1])
    for name in ("palette", "white on transparent", "black on transparent"):
        MASKS[name].save(tmp_path / "mask.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), OBJECT)


def test_a_large_mask_is_read_in_bands(tmp_path, monkeypatch) -> None:
    """Of 8 rows; here two bands, then turned."""
    monkeypatch.setattr(pillow_files, "LARGE", 15)
    monkeypatch.setattr(reduced, "STRIP_BYTES", 1)
    exif = Image.Exif()
    exif[0x0112] = 6  # the stored pixels are to be turned clockwise
    for name in ("blue alone", "white on transparent", "16 bit, 0 and 256"):
        MASKS[name].save(tmp_path / "mask.png", exif=exif)
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), np.rot90(OBJECT, -1))


@pytest.mark.parametrize("suffix", ["png", "pgm", "jpg"])
def test_a_mask_may_be_empty(tmp_path, suffix) -> None:
    Image.fromarray(LEVELS * 0).save(tmp_path / f"mask.{suffix}")
    assert not read_mask(tmp_path / f"mask.{suffix}").any()


@pytest.mark.parametrize(("ink", "alpha"), [(OBJECT * 0 + 9, OBJECT), (OBJECT * 300, OBJECT | True)])
def test_transparent_pixels_of_16_bits_count_as_0(tmp_path, ink, alpha) -> None:
    (tmp_path / "mask.png").write_bytes(png_of(np.dstack([ink, ink, ink, alpha * 65535]), 6))
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), OBJECT)


@pytest.mark.parametrize(
    ("error", "status", "note"),
    [
        (OSError("broken\n  data"), "truncated", "broken data"),
        (SyntaxError(""), "truncated", "damaged"),
        (MemoryError(), "too large", "more pixels than can be decoded safely"),
    ],
)
def test_what_a_parser_raises_becomes_a_reason(tmp_path, monkeypatch, error, status, note) -> None:
    Image.fromarray(LEVELS).save(tmp_path / "mask.png")
    monkeypatch.setattr(PngImageFile, "load", Mock(side_effect=error))
    with pytest.raises(RejectedError) as caught:
        read_mask(tmp_path / "mask.png")
    assert (caught.value.result.status, caught.value.result.note) == (status, note)


def test_what_the_machine_lacks_is_not_blamed_on_the_mask(tmp_path, monkeypatch) -> None:
    Image.fromarray(LEVELS).save(tmp_path / "mask.png")
    monkeypatch.setattr(PngImageFile, "load", Mock(side_effect=OSError(errno.EMFILE, "too many open files")))
    with pytest.raises(OSError, match="too many"):
        read_mask(tmp_path / "mask.png")


@pytest.mark.parametrize("kind", ["tif", "bmp", "gif", "pgm"])
def test_any_format_of_images_holds_masks(tmp_path, kind) -> None:
    Image.fromarray(LEVELS * 255).save(tmp_path / f"mask.{kind}")
    np.testing.assert_array_equal(read_mask(tmp_path / f"mask.{kind}"), OBJECT)


def test_what_compression_leaves_around_the_object_is_not_part_of_it(tmp_path) -> None:
    large = np.kron(OBJECT, np.ones((8, 8), bool))
    Image.fromarray(large.astype(np.uint8) * 255).save(tmp_path / "mask.jpg", quality=40)
    assert (np.asarray(Image.open(tmp_path / "mask.jpg")) > 0).sum() > 1.05 * large.sum()
    assert (read_mask(tmp_path / "mask.jpg") != large).mean() < 0.002


def test_a_mask_is_turned_by_its_own_orientation_or_by_that_of_its_image(tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the stored pixels are to be turned clockwise
    Image.fromarray(LEVELS * 255).save(tmp_path / "mask.png", exif=exif)
    upright = np.rot90(OBJECT, -1)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), upright)
    np.testing.assert_array_equal(turned_as(tmp_path / "mask.png", OBJECT), upright)


def test_a_damaged_mask_is_rejected_with_a_reason(tmp_path, encoded) -> None:
    content = encoded(LEVELS * 255)
    for broken in (content[: len(content) // 2], b"text", b""):
        (tmp_path / "mask.png").write_bytes(broken)
        with pytest.raises(RejectedError) as caught:
            read_mask(tmp_path / "mask.png")
        assert caught.value.result.note
    assert isinstance(read_mask(_whole(tmp_path, content)), np.ndarray)


def _whole(folder, content: bytes):
    Image.open(io.BytesIO(content)).save(folder / "whole.png")
    return folder / "whole.png"
