import numpy as np
import pytest
import torch

from diffaug.diffusion.latent import codec as codecs
from diffaug.diffusion.latent.autoencoder import open_autoencoder
from diffaug.diffusion.latent.codec import Codec
from diffaug.diffusion.latent.folder import AutoencoderFolder
from diffaug.errors import UsageError
from tests.diffusion.latent.autoencoders import squares, write_exact, write_random_kl


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (7, 10), (5, 9), (1, 3)], ids=str)
def test_images_of_any_size_come_back_whole(exact, size, channels) -> None:
    images, codec = squares(5, size, channels), Codec(exact, size, channels)
    decoded = codec.decode(codec.encode(images).mean)
    assert np.array_equal(decoded.pixels, images)
    assert decoded.finite.all()
    assert codec.latent_shape == (3, -(-size[0] // 2), -(-size[1] // 2))


@pytest.mark.parametrize("factor", [0.18215, -3.0])
def test_scaled_latents_are_scaled_back(tmp_path, exact, factor) -> None:
    scaled = open_autoencoder(AutoencoderFolder.find(write_exact(tmp_path, factor)), "cpu")
    images = squares(2)
    plain, other = (Codec(one, (8, 8), 3) for one in (exact, scaled))
    assert torch.allclose(other.encode(images).mean, plain.encode(images).mean * factor)
    assert np.array_equal(other.decode(other.encode(images).mean).pixels, images)


def test_shift_and_scale_of_a_distribution(tmp_path, kl) -> None:
    changed = {"scaling_factor": 2.0, "shift_factor": 0.5}
    other = open_autoencoder(AutoencoderFolder.find(write_random_kl(tmp_path, **changed)), "cpu")
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before, after = kl.encode(images), other.encode(images)
    factor = 2.0 / 0.18215  # to the default of AutoencoderKL
    assert torch.allclose(after.mean, before.mean * factor - 0.5 * 2.0, atol=1e-5)
    assert torch.allclose(after.log_variance.exp(), before.log_variance.exp() * factor**2, rtol=1e-4)
    assert torch.allclose(other.decode(after.mean), kl.decode(before.mean), atol=1e-5)


def test_a_gray_image_is_encoded_as_three_equal_channels(kl) -> None:
    gray = squares(2, channels=1)
    latents = Codec(kl, (8, 8), 1).encode(gray)
    colored = Codec(kl, (8, 8), 3)
    assert torch.equal(latents.mean, colored.encode(gray.repeat(3, axis=3)).mean)
    expected = colored.decode(latents.mean).pixels.astype(float).mean(axis=3)
    assert np.abs(Codec(kl, (8, 8), 1).decode(latents.mean).pixels[..., 0] - expected).max() <= 1


def test_colors_are_not_lost_silently(tmp_path) -> None:
    gray = open_autoencoder(AutoencoderFolder.find(write_exact(tmp_path, channels=1)), "cpu")
    with pytest.raises(UsageError, match="gray") as caught:
        Codec(gray, (8, 8), 3)
    assert "data.channels=1" in str(caught.value.fix)
    images, codec = squares(2, channels=1), Codec(gray, (8, 8), 1)
    assert np.array_equal(codec.decode(codec.encode(images).mean).pixels, images)


def test_batches_bound_the_memory_and_change_nothing(kl, monkeypatch) -> None:
    images, codec, sizes = squares(7), Codec(kl, (8, 8), 3), []
    whole = codec.encode(images)
    monkeypatch.setattr(codecs, "PIXELS_AT_ONCE", {"cpu": 3 * 64 + 5})
    counting = type(kl).encode
    monkeypatch.setattr(type(kl), "encode", lambda self, one: sizes.append(len(one)) or counting(self, one))
    parted = codec.encode(images)
    assert sizes == [3, 3, 1]
    for one, other in zip(whole, parted, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    difference = codec.decode(whole.mean).pixels.astype(int) - codec.decode(parted.mean).pixels
    assert np.abs(difference).max() <= 1


def test_what_is_not_finite_is_black_and_said_so(exact) -> None:
    codec = Codec(exact, (8, 8), 3)
    latents = codec.encode(squares(3)).mean
    latents[1, 0, 0, 0] = float("nan")
    decoded = codec.decode(latents)
    assert decoded.finite.tolist() == [True, False, True]
    assert not decoded.pixels[1].any()
    assert np.array_equal(decoded.pixels[[0, 2]], squares(3)[[0, 2]])


def test_no_images_are_no_work(kl) -> None:
    codec = Codec(kl, (5, 7), 1)
    assert codec.encode(np.zeros((0, 5, 7, 1), np.uint8)).mean.shape == (0, 4, 3, 4)
    assert codec.decode(torch.zeros(0, 4, 3, 4)).pixels.shape == (0, 5, 7, 1)


def test_a_latent_position_is_covered_if_any_of_its_pixels_is(exact) -> None:
    masks = torch.zeros(2, 1, 5, 7, dtype=torch.bool)
    masks[0, 0, 4, 6] = masks[1, 0, 1, 2] = True
    covered = Codec(exact, (5, 7), 1).covered(masks)
    assert covered.shape == (2, 1, 3, 4)
    assert [tuple(place) for place in covered.nonzero().tolist()] == [(0, 0, 2, 3), (1, 0, 0, 1)]


def test_large_images_are_seen_in_tiles(kl) -> None:
    codec, sides = Codec(kl, (530, 12), 3), []
    hooks = [
        part.register_forward_pre_hook(lambda _, given: sides.append(max(given[0].shape[2:])))
        for part in (kl.module.encoder, kl.module.decoder)
    ]
    latents = codec.encode(np.zeros((1, 530, 12, 3), np.uint8)).mean
    decoded = codec.decode(latents)
    for hook in hooks:
        hook.remove()
    assert len(sides) == 4
    assert max(sides) <= 512
    assert (latents.shape, decoded.pixels.shape) == ((1, 4, 265, 6), (1, 530, 12, 3))
