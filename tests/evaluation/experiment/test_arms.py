"""Each arm turns images into the training that its name promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from diffaug.configuration.settings import ARM_NAMES, FAST_ARMS, EvaluationSettings
from diffaug.data.images import LabeledImages
from diffaug.errors import DataError
from diffaug.evaluation.experiment.arms import ARMS, Dose, allowed_positions, concatenate, resolved, training_set

REAL = np.array([6, 3, 1])
MADE = np.array([0, 2, 4])
DOSE = Dose(0.25)
BEST = ARMS["best real + synthetic"]


@pytest.fixture
def train(make_images):
    return make_images(REAL)


@pytest.fixture
def synthetic(make_images):
    return make_images(MADE, seed=1, prefix="synthetic")


def class_draws(training):
    """Expected share of each class in a batch, (K,), and of synthetic images."""
    count = len(training.images)
    draws = training.draw_probabilities if training.draw_probabilities is not None else np.full(count, 1 / count)
    assert draws.sum() == pytest.approx(1)
    return np.bincount(training.images.labels, draws, len(training.images.classes)), draws[training.is_synthetic].sum()


def implied_prior(training):
    """Share of each class in the expected loss."""
    weights = training.loss_weights if training.loss_weights is not None else np.ones(len(training.images))
    draws = training.draw_probabilities if training.draw_probabilities is not None else np.ones(len(training.images))
    mass = np.bincount(training.images.labels, weights * draws, len(training.images.classes))
    return mass / mass.sum()


@pytest.mark.parametrize(
    ("name", "expected", "share"),
    [
        ("real only", REAL / 10, 0),
        ("strong augmentation", REAL / 10, 0),
        ("oversampling", [1 / 3] * 3, 0),
        ("balanced softmax", REAL / 10, 0),
        ("prior", REAL / 10, 0),
        ("replay", 0.75 * REAL / 10 + 0.25 * MADE / 6, 0),
        ("real + synthetic", 0.75 * REAL / 10 + 0.25 * MADE / 6, 0.25),
        ("real + unfiltered synthetic", 0.75 * REAL / 10 + 0.25 * MADE / 6, 0.25),
        ("synthetic only", MADE / 6, 1),
    ],
)
def test_classes_are_drawn_as_the_name_says(name, expected, share, train, synthetic):
    training = training_set(ARMS[name], train, synthetic, DOSE)
    draws, synthetic_share = class_draws(training)
    assert_allclose(draws, expected)
    assert synthetic_share == pytest.approx(share)
    assert training.strong_augmentation == (name == "strong augmentation")
    assert training.loss_weights is None


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("real only", 0.75 * REAL / 10 + 0.25 * MADE / 6),
        ("oversampling", [1 / 3] * 3),
        ("strong augmentation", 0.75 * REAL / 10 + 0.25 * MADE / 6),
        ("balanced softmax", 0.75 * REAL / 10 + 0.25 * MADE / 6),
    ],
)
def test_the_best_real_arm_keeps_its_ways_when_synthetic_images_are_added(base, expected, train, synthetic):
    training = training_set(BEST, train, synthetic, DOSE, ARMS[base])
    draws, share = class_draws(training)
    assert_allclose(draws, expected)
    assert share == pytest.approx(0.25 * (MADE > 0).mean() if base == "oversampling" else 0.25)
    assert training.strong_augmentation == ARMS[base].strong_augmentation
    assert (training.log_prior is not None) == ARMS[base].balanced_softmax


@pytest.mark.parametrize("name", ARM_NAMES)
def test_only_arms_that_say_so_see_synthetic_images(name, train, synthetic):
    training = training_set(ARMS[name], train, synthetic, DOSE, ARMS["oversampling"])
    assert ARMS[name].uses_synthetic == ("synthetic" in name)
    real = () if name == "synthetic only" else train.ids
    assert training.images.ids == real + (synthetic.ids if "synthetic" in name else ())
    assert_array_equal(training.is_synthetic, [i.startswith("synthetic") for i in training.images.ids])


@pytest.mark.parametrize("base", ["balanced softmax", None])
@pytest.mark.parametrize("weight", [1.0, 0.4])
def test_balanced_softmax_takes_the_prior_of_draws_times_weights(base, weight, train, synthetic):
    arm = BEST if base else ARMS["balanced softmax"]
    training = training_set(arm, train, synthetic, Dose(0.3, weight), ARMS["balanced softmax"])
    mixed = 0.7 * REAL / 10 + 0.3 * weight * MADE / 6 if base else REAL / 10
    assert_allclose(np.exp(training.log_prior), mixed / mixed.sum())
    assert_allclose(np.exp(training.log_prior), implied_prior(training))


@pytest.mark.parametrize("weight", [1.0, 0.4])
def test_the_prior_control_shifts_the_real_prior_to_that_of_real_and_synthetic(weight, train, synthetic):
    dose = Dose(0.3, weight)
    control = training_set(ARMS["prior"], train, synthetic, dose)
    copied = implied_prior(training_set(ARMS["real + synthetic"], train, synthetic, dose))
    assert_allclose(np.log(implied_prior(control)) - control.log_prior, np.log(copied))
    assert control.images is train


@pytest.mark.parametrize("weight", [1.0, 0.4])
def test_the_replay_control_has_the_draws_and_weights_of_real_and_synthetic(weight, train, synthetic):
    dose = Dose(0.3, weight)
    replay = training_set(ARMS["replay"], train, synthetic, dose)
    copied = training_set(ARMS["real + synthetic"], train, synthetic, dose)
    assert_allclose(class_draws(replay)[0], class_draws(copied)[0])
    assert_allclose(implied_prior(replay), implied_prior(copied))
    assert replay.images is train


def test_synthetic_images_weigh_what_the_dose_says(train, synthetic):
    training = training_set(ARMS["real + synthetic"], train, synthetic, Dose(0.3, 0.4))
    assert_allclose(training.loss_weights, [1] * 10 + [0.4] * 6)


@pytest.mark.parametrize("name", [name for name in ARM_NAMES if name != "synthetic only"])
@pytest.mark.parametrize("nothing", ["dose", "pool"])
def test_without_synthetic_images_every_arm_equals_its_real_counterpart(name, nothing, train, synthetic):
    dose, pool = (Dose(0.0), synthetic) if nothing == "dose" else (DOSE, synthetic.select(np.empty(0, np.int64)))
    same = training_set(ARMS[name], train, pool, dose, ARMS["balanced softmax"])
    partner = "balanced softmax" if name == BEST.name else name if ARMS[name].role == "real" else "real only"
    partner = "real only" if name in ("replay", "prior") else partner
    plain = training_set(ARMS[partner], train, pool, Dose(0.0))
    assert same.images is train
    for field in ("draw_probabilities", "loss_weights", "log_prior"):
        ours, theirs = getattr(same, field), getattr(plain, field)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert_array_equal(ours, theirs)


def test_at_a_dose_of_zero_arms_resolve_to_the_same_training():
    zero = resolved(BEST, 0.0, ARMS["oversampling"])
    assert (zero.draw, zero.uses_synthetic, zero.follows_dose) == ("classes", False, False)
    assert not resolved(ARMS["replay"], 0.0).follows_dose
    assert resolved(ARMS["synthetic only"], 0.0).uses_synthetic
    with pytest.raises(ValueError, match="needs the real arm"):
        resolved(BEST, 0.3)


def test_only_synthetic_images_of_an_empty_pool_are_an_error(train, synthetic):
    with pytest.raises(DataError, match="no synthetic image to train on alone"):
        training_set(ARMS["synthetic only"], train, synthetic.select(np.empty(0, np.int64)), DOSE)


@settings(max_examples=40, deadline=None)
@given(
    labels=st.lists(st.integers(0, 2), max_size=30),
    real=st.lists(st.integers(1, 5), min_size=3, max_size=3),
    ratio=st.one_of(st.just(np.inf), st.floats(0, 4)),
    without=st.sets(st.sampled_from("abc")),
)
def test_of_each_class_the_first_images_up_to_the_ratio_are_used(labels, real, ratio, without):
    def images(labels):
        labels = np.array(labels, np.int64)
        return LabeledImages(np.zeros((len(labels), 2, 2, 1), np.uint8), labels, ("a", "b", "c"), ("",) * len(labels))

    train, synthetic = images(np.repeat([0, 1, 2], real)), images(labels)
    expected, used = [], [0, 0, 0]
    for position, label in enumerate(labels):
        if "abc"[label] not in without and used[label] + 1 <= ratio * real[label]:
            used[label] += 1
            expected.append(position)
    assert allowed_positions(train, synthetic, Dose(0.5, max_ratio=ratio, without=tuple(without))).tolist() == expected


def test_sets_that_do_not_fit_are_an_error(train, make_images):
    with pytest.raises(DataError, match="different classes"):
        concatenate(train, make_images([1, 1]))
    with pytest.raises(DataError, match=r"different shapes .*\(8, 8, 1\) and \(8, 8, 3\)"):
        concatenate(train, make_images([1, 1, 1], channels=3))


@pytest.mark.parametrize("dose", [Dose(0.3), Dose(0.2, 0.5, 3.0, ("cat", "dog"))])
def test_a_dose_survives_json(dose):
    assert Dose.from_dict(dose.to_dict()) == dose
    assert dose.to_dict()["max_ratio"] in (None, 3.0)


def test_arms_asked_for_need_a_baseline_and_a_claim():
    assert EvaluationSettings().compared_arms == FAST_ARMS
    with pytest.raises(ValueError, match="at least one of real only"):
        EvaluationSettings(arms=("real only", "synthetic only"))
    with pytest.raises(ValueError, match="unknown arms"):
        EvaluationSettings(arms=("real only", "best"))
