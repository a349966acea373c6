import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from diffaug.data.images import LabeledImages
from diffaug.diffusion.latent.autoencoder import Encoded
from diffaug.diffusion.latent.codec import Codec
from diffaug.diffusion.latent.reconstruction import (
    MOST_JUDGED,
    Reconstruction,
    measure_reconstruction,
    require_classes_kept,
)
from diffaug.errors import DataError

SIDE, CLASSES = 16, ("flat", "checks", "stripes")


class Means:
    """An autoencoder that keeps the mean of each square and nothing finer."""

    image_channels = latent_channels = 1
    device = torch.device("cpu")

    def __init__(self, stride: int) -> None:
        self.stride = stride

    def encode(self, images: torch.Tensor) -> Encoded:
        return Encoded(torch.nn.functional.avg_pool2d(images, self.stride), None)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(latents, scale_factor=self.stride)


class Uncached:
    """Latents that are computed each time."""

    def __init__(self, stride: int) -> None:
        self.codec = Codec(Means(stride), (SIDE, SIDE), 1)

    def encode(self, pixels: NDArray[np.uint8]) -> Encoded:
        return self.codec.encode(pixels)


class Mean:
    """An encoder of one feature, the brightness, which squares keep."""

    name = "brightness 0"

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(images, np.float32).mean(axis=(1, 2, 3))[:, None]


class Negative(Means):
    """An autoencoder that keeps all and paints it in negative."""

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return -super().decode(latents)


def textured(count: int = 90) -> LabeledImages:
    """Classes that differ in the finest detail alone: flat, checks and stripes of one pixel."""
    rng, labels = np.random.default_rng(0), np.arange(count, dtype=np.int64) % 3
    rows, columns = np.indices((SIDE, SIDE))
    textures = np.stack([np.zeros((SIDE, SIDE)), (-1.0) ** (rows + columns), (-1.0) ** rows])
    pixels = 128 + 40 * textures[labels] + rng.normal(0, 10, (count, SIDE, SIDE)) + rng.normal(0, 20, (count, 1, 1))
    ids = tuple(map(str, range(count)))
    return LabeledImages(np.clip(pixels, 0, 255).astype(np.uint8)[..., None], labels, CLASSES, ids)


def measured(stride: int, images: LabeledImages, **options) -> Reconstruction:
    groups = options.pop("groups", np.arange(len(images)))
    encoder = options.pop("encoder", None)
    found = measure_reconstruction(Uncached(stride), images, groups, encoder, seed=0)
    assert found is not None
    return found


def test_what_copies_images_loses_nothing() -> None:
    found = measured(1, textured())
    assert (found.loss, found.standard_error, found.real) == (0.0, 0.0, found.reconstructed)
    assert found.real > 0.95
    assert found.psnr == pytest.approx(99)
    require_classes_kept(found, "here")


def test_what_blurs_the_detail_that_tells_classes_apart_is_refused() -> None:
    found = measured(2, textured())
    assert found.real > 0.95
    assert found.reconstructed < 0.5
    assert found.loses_classes
    with pytest.raises(DataError, match="loses what tells the classes apart") as caught:
        require_classes_kept(found, "here")
    assert "PSNR" in str(caught.value)


def test_the_same_blur_is_harmless_where_classes_differ_in_brightness() -> None:
    images = textured()
    levels = np.array([-80, 0, 80])[images.labels][:, None, None, None]
    bright = dataclasses.replace(images, pixels=np.clip(128.0 + levels + images.pixels / 8, 0, 255).astype(np.uint8))
    for encoder in (None, Mean()):
        found = measured(2, bright, encoder=encoder)
        assert found.real > 0.95
        assert not found.loses_classes


def test_the_encoder_decides_if_there_is_one() -> None:
    found = measured(2, textured(), encoder=Mean())
    assert found.classifier == "a regression on features of brightness"
    assert found.loss == pytest.approx(0, abs=0.05)  # means of squares are all it sees


def test_the_signal_to_noise_ratio_is_that_of_the_definition() -> None:
    images = textured(9)
    codec, pixels = Uncached(2).codec, images.pixels
    copies = codec.decode(codec.encode(pixels).mean).pixels
    errors = np.square(pixels.astype(float) - copies).mean(axis=(1, 2, 3))
    assert measured(2, images).psnr == pytest.approx(np.mean(10 * np.log10(255**2 / errors)))


def test_images_that_are_not_shown_are_refused_though_classes_could_be_read_from_them() -> None:
    cache, images = Uncached(1), textured()
    pixels = (images.pixels.astype(int) - np.array([90, 0, 0])[images.labels][:, None, None, None]).clip(0, 255)
    dark = dataclasses.replace(images, pixels=pixels.astype(np.uint8))
    cache.codec = Codec(Negative(1), (SIDE, SIDE), 1)
    found = measure_reconstruction(cache, dark, np.arange(len(dark)), None, seed=0)
    assert found is not None
    assert found.psnr < found.flat_psnr
    with pytest.raises(DataError, match="does not know such images"):
        require_classes_kept(found, "here")
    assert not measured(1, dark).loses_images


def test_images_of_one_group_do_not_judge_each_other() -> None:
    images = textured(60)
    noise = dataclasses.replace(images, pixels=np.random.default_rng(1).integers(0, 256, images.pixels.shape, np.uint8))
    doubled = dataclasses.replace(
        noise,
        pixels=np.concatenate([noise.pixels] * 2),
        labels=np.concatenate([noise.labels] * 2),
        ids=tuple(map(str, range(120))),
    )
    apart = measured(1, doubled, groups=np.tile(np.arange(60), 2))
    assert apart.real < 0.6  # copies on the other side would be recognized


def test_few_images_are_reconstructed_of_all_classes_alike() -> None:
    images = textured(600)
    assert measured(2, images).images == MOST_JUDGED


def test_nothing_is_said_where_no_image_can_be_left_out() -> None:
    images = textured(6).select(np.arange(3))
    assert measure_reconstruction(Uncached(2), images, np.arange(3), None, seed=0) is None


@pytest.mark.parametrize(("loss", "error", "refused"), [(0.09, 0.0, False), (0.3, 0.05, True), (0.3, 0.25, False)])
def test_a_loss_counts_if_it_is_large_and_no_chance(loss: float, error: float, refused: bool) -> None:
    assert Reconstruction(50, 30.0, 10.0, 0.9, 0.9 - loss, loss, error, "any").loses_classes == refused
