import pickle
from collections import namedtuple
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

from diffaug import SyntheticReplace
from diffaug.errors import UsageError
from diffaug.files import storage
from diffaug.synthesis.pool.pool import Pool
from tests.augment.items import Items

CLASSES = ("cat", "dog", "empty")
SIZE = (12, 10)


@pytest.fixture(scope="module")
def pool(make_pool: Any, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Twenty flat 6 x 4 RGB images: cats are 0 to 9, dogs 100 to 109, in all three channels."""
    images = [(k, np.full((6, 4, 3), 100 * k + i, np.uint8)) for k in (0, 1) for i in range(10)]
    about = {"dataset_class_to_idx": {"cat": 0, "dog": 1, "empty": 2}}
    return make_pool(tmp_path_factory.mktemp("study") / "pool", CLASSES, images, about)


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def tensor(*shape: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    return torch.full(shape or (3, *SIZE), 255 if dtype == torch.uint8 else 1, dtype=dtype)


def shade(image: Any) -> float:
    """The one value of a flat image, from 0 to 255."""
    array = np.asarray(image)
    assert array.min() == array.max()
    return round(float(array.flat[0]) * (255 if array.dtype.kind == "f" else 1), 3)


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGB", SIZE[::-1], "white"),
        Image.new("L", SIZE[::-1], 255),
        tensor(),
        tensor(1, *SIZE, dtype=torch.float64),
        tv_tensors.Image(tensor()),
        tv_tensors.Image(tensor(dtype=torch.float32)),
        tensor(3, *SIZE[::-1]).transpose(1, 2),
    ],
)
def test_the_form_of_the_image_is_kept(pool: Pool, image: Any) -> None:
    replaced, label = SyntheticReplace(pool, p=1)(image, "dog")
    assert label == "dog"
    assert type(replaced) is type(image)
    for name in ("mode", "size") if isinstance(image, Image.Image) else ("shape", "dtype"):
        assert getattr(replaced, name) == getattr(image, name)
    assert 99.9 <= shade(replaced) <= 109.1
    assert shade(image) == 255


def replaced_cat(transform: SyntheticReplace) -> float:
    return shade(transform(tensor(), 0)[0])


@pytest.mark.parametrize("label", [1, "dog", np.int64(1), np.array([1]), torch.tensor(1), torch.tensor([1])])
def test_labels_may_be_names_or_indices_of_any_type(pool: Pool, label: Any) -> None:
    image, returned = SyntheticReplace(pool, p=1)(tensor(), label)
    assert 100 <= shade(image) <= 109
    assert returned is label


def test_every_image_of_the_class_turns_up_and_no_other(pool: Pool) -> None:
    transform = SyntheticReplace(pool, p=1)
    assert {shade(transform(tensor(), 0)[0]) for _ in range(200)} == set(range(10))


def test_a_dataset_may_number_its_classes_differently(pool: Pool) -> None:
    transform = SyntheticReplace(pool, p=1, class_to_idx={"dog": 0, "cat": 7})
    assert 100 <= shade(transform(tensor(), 0)[0]) <= 109
    assert shade(transform(tensor(), 7)[0]) <= 9
    assert shade(transform(tensor(), "cat")[0]) <= 9
    for unknown in (1, 2, "horse"):
        with pytest.raises(UsageError, match=r"cat.*dog"):
            transform(tensor(), unknown)


def test_a_class_is_also_known_by_its_folder_name(make_pool: Any, tmp_path: Path) -> None:
    folder = storage.safe_names(["T-shirt/top"])["T-shirt/top"]
    pool = make_pool(tmp_path, ["bag", folder], [(1, np.full((4, 4, 1), 50, np.uint8))])
    transform = SyntheticReplace(pool, p=1, class_to_idx={"T-shirt/top": 0, "bag": 1})
    assert folder != "T-shirt/top"
    assert shade(transform(tensor(1, 4, 4), 0)[0]) == shade(transform(tensor(1, 4, 4), "T-shirt/top")[0]) == 50


Item = namedtuple("Item", ["image", "label", "name"])


@pytest.mark.parametrize(
    ("sample", "image_at"),
    [
        ((tensor(), 1, "a.png"), 0),
        ([tensor(), 1, "a.png"], 0),
        (Item(tensor(), 1, "a.png"), 0),
        ({"id": 3, "pixel_values": tensor(), "labels": 1, "weight": [0.5]}, "pixel_values"),
    ],
)
def test_other_parts_of_a_sample_pass_through(pool: Pool, sample: Any, image_at: Any) -> None:
    replaced = SyntheticReplace(pool, p=1)(sample)
    assert type(replaced) is type(sample)
    assert 100 <= shade(replaced[image_at]) <= 109
    assert shade(sample[image_at]) == 255
    before, after = (dict(parts if isinstance(parts, dict) else enumerate(parts)) for parts in (sample, replaced))
    assert list(before) == list(after)
    assert all(after[key] is part for key, part in before.items() if key != image_at)


def test_images_of_classes_without_synthetic_ones_and_those_not_drawn_stay(pool: Pool) -> None:
    image = tensor()
    assert SyntheticReplace(pool, p=1)(image, "empty")[0] is image
    assert SyntheticReplace(pool, p=0)(image, "cat")[0] is image


def test_probability_is_kept(pool: Pool) -> None:
    transform = SyntheticReplace(pool, p=0.3)
    single = sum(replaced_cat(transform) != 255 for _ in range(1000))
    batch = transform(tensor(1000, 3, 4, 4), torch.zeros(1000, dtype=torch.int64))[0]
    assert 250 < single < 350
    assert 250 < int((batch.flatten(1).amax(1) < 255).sum()) < 350


@pytest.mark.parametrize("image", [tensor(40, 3, *SIZE), tensor(40, 1, 6, 4, dtype=torch.float32)])
@pytest.mark.parametrize("wrap", [torch.Tensor.clone, tv_tensors.Image])
def test_each_image_of_a_batch_is_decided_for_itself(pool: Pool, image: torch.Tensor, wrap: Any) -> None:
    images, labels = wrap(image), torch.arange(40) % 3
    replaced, returned = SyntheticReplace(pool, p=0.5)(images, labels)
    assert returned is labels
    assert (type(replaced), replaced.shape, replaced.dtype) == (type(images), images.shape, images.dtype)
    kept = [shade(one) == 255 for one in replaced]
    assert all(kept[2::3])
    assert 5 < sum(kept[0::3] + kept[1::3]) < 22
    for one, label, stays in zip(replaced, labels.tolist(), kept, strict=True):
        assert stays or 100 * label <= round(shade(one)) <= 100 * label + 9
    assert shade(images) == 255
    assert len({shade(one) for one in replaced}) > 8


def test_batches_may_have_names_and_be_mappings(pool: Pool) -> None:
    replaced = SyntheticReplace(pool, p=1)({"image": tensor(2, 3, 6, 4), "label": ["dog", "cat"]})["image"]
    assert shade(replaced[1]) <= 9 < 100 <= shade(replaced[0]) <= 109


def test_it_composes_with_two_arguments(pool: Pool) -> None:
    augment = v2.Compose([SyntheticReplace(pool, p=1), v2.RandomCrop(4), v2.ToDtype(torch.float32, scale=True)])
    image, label = augment(tv_tensors.Image(tensor()), 1)
    assert image.shape == (3, 4, 4)
    assert 99.9 <= shade(image) <= 109.1
    assert label == 1
    mix = v2.Compose([SyntheticReplace(pool, p=1), v2.MixUp(num_classes=3)])
    images, labels = mix(tensor(4, 3, 4, 4, dtype=torch.float32), torch.tensor([0, 1, 0, 1]))
    assert images.max() <= 109.1 / 255
    assert labels.shape == (4, 3)


@pytest.mark.parametrize("label", ["horse", 3, -1, 1.5, None, [1, 1]])
def test_unknown_labels_are_an_error_or_skipped_also_in_a_batch(pool: Pool, label: Any) -> None:
    with pytest.raises(UsageError, match=r"cat.*dog"):
        SyntheticReplace(pool, p=0)(tensor(), label)
    image = tensor()
    assert SyntheticReplace(pool, p=1, on_unknown_label="skip")(image, label)[0] is image
    images, _ = SyntheticReplace(pool, p=1, on_unknown_label="skip")(tensor(3, 3, 6, 4), torch.tensor([0, 9, 1]))
    assert [shade(image) > 109 for image in images] == [False, True, False]


BOXES = tv_tensors.BoundingBoxes([[0, 0, 3, 3]], format="XYXY", canvas_size=SIZE)


@pytest.mark.parametrize(
    "annotation",
    [
        BOXES,
        tv_tensors.Mask(torch.zeros(SIZE)),
        tv_tensors.Image(tensor()),
        Image.new("L", SIZE),
        {"target": [{"boxes": BOXES}]},
    ],
)
def test_annotations_are_an_error_or_skipped(pool: Pool, annotation: Any) -> None:
    with pytest.raises(UsageError, match=r"BoundingBoxes|Mask|Image"):
        SyntheticReplace(pool, p=0)(tensor(), 0, annotation)
    sample = (tensor(), 0, annotation)
    assert SyntheticReplace(pool, p=1, on_annotations="skip")(sample) is sample


def test_boxes_beside_the_label_are_found_and_empty_ones_are_none(pool: Pool) -> None:
    with pytest.raises(UsageError, match="BoundingBoxes"):
        SyntheticReplace(pool)(tensor(), {"boxes": BOXES, "labels": torch.tensor([0])})
    assert shade(SyntheticReplace(pool, p=1)(tensor(), 0, BOXES[:0])[0]) < 10


NORMALIZED = r"(?s)can't replace.*before Normalize"
NO_LABEL = r"(?s)image and label are needed.*transform="


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ((torch.full((3, 4, 4), -0.5), 0), NORMALIZED),
        ((torch.full((2, 3, 4, 4), 1.5), 0), NORMALIZED),
        ((torch.cat([torch.zeros(7, 3, 4, 4), torch.full((1, 3, 4, 4), -2.0)]), 0), NORMALIZED),  # one of a batch
        ((tensor(dtype=torch.int64), 0), NORMALIZED),
        ((tensor(*SIZE, 3), 0), NORMALIZED),
        ((Image.new("CMYK", SIZE), 0), NORMALIZED),
        (("image.png", 0), NORMALIZED),
        *[
            ((tensor(2, 3, 4, 4), labels), r"(?s)2 images.*MixUp")
            for labels in (1, torch.ones(1), torch.full((2, 2), 0.5), ["cat"])
        ],
        ((tensor(),), NO_LABEL),
        (((tensor(),),), NO_LABEL),
        (({"image": tensor(), "name": "a"},), NO_LABEL),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused(pool: Pool, sample: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SyntheticReplace(pool, p=0)(*sample)


@pytest.mark.parametrize(
    "wrong", [{"p": 1.5}, {"p": float("nan")}, {"on_unknown_label": "ignore"}, {"on_annotations": None}]
)
def test_wrong_arguments_are_refused_when_built(pool: Pool, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        SyntheticReplace(pool, **wrong)


def test_no_pool_is_refused_when_built_and_a_study_opens_its_own(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no finished pool"):
        SyntheticReplace(tmp_path)
    assert shade(SyntheticReplace(pool.root.parent, p=1)(tensor(), 0)[0]) < 10


def test_settings_are_shown_and_survive_pickling_which_leaves_the_images_out(pool: Pool) -> None:
    transform = SyntheticReplace(pool, p=1, class_to_idx={"cat": 5}, on_unknown_label="skip")
    before = len(pickle.dumps(transform))
    for _ in range(20):
        transform(tensor(), 5)
    copy = pickle.loads(pickle.dumps(transform))
    assert len(pickle.dumps(transform)) == before < 2000
    assert repr(copy) == repr(transform)
    assert str(pool.root) in repr(copy) and "p=1" in repr(copy)
    assert shade(copy(tensor(), 5)[0]) < 10
    assert shade(copy(tensor(), 0)[0]) == 255


def test_random_numbers_are_torchs(pool: Pool) -> None:
    transform, state = SyntheticReplace(pool, p=0.6), torch.get_rng_state()
    draws = [replaced_cat(transform) for _ in range(40)]
    torch.set_rng_state(state)
    assert draws == [replaced_cat(transform) for _ in range(40)]
    assert len(set(draws)) > 3


def epochs(transform: SyntheticReplace, context: str, count: int) -> list[list[float]]:
    """Shades of 32 white cats in each epoch, each through the transform, with two workers."""
    cats, generator = Items([partial(replaced_cat, transform)] * 32), torch.Generator().manual_seed(3)
    loader = DataLoader(cats, batch_size=16, num_workers=2, multiprocessing_context=context, generator=generator)
    return [torch.cat(list(loader)).tolist() for _ in range(count)]


@pytest.mark.e2e
def test_workers_and_epochs_draw_differently_and_repeatably(pool: Pool) -> None:
    transform = SyntheticReplace(pool, p=0.7)
    transform(tensor(), 0)  # an opened pool must not get in the way
    forked = epochs(transform, "fork", 2)
    assert len({tuple(epoch[start : start + 16]) for epoch in forked for start in (0, 16)}) == 4
    assert epochs(transform, "spawn", 1) == forked[:1]
