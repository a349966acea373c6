import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import TrivialAugmentWide

from diffaug.classifiers import augmentation
from diffaug.classifiers.augmentation import LEVELS, TRANSFORMS, apply_transforms, mix


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


def test_most_images_are_changed():
    random = np.random.default_rng(0)
    images = noise(2000, 3, (8, 8))
    changed = (augmentation.trivial_augment(images, random) != images).flatten(1).any(dim=1).float().mean()
    assert 0.75 < changed < 0.9  # one in 14 is the identity, and some strengths change nothing


def test_augmentation_repeats_itself_and_leaves_the_global_generator_and_the_images_alone():
    pixels = noise(20, 3).permute(0, 2, 3, 1)
    copy, targets, state = pixels.clone(), torch.eye(20), torch.random.get_rng_state()
    first, second = (augmentation.strong_augmentation(pixels, targets, np.random.default_rng(5)) for _ in range(2))
    other = augmentation.strong_augmentation(pixels, targets, np.random.default_rng(6))
    assert all(map(torch.equal, first, second))
    assert not torch.equal(first[0], other[0])
    assert torch.equal(pixels, copy)
    assert torch.equal(state, torch.random.get_rng_state())
    assert first[0].shape == (20, 3, 32, 36)
    assert first[0].abs().max() <= 1


@given(seed=st.integers(0, 2**32), count=st.integers(1, 9), size=st.tuples(st.integers(3, 20), st.integers(3, 20)))
@settings(max_examples=60, deadline=None)
def test_a_label_weighs_what_its_image_has_of_the_pixels(seed, count, size):
    """Image i is 1 in channel i and 0 elsewhere, so the mean of a channel is the share of its image."""
    images = torch.eye(count)[:, :, None, None].expand(count, count, *size)
    mixed, targets = mix(images, torch.eye(count), np.random.default_rng(seed))
    torch.testing.assert_close(mixed.mean(dim=(2, 3)), targets)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(count))
    assert ((targets > 0).sum(dim=1) <= 2).all()


def test_half_is_mixup_half_is_cutmix_and_shares_follow_beta_one_one():
    count, size = 4000, 16
    images = torch.arange(count, dtype=torch.float32)[:, None, None, None].expand(count, 1, size, size)
    mixed, _ = mix(images, torch.arange(count, dtype=torch.float32)[:, None], np.random.default_rng(0))
    flat = mixed.flatten(1)
    uniform = (flat.amax(dim=1) - flat.amin(dim=1)) < 1e-3
    assert 0.47 < uniform.float().mean() < 0.55  # CutMix's box may be empty
    own = torch.eye(2).repeat(count // 2, 1)
    _, shares = mix(torch.zeros(count, 1, size, size), own, np.random.default_rng(0))
    assert shares.mean() == pytest.approx(0.5, abs=0.02)
    boxes = (flat != images[:, 0, 0, 0][:, None]) & ~uniform[:, None]
    rows, columns = (boxes.view(count, size, size).any(dim=d).sum(dim=1) for d in (2, 1))
    assert torch.equal(rows * columns, boxes.sum(dim=1))  # what is pasted is a rectangle


def test_mixup_shares_are_uniform():
    count = 4000
    images = torch.zeros(count, 1, 1, 2)  # too narrow to hold a box of more than two shapes
    own = mix(images, torch.eye(count), np.random.default_rng(1))[1].diagonal().numpy()
    between = own[(own > 0) & (own < 1) & (np.abs(own - 0.5) > 1e-6)]
    assert len(between) > 0.4 * count
    histogram = np.histogram(between, bins=10, range=(0, 1))[0] / len(between)
    np.testing.assert_allclose(histogram, 0.1, atol=0.03)
