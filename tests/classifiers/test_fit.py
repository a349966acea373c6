import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_digits
from sklearn.metrics import balanced_accuracy_score
from torch import nn

from diffaug.classifiers.batches import Batches, network_input
from diffaug.classifiers.fit import PURPOSE, fit_network, predict_probabilities
from diffaug.classifiers.networks import small_cnn
from diffaug.classifiers.training_set import PLAIN, Augmentation, TrainingRecipe, TrainingSet
from diffaug.data.images import LabeledImages
from diffaug.errors import DataError

RECIPE = TrainingRecipe(6, batch_size=8)
STRONG = Augmentation("trivial on all", mixup=True)


def images(pixels, labels, num_classes=2):
    classes = tuple(f"class {i}" for i in range(num_classes))
    return LabeledImages(pixels, np.asarray(labels, np.int64), classes, tuple(map(str, range(len(labels)))))


def noise_images(count=12, size=(8, 8), channels=1, seed=0):
    random = np.random.default_rng(seed)
    return images(random.integers(0, 256, (count, *size, channels), dtype=np.uint8), np.arange(count) % 2)


def linear(channels, num_classes, image_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * image_size[0] * image_size[1], num_classes))


def fit_exactly(images, recipe, *, seed=0, backbone=small_cnn, **training):
    real = TrainingSet(images, np.zeros(len(images), bool), **training)
    return fit_network(real, recipe=recipe, seed=seed, purpose="test", backbone=backbone, exact=True)


def fit(training, recipe=RECIPE, *, backbone=small_cnn, seed=3):
    return fit_network(training, backbone=backbone, recipe=recipe, seed=seed, purpose=PURPOSE)


class Recorder:
    """A backbone that keeps its first weights and every training batch."""

    def __init__(self):
        self.batches = []

    def __call__(self, channels, num_classes, image_size):
        network = linear(channels, num_classes, image_size)
        self.first_weights = copy.deepcopy(network.state_dict())
        network.register_forward_pre_hook(lambda _, inputs: self.batches.append(inputs[0].clone()))
        return network


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.mark.e2e
def test_learns_long_tailed_digits():
    pixels, labels = load_digits(return_X_y=True)
    digits = images((pixels.reshape(-1, 8, 8, 1) * 15.9).astype(np.uint8), labels, 10)
    counts = np.geomspace(100, 5, 10).round().astype(int)
    train = np.concatenate([np.flatnonzero(labels == c)[:n] for c, n in enumerate(counts)])
    test = digits.select(np.setdiff1d(np.arange(len(digits)), train))
    prior = np.log(counts / counts.sum())
    model = fit_exactly(digits.select(train), TrainingRecipe(150), log_prior=prior)
    predicted = predict_probabilities(model, test.pixels).argmax(axis=1)
    assert balanced_accuracy_score(test.labels, predicted) > 0.9
    assert not model.training


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("arguments", "minority_probability"),
    [
        ({}, 0.2),
        ({"log_prior": np.log([0.8, 0.2])}, 0.5),
        ({"draw_probabilities": np.repeat([1 / 32, 1 / 8], [16, 4])}, 0.5),
        ({"loss_weights": np.repeat([1.0, 2.0], [16, 4])}, 8 / 24),
        ({"loss_weights": np.repeat([1.0, 2.0], [16, 4]), "augmentation": STRONG}, 8 / 24),
    ],
)
def test_images_without_information_get_the_prior_that_the_arguments_imply(arguments, minority_probability):
    blank = images(np.full((20, 4, 4, 1), 128, np.uint8), np.repeat([0, 1], [16, 4]))
    recipe = TrainingRecipe(400, batch_size=256, learning_rate=0.02, weight_decay=0)
    model = fit_exactly(blank, recipe, backbone=linear, **arguments)
    assert_allclose(predict_probabilities(model, blank.pixels[:1])[0, 1], minority_probability, atol=0.02)


@pytest.mark.e2e
def test_a_log_prior_moves_predictions_to_bayes_rule_under_equal_classes():
    """Brightness b of class k is k with probability 3/4, and 90 % of images are of class 0: Bayes is known."""
    random = np.random.default_rng(0)
    labels = (random.random(4000) < 0.1).astype(np.int64)
    bright = np.where(random.random(4000) < 0.75, labels, 1 - labels)
    source = images(np.full((4000, 2, 2, 1), 255, np.uint8) * bright[:, None, None, None].astype(np.uint8), labels)
    recipe = TrainingRecipe(500, batch_size=256, learning_rate=0.03, weight_decay=0)
    asked = np.repeat(np.uint8([0, 255]), 4).reshape(2, 2, 2, 1)
    for log_prior, prior in ((None, [0.9, 0.1]), (np.log([0.9, 0.1]), [0.5, 0.5])):
        model = fit_exactly(source, recipe, backbone=linear, log_prior=log_prior)
        posterior = np.array([[0.75, 0.25], [0.25, 0.75]]) * prior
        expected = posterior / posterior.sum(axis=1, keepdims=True)
        assert_allclose(predict_probabilities(model, asked), expected, atol=0.04)


def test_sgd_warms_up_for_5_of_200_epochs_and_drops_at_160_and_180(monkeypatch):
    rates = []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            assert (self.defaults["momentum"], self.defaults["weight_decay"]) == (0.9, 2e-4)
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "SGD", Watched)
    fit_exactly(noise_images(size=(4, 4)), TrainingRecipe(200, 4, optimizer="sgd"), backbone=linear)
    assert_allclose(rates[:6], [0.02, 0.04, 0.06, 0.08, 0.1, 0.1])
    assert_allclose([rates[159], rates[160], rates[179], rates[180], rates[199]], [0.1, 0.001, 0.001, 1e-5, 1e-5])


@pytest.mark.parametrize("size", [(8, 8), (24, 16), (5, 5)])
def test_batches_are_reflected_shifts_of_up_to_an_eighth(size):
    source, recorder = noise_images(6, size, channels=3), Recorder()
    fit_exactly(source, TrainingRecipe(12, 16), backbone=recorder)
    reach = [max(1, side // 8) for side in size]
    allowed = {
        np.pad(image, [(r, r) for r in reach] + [(0, 0)], "reflect")[y : y + size[0], x : x + size[1]].tobytes(): (y, x)
        for image in source.pixels
        for y in range(2 * reach[0] + 1)
        for x in range(2 * reach[1] + 1)
    }
    drawn = torch.cat(recorder.batches).permute(0, 2, 3, 1).add(1).mul(127.5).round().to(torch.uint8).numpy()
    shifts = {allowed[image.tobytes()] for image in drawn}
    assert {y for y, _ in shifts} == set(range(2 * reach[0] + 1))
    assert {x for _, x in shifts} == set(range(2 * reach[1] + 1))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [4, 8, 20, 21, 28, 32, 40, 41, 64, 100, 128, 129, 200, 256])
def test_any_size_costs_about_the_same(size, channels):
    network = small_cnn(channels, 10, (size, size + 3)).eval()
    multiplications = []

    def count(layer, _, output):
        multiplications.append(layer.weight.numel() * output[0, 0].numel())

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    with torch.inference_mode():
        assert network(torch.zeros(1, channels, size, size + 3)).shape == (1, 10)
    assert sum(multiplications) < (3e6 if size <= 8 else 13e6)
    assert 1e5 < sum(p.numel() for p in network.parameters()) < 4e5


def test_batch_size_does_not_matter_mapped_images_do_not_change_and_some_are_needed(monkeypatch, tmp_path):
    source = noise_images(7)
    np.save(tmp_path / "pixels.npy", source.pixels)
    mapped = replace(source, pixels=np.load(tmp_path / "pixels.npy", mmap_mode="r"))
    model = fit_exactly(mapped, TrainingRecipe(2, 4))
    whole = predict_probabilities(model, mapped.pixels)
    assert_array_equal(predict_probabilities(model, source.pixels), whole)
    assert_array_equal(mapped.pixels, source.pixels)
    assert whole.dtype == np.float32
    assert_allclose(whole.sum(axis=1), 1, rtol=1e-6)
    monkeypatch.setattr("diffaug.classifiers.batches.IMAGES_AT_ONCE", 3)
    assert_allclose(predict_probabilities(model, source.pixels), whole, rtol=1e-4)
    assert predict_probabilities(model, source.pixels[:0]).shape == (0, 2)
    with pytest.raises(DataError, match="no image"):
        fit_exactly(noise_images(0), TrainingRecipe(1))


@pytest.fixture
def real(make_images):
    return TrainingSet.real_only(make_images((8, 4, 2)))


@pytest.fixture
def both(make_images):
    return TrainingSet(make_images((8, 8, 12)), np.repeat([False, True], 14))


def test_the_plain_training_is_that_of_the_filters(real):
    expected = fit_network(real, recipe=RECIPE, seed=3, purpose=PURPOSE, exact=True)
    assert_same_weights(fit(real).state_dict(), expected.state_dict())


@pytest.mark.e2e
@pytest.mark.parametrize("strong", [False, True])
def test_the_same_seed_repeats_itself_and_leaves_the_global_generator_alone(both, strong):
    def with_dropout(channels, num_classes, image_size):
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), linear(channels, num_classes, image_size)[1])

    both, state = replace(both, augmentation=STRONG if strong else PLAIN), torch.random.get_rng_state()
    for backbone in (small_cnn, with_dropout):
        first, second = (fit(both, backbone=backbone).state_dict() for _ in range(2))
        assert_same_weights(first, second)
        other = fit(both, backbone=backbone, seed=4).state_dict()
        assert any(not torch.equal(tensor, other[name]) for name, tensor in first.items())
    assert torch.equal(state, torch.random.get_rng_state())


def test_arms_of_one_seed_share_first_weights_and_shifts_and_differ_in_what_they_compare(real, both):
    recorders = [Recorder() for _ in range(5)]
    weighted = replace(real, loss_weights=np.linspace(0, 1, 14))
    with_prior = replace(real, log_prior=np.log([0.6, 0.3, 0.1]))
    variants = [real, with_prior, weighted, replace(real, augmentation=STRONG), both]
    for recorder, variant in zip(recorders, variants, strict=True):
        fit(variant, backbone=recorder)
        assert_same_weights(recorder.first_weights, recorders[0].first_weights)
        assert len(recorder.batches) == RECIPE.updates
    for other in recorders[1:3]:
        assert all(torch.equal(a, b) for a, b in zip(other.batches, recorders[0].batches, strict=True))
    assert not torch.equal(recorders[3].batches[0], recorders[0].batches[0])


def test_images_are_mirrored_only_where_that_is_allowed(make_images):
    ramp = np.tile(np.arange(0, 240, 30, dtype=np.uint8), (4, 8, 1))[..., None]
    training = TrainingSet(replace(make_images((2, 1, 1)), pixels=ramp), np.zeros(4, bool))
    never, often = Recorder(), Recorder()
    fit(training, backbone=never)
    fit(training, replace(RECIPE, horizontal_flip=True, updates=40), backbone=often)
    falling = [torch.cat(r.batches)[:, 0, 0, 1] > torch.cat(r.batches)[:, 0, 0, -2] for r in (never, often)]
    assert not falling[0].any()
    assert falling[1].float().mean() == pytest.approx(0.5, abs=0.1)


def batches(**training):
    pixels = np.broadcast_to(np.uint8([0, 100, 200])[:, None, None, None], (3, 6, 6, 1))
    images = LabeledImages(pixels, np.array([0, 1, 0]), ("a", "b"), ("",) * 3)
    recipe = TrainingRecipe(1, batch_size=50)
    return Batches(TrainingSet(images, np.zeros(3, bool), **training), recipe, seed=1, purpose="test")


def test_images_are_drawn_as_often_as_their_chances_say():
    drawn = torch.cat([batches(draw_probabilities=np.array([1, 0, 3])).draw(step)[1] for step in range(100)])
    assert_allclose(np.bincount(drawn, minlength=3) / len(drawn), [0.25, 0, 0.75], atol=0.02)
    assert_allclose(batches().cumulative, [1 / 3, 2 / 3, 1])


def test_a_batch_depends_on_its_number_alone_and_its_pixels_are_those_of_its_positions():
    (pixels, positions), (_, other), (_, again) = (batches().draw(step) for step in (3, 2, 3))
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (50, 6, 6, 1)
    assert_array_equal(pixels[:, 0, 0, 0], 100 * positions)
    assert torch.equal(positions, again)
    assert not torch.equal(positions, other)


def test_network_input_spans_minus_one_to_one_with_channels_last():
    inputs = network_input(torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3).repeat(2, 4, 4, 1))
    torch.testing.assert_close(inputs[0, :, 0, 0], torch.tensor([-1, -0.6, 1]))
    assert inputs.is_contiguous(memory_format=torch.channels_last)
