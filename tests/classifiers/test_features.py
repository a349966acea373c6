from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from diffaug.classifiers.features import FeatureClassifier
from diffaug.classifiers.training_set import TrainingRecipe, TrainingSet


class MeanByColumn:
    name = "mean by column"

    def features(self, pixels):
        return pixels.mean(axis=(1, 3), dtype=np.float32)[:, ::4] / 50


def predict(training, pixels, seed=0):
    classifier, recipe = FeatureClassifier(MeanByColumn()), TrainingRecipe(1)
    return classifier.fit_predict(training, pixels, recipe=recipe, seed=seed, device="cpu")


def by_definition(features, targets, log_prior, others):
    """Minimizes the penalized loss, prior added to the logits, with a general-purpose optimizer."""
    weight = targets.sum(axis=1)
    mean = np.average(features, axis=0, weights=weight)
    scale = np.sqrt(np.average((features - mean) ** 2, axis=0, weights=weight))
    x, z = (features - mean) / scale, (others - mean) / scale
    shape = (x.shape[1] + 1, targets.shape[1])

    def loss(flat):
        table = flat.reshape(shape)
        logits = x @ table[:-1] + table[-1] + log_prior
        chances = softmax(logits, axis=1)
        slope = chances * weight[:, None] - targets
        gradient = np.vstack([x.T @ slope + table[:-1], slope.sum(axis=0)])
        return -(targets * log_softmax(logits, axis=1)).sum() + (table[:-1] ** 2).sum() / 2, gradient.ravel()

    found = minimize(loss, np.zeros(np.prod(shape)), jac=True, method="BFGS", options={"gtol": 1e-8}).x.reshape(shape)
    return softmax(z @ found[:-1] + found[-1], axis=1)


@pytest.mark.parametrize("variant", ["plain", "weighted", "prior"])
def test_it_is_the_minimum_of_the_loss_that_a_network_is_trained_on(make_images, variant):
    images, random, classes = make_images((30, 12, 6)), np.random.default_rng(0), 3
    training = TrainingSet.real_only(images)
    log_prior = np.log(np.arange(classes, 0, -1) / classes)
    if variant == "weighted":
        draw = random.dirichlet(np.ones(len(images)))
        training = replace(training, draw_probabilities=draw, loss_weights=random.uniform(0.1, 1, len(images)))
    elif variant == "prior":
        training = replace(training, log_prior=log_prior)
    others = make_images((5, 5, 5), seed=9).pixels
    features, other_features = (MeanByColumn().features(pixels) for pixels in (images.pixels, others))
    targets = training.soft_labels * training.importances[:, None]
    expected = by_definition(features, targets, log_prior if variant == "prior" else 0, other_features)
    assert_allclose(predict(training, others), expected, atol=2e-3)


def test_classes_without_images_get_nothing(make_images):
    images = make_images((6, 0, 6))
    training = TrainingSet(images, np.zeros(12, bool), log_prior=np.log([0.5, 1e-9, 0.5]))
    predicted = predict(training, images.pixels)
    assert_array_equal(predicted[:, 1], 0)
    assert_array_equal(predicted.argmax(axis=1), images.labels)
    only = images.select(np.arange(6))
    assert_array_equal(predict(TrainingSet(only, np.zeros(6, bool)), images.pixels), np.tile([1, 0, 0], (12, 1)))


def test_strong_augmentation_depends_on_the_seed_and_still_learns(make_images):
    images = make_images((40, 20, 20))
    training = TrainingSet(images, np.zeros(80, bool), strong_augmentation=True)
    test = make_images((20, 20, 20), seed=5)
    first, again, other = (predict(training, test.pixels, seed) for seed in (0, 0, 1))
    assert_array_equal(first, again)
    assert (first != other).any()
    assert (first.argmax(axis=1) == test.labels).mean() > 0.6
    assert_array_equal(*(predict(replace(training, strong_augmentation=False), test.pixels, seed) for seed in (0, 1)))
