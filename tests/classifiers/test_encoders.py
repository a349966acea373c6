import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms.v2 import functional as transforms

from diffaug.classifiers.encoders import ClassifierEncoder, ModuleEncoder, timm_encoder
from diffaug.classifiers.fit import predict_probabilities
from diffaug.data.images import LabeledImages
from diffaug.errors import DataError, MissingExtraError


@pytest.fixture(scope="module")
def images() -> LabeledImages:
    """Noise around two grey levels, nine to one."""
    labels = np.repeat([0, 1], [90, 10])
    noise = np.random.default_rng(0).integers(0, 140, (100, 8, 8, 1))
    return LabeledImages((noise + 90 * labels[:, None, None, None]).astype(np.uint8), labels, ("a", "b"), ("",) * 100)


@pytest.fixture(scope="module")
def encoder(images) -> ClassifierEncoder:
    return ClassifierEncoder.fit(images, seed=0, updates=60)


def test_features_and_probabilities_are_the_classifiers(encoder, images) -> None:
    described = encoder.describe(images.pixels)
    np.testing.assert_allclose(
        np.exp(described.log_probabilities), predict_probabilities(encoder.model, images.pixels), rtol=1e-4, atol=1e-6
    )
    head = encoder.model[-1]
    logits = head(torch.from_numpy(described.features)).detach()
    np.testing.assert_allclose(logits.log_softmax(dim=1), described.log_probabilities, rtol=1e-4, atol=1e-5)
    assert described.features.dtype == described.log_probabilities.dtype == np.float32
    np.testing.assert_array_equal(described.features, encoder.features(images.pixels))


def test_class_frequencies_are_taken_out_of_the_probabilities() -> None:
    """Where images say nothing about the class, both are as likely, though 90 % of the images are of one."""
    pixels = np.random.default_rng(1).integers(0, 256, (1000, 4, 4, 1), dtype=np.uint8)
    labels = np.repeat([0, 1], [900, 100])
    encoder = ClassifierEncoder.fit(LabeledImages(pixels, labels, ("a", "b"), ("",) * 1000), seed=0, updates=30)
    unseen = np.random.default_rng(2).integers(0, 256, (500, 4, 4, 1), dtype=np.uint8)
    assert 0.35 < np.exp(encoder.describe(unseen).log_probabilities)[:, 1].mean() < 0.65


def test_a_loaded_encoder_is_the_same(encoder, images) -> None:
    loaded = ClassifierEncoder.load(encoder.weights, (8, 8, 1), 2)
    np.testing.assert_array_equal(loaded.features(images.pixels), encoder.features(images.pixels))
    assert loaded.name == encoder.name


def test_the_name_changes_with_the_weights(encoder) -> None:
    weights = encoder.weights
    weights["0.0.weight"] = weights["0.0.weight"] + 1
    assert ClassifierEncoder.load(weights, (8, 8, 1), 2).name != encoder.name


def test_no_images_have_no_features(encoder) -> None:
    described = encoder.describe(np.empty((0, 8, 8, 1), np.uint8))
    assert described.features.shape[0] == described.log_probabilities.shape[0] == 0


def test_a_module_sees_pixels_from_minus_one_to_one() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 5, 4, 3), dtype=np.uint8)
    features = ModuleEncoder(nn.Flatten(), "pixels").features(pixels)
    np.testing.assert_allclose(features, pixels.transpose(0, 3, 1, 2).reshape(300, -1) / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_imagenet_normalisation_is_torchvisions_and_grey_becomes_rgb(channels) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 6, channels), dtype=np.uint8)
    features = ModuleEncoder(nn.Identity(), "pixels", normalization="imagenet", size=None)
    seen = features._prepared(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1)
    rgb = torch.from_numpy(pixels).permute(0, 3, 1, 2).expand(-1, 3, -1, -1) / 255
    expected = transforms.normalize(rgb, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert torch.allclose(seen, expected, atol=1e-5)


def test_images_are_resized_and_maps_averaged() -> None:
    class Sizes(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 2, 3, 3), float(x.shape[-1])) + torch.arange(3.0)

    features = ModuleEncoder(Sizes(), "sizes", size=12).features(np.zeros((2, 5, 5, 1), np.uint8))
    assert features.tolist() == [[13, 13], [13, 13]]


def test_what_is_no_vector_is_refused() -> None:
    with pytest.raises(DataError, match="no vectors"):
        ModuleEncoder(nn.Flatten(0), "flat").features(np.zeros((2, 5, 5, 1), np.uint8))


def test_a_module_is_named_by_weights_and_preparation() -> None:
    layer, other = nn.Linear(4, 2), nn.Linear(4, 2)
    names = [
        ModuleEncoder(layer, "net").name,
        ModuleEncoder(layer, "net", size=8).name,
        ModuleEncoder(other, "net").name,
    ]
    assert len(set(names)) == 3
    assert names[0] == ModuleEncoder(layer, "net").name
    assert all(name.startswith("net ") for name in names)


def test_a_module_is_put_in_evaluation_mode() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 1), dtype=np.uint8)
    encoder = ModuleEncoder(nn.Sequential(nn.Flatten(), nn.Dropout(0.5)), "dropout")
    np.testing.assert_array_equal(encoder.features(pixels), encoder.features(pixels))


def test_timm_is_asked_for_when_missing(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match="pip install timm"):
        timm_encoder("resnet18")


def test_a_timm_model_has_its_own_size_no_classifier_and_the_same_random_weights_always(monkeypatch) -> None:
    def create_model(name, pretrained, num_classes):
        assert (name, pretrained, num_classes) == ("tiny", False, 0)
        model = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 5))
        model.pretrained_cfg = {"input_size": (3, 16, 16)}
        return model

    timm = ModuleType("timm")
    timm.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", timm)
    encoder = timm_encoder("tiny")
    assert encoder.features(np.zeros((3, 8, 8, 1), np.uint8)).shape == (3, 5)
    torch.manual_seed(1)
    assert timm_encoder("tiny").name == encoder.name
    assert "imagenet 16" in encoder.name


@pytest.mark.parametrize("channels", [1, 3])
def test_a_real_timm_model_tells_images_apart(channels) -> None:
    pytest.importorskip("timm")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 12, 12, channels), dtype=np.uint8)
    encoder = timm_encoder("test_resnet")
    features = encoder.features(pixels)
    assert np.isfinite(features).all()
    assert len(np.unique(features.round(3), axis=0)) == 4
    np.testing.assert_allclose(timm_encoder("test_resnet").features(pixels[1:2]), features[1:2], rtol=1e-3, atol=1e-5)


def test_a_network_with_tied_weights_has_a_name() -> None:
    tied = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 4))
    tied[2].weight = tied[1].weight
    name = ModuleEncoder(tied, "tied").name
    assert ModuleEncoder(tied, "tied").name == name
    with torch.no_grad():
        tied[1].weight[0, 0] += 1
    assert ModuleEncoder(tied, "tied").name != name
