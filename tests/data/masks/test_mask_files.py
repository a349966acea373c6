"""Masks one by one: what is read of a file, what is refused, and what a catalog keeps of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffaug.configuration.settings import DataSettings
from diffaug.data.masks.reading import INDEX, PIXELS, MaskReader, MaskSource, load_masks, mask_files, write_masks
from diffaug.errors import DamagedError, DataError
from diffaug.files import storage

SIZE = (6, 9)
INSIDE = np.zeros(SIZE, bool)
INSIDE[2:4, 3:7] = True
OTHERS = [((2, *SIZE), np.uint8), ((1, *SIZE), np.bool_), ((1, 9, 6), np.uint8)]


@pytest.fixture
def reader(tmp_path: Path) -> MaskReader:
    return MaskReader(tmp_path, SIZE, "squeeze")


def source(root: Path, mask: np.ndarray, name: str = "a", **options: object) -> MaskSource:
    """An image and its mask."""
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(root / f"{name}.png", **options)
    Image.fromarray(mask.astype(np.uint8) * 255).save(root / f"{name}_mask.png")
    return MaskSource(f"{name}.png", f"{name}_mask.png", *SIZE, "cat")


def refusal_of(reader: MaskReader, one: MaskSource) -> tuple[str, str]:
    with pytest.raises(DataError) as caught:
        reader.read(one)
    assert caught.value.where == str(reader.root / one.file)
    return caught.value.what, caught.value.fix


def test_a_mask_is_read_at_its_size_or_refused_with_a_way_on(reader, tmp_path) -> None:
    one = source(tmp_path, INSIDE)
    np.testing.assert_array_equal(reader.read(one), INSIDE)
    what, fix = refusal_of(reader, one._replace(height=7))
    assert what == "the mask has 9 x 6 px, but its image, a.png, has 9 x 7 px"
    assert fix == "save it at the size of the image, or use no masks: --masks none"
    what, fix = refusal_of(reader, one._replace(height=9, width=6))
    assert what == "the mask has 9 x 6 px, but its image, a.png, has 6 x 9 px"
    (tmp_path / "a_mask.png").write_bytes(b"")
    what, fix = refusal_of(reader, one)
    assert what.startswith("a mask can't be read: ") and len(what) > 30 and "None" not in what
    assert fix == "save it anew, or use no masks: --masks none"


def test_a_mask_drawn_on_pixels_that_exif_turns_is_turned_with_them(reader, tmp_path) -> None:
    exif = Image.Exif()
    exif[274] = 8  # the image is upright after a turn to the left
    one = source(tmp_path, INSIDE, exif=exif)._replace(height=SIZE[1], width=SIZE[0])
    np.testing.assert_array_equal(reader.read(one), np.rot90(INSIDE))


def test_masks_are_written_in_order_with_the_hash_of_each_file(reader, tmp_path) -> None:
    masks = [INSIDE, INSIDE[::-1], np.roll(INSIDE, 1)]
    sources = [source(tmp_path, mask, name) for name, mask in zip("cab", masks, strict=True)]
    sources.append(sources[0]._replace(image="again.png"))
    (tmp_path / "catalog").mkdir()
    found = write_masks(tmp_path / "catalog", tmp_path, sources, DataSettings(), reader)
    assert found.images == ("c.png", "a.png", "b.png", "again.png")
    assert found.files == ("c_mask.png", "a_mask.png", "b_mask.png")
    assert found.sha256 == tuple(storage.sha256_file(tmp_path / name) for name in found.files)
    assert mask_files(tmp_path / "catalog") == found
    loaded = load_masks(tmp_path / "catalog", SIZE)
    assert loaded.ids == found.images and loaded.pixels.dtype == bool
    np.testing.assert_array_equal(loaded.pixels, [*masks, INSIDE])
    inverted = write_masks(tmp_path / "catalog", tmp_path, sources, DataSettings(invert_masks=True), reader)
    assert inverted == found
    np.testing.assert_array_equal(load_masks(tmp_path / "catalog", SIZE).pixels, ~np.array([*masks, INSIDE]))


def test_no_masks_leave_nothing(reader, tmp_path) -> None:
    assert write_masks(tmp_path, tmp_path, [], DataSettings(), reader) == mask_files(tmp_path)
    assert not list(tmp_path.iterdir())
    assert load_masks(tmp_path, SIZE).pixels.shape == (0, *SIZE)


@pytest.mark.parametrize(
    ("ground", "objects", "empty", "is_refused"), [(2, 1, 0, True), (1, 1, 0, False), (1, 1, 9, False), (1, 0, 9, True)]
)
def test_most_of_the_masks_that_show_something_decide_whether_they_look_inverted(
    reader, tmp_path, ground, objects, empty, is_refused
) -> None:
    masks = [~INSIDE] * ground + [INSIDE] * objects + [np.zeros(SIZE, bool)] * empty
    sources = [source(tmp_path, mask, f"{number:02}") for number, mask in enumerate(masks)]
    if not is_refused:
        assert len(write_masks(tmp_path, tmp_path, sources, DataSettings(), reader).images) == len(masks)
        return
    with pytest.raises(DataError) as caught:
        write_masks(tmp_path, tmp_path, sources, DataSettings(), reader)
    assert caught.value.what.startswith(f"{ground} of {ground + objects} masks cover more than half")
    assert caught.value.where == str(tmp_path)
    assert caught.value.fix == (
        "add --set data.invert_masks=true if the object is 0, =false if it is not; or use no masks: --masks none"
    )
    for wanted in (True, False):
        write_masks(tmp_path, tmp_path, sources, DataSettings(invert_masks=wanted), reader)
        assert load_masks(tmp_path, SIZE).pixels[0].sum() == (INSIDE.sum() if wanted else (~INSIDE).sum())


def test_boxes_are_never_inverted_nor_look_so(reader, tmp_path) -> None:
    one = source(tmp_path, INSIDE)._replace(file="a.xml")
    corners = "<xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>6</ymax>"
    (tmp_path / "a.xml").write_text(
        f"<annotation><object><name>cat</name><bndbox>{corners}</bndbox></object></annotation>"
    )
    for settings in (DataSettings(), DataSettings(invert_masks=True)):
        write_masks(tmp_path, tmp_path, [one], settings, reader)
        assert load_masks(tmp_path, SIZE).pixels.all()


@pytest.mark.parametrize(
    "other", [np.zeros((2, *SIZE), np.uint8), np.zeros((1, *SIZE), bool), np.zeros((1, 9, 6), np.uint8)]
)
def test_masks_that_do_not_fit_the_catalog_are_damage(reader, tmp_path, other) -> None:
    write_masks(tmp_path, tmp_path, [source(tmp_path, INSIDE)], DataSettings(), reader)
    storage.write_array(tmp_path / PIXELS, other)
    with pytest.raises(DamagedError, match="the masks don't fit the catalog") as caught:
        load_masks(tmp_path, SIZE)
    assert (caught.value.where, caught.value.fix) == (str(tmp_path / PIXELS), storage.REPAIR_HINT)
    (tmp_path / INDEX).write_text("[]")
    with pytest.raises(DamagedError, match="not as diffaug wrote it"):
        mask_files(tmp_path)
