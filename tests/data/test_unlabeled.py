"""Unlabeled images: from where they come, which are left out, and how much the others count."""

import numpy as np
import pytest
from PIL import Image

from diffaug.configuration.settings import DataSettings
from diffaug.data.building.unlabeled import FOREIGN, REPEATS, SHOWS_HELD_OUT, read_further
from diffaug.data.domain import domain_weights
from diffaug.data.images import NO_LABEL
from diffaug.errors import DiffaugError


def photo(seed: int, side: int = 24) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def write(root, images: dict[str, int | Image.Image]) -> None:
    for name, image in images.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (photo(image) if isinstance(image, int) else image).save(root / name)


@pytest.fixture
def labeled(tmp_path):
    """Two classes of 4 training and 2 test images in `data`."""
    for number, name in enumerate(("cat", "dog")):
        write(tmp_path / "data/train" / name, {f"{i}.png": 10 * number + i for i in range(4)})
        write(tmp_path / "data/test" / name, {f"{i}.png": 100 + 10 * number + i for i in range(2)})
    return tmp_path / "data"


def used(catalog) -> list[str]:
    return list(catalog.unlabeled()[1])


@pytest.mark.parametrize(
    ("place", "names", "expected"),
    [
        ("more", ["a.png", "b.png"], ["../more/a.png", "../more/b.png"]),
        ("more", ["x/deep/a.png", "y/a.png"], ["../more/x/deep/a.png", "../more/y/a.png"]),  # labels are ignored
        ("more", ["train/cat/a.png", "test/dog/b.png"], ["../more/test/dog/b.png", "../more/train/cat/a.png"]),
        ("data/extra", ["a.png"], ["extra/a.png"]),  # beside the splits
        ("data/train/cow", ["a.png"], ["train/cow/a.png"]),  # would be a class
        ("data/unlabelled", ["a.png"], ["unlabelled/a.png"]),  # is found without being named, and not twice
    ],
)
def test_all_images_of_a_further_folder_are_unlabeled(labeled, build, place, names, expected) -> None:
    further = labeled.parent / place
    write(further, {name: 1000 + number for number, name in enumerate(names)})
    catalog = build(labeled, unlabeled=str(further))
    assert used(catalog) == expected
    assert catalog.classes == ("cat", "dog")
    assert catalog.counts()["train"].tolist() == [4, 4]
    assert f"{len(names)} unlabeled images from {expected[0].split('/')[0]}" in catalog.reading
    ignored = "not read as labels" in catalog.reading
    assert ignored == any("/" in name for name in names)


def test_a_relative_or_linked_folder_is_the_same(labeled, build, monkeypatch) -> None:
    write(labeled.parent / "elsewhere/more", {"a.png": 1000})
    (labeled.parent / "link").symlink_to(labeled.parent / "elsewhere/more")
    (labeled.parent / "elsewhere/data").symlink_to(labeled)
    monkeypatch.chdir(labeled.parent / "elsewhere")
    assert DataSettings(unlabeled="more").unlabeled == str(labeled.parent / "elsewhere/more")
    for root in (labeled, labeled.parent / "elsewhere/data"):
        for folder in ("more", str(labeled.parent / "link")):
            assert used(build(root, unlabeled=folder)) == ["../elsewhere/more/a.png"]


def test_images_beside_data_in_both_folders_are_joined(labeled, build) -> None:
    write(labeled, {"unlabelled/a.png": 1000})
    write(labeled.parent / "more", {"b.png": 1001, "note.txt.png": 1002})
    assert used(build(labeled, unlabeled=str(labeled.parent / "more"))) == [
        *("../more/b.png", "../more/note.txt.png", "unlabelled/a.png")
    ]


@pytest.mark.parametrize(
    ("make", "what", "fix"),
    [
        (lambda root: "more", "there is no such folder", "give the folder that holds"),
        (lambda root: "data/train/cat/0.png", "this is a file", "give the folder that holds"),
        (lambda root: ".", "holds the labeled ones", "a folder of their own"),
        (lambda root: "data", "holds the labeled ones", "a folder of their own"),
        (lambda root: (root / "empty").mkdir() or "empty", "no images", "leave --unlabeled out"),
    ],
)
def test_folders_that_are_no_further_ones(labeled, make, what, fix) -> None:
    folder = make(labeled.parent)
    with pytest.raises(DiffaugError, match=what) as caught:
        read_further(labeled, str(labeled.parent / folder))
    assert fix in str(caught.value.fix)


def test_none_shows_a_held_out_image_or_repeats_pixels(labeled, build) -> None:
    further = {
        "test.png": 100,
        "test-again.png": photo(110).point(lambda value: int(0.9 * value)),
        "test-darker.png": photo(110).point(lambda value: int(0.7 * value)),
        "train.png": 3,
        "new.png": 1000,
        "new-twice.png": 1000,
    }
    write(labeled.parent / "more", further)
    catalog = build(labeled, unlabeled=str(labeled.parent / "more"))
    assert [path.rpartition("/")[2] for path in used(catalog)] == ["new-twice.png"]
    reasons = catalog.table.set_index("path")["left_out"]
    assert {name: reasons[f"../more/{name}"] for name in further} == {
        "test.png": SHOWS_HELD_OUT,
        "test-again.png": SHOWS_HELD_OUT,
        "test-darker.png": SHOWS_HELD_OUT,
        "train.png": REPEATS,
        "new.png": REPEATS,
        "new-twice.png": "",
    }
    assert [text for text in catalog.problems if text.startswith("unlabeled images left out")] == [
        f"unlabeled images left out because {REPEATS}: 2 (../more/new.png, ../more/train.png)",
        f"unlabeled images left out because {SHOWS_HELD_OUT}: 3 "
        "(../more/test-again.png, ../more/test-darker.png, ../more/test.png)",
    ]


def test_groups_of_test_images_reach_the_further_folder(labeled, build) -> None:
    write(labeled.parent / "more", {"p1/a.png": 1000, "p2/b.png": 1001})
    (labeled / "test/cat/0.png").rename(labeled / "test/cat/p1-0.png")
    catalog = build(labeled, unlabeled=str(labeled.parent / "more"), group_by=r"(p\d)")
    assert used(catalog) == ["../more/p2/b.png"]


class Brightness:
    """Describes images by their mean."""

    name, limits = "brightness", (1.0, 3.0)

    def __call__(self, labeled, others):
        return tuple(shown.pixels.mean(axis=(1, 2, 3), dtype=np.float32)[:, None] for shown in (labeled, others))


def test_foreign_images_are_left_out_and_doubtful_ones_count_less(tmp_path, build) -> None:
    def gray(level: int) -> Image.Image:
        pixels = np.random.default_rng(level).integers(level - 3, level + 4, (16, 16), dtype=np.uint8)
        return Image.fromarray(pixels)

    for label in ("a", "b"):
        write(tmp_path / "data" / label, {f"{i}.png": gray(100 + 2 * i + 20 * (label == "b")) for i in range(10)})
    write(tmp_path / "more", {"like.png": gray(111), "doubtful.png": gray(141), "foreign.png": gray(200)})
    catalog = build(
        tmp_path / "data",
        unlabeled=str(tmp_path / "more"),
        describe=lambda labeled: Brightness(),
        near_duplicates=False,
        test_fraction=0.1,
    )
    weights = catalog.table.set_index("path")["weight"]
    assert weights["../more/like.png"] == 1
    assert 0 < weights["../more/doubtful.png"] < 1
    assert catalog.table.set_index("path")["left_out"]["../more/foreign.png"] == FOREIGN
    assert (catalog.domain.measured_by, catalog.domain.weighed_down, catalog.domain.foreign) == ("brightness", 1, 1)
    images = catalog.unlabeled_images()
    assert images.ids == ("../more/doubtful.png", "../more/like.png")
    assert images.weights.tolist() == [weights[name] for name in images.ids]


def test_weights_fall_between_the_limits() -> None:
    labeled = np.arange(12, dtype=np.float32)[:, None]  # one apart
    others = np.array([[3], [11.9], [12], [13], [14], [30]], np.float32)
    weights = domain_weights(labeled, np.arange(12), others, (1.0, 3.0))
    assert weights.tolist() == [1, 1, 1, 0.5, 0, 0]


def test_images_of_one_unit_tell_nothing_of_usual_distances() -> None:
    labeled = np.repeat(np.arange(12), 2).astype(np.float32)[:, None]  # each twice
    others = np.array([[13.0]], np.float32)
    assert domain_weights(labeled, np.arange(12).repeat(2), others, (1.0, 3.0)).tolist() == [0.5]
    assert domain_weights(labeled[:18], np.arange(9).repeat(2), others, (1.0, 3.0)).tolist() == [1]  # too few to say


def test_all_that_a_generator_sees_is_in_one_list(labeled, build) -> None:
    write(labeled, {"unlabelled/a.png": 1000, "unlabelled/b.png": photo(3).point(lambda value: int(0.9 * value))})
    catalog = build(labeled)
    train, seen = catalog.images("train"), catalog.seen_images()
    assert seen.ids == (*train.ids, "unlabelled/a.png", "unlabelled/b.png")
    assert seen.labels.tolist() == [*train.labels, NO_LABEL, NO_LABEL]
    assert (seen.pixels[-2:] == catalog.unlabeled()[0]).all()
    assert seen.groups[-1] == seen.groups[train.ids.index("train/cat/3.png")]
    assert (seen.groups == catalog.seen_groups()).all()
    assert len(catalog.seen_images(unlabeled=False)) == len(train)
    without = catalog.without(np.array([name == "train/cat/3.png" for name in train.ids]))
    assert used(without) == ["unlabelled/a.png"]
    assert (without.unlabeled()[0] == catalog.unlabeled()[0][:1]).all()


@pytest.mark.parametrize("unlabeled", [photo(1000), photo(1000, 96), photo(1000).resize((96, 24))])
def test_labeled_images_alone_decide_the_form(tmp_path, build, unlabeled) -> None:
    for number, name in enumerate(("cat", "dog")):
        for i in range(4):
            write(tmp_path / "data/train" / name, {f"{i}.png": photo(10 * number + i).convert("L")})
            write(tmp_path / "data/test" / name, {f"{i}.png": photo(100 + 10 * number + i).convert("L")})
    alone = build(tmp_path / "data")
    write(tmp_path / "more", {f"{i}.png": unlabeled.rotate(90 * i) for i in range(20)})
    catalog = build(tmp_path / "data", unlabeled=str(tmp_path / "more"))
    assert len(used(catalog))
    assert (catalog.channels, catalog.image_size, catalog.resize) == (alone.channels, alone.image_size, alone.resize)
    assert np.array_equal(catalog.images("train").pixels, alone.images("train").pixels)
