import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms.v2 import functional as transforms

from diffaug.classifiers.encoders.encoder import squeezed_batches
from diffaug.classifiers.encoders.module import ModuleEncoder
from diffaug.data.resize import fit_to_size, to_channels
from diffaug.errors import DataError, UsageError


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


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


SHAPES = [(12, 12, 1), (5, 30, 3), (40, 8, 1), (12, 12, 3), (1, 1, 1), (12, 12, 1)]


def smooth(*shape, seed=0):
    return fit_to_size(noise(3, 3, shape[2], seed=seed), shape[:2])


@pytest.mark.parametrize("shapes", [SHAPES[:1], SHAPES[:1] * 2, SHAPES, SHAPES[1:2] * 70, SHAPES[2:3]])
@pytest.mark.parametrize("size", [(12, 12), (9, 17), (32, 32)])
def test_each_image_is_squeezed_whole_as_pillow_does(shapes, size):
    images = [smooth(*shape, seed=number) for number, shape in enumerate(shapes)]
    found = torch.cat(list(squeezed_batches(images, size, 3))).numpy()
    expected = np.stack([to_channels(fit_to_size(image, size), 3) for image in images]).transpose(0, 3, 1, 2)
    assert np.abs(found.astype(int) - expected).max() <= 2
    if len(set(shapes)) == 1:
        as_array = torch.cat(list(squeezed_batches(np.stack(images), size, 3)))
        np.testing.assert_array_equal(as_array.numpy(), found)


def test_an_image_has_the_same_features_whatever_is_beside_it():
    images = [noise(*shape, seed=number) for number, shape in enumerate(SHAPES)]
    encoder = ModuleEncoder(nn.Flatten(), "pixels", normalization="imagenet", size=10)
    together = encoder.features(images)
    np.testing.assert_array_equal(together, np.concatenate([encoder.features([image]) for image in images]))
    assert encoder.features([]).shape == together[:0].shape == encoder.features(noise(0, 4, 4, 1)).shape


def test_images_of_different_sizes_need_a_size_and_giving_it_helps():
    images = [noise(4, 4, 1), noise(6, 4, 1)]
    with pytest.raises(UsageError, match="different sizes") as error:
        ModuleEncoder(nn.Flatten(), "pixels").features(images)
    assert "size=224" in error.value.fix
    assert ModuleEncoder(nn.Flatten(), "pixels", size=224).features(images).shape == (2, 224 * 224)


def test_a_module_that_can_fuse_its_normalizations_is_fused_for_features_and_kept_for_training():
    class Doubled(nn.Flatten):
        def fused(self):
            return nn.Sequential(nn.Flatten(), nn.Flatten())

    module = Doubled()
    encoder = ModuleEncoder(module, "doubled")
    assert encoder.features(noise(2, 3, 3, 1)).shape == (2, 9)
    assert encoder.module is module
