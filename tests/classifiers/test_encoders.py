import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms.v2 import functional as transforms

from diffaug.classifiers.encoders import ClassifierEncoder, ModuleEncoder, timm_encoder
from diffaug.classifiers.fit import predict_probabilities
from diffaug.data.images import LabeledImages
from diffaug.errors import DataError


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


def test_a_module_sees_pixels_from_minus_one_to_one() -> None:
    pixels = noise(300, 5, 4, 3)
    features = ModuleEncoder(nn.Flatten(), "pixels").features(pixels)
    np.testing.assert_allclose(features, pixels.transpose(0, 3, 1, 2).reshape(300, -1) / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_imagenet_normalization_is_torchvisions_and_gray_becomes_rgb(channels) -> None:
    pixels = noise(4, 6, 6, channels)
    features = ModuleEncoder(nn.Flatten(), "pixels", normalization="imagenet").features(pixels)
    rgb = torch.from_numpy(pixels).permute(0, 3, 1, 2).expand(-1, 3, -1, -1) / 255
    expected = transforms.normalize(rgb, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    np.testing.assert_allclose(features, expected.flatten(1), atol=1e-5)


def test_images_are_resized_maps_averaged_and_what_is_no_vector_refused() -> None:
    class Sizes(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 2, 3, 3), float(x.shape[-1])) + torch.arange(3.0)

    features = ModuleEncoder(Sizes(), "sizes", size=12).features(np.zeros((2, 5, 5, 1), np.uint8))
    assert features.tolist() == [[13, 13], [13, 13]]
    with pytest.raises(DataError, match="does not return vectors"):
        ModuleEncoder(nn.Flatten(0), "flat").features(np.zeros((2, 5, 5, 1), np.uint8))


def test_a_module_even_with_tied_weights_is_named_by_weights_and_preparation() -> None:
    tied = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 4))
    tied[2].weight = tied[1].weight
    names = {ModuleEncoder(tied, "tied", size=size).name for size in (None, None, 8)}
    with torch.no_grad():
        tied[1].weight[0, 0] += 1
    names.add(ModuleEncoder(tied, "tied").name)
    assert len(names) == 3


def test_a_module_is_put_in_evaluation_mode() -> None:
    pixels = noise(2, 4, 4, 1)
    encoder = ModuleEncoder(nn.Sequential(nn.Flatten(), nn.Dropout(0.5)), "dropout")
    np.testing.assert_array_equal(encoder.features(pixels), encoder.features(pixels))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_timm_encoder_has_its_own_size_and_always_the_same_random_weights(channels) -> None:
    pixels = noise(4, 12, 12, channels)
    encoder = timm_encoder("test_resnet")
    features = encoder.features(pixels)
    assert "imagenet 160" in encoder.name
    assert np.isfinite(features).all()
    assert len(np.unique(features.round(3), axis=0)) == 4
    torch.manual_seed(1)
    again = timm_encoder("test_resnet")
    assert again.name == encoder.name
    np.testing.assert_allclose(again.features(pixels[1:2]), features[1:2], rtol=1e-3, atol=1e-5)
