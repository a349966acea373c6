"""Masks of a data folder in its catalog: which image has which, at which size, and what is refused."""

import json

import numpy as np
import pytest
from PIL import Image

from diffaug.configuration.settings import DataSettings
from diffaug.data.building.changes import describe_changes
from diffaug.errors import DataError, UsageError

SIDE = 24


def place(number: int) -> tuple[slice, slice]:
    return slice(2 + number, 6 + number), slice(3 + 2 * number, 9 + 2 * number)


def image_of(number: int, *, lit: bool, shape=(SIDE, SIDE)) -> np.ndarray:
    """Noise, in which the object is as bright as nothing else."""
    pixels = np.random.default_rng(number).integers(0, 120, shape, dtype=np.uint8)
    if lit:
        pixels[place(number)] = 250
    return pixels


def mask_of(number: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[place(number)] = 1
    return mask


def write(path, pixels, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def root(tmp_path):
    """Six images of "mark", with an object each, and six of "plain"; no masks yet."""
    for number in range(6):
        write(tmp_path / "data" / "train" / "mark" / f"m{number}.png", image_of(number, lit=True))
        write(tmp_path / "data" / "train" / "plain" / f"p{number}.png", image_of(20 + number, lit=False))
        write(tmp_path / "data" / "test" / "mark" / f"t{number}.png", image_of(40 + number, lit=False))
        write(tmp_path / "data" / "test" / "plain" / f"q{number}.png", image_of(60 + number, lit=False))
    return tmp_path / "data"


def require_found(catalog, numbers=range(6)) -> None:
    """Each mask covers the bright pixels of its image, and only those."""
    masks, train = catalog.masks(), catalog.images("train")
    assert masks.ids == tuple(f"train/mark/m{number}.png" for number in numbers)
    for name, mask in zip(masks.ids, masks.pixels, strict=True):
        np.testing.assert_array_equal(mask, train.pixels[train.ids.index(name)][..., 0] == 250)


LAYOUTS = {
    "beside": "train/mark/m{}_mask.png",
    "in a folder in the class": "train/mark/masks/m{}.png",
    "in a folder beside splits": "ground_truth/mark/m{}_mask.png",
    "in a folder beside classes": "train/masks/mark/m{}.png",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_masks_that_lie_with_the_images_are_read(root, build, layout) -> None:
    for number in range(6):
        write(root / LAYOUTS[layout].format(number), mask_of(number) * 255)
    require_found(build(root, near_duplicates=False))


@pytest.mark.parametrize("inside", [False, True])
def test_a_folder_of_masks_can_be_named(root, build, tmp_path, inside) -> None:
    folder = root / "extra" if inside else tmp_path / "elsewhere"
    for number in (0, 2):
        write(folder / "any" / f"m{number}_gt.tif", mask_of(number))
    catalog = build(root, masks=str(folder), near_duplicates=False)
    require_found(catalog, (0, 2))
    assert len(catalog.table) == 24
    without = build(root, masks="none", near_duplicates=False) if not inside else None
    assert without is None or len(without.masks()) == 0


def test_masks_are_not_used_where_that_is_set_and_yet_are_no_images(root, build) -> None:
    for number in range(6):
        write(root / "train" / "mark" / f"m{number}_mask.png", mask_of(number))
    catalog = build(root, masks="none")
    assert len(catalog.masks()) == 0
    assert len(catalog.table) == 24
    assert (catalog.table["mask"] == "").all()


def test_only_masks_of_training_images_are_read_and_follow_them(root, build) -> None:
    for number in range(6):
        write(root / "train" / "mark" / f"m{number}_mask.png", mask_of(number))
    (root / "test" / "mark" / "t0_mask.png").write_bytes(b"damaged")
    catalog = build(root, near_duplicates=False)
    left_out = np.array([name.endswith(("m1.png", "m4.png")) for name in catalog.images("train").ids])
    require_found(catalog.without(left_out), (0, 2, 3, 5))


def test_masks_are_of_the_working_size_through_the_geometry_of_their_image(root, build) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in [*root.rglob("*.png")]:
        tall = np.kron(np.asarray(Image.open(path)), np.ones((4, 2), np.uint8))  # 96 x 48, stored lying
        write(path, np.rot90(tall), exif=exif)
    for number in range(6):
        tall = np.kron(mask_of(number), np.ones((4, 2), np.uint8))
        write(root / "train" / "mark" / f"m{number}_mask.png", np.rot90(tall) if number % 2 else tall)
    catalog = build(root, image_size=24, near_duplicates=False)
    assert catalog.image_size == (48, 24)
    masks, train = catalog.masks(), catalog.images("train")
    assert len(masks) == 6
    for name, mask in zip(masks.ids, masks.pixels, strict=True):
        np.testing.assert_array_equal(mask, train.pixels[train.ids.index(name)][..., 0] > 180)


def test_a_mask_of_another_size_or_damaged_is_refused_with_a_way_out(root, build) -> None:
    file = root / "train" / "mark" / "m1_mask.png"
    for number in range(6):
        write(root / "train" / "mark" / f"m{number}_mask.png", mask_of(number))
    write(file, np.zeros((SIDE, SIDE + 1), np.uint8))
    with pytest.raises(DataError, match=r"25 x 24 px, but its image, train/mark/m1\.png, has 24 x 24") as caught:
        build(root)
    assert caught.value.where == str(file) and "--masks none" in caught.value.fix
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(DataError, match="can't be read"):
        build(root)
    assert len(build(root, masks="none").table) == 24


def test_masks_of_the_ground_are_asked_about(root, build) -> None:
    for number in range(6):
        write(root / "train" / "mark" / f"m{number}_mask.png", (1 - mask_of(number)) * 255)
    with pytest.raises(DataError, match="6 of 6 masks cover more than half") as caught:
        build(root, near_duplicates=False)
    assert "data.invert_masks=true" in caught.value.fix
    require_found(build(root, invert_masks=True, near_duplicates=False))
    kept = build(root, invert_masks=False, near_duplicates=False).masks()
    assert kept.pixels.mean() > 0.8


def test_a_mask_that_changes_is_noticed(root, build, tmp_path) -> None:
    for number in range(6):
        write(root / "train" / "mark" / f"m{number}_mask.png", mask_of(number))
    directory = tmp_path / "kept" / "catalog"
    catalog = build(root, directory=directory)
    assert describe_changes(catalog, root, DataSettings(), directory) == ""
    write(root / "train" / "mark" / "m3_mask.png", mask_of(2))
    changes = describe_changes(catalog, root, DataSettings(), directory)
    assert changes.endswith("1 changed (train/mark/m3_mask.png)")
    again = build(root)
    assert again.fingerprint != catalog.fingerprint
    np.testing.assert_array_equal(again.pixels, catalog.pixels)


def test_a_folder_without_a_fitting_mask_is_refused(root, build, tmp_path) -> None:
    write(tmp_path / "masks" / "other.png", mask_of(1))
    with pytest.raises(DataError, match="no mask in the folder belongs to an image"):
        build(root, masks=str(tmp_path / "masks"))
    with pytest.raises(UsageError, match="--masks: there is no such folder"):
        build(root, masks=str(tmp_path / "absent"))
    with pytest.raises(UsageError, match="the folder of masks holds the labeled ones, too"):
        build(root, masks=str(root))


def voc(number: int, *, name: str = "mark") -> str:
    rows, columns = place(number)
    objects = [("other", (1, 1, 3, 3)), (name, (columns.start + 1, rows.start + 1, columns.stop, rows.stop))]
    return f"<annotation>{''.join(voc_object(*one) for one in objects)}</annotation>"


def voc_object(name: str, corners: tuple[int, int, int, int]) -> str:
    tags = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
    return f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"


def yolo(number: int) -> str:
    rows, columns = place(number)
    center = [(columns.start + columns.stop) / 2 / SIDE, (rows.start + rows.stop) / 2 / SIDE]
    extent = [(columns.stop - columns.start) / SIDE, (rows.stop - rows.start) / SIDE]
    return " ".join(["0", *(f"{value:.8f}" for value in (*center, *extent))]) + "\n"


def coco() -> str:
    places = [place(number) for number in range(6)]
    boxes = [
        [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start] for rows, columns in places
    ]
    images = [{"id": number + 5, "file_name": f"train\\m{number}.png"} for number in range(6)]
    marks = [{"id": n, "image_id": n + 5, "category_id": 3, "bbox": box} for n, box in enumerate(boxes)]
    return json.dumps({"images": images, "annotations": marks, "categories": [{"id": 3, "name": "mark"}]})


@pytest.mark.parametrize("kind", ["voc beside", "voc in a folder", "yolo", "coco", "named folder"])
def test_boxes_become_masks(root, build, tmp_path, kind) -> None:
    for number in range(6):
        files = {
            "voc beside": (root / "train" / "mark" / f"m{number}.xml", voc(number)),
            "voc in a folder": (root / "Annotations" / f"m{number}.xml", voc(number)),
            "yolo": (root / "train" / "mark" / f"m{number}.txt", yolo(number)),
            "coco": (root / "instances.json", coco()),
            "named folder": (tmp_path / "boxes" / f"m{number}.xml", voc(number)),
        }
        file, text = files[kind]
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    masks = str(tmp_path / "boxes") if kind == "named folder" else None
    catalog = build(root, masks=masks, near_duplicates=False)
    require_found(catalog)


def test_boxes_of_other_things_alone_count_all(root, build) -> None:
    (root / "train" / "mark" / "m0.xml").write_text(voc(0, name="scratch"))
    mask = build(root, near_duplicates=False).masks().pixels[0]
    assert mask[place(0)].all() and mask[:3, :3].all() and mask.sum() == 4 * 6 + 9


def test_texts_that_are_no_boxes_are_left_out_and_a_damaged_box_is_named(root, build) -> None:
    (root / "train" / "mark" / "m0.txt").write_text("a nice mark\n")
    (root / "train" / "mark" / "m1.xml").write_text("<html></html>")
    (root / "notes.json").write_text('{"annotations": 3}')
    assert len(build(root).masks()) == 0
    (root / "train" / "mark" / "m1.xml").write_text(voc(1)[:-30])
    with pytest.raises(DataError, match="the boxes can't be read") as caught:
        build(root)
    assert caught.value.where == str(root / "train" / "mark" / "m1.xml")


SIZE = "<annotation><size><width>{}</width><height>{}</height><depth>1</depth></size>"


def test_boxes_for_an_image_of_another_size_are_refused_with_a_way_on(root, build) -> None:
    file = root / "train" / "mark" / "m0.xml"
    file.write_text(voc(0).replace("<annotation>", SIZE.format(2 * SIDE, SIDE)))
    with pytest.raises(DataError, match=f"for an image of {2 * SIDE} x {SIDE} px, and this one has {SIDE} x") as caught:
        build(root)
    assert caught.value.where == str(file)
    assert not len(build(root, masks="none").masks())
    for size in ((SIDE, SIDE), (0, 0)):  # 0: not known
        file.write_text(voc(0).replace("<annotation>", SIZE.format(*size)))
        assert len(build(root).masks()) == 1
    file.unlink()
    content = json.loads(coco())
    content["images"][2] |= {"width": SIDE, "height": 3 * SIDE}
    (root / "instances.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=f"for an image of {SIDE} x {3 * SIDE} px"):
        build(root)


@pytest.mark.parametrize("stored", [True, False], ids=["on stored pixels", "upright"])
@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_boxes_of_images_that_exif_turns_are_on_either_pixels(root, build, kind, stored) -> None:
    """The size in the file says which. Without EXIF, a size the other way round is that of another image."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees clockwise to be upright
    for path in [*root.rglob("*.png")]:
        tall = np.kron(np.asarray(Image.open(path)), np.ones((2, 1), np.uint8))
        write(path, np.rot90(tall), exif=exif)
    rows, columns = (slice(2 * place(0)[0].start, 2 * place(0)[0].stop), place(0)[1])  # in the upright image
    box = (columns.start, rows.start, columns.stop, rows.stop)
    if stored:  # (x, y) upright is (y, width - x) on the stored pixels
        box = (rows.start, SIDE - columns.stop, rows.stop, SIDE - columns.start)
    width, height = (2 * SIDE, SIDE) if stored else (SIDE, 2 * SIDE)
    if kind == "voc":
        text = f"{SIZE.format(width, height)}{voc_object('mark', (box[0] + 1, box[1] + 1, *box[2:]))}</annotation>"
        (root / "train" / "mark" / "m0.xml").write_text(text)
    else:
        image = {"id": 1, "file_name": "m0.png", "width": width, "height": height}
        one = {"id": 1, "image_id": 1, "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]]}
        (root / "instances.json").write_text(json.dumps({"images": [image], "annotations": [one]}))
    (mask,) = build(root, image_size=SIDE, near_duplicates=False).masks().pixels
    expected = np.zeros((2 * SIDE, SIDE), bool)
    expected[rows, columns] = True
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("number", ["nan", "inf"])
def test_an_edge_that_is_no_number_is_named(root, build, number) -> None:
    (root / "train" / "mark" / "m0.xml").write_text(voc(0).replace("<xmin>1<", f"<xmin>{number}<"))
    with pytest.raises(DataError, match="not a finite number"):
        build(root)


def test_of_images_of_one_name_in_a_file_none_gets_the_boxes_of_the_other(root, build) -> None:
    content = json.loads(coco())
    content["images"].append({"id": 99, "file_name": "elsewhere/m0.png"})
    content["annotations"].append({"id": 99, "image_id": 99, "bbox": [0, 0, 2, 2]})
    (root / "instances.json").write_text(json.dumps(content))
    require_found(build(root, near_duplicates=False), range(1, 6))
