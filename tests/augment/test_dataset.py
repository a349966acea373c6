from collections import namedtuple
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from diffaug.augment.dataset import AugmentedDataset
from diffaug.augment.formats import plain
from diffaug.augment.labels import get_class_to_idx, get_targets
from diffaug.errors import UsageError
from diffaug.files import storage
from diffaug.synthesis.pool.pool import Pool
from tests.augment.items import Items

CLASSES = ("cat", "dog")
BLACK = torch.zeros(3, 8, 8)
REAL = 5  # real items: three cats and two dogs, all black
to_tensor = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])


def negate(label: int) -> int:
    return -label - 1


@pytest.fixture(scope="module")
def pool(make_pool: Any, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Six flat 8 x 8 RGB images: cats are 50 and 51, dogs 200 to 203, in all three channels."""
    shades = [(0, 50), (0, 51), (1, 200), (1, 201), (1, 202), (1, 203)]
    images = [(label, np.full((8, 8, 3), shade, np.uint8)) for label, shade in shades]
    return make_pool(tmp_path_factory.mktemp("study") / "pool", CLASSES, images)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ImageFolder tree of black images, 13 px wide and 12 px high."""
    root = tmp_path_factory.mktemp("images")
    for number, name in enumerate(["cat"] * 3 + ["dog"] * 2):
        (root / name).mkdir(exist_ok=True)
        Image.new("RGB", (13, 12)).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def augmented(folder: Path, pool: Pool) -> AugmentedDataset:
    return AugmentedDataset(Subset(ImageFolder(folder, transform=to_tensor), range(REAL)), pool)


def named(items: list[Any], **attributes: Any) -> Items:
    return Items(items, **{"classes": CLASSES, **attributes})


def labeled(image: Any, **attributes: Any) -> Items:
    """`image` as the three cats and two dogs."""
    labels = [0, 0, 0, 1, 1]
    return named([(image, label) for label in labels], **{"targets": labels, **attributes})


def test_real_items_come_first_untouched_and_synthetic_ones_follow(pool: Pool) -> None:
    real = [(BLACK, 0), (object(), 1)]
    augmented = AugmentedDataset(named(real, targets=[0, 1]), pool.root.parent)
    assert [augmented[0], augmented[1]] == real
    synthetic = [augmented[index] for index in range(2, len(augmented))]
    assert [label for _, label in synthetic] == [0, 0, 1, 1, 1, 1]
    assert [round(float(image.mean()) * 255) for image, _ in synthetic] == [50, 51, 200, 201, 202, 203]


def test_bookkeeping_agrees_with_the_items(augmented: AugmentedDataset) -> None:
    assert augmented.classes == ["cat", "dog"]
    assert augmented.class_to_idx == {"cat": 0, "dog": 1}
    assert augmented.targets == [label for _, label in augmented]
    assert augmented.is_synthetic.tolist() == [False] * REAL + [True] * 6


def test_classes_are_matched_by_name(pool: Pool) -> None:
    augmented = AugmentedDataset(labeled(BLACK, classes=["dog", "cat"]), pool)
    assert augmented.targets[REAL:] == [1, 1, 0, 0, 0, 0]
    assert augmented.class_to_idx == {"dog": 0, "cat": 1}
    assert [augmented[index][1] for index in range(REAL, REAL + 3)] == [1, 1, 0]


def test_numbers_without_names_are_not_guessed(pool: Pool) -> None:
    dataset = TensorDataset(torch.zeros(3, 3, 8, 8), torch.tensor([1, 0, 1]))
    with pytest.raises(UsageError, match="named cat, dog") as caught:
        AugmentedDataset(dataset, pool)
    assert caught.value.fix is not None and "classes=('cat', 'dog')" in caught.value.fix
    augmented = AugmentedDataset(dataset, pool, classes=["dog", "cat"])
    assert augmented.classes == ["dog", "cat"]
    assert augmented.targets == [1, 0, 1, 1, 1, 0, 0, 0, 0]
    assert torch.equal(augmented[3][1], torch.tensor(1))


@pytest.mark.parametrize(
    ("numbers", "labels", "numbering", "classes", "refused"),
    [
        (range(12), [11, 2], {str(k): k for k in range(12)}, None, False),  # made from such a dataset
        (range(12), [11, 2], None, range(12), False),
        (range(12), [11, 2], None, None, True),  # 2 is "10" in an ImageFolder
        (range(10), [9, 2], None, None, False),
        (range(1, 13), [12, 2], None, None, False),  # 12 is no position
        ([0, 5, 20], [0, 5], None, None, False),
        ([0, 5, 20], [0, 0], None, None, True),
        ([0, 5, 20], [0, 0], None, range(21), False),
    ],
)
def test_classes_called_by_numbers_are_matched_by_them(
    make_pool: Any, tmp_path: Path, numbers: Any, labels: list[int], numbering: Any, classes: Any, refused: bool
) -> None:
    names = sorted(map(str, numbers))  # 0, 1, 10, 11, 2, ...
    images = [(k, np.full((8, 8, 1), int(name), np.uint8)) for k, name in enumerate(names)]
    pool = make_pool(tmp_path, names, images, {"dataset_class_to_idx": numbering})
    real = TensorDataset(torch.zeros(2, 1, 8, 8), torch.tensor(labels))
    if refused:
        with pytest.raises(UsageError, match=r"position[\s\S]*classes=range"):
            AugmentedDataset(real, pool)
        return
    augmented = AugmentedDataset(real, pool, classes=classes)
    for image, label in (augmented[index] for index in range(2, len(augmented))):
        assert round(float(image.mean()) * 255) == label


RENUMBERED = {
    "from one": ([1, 2], lambda label: label - 1, None),
    "names": ([0, 1], ["cat", "dog"].__getitem__, None),
    "of names": (["cat", "dog"], {"cat": 0, "dog": 1}.get, None),
    "as MedMNIST": (np.array([[0], [1]]), lambda label: int(label[0]), None),
    "as MedMNIST, with names": (np.array([[0], [1]]), lambda label: label.item(), ["cat", "dog"]),
    "one-hot": ([0, 1], lambda label: torch.eye(2)[label], None),
    "exchanged": ([0, 1], lambda label: 1 - label, "refused"),
    "exchanged, with names": ([0, 1], lambda label: 1 - label, ["dog", "cat"]),
}


@pytest.mark.parametrize("kind", RENUMBERED)
def test_a_target_transform_never_makes_another_class_of_a_synthetic_image(
    make_pool: Any, tmp_path: Path, kind: str
) -> None:
    """The first item is of the pool's first class."""

    class Stored(Items):
        def __getitem__(self, index: int) -> Any:
            return torch.zeros(1, 8, 8), self.target_transform(self.targets[index])

    stored, transform, names = RENUMBERED[kind]
    dataset = Stored([None] * 2, targets=stored, target_transform=transform)
    returned = [plain(dataset[index][1]) for index in range(2)]
    classes = returned if isinstance(returned[0], str) else ["0", "1"]
    about = None if isinstance(returned[0], str) else {"dataset_class_to_idx": {"0": 0, "1": 1}}
    images = [(k, np.full((8, 8, 1), k * 9, np.uint8)) for k in (0, 1)]
    if names == "refused":
        with pytest.raises(UsageError, match="renumbers"):
            AugmentedDataset(dataset, make_pool(tmp_path / "pool", classes, images, about))
        names = ["1", "0"]
        augmented = AugmentedDataset(dataset, Pool.open(tmp_path / "pool"), classes=names)
        assert [label for _, label in (augmented[2], augmented[3])] == [0, 1]
        return
    if names is not None:
        classes, about = ["cat", "dog"], {"dataset_class_to_idx": {name: k for k, name in enumerate(names)}}
        dataset.classes = names
    augmented = AugmentedDataset(dataset, make_pool(tmp_path / "pool", classes, images, about))
    by_class = returned if names != ["dog", "cat"] else returned[::-1]
    assert [plain(label) for _, label in (augmented[2], augmented[3])] == by_class


def test_a_class_of_the_dataset_without_items_may_be_missing_in_the_pool(pool: Pool) -> None:
    augmented = AugmentedDataset(labeled(BLACK, classes=["cat", "dog", "horse"]), pool)
    assert augmented.targets[REAL:] == [0, 0, 1, 1, 1, 1]


def test_a_class_is_also_known_by_its_folder_name(make_pool: Any, tmp_path: Path) -> None:
    dataset = labeled(torch.zeros(1, 8, 8), classes=["T-shirt/top", "bag"])
    folders = [storage.safe_names([name])[name] for name in dataset.classes]
    pool = make_pool(tmp_path, folders, [(0, np.zeros((8, 8, 1), np.uint8)), (1, np.zeros((8, 8, 1), np.uint8))])
    augmented = AugmentedDataset(dataset, pool)
    assert folders[0] != "T-shirt/top"
    assert augmented.targets[REAL:] == [0, 1]
    assert augmented.classes == ["T-shirt/top", "bag"]


def test_items_labeled_by_name_get_names(pool: Pool) -> None:
    real = named([{"image": BLACK, "label": name} for name in ("dog", "cat")], targets=["dog", "cat"])
    augmented = AugmentedDataset(real, pool)
    assert augmented.targets == [1, 0, 0, 0, 1, 1, 1, 1]
    assert [augmented[index]["label"] for index in (2, 4)] == ["cat", "dog"]


OTHER_CLASSES = "differ: .* the pool has cat, dog"


@pytest.mark.parametrize(
    ("real", "message"),
    [
        (named([(BLACK, 0), (BLACK, 1)], targets=[0, 1], classes=["cat", "horse"]), OTHER_CLASSES),
        (named([(BLACK, 2)], targets=[2]), "label 2 .* none of its classes"),
        (named([(BLACK, "horse")], targets=["horse"]), "'horse' .* none of its classes"),
        (named([BLACK], targets=[1]), "not an image with a label"),
        (named([{"image": 0, "box": 1}], targets=[1]), "not an image with a label"),
        (labeled(torch.full((3, 8, 8), -1.0)), "transform="),
        (labeled(np.full((8, 8, 3), 255.0)), "transform="),
        (labeled(torch.zeros(5, 8, 8)), "transform="),
        (labeled("path.png"), "transform="),
        (named([], targets=[]), "no items"),
    ],
)
def test_what_a_pool_cannot_augment_is_refused(pool: Pool, real: Items, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AugmentedDataset(real, pool)


def test_labels_in_another_order_than_the_items_and_a_missing_pool_are_refused(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="item 0"):
        AugmentedDataset(labeled(BLACK), pool, labels=[1, 0, 0, 0, 1])
    with pytest.raises(UsageError, match="no finished pool"):
        AugmentedDataset(labeled(BLACK), tmp_path)


Pair = namedtuple("Pair", ["image", "label"])


@pytest.mark.parametrize(
    "item",
    [
        (BLACK, 0),
        [BLACK, np.int64(0)],
        Pair(BLACK, torch.tensor([0])),
        {"image": BLACK, "label": np.array([0])},
        {"pixel_values": BLACK, "labels": 0.0},
    ],
)
def test_items_keep_their_structure_and_collate(pool: Pool, item: Any) -> None:
    augmented = AugmentedDataset(named([item, item], classes=["cat", "dog"], targets=[0, 0]), pool)
    synthetic = augmented[2]
    assert type(synthetic) is type(item)
    real_label, label = (list(x.values() if isinstance(x, dict) else x)[1] for x in (item, synthetic))
    assert type(label) is type(real_label)
    assert np.shape(label) == np.shape(real_label)
    if isinstance(item, dict):
        assert list(synthetic) == list(item)
    next(iter(DataLoader(augmented, batch_size=len(augmented))))


@pytest.mark.parametrize(
    ("image", "shape"),
    [
        (Image.new("L", (5, 7)), None),
        (Image.new("RGB", (5, 7)), None),
        (np.zeros((7, 5), np.uint8), (7, 5)),
        (np.zeros((7, 5, 3), np.uint8), (7, 5, 3)),
        (np.zeros((7, 5, 1), np.float32), (7, 5, 1)),
        (torch.zeros(3, 7, 5), (3, 7, 5)),
        (torch.zeros(1, 7, 5, dtype=torch.float64), (1, 7, 5)),
        (torch.zeros(3, 7, 5, dtype=torch.uint8), (3, 7, 5)),
        (torch.zeros(7, 5), (7, 5)),
    ],
)
def test_without_a_transform_the_first_image_is_matched(pool: Pool, image: Any, shape: tuple[int, ...] | None) -> None:
    synthetic = AugmentedDataset(labeled(image), pool)[REAL][0]
    assert type(synthetic) is type(image)
    if isinstance(image, Image.Image):
        assert (synthetic.mode, synthetic.size) == (image.mode, image.size)
        assert np.asarray(synthetic).max() == 50
    else:
        floating = image.dtype not in (np.uint8, torch.uint8)
        assert synthetic.shape == shape
        assert synthetic.dtype == image.dtype
        assert float(synthetic.max()) == pytest.approx(50 / 255 if floating else 50)


def seen_size(image: Image.Image) -> tuple[str, int, int]:
    return image.mode, *image.size


@pytest.mark.parametrize("real_size", [(13, 12), (16, 12), (12, 16)])
def test_the_datasets_own_transform_gets_what_it_gets_for_real_items(make_pool, tmp_path, real_size) -> None:
    for name in CLASSES:
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", real_size).save(tmp_path / "images" / name / "0.png")
    square_and_gray = make_pool(tmp_path / "pool", CLASSES, [(0, np.zeros((8, 8, 1), np.uint8))])
    augmented = AugmentedDataset(ImageFolder(tmp_path / "images", transform=seen_size), square_and_gray)
    assert augmented[0][0] == ("RGB", *real_size)
    # A ratio near the pool's is taken over; another one would distort the image.
    expected = ("RGB", 13, 12) if real_size == (13, 12) else ("RGB", 12, 12)
    assert augmented[2][0] == expected
    explicit = AugmentedDataset(ImageFolder(tmp_path / "images"), square_and_gray, transform=seen_size)
    assert explicit[2][0] == expected


def test_the_transform_is_found_through_wrappers_and_the_target_transform_too(folder: Path, pool: Pool) -> None:
    base = ImageFolder(folder, transform=to_tensor, target_transform=negate)
    wrapped = ConcatDataset([Subset(base, [4, 0]), Subset(base, [1])])
    augmented = AugmentedDataset(wrapped, pool)
    assert [label for _, label in augmented] == [-2, -1, -1, -1, -1, -2, -2, -2, -2]
    assert augmented.targets == [1, 0, 0, 0, 0, 1, 1, 1, 1]
    assert augmented[3][0].shape == (3, 12, 13)


class Transformed(Dataset):
    """A dataset written by hand: two black images, 10 and 11 px wide and high, each through the transform."""

    def __init__(self, transform: Any, *, by_keyword: bool = False) -> None:
        self.transform, self.by_keyword = transform, by_keyword
        self.targets, self.classes = [1, 0], CLASSES

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        image = Image.new("RGB", (10 + index, 10 + index))
        seen = self.transform(image=np.asarray(image))["image"] if self.by_keyword else self.transform(image)
        return seen, self.targets[index]


def test_it_is_the_first_item_of_the_subset_that_counts(pool: Pool) -> None:
    assert AugmentedDataset(Subset(Transformed(seen_size), [1, 0]), pool)[2][0] == ("RGB", 11, 11)


def test_labels_read_off_the_items_are_not_transformed_again(pool: Pool) -> None:
    real = named([(BLACK, label) for label in (1, 0)], target_transform=negate)
    with pytest.warns(UserWarning, match="labels="):
        augmented = AugmentedDataset(real, pool)
    assert [label for _, label in augmented] == [1, 0, 0, 0, 1, 1, 1, 1]


def test_a_transform_exchanged_later_is_followed(folder: Path, pool: Pool) -> None:
    base = ImageFolder(folder, transform=to_tensor)
    augmented = AugmentedDataset(base, pool)
    base.transform = seen_size
    assert augmented[REAL][0] == ("RGB", 13, 12)


def test_an_explicit_transform_is_for_synthetic_images_and_allows_items_of_any_image_type(folder, pool) -> None:
    augmented = AugmentedDataset(ImageFolder(folder, transform=to_tensor), pool, transform=seen_size)
    assert torch.is_tensor(augmented[0][0])
    assert augmented[REAL][0] == ("RGB", 13, 12)
    normalize = v2.Compose([to_tensor, v2.Normalize([0.5] * 3, [0.25] * 3)])
    augmented = AugmentedDataset(labeled(torch.full((3, 8, 8), -2.0)), pool, transform=normalize)
    assert float(augmented[REAL][0].mean()) == pytest.approx((50 / 255 - 0.5) / 0.25, abs=1e-5)


def test_albumentations_pipelines_are_called_their_way(pool: Pool) -> None:
    pipeline = A.Compose([A.CenterCrop(4, 4), A.InvertImg(p=1)])
    own = AugmentedDataset(Transformed(pipeline, by_keyword=True), pool)
    explicit = AugmentedDataset(labeled(np.zeros((12, 12, 3), np.uint8)), pool, transform=pipeline)
    for image in (own[2][0], explicit[REAL][0]):
        np.testing.assert_array_equal(image, np.full((4, 4, 3), 205, np.uint8))


def test_parts_with_different_transforms_need_an_explicit_one(folder: Path, pool: Pool) -> None:
    parts = ConcatDataset([ImageFolder(folder, transform=to_tensor), ImageFolder(folder)])
    with pytest.raises(UsageError, match="differ in transform"):
        AugmentedDataset(parts, pool)
    assert AugmentedDataset(parts, pool, transform=seen_size)[2 * REAL][0] == ("RGB", 13, 12)


def test_building_leaves_the_random_generator_alone(folder: Path, pool: Pool) -> None:
    random_crop = v2.Compose([to_tensor, v2.RandomCrop(4)])
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    AugmentedDataset(ImageFolder(folder, transform=random_crop), pool)
    assert torch.equal(torch.rand(3), expected)


@given(st.lists(st.integers(-11, 10), max_size=8))
def test_a_batch_is_its_items_in_order(augmented: AugmentedDataset, indices: list[int]) -> None:
    batch = augmented.__getitems__(indices)
    assert [label for _, label in batch] == [augmented[index][1] for index in indices]
    assert all(torch.equal(image, augmented[index][0]) for (image, _), index in zip(batch, indices, strict=True))
    for outside in (11, -12, 1000):
        with pytest.raises(IndexError):
            augmented[outside]


def test_a_base_that_fetches_batches_is_asked_for_batches(pool: Pool) -> None:
    class Batched(Items):
        def __getitems__(self, indices: list[int]) -> list[Any]:
            self.asked = indices
            return [self.items[index] for index in indices]

    real = Batched([(BLACK, label) for label in (0, 1)], targets=[0, 1], classes=CLASSES)
    AugmentedDataset(real, pool).__getitems__([1, 4, 0, 5])
    assert real.asked == [1, 0]


def test_wrapping_again_and_subsets_keep_everything(folder: Path, pool: Pool) -> None:
    once = AugmentedDataset(ImageFolder(folder, transform=to_tensor), pool)
    twice = AugmentedDataset(Subset(once, [0, 4, 10]), pool)
    assert get_targets(Subset(twice, [1, 2, 8])) == [1, 1, 1]
    assert get_class_to_idx(Subset(twice, [0])) == {"cat": 0, "dog": 1}
    assert torch.equal(twice[2][0], once[10][0])
    assert torch.equal(twice[-1][0], once[-1][0])
    styled = AugmentedDataset(AugmentedDataset(ImageFolder(folder), pool, transform=seen_size), pool)
    assert styled[-1][0] == styled[-7][0] == ("RGB", 13, 12)


@pytest.mark.e2e
@pytest.mark.parametrize(
    "workers",
    [
        {},
        {"num_workers": 2, "multiprocessing_context": "fork"},
        {"num_workers": 1, "multiprocessing_context": "spawn", "persistent_workers": True},
    ],
)
def test_any_loader_gives_the_same_epochs(augmented: AugmentedDataset, workers: dict[str, Any]) -> None:
    loader = DataLoader(augmented, batch_size=4, **workers)
    for _ in range(2):
        batches = list(loader)
        assert torch.cat([labels for _, labels in batches]).tolist() == augmented.targets
        assert torch.equal(torch.cat([images for images, _ in batches]), torch.stack([image for image, _ in augmented]))
