import numpy as np
import pytest

from diffaug.classifiers.encoders import cache
from diffaug.classifiers.encoders.cache import cached_features


class Counting:
    """Features are the mean and the number of pixels; fails when it has encoded enough."""

    def __init__(self, name="counting", most=1000):
        self.name, self.most, self.encoded = name, most, 0

    def features(self, images):
        if self.encoded + len(images) > self.most:
            raise KeyboardInterrupt
        self.encoded += len(images)
        return np.array([[image.mean(), image.size] for image in images], np.float32).reshape(len(images), 2)


@pytest.fixture
def images():
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (4, 4 + number % 3, 1), dtype=np.uint8) for number in range(20)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(cache, "BLOCK", 6)


@pytest.mark.parametrize("hashes", [None, [f"hash {number}" for number in range(20)]])
def test_an_image_is_encoded_once(images, tmp_path, hashes):
    expected, encoder = Counting().features(images), Counting(most=20)
    for _ in range(3):
        np.testing.assert_array_equal(cached_features(encoder, images, hashes, tmp_path), expected)
    some = [19, 3, 3, 0]
    given = None if hashes is None else [hashes[number] for number in some]
    np.testing.assert_array_equal(
        cached_features(encoder, [images[number] for number in some], given, tmp_path), expected[some]
    )
    assert encoder.encoded == 20


def test_equal_images_are_encoded_once_and_an_array_will_do(tmp_path):
    pixels = np.repeat(np.arange(3, dtype=np.uint8), 5)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    encoder = Counting()
    features = cached_features(encoder, pixels, None, tmp_path)
    np.testing.assert_array_equal(features, Counting().features(pixels))
    assert encoder.encoded == 3
    assert cached_features(encoder, pixels[:0], None, tmp_path).shape == (0, 2)


def test_what_an_interrupted_call_has_encoded_stays(images, tmp_path):
    seen = []
    with pytest.raises(KeyboardInterrupt):
        cached_features(Counting(most=13), images, None, tmp_path, lambda *done: seen.append(done))
    assert seen == [(6, 20), (12, 20)]
    encoder = Counting()
    np.testing.assert_array_equal(
        cached_features(encoder, images, None, tmp_path, lambda *done: seen.append(done)), Counting().features(images)
    )
    assert encoder.encoded == 8
    assert seen[2:] == [(18, 20), (20, 20)]


def test_encoders_and_shapes_are_told_apart(images, tmp_path):
    cached_features(Counting(), images, None, tmp_path)
    other = Counting("other")
    cached_features(other, images, None, tmp_path)
    assert other.encoded == 20
    zeros = [np.zeros((2, 8, 1), np.uint8), np.zeros((4, 4, 1), np.uint8)]
    encoder = Counting("third")
    cached_features(encoder, zeros, None, tmp_path)
    assert encoder.encoded == 2


@pytest.mark.parametrize("damage", [b"", b"\0" * 100, "cut", "foreign", "flipped"])
def test_a_damaged_block_is_computed_again(images, tmp_path, damage):
    from safetensors.numpy import save

    expected = cached_features(Counting(), images, None, tmp_path)
    file = sorted(tmp_path.rglob("*.safetensors"))[0]
    content = file.read_bytes()
    file.write_bytes(
        {
            "cut": content[:-9],
            "foreign": save({"x": np.zeros(3)}),
            "flipped": content[:-1] + bytes([content[-1] ^ 1]),
        }.get(damage, damage)
    )
    encoder = Counting()
    np.testing.assert_array_equal(cached_features(encoder, images, None, tmp_path), expected)
    assert 0 < encoder.encoded <= 6
    assert file.read_bytes() == content
