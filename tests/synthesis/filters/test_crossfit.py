from threading import get_ident

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from diffaug.data.images import LabeledImages
from diffaug.data.splits import ALWAYS_TRAINED_ON, FOLDS, assign_folds
from diffaug.synthesis.filters.crossfit import fit_fold_models, load_fold_models


class MeanAndSpread:
    name = "mean and spread"
    calls = 0

    def features(self, pixels):
        self.calls += 1
        flat = pixels.reshape(len(pixels), -1).astype(np.float32)
        return np.stack([flat.mean(axis=1), flat.std(axis=1)], axis=1)


def gray_levels(counts, classes=None, seed=0) -> LabeledImages:
    labels = np.repeat(np.arange(len(counts)), counts)
    noise = np.random.default_rng(seed).integers(0, 50, (len(labels), 6, 6, 1))
    names = tuple("abcdefgh"[: classes or len(counts)])
    pixels = (noise + 60 * labels[:, None, None, None]).astype(np.uint8)
    return LabeledImages(pixels, labels, names, tuple(map(str, labels)))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12)), min_size=1, max_size=60), st.integers(0, 5))
def test_groups_stay_whole_and_every_model_has_seen_every_class(images, seed):
    labels, groups = map(np.array, zip(*images, strict=True))
    folds = assign_folds(labels, groups, seed)
    assert set(folds.tolist()) <= {ALWAYS_TRAINED_ON, *range(FOLDS)}
    assert all(len(set(folds[groups == group].tolist())) == 1 for group in groups)
    for fold in range(folds.max(initial=0) + 1):
        assert set(labels[folds != fold].tolist()) == set(labels.tolist())


def test_classes_are_dealt_out_evenly_and_the_seed_decides():
    labels = np.repeat([0, 1, 2, 3], [100, 10, 4, 1])
    folds = assign_folds(labels, np.arange(115), 0)
    for label in range(3):
        counts = np.bincount(folds[labels == label], minlength=FOLDS)
        assert counts.max() - counts.min() <= 1
    assert folds[-1] == ALWAYS_TRAINED_ON
    assert np.array_equal(folds, assign_folds(labels, np.arange(115), 0))
    assert not np.array_equal(folds, assign_folds(labels, np.arange(115), 1))
    folds = assign_folds(np.array([0, 0, 1]), np.array([5, 5, 6]), 0)  # every class is one group
    assert folds.tolist() == [ALWAYS_TRAINED_ON] * 3


@pytest.mark.parametrize("counts", [(40, 10), (40, 10, 15)])
def test_probes_are_class_balanced_logistic_regressions_of_what_is_outside_the_fold(counts):
    images, encoder = gray_levels(counts), MeanAndSpread()
    folds = assign_folds(images.labels, np.arange(len(images)), 0)
    models = fit_fold_models(images, folds, seed=0, device="cpu", encoder=encoder)
    encoder.calls = 0
    described = models.predict(images.pixels)
    assert encoder.calls == 1
    assert len(described) == FOLDS
    for fold, one in enumerate(described):
        part = images.select(np.flatnonzero(folds != fold))
        oracle = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
        oracle.fit(encoder.features(part.pixels), part.labels)
        expected = oracle.predict_proba(encoder.features(images.pixels))
        np.testing.assert_allclose(np.exp(one.log_probabilities), expected, atol=0.02)


@pytest.mark.parametrize("counts", [(9, 6), (9, 0, 6), (9, 0)])
def test_a_class_without_images_is_never_likely(counts):
    images = gray_levels(counts, classes=3)
    folds = assign_folds(images.labels, np.arange(len(images)), 0)
    for one in fit_fold_models(images, folds, seed=0, device="cpu", encoder=MeanAndSpread()).predict(images.pixels):
        absent = images.class_counts == 0
        assert np.exp(one.log_probabilities[:, absent]).max() < 1e-6
        np.testing.assert_allclose(np.exp(one.log_probabilities).sum(axis=1), 1, rtol=1e-5)


@pytest.mark.e2e
@pytest.mark.parametrize("encoder", [None, MeanAndSpread()], ids=["classifiers", "probes"])
def test_loaded_models_give_the_same_bits(encoder):
    images = gray_levels((8, 5))
    folds = assign_folds(images.labels, np.arange(13), 0)
    models = fit_fold_models(images, folds, seed=0, device="cpu", encoder=encoder, max_steps=3)
    loaded = load_fold_models(models.tensors, images, FOLDS, device="cpu", encoder=encoder)
    for one, other in zip(models.predict(images.pixels), loaded.predict(images.pixels), strict=True):
        np.testing.assert_array_equal(one.features, other.features)
        np.testing.assert_array_equal(one.log_probabilities, other.log_probabilities)
    assert len({one.log_probabilities.tobytes() for one in models.predict(images.pixels)}) == FOLDS


def test_on_a_gpu_all_are_trained_in_the_calling_thread_whose_gpu_it_is(monkeypatch):
    monkeypatch.setattr("diffaug.classifiers.encoders.trained.ClassifierEncoder.fit", lambda *_, **__: get_ident())
    images = gray_levels((8, 5))
    models = fit_fold_models(images, assign_folds(images.labels, np.arange(13), 0), seed=0, device="cuda")
    assert models.encoders == (get_ident(),) * FOLDS
