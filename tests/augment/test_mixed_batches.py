import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from math import ceil, floor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch.utils.data import DataLoader

from diffaug import MixedBatchSampler
from diffaug.augment.dataset import AugmentedDataset
from diffaug.data.images import LabeledImages
from diffaug.errors import UsageError
from diffaug.evaluation.experiment.arms import ARMS
from diffaug.evaluation.experiment.choice import Mix
from diffaug.evaluation.experiment.training_sets import Examples, training_set
from tests.augment.items import Items

CLASSES = ("cat", "dog", "fox")
REAL, MADE = (13, 5, 2), (0, 3, 8)
COUNT = sum(REAL)  # of real items, which come first


@pytest.fixture(scope="module")
def make_set(make_pool: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., AugmentedDataset]:
    def make(real: Sequence[int] = REAL, made: Sequence[int] = MADE) -> AugmentedDataset:
        images = [(k, np.full((2, 2, 1), 9, np.uint8)) for k, count in enumerate(made) for _ in range(count)]
        targets = np.repeat(np.arange(len(real)), real).tolist()
        black = Items([(torch.zeros(1, 2, 2), target) for target in targets], targets=targets, classes=list(CLASSES))
        return AugmentedDataset(black, make_pool(tmp_path_factory.mktemp("study") / "pool", CLASSES, images))

    return make


@pytest.fixture(scope="module")
def train_set(make_set: Callable[..., AugmentedDataset]) -> AugmentedDataset:
    return make_set()


def epochs(sampler: MixedBatchSampler, count: int) -> list[list[list[int]]]:
    return [list(sampler) for _ in range(count)]


def flat(batches: Sequence[Sequence[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


def num_synthetic(batch: Sequence[int]) -> int:
    return sum(index >= COUNT for index in batch)


def expected_fraction(dataset: AugmentedDataset, chosen: dict[str, Any]) -> float:
    """Of all draws: with equal classes, a class without synthetic items contributes none."""
    if not chosen["equal_classes"]:
        return float(chosen["synthetic_fraction"])
    labels, without = np.array(dataset.targets), [dataset.class_to_idx[name] for name in chosen["without"]]
    real, synthetic = (set(labels[dataset.is_synthetic == made].tolist()) for made in (False, True))
    return float(chosen["synthetic_fraction"] * len(real & synthetic - set(without)) / len(real))


settings_of_samplers = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 12),
        "synthetic_fraction": st.sampled_from([0, 0.1, 0.25, 0.3, 1 / 3, 0.5, 0.7, 0.9]) | st.floats(0, 0.99),
        "equal_classes": st.booleans(),
        "without": st.sampled_from([(), ("dog",), ["cat", "fox"]]),
        "drop_last": st.booleans(),
        "num_replicas": st.integers(1, 4),
    }
)


@pytest.mark.e2e
@settings(max_examples=150, deadline=None)
@given(settings_of_samplers, st.integers(0, 50))
def test_every_batch_has_the_share_and_every_replica_as_many(train_set, chosen, first) -> None:
    try:
        replicas = [MixedBatchSampler(train_set, **chosen, rank=rank) for rank in range(chosen["num_replicas"])]
    except UsageError as error:
        assert "no room" in str(error) or "too few" in str(error)
        return
    share = expected_fraction(train_set, chosen)
    full = synthetic = total = 0
    for replica in replicas:
        replica.set_epoch(first)
    for _ in range(3):
        for batches in zip(*replicas, strict=True):
            for batch in batches:
                full += len(batch) == chosen["batch_size"]
                total, synthetic = total + len(batch), synthetic + num_synthetic(batch)
                expected = share * len(batch)
                assert 0 < len(batch) <= chosen["batch_size"]
                assert floor(expected + 1e-9) <= num_synthetic(batch) <= ceil(expected - 1e-9)
    assert abs(synthetic - share * total) < 1 + 1e-9
    assert not chosen["drop_last"] or full == 3 * len(replicas[0]) * len(replicas)


@pytest.mark.parametrize("share", [0, 0.1, 0.3, 0.5, 0.85])
@pytest.mark.parametrize("batch_size", [7, 8, 64])
def test_an_epoch_holds_each_real_item_once(train_set: AugmentedDataset, share: float, batch_size: int) -> None:
    sampler = MixedBatchSampler(train_set, batch_size, share)
    for batches in epochs(sampler, 20):
        assert sorted(index for index in flat(batches) if index < COUNT) == list(range(COUNT))
        assert len(batches) == len(sampler) == ceil(COUNT / (1 - share) / batch_size - 1e-9)
        assert {len(batch) for batch in batches[:-2]} <= {batch_size}


def test_batches_that_differ_in_number_by_a_draw_stay_as_many(make_set: Callable[..., AugmentedDataset]) -> None:
    # 5 / 0.9 draws: five in some epochs, six in others, so that a batch of five is full or leaves one.
    sampler = MixedBatchSampler(make_set(real=(3, 1, 1)), 5, 0.1)
    sizes = Counter(tuple(map(len, batches)) for batches in epochs(sampler, 90))
    assert len(sampler) == 2
    assert sizes == {(5, 1): 50, (4, 1): 40}


def test_short_last_batches_are_dropped(train_set: AugmentedDataset) -> None:
    sampler = MixedBatchSampler(train_set, 8, 0.25, drop_last=True)  # 26.7 draws
    left_out: set[int] = set()
    for batches in epochs(sampler, 200):
        assert [len(batch) for batch in batches] == [8, 8, 8]
        real = [index for index in flat(batches) if index < COUNT]
        assert len(set(real)) == len(real) == 18
        left_out |= set(range(COUNT)) - set(real)
    assert left_out == set(range(COUNT))


@pytest.mark.parametrize("equal_classes", [False, True])
def test_synthetic_items_come_back_when_all_have_been_used(train_set: AugmentedDataset, equal_classes: bool) -> None:
    sampler = MixedBatchSampler(train_set, 4, 0.25, equal_classes=equal_classes)
    drawn = [index for index in flat(flat(epochs(sampler, 40))) if index >= COUNT]
    groups = [range(COUNT, COUNT + 3), range(COUNT + 3, COUNT + 11)]
    for group in groups if equal_classes else [range(COUNT, COUNT + 11)]:
        uses = np.array([drawn.count(index) for index in group])
        assert uses.max() - uses.min() <= 1
        assert uses.min() > 2


def images_of(dataset: AugmentedDataset, synthetic: bool) -> LabeledImages:
    labels = np.array(dataset.targets)[dataset.is_synthetic == synthetic]
    return LabeledImages(np.zeros((len(labels), 1, 1, 1), np.uint8), labels, CLASSES, ("",) * len(labels))


@pytest.mark.e2e
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("without", [(), ("dog",)])
@pytest.mark.parametrize("base", ["real only", "oversampling"])
def test_items_are_drawn_as_often_as_by_the_evaluation(train_set, base, without, share) -> None:
    equal_classes = ARMS[base].draw == "classes"
    arm = ARMS["best real + synthetic"]
    real, synthetic = (Examples(images_of(train_set, is_synthetic)) for is_synthetic in (False, True))
    training = training_set(arm, real, synthetic, Mix(share, excluded_classes=without), base=ARMS[base])
    oracle = np.zeros(len(train_set))
    banned = np.isin(train_set.targets, [CLASSES.index(name) for name in without])
    oracle[~(train_set.is_synthetic & (banned | (share == 0)))] = training.importances / training.importances.sum()
    sampler = MixedBatchSampler(train_set, 8, share, equal_classes=equal_classes, without=without)
    count = 200
    drawn = np.bincount(flat(flat(epochs(sampler, count))), minlength=len(train_set))
    # With equal classes each epoch rounds a real item's number up or down at random; nothing else is random.
    tolerance = np.where(train_set.is_synthetic | (not equal_classes), 2, 5 * 0.5 * np.sqrt(count))
    assert (np.abs(drawn - oracle * drawn.sum()) <= tolerance).all()
    by_class = [np.bincount(train_set.targets, times) for times in (drawn / drawn.sum(), oracle)]
    assert_allclose(*by_class, atol=0.01)
    assert not drawn[oracle == 0].any()


def test_real_items_of_equal_classes_are_rounded_up_or_down_every_epoch(train_set: AugmentedDataset) -> None:
    expected = np.repeat([COUNT / 3 / n for n in REAL], REAL)
    for batches in epochs(MixedBatchSampler(train_set, 6, 0, equal_classes=True), 20):
        times = np.bincount(flat(batches), minlength=len(train_set))[:COUNT]
        assert ((np.floor(expected) <= times) & (times <= np.ceil(expected))).all()
        assert times.sum() == COUNT


def test_a_class_without_real_items_is_no_class_to_balance(make_set: Callable[..., AugmentedDataset]) -> None:
    train_set = make_set(real=(12, 8, 0))
    drawn = flat(flat(epochs(MixedBatchSampler(train_set, 8, 0.4, equal_classes=True), 30)))
    assert 2 not in {train_set.targets[index] for index in drawn}
    # Half of the draws are cats, which have real images only; of the dogs two in five are synthetic.
    assert abs(num_synthetic(drawn) - 0.2 * len(drawn)) < 1


def test_seed_and_epoch_decide_and_epochs_differ(train_set: AugmentedDataset) -> None:
    first, second, third = epochs(MixedBatchSampler(train_set, 8, 0.3), 3)
    resumed = MixedBatchSampler(train_set, 8, 0.3)
    resumed.set_epoch(1)
    assert epochs(resumed, 2) == [second, third]
    assert resumed.epoch == 3
    assert first != second
    assert epochs(MixedBatchSampler(train_set, 8, 0.3, seed=1), 1) != [first]


def test_an_epoch_that_is_left_early_is_over_and_a_pickled_sampler_continues(train_set: AugmentedDataset) -> None:
    expected = epochs(MixedBatchSampler(train_set, 8, 0.3), 2)
    sampler = MixedBatchSampler(train_set, 8, 0.3)
    assert next(iter(sampler)) == expected[0][0]
    assert list(pickle.loads(pickle.dumps(sampler))) == list(sampler) == expected[1]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("equal_classes", [False, True])
def test_replicas_share_the_batches_of_one_process(train_set, equal_classes, drop_last) -> None:
    chosen = {"synthetic_fraction": 0.25, "equal_classes": equal_classes, "drop_last": drop_last}
    replicas = [MixedBatchSampler(train_set, 3, **chosen, num_replicas=3, rank=rank) for rank in range(3)]
    large, small = MixedBatchSampler(train_set, 9, **chosen), MixedBatchSampler(train_set, 3, **chosen)
    for _ in range(4):
        steps = list(zip(*replicas, strict=True))
        assert [sorted(flat(step)) for step in steps] == [sorted(batch) for batch in large]
        assert drop_last or flat(steps[:-1]) == list(small)[: 3 * len(steps) - 3]
    assert {len(replica) for replica in replicas} == {len(large)}


@pytest.mark.e2e
@pytest.mark.parametrize("workers", [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}])
def test_a_loader_gives_the_samplers_batches(train_set: AugmentedDataset, workers: dict[str, Any]) -> None:
    expected = epochs(MixedBatchSampler(train_set, 8, 0.3), 3)
    loader = DataLoader(train_set, batch_sampler=MixedBatchSampler(train_set, 8, 0.3), **workers)
    assert len(loader) == len(expected[0])
    for batches in expected:
        for batch, (images, labels) in zip(batches, loader, strict=True):
            assert labels.tolist() == [train_set.targets[index] for index in batch]
            assert (images.amax((1, 2, 3)) > 0).tolist() == [index >= COUNT for index in batch]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"synthetic_fraction": 1}, "synthetic_fraction"),
        ({"synthetic_fraction": -0.1}, "synthetic_fraction"),
        ({"synthetic_fraction": float("nan")}, "synthetic_fraction"),
        ({"synthetic_fraction": 1 - 1e-12}, "synthetic_fraction"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 8.0}, "batch_size"),
        ({"batch_size": 3, "synthetic_fraction": 0.7}, "at least 4"),
        ({"num_replicas": 0}, "num_replicas"),
        ({"num_replicas": 2, "rank": 2}, "at most 1"),
        ({"rank": -1}, "rank"),
        ({"without": ("dog", "horse")}, r"'horse'(.|\n)*cat"),
        ({"without": ("dog", "fox")}, "no synthetic"),
        ({"batch_size": 64, "drop_last": True}, "too few"),
        ({"batch_size": 1, "synthetic_fraction": 0, "num_replicas": 3}, "too few"),
        ({"num_replicas": 40}, "too few"),
    ],
)
def test_wrong_arguments_are_refused(train_set: AugmentedDataset, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MixedBatchSampler(train_set, **{"batch_size": 8, "synthetic_fraction": 0.3, **wrong})


def test_another_dataset_and_a_negative_epoch_are_refused(train_set: AugmentedDataset) -> None:
    with pytest.raises(UsageError, match="AugmentedDataset, not Items"):
        MixedBatchSampler(train_set.dataset, 8, 0.3)
    with pytest.raises(UsageError, match="epoch"):
        MixedBatchSampler(train_set, 8, 0.3).set_epoch(-1)


@pytest.mark.parametrize("equal_classes", [False, True])
def test_a_pool_without_allowed_images_does_at_a_share_of_zero(train_set, equal_classes) -> None:
    sampler = MixedBatchSampler(train_set, 8, 0, equal_classes=equal_classes, without=CLASSES)
    assert num_synthetic(flat(list(sampler))) == 0
