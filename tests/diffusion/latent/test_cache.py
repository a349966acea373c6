from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from diffaug.diffusion.latent import cache as caches
from diffaug.diffusion.latent.cache import LatentCache
from diffaug.diffusion.latent.codec import Codec
from tests.diffusion.latent.autoencoders import squares


class Counting:
    """An autoencoder that counts the images it encodes."""

    def __init__(self, autoencoder) -> None:
        self._autoencoder, self.encoded = autoencoder, 0

    def __getattr__(self, name: str):
        return getattr(self._autoencoder, name)

    def encode(self, images):
        self.encoded += len(images)
        return self._autoencoder.encode(images)


@pytest.fixture
def counting(kl) -> Counting:
    return Counting(kl)


@pytest.fixture
def cache(counting, tmp_path, monkeypatch) -> LatentCache:
    monkeypatch.setattr(caches, "BLOCK", 4)
    return LatentCache.of(Codec(counting, (8, 8), 3), "a" * 64, tmp_path / "latents")


def assert_equal(one, other) -> None:
    for column, expected in zip(one, other, strict=True):
        assert torch.allclose(column.float(), expected.float(), atol=4e-3)


def test_an_image_is_encoded_once_wherever_it_stands(cache, counting) -> None:
    images, seen = squares(9), []
    first = cache.encode(images, lambda done, total: seen.append((done, total)))
    assert (counting.encoded, seen) == (9, [(4, 9), (8, 9), (9, 9)])
    assert {column.dtype for column in first} == {torch.float16}
    assert_equal(first, cache.codec.encode(images))
    counting.encoded = 0
    order = [7, 2, 2, 8]
    again = cache.encode(np.concatenate([images[order], squares(2, seed=1)]))
    assert counting.encoded == 2
    assert torch.equal(again.mean[:4], first.mean[order])
    assert torch.equal(again.log_variance[:4], first.log_variance[order])


def test_what_is_read_is_what_is_asked_for(cache, monkeypatch) -> None:
    """Copy checks ask for a few images at a time, of thousands."""
    images = squares(32)
    first = cache.encode(images)
    opened = []
    monkeypatch.setattr(caches, "safe_open", lambda path, *kind: opened.append(path) or safe_open(path, *kind))
    other = LatentCache(cache.codec, cache.home)
    for begin in range(0, 32, 2):
        assert torch.equal(other.encode(images[begin : begin + 2]).mean, first.mean[begin : begin + 2])
    assert len(opened) == 16  # one for each pair


def test_another_process_finds_them(cache, counting) -> None:
    first, counting.encoded = cache.encode(squares(5)), 0
    other = LatentCache(cache.codec, cache.home)
    assert_equal(other.encode(squares(5)[::-1]), [column.flip(0) for column in first])
    assert counting.encoded == 0


@pytest.mark.parametrize("content", [b"", b"cut short", None], ids=["empty", "foreign", "half"])
def test_what_was_cut_short_is_encoded_again(cache, counting, content) -> None:
    first, counting.encoded = cache.encode(squares(8)), 0
    spoiled = sorted(cache.home.iterdir())[0]
    spoiled.write_bytes(spoiled.read_bytes()[:-9] if content is None else content)
    assert_equal(cache.encode(squares(8)), first)
    assert counting.encoded == 4


def test_autoencoders_and_shapes_are_kept_apart(cache, counting, tmp_path) -> None:
    cache.encode(squares(2))
    other = LatentCache.of(cache.codec, "b" * 64, tmp_path / "latents")
    other.encode(squares(2))
    assert counting.encoded == 4
    flat = np.zeros((1, 4, 16, 3), np.uint8)
    wide = LatentCache.of(Codec(counting, (4, 16), 3), "a" * 64, tmp_path / "latents")
    tall = LatentCache.of(Codec(counting, (16, 4), 3), "a" * 64, tmp_path / "latents")
    assert wide.encode(flat).mean.shape[2:] == (2, 8)
    assert tall.encode(flat.reshape(1, 16, 4, 3)).mean.shape[2:] == (8, 2)


def test_latents_without_a_distribution_stay_certain(exact, tmp_path: Path) -> None:
    cache = LatentCache.of(Codec(exact, (8, 8), 3), "c" * 64, tmp_path)
    for _ in range(2):
        encoded = cache.encode(squares(3))
        assert encoded.log_variance is None
        assert np.array_equal(cache.codec.decode(encoded.mean.float()).pixels, squares(3))


def test_no_images_are_no_latents(cache) -> None:
    assert cache.encode(np.zeros((0, 8, 8, 3), np.uint8)).mean.shape == (0, 4, 4, 4)
