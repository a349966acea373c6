import numpy as np
import pytest
import torch

from diffaug.classifiers.encoders.trained import ClassifierEncoder
from diffaug.classifiers.fit import predict_probabilities
from diffaug.data.images import LabeledImages
from diffaug.data.resize import fit_to_size, to_channels


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def images() -> LabeledImages:
    """Noise around two gray levels, nine to one."""
    labels = np.repeat([0, 1], [90, 10])
    noise = np.random.default_rng(0).integers(0, 140, (100, 8, 8, 1))
    return LabeledImages((noise + 90 * labels[:, None, None, None]).astype(np.uint8), labels, ("a", "b"), ("",) * 100)


@pytest.fixture(scope="module")
def encoder(images) -> ClassifierEncoder:
    return ClassifierEncoder.fit(images, seed=0, purpose="encoder", updates=60)


@pytest.mark.e2e
def test_features_and_probabilities_are_the_classifiers(encoder, images) -> None:
    described, expected = encoder.predict(images.pixels), predict_probabilities(encoder.model, images.pixels)
    np.testing.assert_allclose(np.exp(described.log_probabilities), expected, rtol=1e-4, atol=1e-6)
    head = encoder.model[-1]
    logits = head(torch.from_numpy(described.features)).detach()
    np.testing.assert_allclose(logits.log_softmax(dim=1), described.log_probabilities, rtol=1e-4, atol=1e-5)
    assert described.features.dtype == described.log_probabilities.dtype == np.float32
    np.testing.assert_array_equal(described.features, encoder.features(images.pixels))
    nothing = encoder.predict(images.pixels[:0])
    assert len(nothing.features) == len(nothing.log_probabilities) == 0


@pytest.mark.e2e
def test_class_frequencies_are_taken_out_of_the_probabilities() -> None:
    """Where images say nothing about the class, both are as likely, though 90 % of the images are of one."""
    images = LabeledImages(noise(1000, 4, 4, 1, seed=1), np.repeat([0, 1], [900, 100]), ("a", "b"), ("",) * 1000)
    encoder = ClassifierEncoder.fit(images, seed=0, purpose="encoder", updates=30)
    unseen = noise(500, 4, 4, 1, seed=2)
    assert 0.35 < np.exp(encoder.predict(unseen).log_probabilities)[:, 1].mean() < 0.65


@pytest.mark.e2e
def test_a_loaded_encoder_is_the_same_and_other_weights_have_another_name(encoder, images) -> None:
    weights = encoder.weights
    loaded = ClassifierEncoder.load(weights, (8, 8, 1), 2)
    np.testing.assert_array_equal(loaded.features(images.pixels), encoder.features(images.pixels))
    assert loaded.name == encoder.name
    weights["0.0.weight"] = weights["0.0.weight"] + 1
    assert ClassifierEncoder.load(weights, (8, 8, 1), 2).name != encoder.name


def test_images_of_any_size_are_brought_to_that_of_the_training_images(encoder, images) -> None:
    large = [fit_to_size(image, size) for image, size in zip(images.pixels, [(16, 16), (8, 8), (20, 9)], strict=False)]
    color = [to_channels(image, 3) for image in images.pixels[:3]]
    expected = np.stack([fit_to_size(image, (8, 8)) for image in large])
    np.testing.assert_array_equal(encoder.features(large), encoder.features(expected))
    np.testing.assert_array_equal(encoder.features(color), encoder.features(images.pixels[:3]))
