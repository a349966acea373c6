from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from diffaug.configuration.arms import ARM_NAMES, CONTROLS
from diffaug.data.images import LabeledImages
from diffaug.errors import DataError
from diffaug.evaluation.experiment import training_sets
from diffaug.evaluation.experiment.arms import ARMS
from diffaug.evaluation.experiment.choice import Mix
from diffaug.evaluation.experiment.training_sets import Examples, allowed_positions

REAL = np.array([6, 3, 1])
MADE = np.array([0, 2, 4])
MIX = Mix(0.25)
MIXED = 0.75 * REAL / 10 + 0.25 * MADE / 6
BEST = ARMS["best real + synthetic"]


def training_set(arm, train, synthetic, mix, base=None, pseudo=None):
    return training_sets.training_set(arm, Examples(train), Examples(synthetic), mix, base=base, pseudo=pseudo)


@pytest.fixture
def train(make_images):
    return make_images(REAL)


@pytest.fixture
def synthetic(make_images):
    return make_images(MADE, seed=1, prefix="synthetic")


def class_draws(training):
    """Expected fraction of each class in a batch, (K,), of synthetic images, and of each class in the loss, (K,)."""
    labels, count = training.images.labels, len(training.images)
    draws = np.full(count, 1 / count) if training.draw_probabilities is None else training.draw_probabilities
    weights = np.ones(count) if training.loss_weights is None else training.loss_weights
    assert draws.sum() == pytest.approx(1)
    in_loss = np.bincount(labels, weights * draws, 3)
    return np.bincount(labels, draws, 3), draws[training.is_synthetic].sum(), in_loss / in_loss.sum()


@pytest.mark.parametrize(
    ("name", "expected", "fraction"),
    [
        ("real only", REAL / 10, 0),
        ("tuned augmentation", REAL / 10, 0),
        ("oversampling", [1 / 3] * 3, 0),
        ("balanced softmax", REAL / 10, 0),
        ("prior", REAL / 10, 0),
        ("pretrained features", [1 / 3] * 3, 0),
        ("pseudo-labels", REAL / 10, 0),
        ("replay", MIXED, 0),
        ("real + synthetic", MIXED, 0.25),
        ("real + unfiltered synthetic", MIXED, 0.25),
        ("synthetic only", MADE / 6, 1),
    ],
)
def test_classes_are_drawn_as_the_name_promises(name, expected, fraction, train, synthetic):
    training = training_set(ARMS[name], train, synthetic, MIX)
    draws, synthetic_fraction, _ = class_draws(training)
    assert_allclose(draws, expected)
    assert synthetic_fraction == pytest.approx(fraction)
    assert training.augmentation == ARMS[name].augmentation
    assert training.loss_weights is None


@pytest.mark.parametrize("base", ["real only", "oversampling", "tuned augmentation", "balanced softmax"])
def test_the_best_real_arm_keeps_its_ways_when_synthetic_images_are_added(base, train, synthetic):
    training = training_set(BEST, train, synthetic, MIX, ARMS[base])
    draws, fraction, _ = class_draws(training)
    assert_allclose(draws, [1 / 3] * 3 if base == "oversampling" else MIXED)
    assert fraction == pytest.approx(0.25 * (MADE > 0).mean() if base == "oversampling" else 0.25)
    assert training.augmentation == ARMS[base].augmentation
    assert (training.log_prior is not None) == ARMS[base].balanced_softmax


@pytest.mark.parametrize("name", ARM_NAMES)
def test_only_arms_that_say_so_see_synthetic_images(name, train, synthetic):
    training = training_set(ARMS[name], train, synthetic, MIX, ARMS["oversampling"])
    assert ARMS[name].uses_synthetic == ("synthetic" in name)
    real = () if name == "synthetic only" else train.ids
    assert training.images.ids == real + (synthetic.ids if "synthetic" in name else ())
    assert_array_equal(training.is_synthetic, [i.startswith("synthetic") for i in training.images.ids])


@pytest.mark.parametrize("arm", [BEST, ARMS["balanced softmax"]])
@pytest.mark.parametrize("weight", [1.0, 0.4])
def test_balanced_softmax_takes_the_prior_of_draws_times_weights(arm, weight, train, synthetic):
    training = training_set(arm, train, synthetic, Mix(0.3, weight), ARMS["balanced softmax"])
    mixed = 0.7 * REAL / 10 + 0.3 * weight * MADE / 6 if arm is BEST else REAL / 10
    assert_allclose(np.exp(training.log_prior), mixed / mixed.sum())
    assert_allclose(np.exp(training.log_prior), class_draws(training)[2])


@pytest.mark.parametrize("weight", [1.0, 0.4])
def test_controls_copy_the_class_prior_and_the_draws_of_real_and_synthetic(weight, train, synthetic):
    arms, mix = (ARMS[name] for name in ("real + synthetic", "prior", "replay")), Mix(0.3, weight)
    copied, prior, replay = (training_set(arm, train, synthetic, mix) for arm in arms)
    assert_allclose(np.log(class_draws(prior)[2]) - prior.log_prior, np.log(class_draws(copied)[2]))
    assert_allclose(class_draws(replay)[0], class_draws(copied)[0])
    assert_allclose(class_draws(replay)[2], class_draws(copied)[2])
    assert prior.images is replay.images is train
    assert_allclose(1 if copied.loss_weights is None else copied.loss_weights, [1] * 10 + [weight] * 6)


@pytest.mark.parametrize("name", [name for name in ARM_NAMES if name != "synthetic only"])
@pytest.mark.parametrize("nothing", ["mix", "pool"])
def test_without_synthetic_images_every_arm_equals_its_real_counterpart(name, nothing, train, synthetic):
    mix, pool = (Mix(0.0), synthetic) if nothing == "mix" else (MIX, synthetic.select(np.empty(0, np.int64)))
    same = training_set(ARMS[name], train, pool, mix, ARMS["balanced softmax"])
    copies_real = ARMS[name].role != "baseline" or name in ("replay", "prior")
    partner = "balanced softmax" if name == BEST.name else "real only" if copies_real else name
    plain = training_set(ARMS[partner], train, pool, Mix(0.0))
    assert same.images is train
    for field in ("draw_probabilities", "loss_weights", "log_prior"):
        assert_array_equal(getattr(same, field), getattr(plain, field))


def test_no_baseline_to_build_on_and_only_synthetic_images_of_an_empty_pool_are_errors(train, synthetic):
    with pytest.raises(ValueError, match="needs a baseline to build on"):
        training_set(BEST, train, synthetic, MIX)
    with pytest.raises(DataError, match="no synthetic image to train on"):
        training_set(ARMS["synthetic only"], train, synthetic.select(np.empty(0, np.int64)), MIX)


@settings(max_examples=40, deadline=None)
@given(
    labels=st.lists(st.integers(0, 2), max_size=30),
    real=st.lists(st.integers(1, 5), min_size=3, max_size=3),
    ratio=st.one_of(st.none(), st.floats(0, 4)),
    without=st.sets(st.sampled_from("abc")),
    origins=st.sets(st.sampled_from(("sampled", "transplant"))),
)
def test_of_each_class_the_first_images_up_to_the_ratio_are_used(labels, real, ratio, without, origins):
    def images(labels):
        labels = np.array(labels, np.int64)
        return LabeledImages(np.zeros((len(labels), 2, 2, 1), np.uint8), labels, ("a", "b", "c"), ("",) * len(labels))

    train, synthetic = images(np.repeat([0, 1, 2], real)), images(labels)
    synthetic = replace(
        synthetic, origins=tuple("sampled" if number % 3 else "transplant" for number in range(len(labels)))
    )
    expected, used = [], [0, 0, 0]
    for position, label in enumerate(labels):
        if synthetic.origins[position] in origins:
            continue
        if "abc"[label] not in without and (ratio is None or used[label] + 1 <= ratio * real[label]):
            used[label] += 1
            expected.append(position)
    mix = Mix(0.5, max_per_real=ratio, excluded_classes=tuple(without), excluded_origins=tuple(origins))
    assert allowed_positions(train, synthetic, mix).tolist() == expected


def test_a_mix_is_zero_if_no_synthetic_image_has_an_effect():
    assert all(mix.is_zero for mix in (Mix(0.0), Mix(0.3, 0.0), Mix(0.3, max_per_real=0)))
    assert not Mix(0.3).is_zero
    assert not Mix(0.3, max_per_real=0.5, excluded_classes=("a",)).is_zero


def test_every_arm_of_the_table_can_be_trained_and_compared_in_the_same_order():
    assert tuple(ARMS) == ARM_NAMES
    assert {name for control in CONTROLS for name in (control.arm, control.baseline)} <= set(ARM_NAMES)
