import numpy as np
import pytest
import torch
from torch import nn

from diffaug.classifiers.encoders.fine_tuning import fine_tune_predict
from diffaug.classifiers.encoders.module import ModuleEncoder
from diffaug.classifiers.training_set import TrainingSet
from diffaug.data.images import LabeledImages
from diffaug.errors import DataError, UsageError

CLASSES = ("dark", "bright")


def stripes(counts, seed=0, height=10):
    """Vertical stripes of class 0 and horizontal ones of class 1, in noise."""
    random = np.random.default_rng(seed)
    labels = np.repeat([0, 1], counts)
    phase = np.arange(height)[None] + random.integers(0, 2, (len(labels), 1))
    lines = 120 * (phase % 2)
    pixels = np.where(labels[:, None, None] == 1, lines[:, :, None], lines[:, None, :])
    pixels = (pixels + random.integers(0, 130, pixels.shape)).astype(np.uint8)[..., None]
    return LabeledImages(pixels, labels, CLASSES, ("",) * len(labels))


@pytest.fixture(scope="module")
def encoder() -> ModuleEncoder:
    """A random network that can't tell the stripes before it is trained."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(1, 8, 3)
    nn.init.constant_(convolution.weight, 0.1)
    return ModuleEncoder(nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1)), "random", size=10)


def tuned(training, others, encoder, **options):
    return fine_tune_predict(training, others, encoder=encoder, **{"updates": 60, "seed": 0, "device": "cpu"} | options)


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr("diffaug.classifiers.encoders.fine_tuning.LEARNING_RATE", 0.02)


@pytest.mark.e2e
def test_it_learns_what_frozen_features_do_not_show_and_leaves_the_encoder_alone(encoder, fast):
    train, test = stripes((30, 30)), stripes((40, 40), seed=1)
    before = encoder.features(test.pixels)
    training = TrainingSet.real_only(train)
    frozen, found = (tuned(training, test.pixels, encoder, updates=updates) for updates in (0, 60))
    assert (frozen.argmax(axis=1) == test.labels).mean() < 0.75
    assert (found.argmax(axis=1) == test.labels).mean() > 0.9
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(encoder.features(test.pixels), before)
    np.testing.assert_array_equal(tuned(training, test.pixels, encoder), found)
    assert (tuned(training, test.pixels, encoder, seed=1) != found).any()


@pytest.mark.e2e
@pytest.mark.parametrize("updates", [0, 40])
def test_draws_loss_weights_and_prior_count(encoder, fast, updates):
    """Black images say nothing about the class: what is learned are its chances."""
    images = np.zeros((40, 10, 10, 1), np.uint8)
    labels = np.repeat([0, 1], [30, 10])
    train = LabeledImages(images, labels, CLASSES, ("",) * 40)
    equal = 1 / np.array([30, 10])[labels]
    sets = {
        0.25: TrainingSet.real_only(train),
        0.5: TrainingSet(train, np.zeros(40, bool), draw_probabilities=equal),
        0.51: TrainingSet(train, np.zeros(40, bool), loss_weights=equal * 20),
        0.49: TrainingSet.real_only(train, np.log([0.75, 0.25])),
    }
    for chance, training in sets.items():
        found = tuned(training, images, encoder, updates=updates)[:, 1].mean()
        assert found == pytest.approx(chance, abs=0.12), chance


@pytest.mark.e2e
def test_images_in_more_detail_take_the_place_of_the_pixels(encoder, fast):
    train, test = stripes((30, 30)), stripes((40, 40), seed=1)
    blank = LabeledImages(np.zeros((60, 2, 2, 1), np.uint8), train.labels, CLASSES, train.ids)
    found = tuned(TrainingSet.real_only(blank), list(test.pixels), encoder, images=list(train.pixels))
    assert (found.argmax(axis=1) == test.labels).mean() > 0.9


def test_what_cannot_be_trained_is_an_error(encoder):
    nothing = stripes((0, 0))
    with pytest.raises(DataError, match="no image"):
        tuned(TrainingSet.real_only(nothing), nothing.pixels, encoder)
    with pytest.raises(UsageError, match="size of its own"):
        tuned(TrainingSet.real_only(stripes((2, 2))), nothing.pixels, ModuleEncoder(nn.Flatten(), "pixels"))
