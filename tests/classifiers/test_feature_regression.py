import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from diffaug.classifiers.feature_regression import LEAST_SHARE, FeatureRegression, balanced_accuracy, choose_regression


def clusters(counts, dimensions=6, seed=0, spread=1.0):
    """Features around one center per class, and labels."""
    centers = np.random.default_rng(7).normal(size=(len(counts), dimensions))
    labels = np.repeat(np.arange(len(counts)), counts)
    noise = np.random.default_rng(seed).normal(size=(len(labels), dimensions))
    return (centers[labels] + spread * noise).astype(np.float32), labels


def by_definition(features, importances, targets, log_prior, others, penalty):
    """Minimizes the penalized loss, prior added to the logits, with a general-purpose optimizer."""
    weight = targets.sum(axis=1)
    mean = np.average(features, axis=0, weights=importances)
    variance = np.average((features - mean) ** 2, axis=0, weights=importances)
    scale = np.sqrt((variance + LEAST_SHARE * variance.mean()) * features.shape[1])
    x, z = (features - mean) / scale, (others - mean) / scale
    shape = (x.shape[1] + 1, targets.shape[1])

    def loss(flat):
        table = flat.reshape(shape)
        logits = x @ table[:-1] + table[-1] + log_prior
        slope = softmax(logits, axis=1) * weight[:, None] - targets
        gradient = np.vstack([x.T @ slope + penalty * table[:-1], slope.sum(axis=0)])
        value = -(targets * log_softmax(logits, axis=1)).sum() + penalty * (table[:-1] ** 2).sum() / 2
        return value, gradient.ravel()

    found = minimize(loss, np.zeros(np.prod(shape)), jac=True, method="BFGS", options={"gtol": 1e-7}).x.reshape(shape)
    return softmax(z @ found[:-1] + found[-1], axis=1)


@pytest.mark.parametrize("dimensions", [6, 90], ids=["fewer dimensions than images", "more"])
@pytest.mark.parametrize("variant", ["plain", "soft", "prior", "class-weighted"])
@pytest.mark.parametrize("penalty", [0.1, 1.0])
def test_it_is_the_minimum_of_the_loss_that_a_network_is_trained_on(variant, dimensions, penalty):
    (features, labels), (others, _) = clusters((30, 12, 6), dimensions), clusters((3, 3, 3), dimensions, seed=1)
    random, targets, prior = np.random.default_rng(0), np.eye(3)[labels], np.zeros(3)
    if variant == "soft":
        targets = random.dirichlet(np.ones(3), len(labels)) * random.uniform(0.5, 2, (len(labels), 1))
    elif variant != "plain":
        prior = np.log([0.5, 0.3, 0.2])
    weighted, added = (targets * 16 / np.array([30, 12, 6]), 0) if variant == "class-weighted" else (targets, prior)
    expected = by_definition(features, targets.sum(axis=1), weighted, added, others, penalty)
    regression = FeatureRegression(penalty, class_weighted=variant == "class-weighted")
    assert_allclose(regression.fit_predict(features, targets, prior, others), expected, atol=2e-3)


def test_classes_without_images_get_nothing():
    features, labels = clusters((6, 0, 6), spread=0.1)
    for targets, expected in ((np.eye(3)[labels], labels), (np.eye(3)[np.zeros(12, int)], np.zeros(12, int))):
        for weighted in (False, True):
            found = FeatureRegression(0.1, weighted).fit_predict(features, targets, np.log([0.5, 1e-9, 0.5]), features)
            assert_array_equal(found[:, 1], 0)
            assert_array_equal(found.argmax(axis=1), expected)
            assert_allclose(found.sum(axis=1), 1, rtol=1e-6)


def test_features_that_hardly_vary_in_training_do_not_decide_elsewhere():
    (features, labels), (others, expected) = clusters((20, 20), spread=0.3), clusters((50, 50), seed=1, spread=0.3)
    rare = np.zeros((40, 1), np.float32)
    rare[0] = 1e-3
    others = np.column_stack([others, np.tile([[1.0], [-1.0]], (50, 1))]).astype(np.float32)
    found = FeatureRegression(0.01).fit_predict(np.column_stack([features, rare]), np.eye(2)[labels], None, others)
    assert (found.argmax(axis=1) == expected).mean() > 0.95


@pytest.mark.parametrize("constant", [False, True])
def test_no_warning_is_shown_where_nothing_can_be_learned(constant):
    features = np.ones((8, 3), np.float32) if constant else np.random.default_rng(0).normal(size=(8, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = FeatureRegression(1e-9).fit_predict(features, np.eye(2)[np.arange(8) % 2], None, features)
    assert np.isfinite(found).all()


def folds_of(labels, count=3):
    return np.arange(len(labels)) % count


def test_the_chosen_regression_is_the_one_with_the_lowest_loss_on_left_out_images():
    features, labels = clusters((40, 12, 4), 40, spread=2.0)
    chosen, table = choose_regression(features, labels, folds_of(labels), 3)
    assert chosen == min(table, key=lambda one: one.loss).regression
    assert {one.regression.class_weighted for one in table} == {False, True}
    fitted = next(one for one in table if one.regression == chosen)
    losses, right = [], np.zeros(len(labels), bool)
    for fold in range(3):
        out = folds_of(labels) == fold
        prior = np.log(np.bincount(labels[~out], minlength=3))
        predicted = chosen.fit_predict(features[~out], np.eye(3)[labels[~out]], prior, features[out])
        losses += [-np.log(predicted[np.arange(out.sum()), labels[out]])]
        right[out] = predicted.argmax(axis=1) == labels[out]
    order = np.argsort(folds_of(labels), kind="stable")
    loss = np.mean([np.concatenate(losses)[labels[order] == label].mean() for label in range(3)])
    assert fitted.loss == pytest.approx(loss, abs=0.02)  # the features of all folds are standardized together
    assert fitted.mean == pytest.approx(np.mean([right[labels == label].mean() for label in range(3)]), abs=0.05)


@pytest.mark.parametrize(("spread", "strong"), [(8.0, True), (0.05, False)])
def test_noise_is_penalized_and_what_is_plain_is_not(spread, strong):
    features, labels = clusters((30, 30), 60, spread=spread)
    chosen, _ = choose_regression(features, labels, folds_of(labels), 2)
    assert (chosen.regularization >= 0.1) == strong


def test_images_in_no_fold_are_only_fitted_and_without_folds_nothing_is_tried():
    features, labels = clusters((20, 20, 2))
    folds = np.where(labels == 2, -1, folds_of(labels))
    _, table = choose_regression(features, labels, folds, 3)
    assert all(one.mean <= 1 and np.isfinite(one.loss) for one in table)
    mislabeled = np.where(labels == 2, 0, labels)
    assert table != choose_regression(features, mislabeled, folds, 3)[1]
    assert choose_regression(features, labels, np.full(42, -1), 3) == (FeatureRegression(), ())


def test_a_class_that_a_fold_has_whole_costs_a_finite_loss():
    features, labels = clusters((9, 9, 1))
    _, table = choose_regression(features, labels, folds_of(labels), 3)
    assert all(np.isfinite(one.loss) for one in table)


def test_a_large_set_is_chosen_on_all_of_its_rare_classes(monkeypatch):
    monkeypatch.setattr("diffaug.classifiers.feature_regression.MOST_IMAGES", 50)
    features, labels = clusters((300, 5))
    labels_of_rare = np.where(labels == 1, 0, 1)
    _, table = choose_regression(features, labels, folds_of(labels), 2)
    _, swapped = choose_regression(features, labels_of_rare, folds_of(labels), 2)
    assert table[0].mean == pytest.approx(swapped[0].mean, abs=0.1)
    assert table[0].sd > 0.05  # of five images


def test_the_error_of_balanced_accuracy_is_not_zero_where_all_is_right():
    mean, error = balanced_accuracy(np.ones(12, bool), np.repeat([0, 1], [8, 4]))
    shares = 9 / 10, 5 / 6
    assert mean == 1
    assert error == pytest.approx(sum(p * (1 - p) / n for p, n in zip(shares, (8, 4), strict=True)) ** 0.5 / 2)


@pytest.mark.parametrize("counts", [(30, 12, 6), (30, 12), (30, 0, 6)])
@pytest.mark.parametrize("dimensions", [5, 80])
def test_its_linear_layer_gives_the_same_probabilities(counts, dimensions):
    (features, labels), (others, _) = clusters(counts, dimensions), clusters((4,) * len(counts), dimensions, seed=1)
    targets, prior = np.eye(len(counts))[labels], np.log(np.maximum(counts, 1))
    expected = FeatureRegression().fit_predict(features, targets, prior, others)
    weights, biases = FeatureRegression().linear_layer(features, targets, prior)
    assert_allclose(softmax(others @ weights + biases, axis=1), expected, atol=1e-4)
