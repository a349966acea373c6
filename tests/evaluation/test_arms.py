"""Each arm turns images into the training that its name promises."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffaug.errors import DataError
from diffaug.evaluation.arms import ARMS, concatenate, training_inputs
from diffaug.settings import ARM_NAMES


@pytest.fixture
def train(make_images):
    return make_images([6, 3, 1])


@pytest.fixture
def synthetic(make_images):
    return make_images([0, 2, 4], seed=1, prefix="synthetic")


@pytest.mark.parametrize("name", ARM_NAMES)
def test_only_synthetic_arms_see_synthetic_images(name, train, synthetic):
    inputs = training_inputs(ARMS[name], train, synthetic, 0.5)
    assert ARMS[name].uses_synthetic == ("synthetic" in name)
    assert inputs.images.ids == train.ids + (synthetic.ids if "synthetic" in name else ())
    assert_array_equal(inputs.images.pixels[: len(train)], train.pixels)


def test_real_only_is_plain(train, synthetic):
    inputs = training_inputs(ARMS["real only"], train, synthetic, 0.5)
    assert (inputs.draw_probabilities, inputs.loss_weights, inputs.log_prior) == (None, None, None)


def test_oversampling_draws_classes_equally(train, synthetic):
    draws = training_inputs(ARMS["oversampling"], train, synthetic, 0.5).draw_probabilities
    assert_allclose(np.bincount(train.labels, weights=draws), 1 / 3)


@pytest.mark.parametrize(
    ("name", "effective_counts"),
    [("balanced softmax", [6, 3, 1]), ("balanced softmax + synthetic", [6, 3.5, 2])],
)
def test_prior_is_that_of_the_weighted_images(name, effective_counts, train, synthetic):
    prior = training_inputs(ARMS[name], train, synthetic, 0.25).log_prior
    assert_allclose(np.exp(prior), np.array(effective_counts) / np.sum(effective_counts))


@pytest.mark.parametrize("name", ["real + synthetic", "balanced softmax + synthetic"])
def test_synthetic_images_weigh_less(name, train, synthetic):
    inputs = training_inputs(ARMS[name], train, synthetic, 0.25)
    assert_array_equal(inputs.loss_weights, [1] * 10 + [0.25] * 6)
    assert inputs.draw_probabilities is None


def test_an_empty_pool_changes_nothing(train, make_images):
    inputs = training_inputs(ARMS["balanced softmax + synthetic"], train, make_images([0, 0, 0]), 0.5)
    real = training_inputs(ARMS["balanced softmax"], train, make_images([0, 0, 0]), 0.5)
    assert inputs.images is train
    assert_array_equal(inputs.loss_weights, np.ones(10))
    assert_array_equal(inputs.log_prior, real.log_prior)


def test_sets_that_do_not_fit_are_an_error(train, make_images):
    with pytest.raises(DataError, match="different classes"):
        concatenate(train, make_images([1, 1]))
    with pytest.raises(DataError, match=r"different shapes .*\(8, 8, 1\) and \(8, 8, 3\)"):
        concatenate(train, make_images([1, 1, 1], channels=3))
