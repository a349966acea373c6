"""Pictures are read from their files one by one or together, whole or reduced by area, and how a file becomes one."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffaug.data.reading.parts import Reader, Source, part_numbers, read_part, whole_parts, write_part
from diffaug.data.reading.pictures import MAX_AREA, Pictures, reduced, reduced_size
from diffaug.decoding.intensity import IntensityRange
from diffaug.files import storage


def test_pictures_of_one_shape_are_gathered_from_all_files() -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 4, 3), np.uint8)
    files = [images[:4].reshape(-1), images[4:].reshape(-1)]
    places = np.array([(number // 4, number % 4 * 36) for number in range(7)])
    pictures = Pictures(files, places, np.tile((3, 4, 3), (7, 1)))
    for order in ([0, 6, 3, 3, 5], [6], list(range(7))):
        np.testing.assert_array_equal(pictures.gather(np.array(order)), images[order])
        assert pictures.gather(np.array(order)).dtype == np.uint8
    for position, image in enumerate(images):
        np.testing.assert_array_equal(pictures[position], image)
    assert pictures.all_have((3, 4, 3)) and not pictures.all_have((4, 3, 3)) and len(pictures[2:5]) == 3
    mixed = Pictures.in_one_file(np.arange(20, dtype=np.uint8), np.array([(2, 3, 1), (2, 2, 3), (1, 2, 1)]))
    assert not mixed.all_have((2, 3, 1))
    assert [picture.reshape(-1)[0] for picture in mixed] == [0, 6, 18]
    assert mixed[1:].max_area == mixed.max_area and mixed.small().max_area == MAX_AREA


def test_a_single_picture_is_gathered_and_one_with_long_columns_is_reduced() -> None:
    values = np.arange(600 * 100, dtype=np.uint8)
    alone = Pictures.in_one_file(values, np.array([(600, 100, 1)]))
    np.testing.assert_array_equal(alone.gather(np.array([0, 0])), np.stack([values.reshape(600, 100, 1)] * 2))
    assert alone[0].shape == (600, 100, 1)
    assert alone.small()[0].shape == (*reduced_size(600, 100), 1)


def test_every_pixel_counts_in_a_mean_of_many() -> None:
    large = np.zeros((512, 512, 1), np.uint8)
    large[::4, ::4] = 160
    np.testing.assert_array_equal(reduced(large), np.full((128, 128, 1), 10))  # a sixteenth


def test_a_picture_is_reduced_by_the_mean_of_its_areas() -> None:
    large = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    means = large.reshape(128, 2, 128, 2, 3).mean(axis=(1, 3))
    small = reduced(large)
    assert small.shape == (128, 128, 3) and small.dtype == np.uint8
    assert np.abs(small - means).max() <= 0.51
    assert reduced(large[..., :1]).shape == (128, 128, 1)
    assert reduced(large, 256) is large and reduced(large, 200).shape == (200, 200, 3)
    shown = Pictures.in_one_file(large.reshape(-1), np.array([large.shape])).small()[0]
    np.testing.assert_array_equal(shown, small)


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((128, 128), 0, (128, 128)),
        ((129, 128), 0, (128, 127)),
        ((64, 1024), 0, (32, 512)),
        ((64, 1024), 48, (48, 768)),
        ((1, 10**6), 0, (1, MAX_AREA)),
        ((10**6, 1), 0, (MAX_AREA, 1)),
        ((2, 10**6), 1, (1, MAX_AREA)),
    ],
)
def test_sides_keep_their_proportions_within_the_area(size, side, expected) -> None:
    assert reduced_size(*size, side) == expected


def test_a_key_changes_with_whatever_changes_the_pictures(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    reader, depth = Reader(tmp_path), IntensityRange(1, 9, "why", 15, ("float",))
    others = [Reader(tmp_path / "a"), Reader(tmp_path, side=64), Reader(tmp_path, depth)]
    others += [Reader(tmp_path, IntensityRange(*rule)) for rule in ((1, 8, ""), (0, 9, ""), (1, 9, "", 14))]
    assert len({one.key for one in (reader, *others)}) == 7
    assert Reader(tmp_path / "link").key == reader.key
    assert (reader.rule, others[2].rule) == ((), (1, 9, 15, ("float",)))
    assert Reader(tmp_path, IntensityRange(1, 9, "another", 15, ("float",))).key == others[2].key


@pytest.mark.parametrize("threads", [False, True])
def test_a_part_reads_back_whole(tmp_path: Path, threads: bool) -> None:
    pages = [Image.fromarray(np.full((6, 5), 9 * number, np.uint8)) for number in range(3)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    (tmp_path / "text.png").write_text("no")
    sources = [Source("pages.tif", 2), Source("text.png"), Source("pages.tif")]
    write_part(Reader(tmp_path), sources, tmp_path / "parts", 7, threads=threads)
    found = read_part(tmp_path / "parts", 7)
    assert [(one.file, one.page, one.status) for one in found] == [
        ("pages.tif", 2, "ok"),
        ("text.png", 0, "not an image"),
        ("pages.tif", 0, "ok"),
    ]
    assert [one[-3:] for one in found] == [(6, 5, 1), (0, 0, 0), (6, 5, 1)]
    assert {one.sha256 for one in found[::2]} == {storage.sha256_file(tmp_path / "pages.tif")}
    content = (tmp_path / "parts" / "000007.pictures").read_bytes()
    assert content == bytes([18] * 30 + [0] * 30)
    assert list(whole_parts(tmp_path / "parts")) == [(7, found)] and part_numbers(tmp_path / "parts") == [7]
    for name in ("000007.pictures", "000007.json"):
        file = tmp_path / "parts" / name
        whole = file.read_bytes()
        file.write_bytes(
            whole.replace(b"\x12", b"\x13", 1) if name.endswith("s") else whole.replace(b"text", b"next", 1)
        )
        assert list(whole_parts(tmp_path / "parts")) == []
        file.write_bytes(whole)
