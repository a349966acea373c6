import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import TrivialAugmentWide

from diffaug.classifiers.augmentation import LEVELS, TRANSFORMS, apply_transforms, augment, light_augment, mixup
from diffaug.classifiers.batches import network_input
from diffaug.classifiers.training_set import PLAIN, STRENGTHS, Augmentation


def noise(count, channels=3, size=(32, 36), seed=0):
    """Smooth noise, so that a pixel that is taken from next door differs little."""
    coarse = np.random.default_rng(seed).uniform(0, 255, (count, channels, 5, 5))
    smooth = torch.nn.functional.interpolate(torch.from_numpy(coarse), size=size, mode="bilinear", align_corners=True)
    return smooth.to(torch.uint8)


def of_torchvision(images, name, levels, signs):
    """The same transform of each image alone, by torchvision."""
    augment = TrivialAugmentWide(LEVELS)
    theirs = "AutoContrast" if name == "autocontrast" else name.title().replace(" ", "")
    magnitudes, signed = augment._AUGMENTATION_SPACE[theirs]
    space, how = magnitudes(LEVELS, *images.shape[2:]), {"interpolation": augment.interpolation, "fill": augment._fill}
    results = []
    for image, level, sign in zip(images, levels, signs, strict=True):
        magnitude = 0.0 if space is None else float(space[round(level * (LEVELS - 1))]) * (sign if signed else 1)
        results.append(augment._apply_image_or_video_transform(image, theirs, magnitude, **how))
    return torch.stack(results)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_transform_is_torchvisions(name, channels):
    images = noise(2 * LEVELS, channels)
    levels = np.tile(np.arange(LEVELS) / (LEVELS - 1), 2)
    signs = np.repeat([-1.0, 1.0], LEVELS)
    ours = apply_transforms(images, np.full(len(images), list(TRANSFORMS).index(name)), levels, signs)
    theirs = of_torchvision(images, name, levels, signs)
    difference = (ours.int() - theirs.int()).abs()
    if "translate" in name:  # torchvision makes 15.999999 of 16 px, and 15 px of that
        difference = difference[levels != 0.5]
    # A float that is rounded the other way is one level, or, where it is a position, one pixel.
    assert ours.dtype == torch.uint8
    assert (difference > 1).float().mean() < 0.005
    assert name == "identity" or (ours != images).any()


@pytest.mark.parametrize("size", [(8, 8), (5, 12)])
def test_small_images_are_never_shifted_by_more_than_their_size(size):
    images = torch.full((LEVELS, 1, *size), 200, dtype=torch.uint8)
    levels, signs = np.arange(LEVELS) / (LEVELS - 1), np.ones(LEVELS)
    shifted = apply_transforms(images, np.full(LEVELS, list(TRANSFORMS).index("translate x")), levels, signs)
    filled = (shifted > 0).float().mean(dim=(1, 2, 3)).numpy()
    np.testing.assert_allclose(filled, 1 - np.floor(levels * size[1] + 1e-6) / size[1], atol=1e-6)


EVERY = [Augmentation(strength, mixup) for strength in STRENGTHS for mixup in (False, True)]


@pytest.mark.parametrize("chosen", EVERY, ids=str)
def test_augmentation_repeats_itself_and_leaves_the_global_generator_and_the_images_alone(chosen):
    pixels = noise(20, 3).permute(0, 2, 3, 1)
    copy, targets, state = pixels.clone(), torch.eye(20), torch.random.get_rng_state()
    first, second = (augment(pixels, targets, chosen, np.random.default_rng(5)) for _ in range(2))
    other = augment(pixels, targets, chosen, np.random.default_rng(6))
    assert all(map(torch.equal, first, second))
    assert torch.equal(first[0], other[0]) == (chosen == PLAIN)
    assert torch.equal(first[1], targets) != chosen.mixup
    assert torch.equal(pixels, copy)
    assert torch.equal(state, torch.random.get_rng_state())
    assert first[0].shape == (20, 3, 32, 36)
    assert first[0].abs().max() <= 1


def test_half_of_the_images_are_left_as_they_are():
    pixels = noise(400, 1, (8, 8)).permute(0, 2, 3, 1)
    made, _ = augment(pixels, torch.zeros(400), Augmentation("trivial on half"), np.random.default_rng(0))
    same = (made == network_input(pixels)).flatten(1).all(dim=1).float().mean()
    assert 0.5 < same < 0.7  # and about one in six of the others


class Fixed:
    """A random generator that draws what it was told to."""

    def __init__(self, angle, scale, brightness):
        self.values = np.array([angle, scale, brightness], np.float32)

    def uniform(self, low, high, shape):
        return np.broadcast_to(self.values[:, None], shape).copy()


@pytest.mark.parametrize("size", [(33, 33), (25, 41)])
@pytest.mark.parametrize("angle", [-1, 1])
def test_light_augmentation_rotates_in_pixels_about_the_center(size, angle):
    """A dot at a distance of 10 px moves by 10 px times the sine, whatever the shape of the image."""
    height, width = size
    image = torch.zeros(1, 1, height, width, dtype=torch.uint8)
    image[0, 0, height // 2, width // 2 + 10] = 255
    turned = light_augment(image, Fixed(angle, 0, 0))[0, 0].float()
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    center = [float((turned * axis).sum() / turned.sum()) for axis in (rows - height // 2, columns - width // 2)]
    turn = np.radians(10) * -angle
    np.testing.assert_allclose(center, [10 * np.sin(turn), 10 * np.cos(turn)], atol=0.15)


@pytest.mark.parametrize(("scale", "side"), [(-1, 20 / 0.9), (0, 20), (1, 20 / 1.1)])
def test_light_augmentation_scales_about_the_center(scale, side):
    image = torch.zeros(1, 1, 60, 60, dtype=torch.uint8)
    image[0, 0, 20:40, 20:40] = 200
    area = light_augment(image, Fixed(0, scale, 0)).float().sum() / 200
    assert float(area) ** 0.5 == pytest.approx(side, abs=0.3)


@pytest.mark.parametrize(("brightness", "value"), [(-1, 80), (0, 100), (1, 120)])
def test_light_augmentation_changes_brightness_and_fills_up_by_reflection(brightness, value):
    image = torch.full((1, 3, 9, 14), 100, dtype=torch.uint8)
    assert (light_augment(image, Fixed(1, 1, brightness)) == value).all()


@given(seed=st.integers(0, 2**32), count=st.integers(1, 9), size=st.tuples(st.integers(1, 9), st.integers(1, 9)))
@settings(max_examples=40, deadline=None)
def test_a_label_weighs_what_its_image_does(seed, count, size):
    """Image i is 1 in channel i and 0 elsewhere, so the mean of a channel is the share of its image."""
    images = torch.eye(count)[:, :, None, None].expand(count, count, *size)
    mixed, targets = mixup(images, torch.eye(count), np.random.default_rng(seed))
    torch.testing.assert_close(mixed.mean(dim=(2, 3)), targets)
    torch.testing.assert_close(mixed, targets[:, :, None, None].expand_as(mixed))
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(count))
    assert ((targets > 0).sum(dim=1) <= 2).all()


def test_mixup_shares_are_uniform():
    count = 4000
    own = mixup(torch.zeros(count, 1, 1, 1), torch.eye(count), np.random.default_rng(1))[1].diagonal().numpy()
    histogram = np.histogram(own[own < 1], bins=10, range=(0, 1))[0] / (own < 1).sum()
    np.testing.assert_allclose(histogram, 0.1, atol=0.03)
