"""Images that nothing shows to belong to their class are left out of a training, as the evaluation leaves them out."""

import copy
import pickle

import numpy as np
import pytest
from torchvision.transforms import v2

import diffaug
from diffaug.augment.lookup import PoolLookup
from diffaug.errors import UsageError
from diffaug.integrations import albumentations_transforms
from diffaug.synthesis.pool.pool import Pool
from tests.augment.items import Items
from tests.conftest import with_blind

CLASSES = ("cat", "dog", "fox")
WHITE = np.full((4, 4, 3), 255, np.uint8)


@pytest.fixture
def pool(make_pool, tmp_path) -> Pool:
    """Two images of cat, three of dog, which is blind, and one of fox."""
    labels = [0, 0, 1, 1, 1, 2]
    return with_blind(
        make_pool(tmp_path / "pool", CLASSES, [(k, np.full((4, 4, 3), 50 * k, np.uint8)) for k in labels]), "dog"
    )


@pytest.fixture
def real() -> Items:
    return Items([(WHITE, label) for label in (0, 1, 2, 0)], targets=[0, 1, 2, 0], classes=list(CLASSES))


def test_a_dataset_leaves_them_out_and_says_so_once(pool, real) -> None:
    with pytest.warns(UserWarning, match="3 synthetic images are left out.* dog; .*include_blind=True") as said:
        found = diffaug.AugmentedDataset(real, pool)
    assert len(said) == 1
    assert found.targets == [0, 1, 2, 0, 0, 0, 2]
    assert [int(found[index][0].max()) for index in range(4, 7)] == [0, 0, 100]
    assert diffaug.AugmentedDataset(real, pool.root, include_blind=True).targets == [0, 1, 2, 0, 0, 0, 1, 1, 1, 2]


def test_an_unlearned_pool_has_none_left_and_an_unmeasured_one_all(pool, make_pool, real, tmp_path, recwarn) -> None:
    other = make_pool(tmp_path / "other", CLASSES, [(1, WHITE)])
    assert len(diffaug.AugmentedDataset(real, other)) == 5
    assert not recwarn
    unlearned = with_blind(pool, unlearned=("a reason",))
    with pytest.warns(UserWarning, match="6 synthetic images are left out"):
        found = diffaug.AugmentedDataset(real, unlearned)
    assert len(found) == 4
    with pytest.raises(UsageError, match="no synthetic images") as caught:
        diffaug.MixedBatchSampler(found, 2, 0.5)
    assert "include_blind=True" in caught.value.fix
    everything = diffaug.AugmentedDataset(real, unlearned, include_blind=True)
    assert len(list(diffaug.MixedBatchSampler(everything, 2, 0.5))) == 4


@pytest.mark.parametrize("kind", [diffaug.SyntheticReplace, albumentations_transforms.SyntheticReplace])
def test_transforms_keep_images_of_these_classes(pool, kind) -> None:
    options = {"class_to_idx": {name: index for index, name in enumerate(CLASSES)}, "p": 1.0}
    with pytest.warns(UserWarning, match="include_blind=True") as said:
        replace = kind(str(pool.root), **options)
        for transform in (replace, copy.deepcopy(replace), pickle.loads(pickle.dumps(replace))):
            assert shown(transform, "dog") == 255
            assert shown(transform, "fox") == 100
    assert len(said) == 1
    everything = kind(str(pool.root), **options, include_blind=True)
    assert shown(pickle.loads(pickle.dumps(everything)), "dog") == 50


def shown(transform, label: str) -> int:
    """The gray level of what the transform makes of a white image."""
    if isinstance(transform, v2.Transform):
        return int(np.asarray(transform(v2.functional.to_image(WHITE), label)[0]).max())
    return int(transform(image=WHITE, label=label)["image"].max())


def test_positions_are_those_of_what_is_left(pool) -> None:
    for lookup in (PoolLookup(str(pool.root)), pickle.loads(pickle.dumps(PoolLookup(str(pool.root))))):
        assert lookup.candidates("fox", "error").tolist() == [2]
        assert lookup.read(2).max() == 100
        assert not len(lookup.candidates("dog", "error"))
