"""Trainings are paired and repeatable, priors and finishes do what they promise, and settings name the classifier."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.torch import save_file
from torch import nn

from diffaug.classifiers import training as training_module
from diffaug.classifiers.batches import Batches, network_input
from diffaug.classifiers.features import FeatureClassifier
from diffaug.classifiers.fit import TrainingRecipe, default_updates, fit_classifier, small_cnn
from diffaug.classifiers.library import resnet_32
from diffaug.classifiers.training import (
    BATCH_NORM_BATCHES,
    PURPOSE,
    NetworkClassifier,
    TrainingSet,
    classifier_of,
    estimate_batch_norm,
    fit_network,
    identity_of,
    last_layer_only,
    real_draw,
    recipe_of,
)
from diffaug.configuration.settings import EvaluationSettings
from diffaug.data.images import LabeledImages
from diffaug.errors import DataError, UsageError


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def linear(channels, num_classes, image_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * image_size[0] * image_size[1], num_classes))


class Recorder:
    """A backbone that keeps its first weights and every training batch."""

    def __init__(self, make=linear):
        self.make, self.batches = make, []

    def __call__(self, channels, num_classes, image_size):
        network = self.make(channels, num_classes, image_size)
        self.first_weights = copy.deepcopy(network.state_dict())
        network.register_forward_pre_hook(lambda _, inputs: self.batches.append(inputs[0].clone()))
        return network


RECIPE = TrainingRecipe(6, batch_size=8)


@pytest.fixture
def real(make_images):
    images = make_images((8, 4, 2))
    return TrainingSet(images, np.zeros(14, bool))


@pytest.fixture
def both(make_images):
    """Twice as many images, the second half synthetic: darker, and of the rare classes."""
    first, second = make_images((8, 4, 2)), make_images((0, 4, 10), seed=1)
    pixels = np.concatenate([first.pixels, second.pixels // 2])
    labels = np.concatenate([first.labels, second.labels])
    images = replace(first, pixels=pixels, labels=labels, ids=first.ids + second.ids)
    return TrainingSet(images, np.repeat([False, True], 14))


def told_apart(training):
    """Real images are white and synthetic ones black."""
    pixels = np.zeros_like(training.images.pixels)
    pixels[~training.is_synthetic] = 255
    return replace(training, images=replace(training.images, pixels=pixels))


def fit(training, recipe=RECIPE, *, backbone=small_cnn, seed=3):
    return fit_network(training, backbone=backbone, recipe=recipe, seed=seed, device="cpu")


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_the_plain_training_is_the_judges(real):
    judges = fit_classifier(real.images, recipe=RECIPE, seed=3, purpose=PURPOSE)
    assert_same_weights(fit(real).state_dict(), judges.state_dict())


@pytest.mark.parametrize("strong", [False, True])
def test_the_same_seed_repeats_itself_and_leaves_the_global_generator_alone(both, strong):
    def with_dropout(channels, num_classes, image_size):
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), linear(channels, num_classes, image_size)[1])

    both, state = replace(both, strong_augmentation=strong), torch.random.get_rng_state()
    for backbone in (small_cnn, with_dropout):
        first, second = (fit(both, backbone=backbone).state_dict() for _ in range(2))
        assert_same_weights(first, second)
        other = fit(both, backbone=backbone, seed=4).state_dict()
        assert any(not torch.equal(tensor, other[name]) for name, tensor in first.items())
    assert torch.equal(state, torch.random.get_rng_state())


def test_arms_of_one_seed_share_first_weights_and_shifts_and_differ_in_what_they_compare(real, both):
    recorders = [Recorder() for _ in range(5)]
    variants = [
        real,
        replace(real, log_prior=np.log([0.6, 0.3, 0.1])),
        replace(real, loss_weights=np.linspace(0, 1, 14)),
        replace(real, strong_augmentation=True),
        both,
    ]
    for recorder, variant in zip(recorders, variants, strict=True):
        fit(variant, backbone=recorder)
    for recorder in recorders[1:]:
        assert_same_weights(recorder.first_weights, recorders[0].first_weights)
        assert len(recorder.batches) == RECIPE.updates
    for other in recorders[1:3]:
        assert all(torch.equal(a, b) for a, b in zip(other.batches, recorders[0].batches, strict=True))
    assert not torch.equal(recorders[3].batches[0], recorders[0].batches[0])


def test_a_log_prior_moves_predictions_to_bayes_rule_under_equal_classes():
    """Brightness b of class k is k with chance 3/4, and 90 % of images are of class 0: Bayes is known."""
    random = np.random.default_rng(0)
    labels = (random.random(4000) < 0.1).astype(np.int64)
    bright = np.where(random.random(4000) < 0.75, labels, 1 - labels)
    pixels = np.broadcast_to((bright * 255).astype(np.uint8)[:, None, None, None], (4000, 2, 2, 1)).copy()
    images = LabeledImages(pixels, labels, ("a", "b"), ("",) * 4000)
    recipe = TrainingRecipe(500, batch_size=256, learning_rate=0.03, weight_decay=0)
    asked = np.repeat(np.uint8([0, 255]), 4).reshape(2, 2, 2, 1)
    log_prior = np.log([0.9, 0.1])
    for training, prior in [
        (TrainingSet(images, np.zeros(4000, bool)), np.array([0.9, 0.1])),
        (TrainingSet(images, np.zeros(4000, bool), log_prior=log_prior), np.array([0.5, 0.5])),
    ]:
        predicted = NetworkClassifier(linear, "x").fit_predict(training, asked, recipe=recipe, seed=0, device="cpu")
        posterior = np.array([[0.75, 0.25], [0.25, 0.75]]) * prior
        assert_allclose(predicted, posterior / posterior.sum(axis=1, keepdims=True), atol=0.04)


def test_images_are_mirrored_only_where_that_is_allowed(make_images):
    ramp = np.tile(np.arange(0, 240, 30, dtype=np.uint8), (4, 8, 1))[..., None]
    training = TrainingSet(replace(make_images((2, 1, 1)), pixels=ramp), np.zeros(4, bool))
    never, often = Recorder(), Recorder()
    fit(training, backbone=never)
    fit(training, replace(RECIPE, horizontal_flip=True, updates=40), backbone=often)
    falling = [torch.cat(r.batches)[:, 0, 0, 1] > torch.cat(r.batches)[:, 0, 0, -2] for r in (never, often)]
    assert not falling[0].any()
    assert falling[1].float().mean() == pytest.approx(0.5, abs=0.1)


def test_real_draws_keep_every_classs_weight(both):
    weighted = replace(
        both,
        draw_probabilities=np.random.default_rng(0).dirichlet(np.ones(28)),
        loss_weights=np.where(both.is_synthetic, 0.5, 1.0),
    )
    for training in (both, weighted):
        draw = real_draw(training)
        weight = draw * (1 if training.loss_weights is None else training.loss_weights)
        shares = [np.bincount(training.images.labels, w, 3) for w in (weight, training.importances)]
        assert not draw[training.is_synthetic].any()
        assert_allclose(shares[0] / shares[0].sum(), shares[1] / shares[1].sum())


def batches_of(training, size=8):
    return Batches.of(training.images, size=size, seed=0, purpose="test")


def test_batch_norm_takes_the_averages_of_its_batches(real):
    model = small_cnn(1, 3, (8, 8))
    momentum = model[0][1].momentum
    fresh = copy.deepcopy(model)
    estimate_batch_norm(model, batches_of(real), range(5, 9))
    # Directly: the first layer's mean and variance over each batch, then over the batches.
    outputs = [fresh[0][0](network_input(batches_of(real).draw(step)[0])).detach() for step in range(5, 9)]
    means = torch.stack([output.mean(dim=(0, 2, 3)) for output in outputs])
    variances = torch.stack([output.transpose(0, 1).flatten(1).var(dim=1) for output in outputs])
    norm = model[0][1]
    torch.testing.assert_close(norm.running_mean, means.mean(dim=0))
    torch.testing.assert_close(norm.running_var, variances.mean(dim=0))
    assert norm.momentum == momentum
    assert not any(layer.training for layer in model.modules())
    assert_same_weights(dict(model.named_parameters()), dict(fresh.named_parameters()))


def test_a_batch_norm_finish_shows_real_images_only_and_costs_no_update(both):
    recorder = Recorder(small_cnn)
    training = told_apart(both)
    finished = fit(training, replace(RECIPE, finish="batch norm"), backbone=recorder)
    assert len(recorder.batches) == RECIPE.updates + BATCH_NORM_BATCHES
    assert all((batch == 1).all() for batch in recorder.batches[RECIPE.updates :])
    assert any((batch == -1).any() for batch in recorder.batches[: RECIPE.updates])
    plain = fit(training)
    assert_same_weights(dict(finished.named_parameters()), dict(plain.named_parameters()))
    assert not torch.equal(finished[0][1].running_mean, plain[0][1].running_mean)


def test_a_last_layer_finish_has_the_same_updates_real_images_and_an_unchanged_trunk(both, monkeypatch):
    recorder, before = Recorder(small_cnn), {}

    def remembering(model):
        before.update(copy.deepcopy(model.state_dict()))
        return last_layer_only(model)

    monkeypatch.setattr(training_module, "last_layer_only", remembering)
    recipe = TrainingRecipe(20, batch_size=8, finish="last layer")
    model = fit(told_apart(both), recipe, backbone=recorder)
    after = model.state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    head = list(after)[-2:]
    assert changed == set(head)
    assert len(recorder.batches) == recipe.updates
    assert all((batch == 1).all() for batch in recorder.batches[18:])
    assert any((batch == -1).any() for batch in recorder.batches[:18])
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("finish", ["batch norm", "last layer"])
@pytest.mark.parametrize("synthetic", [False, True])
def test_a_finish_needs_real_and_synthetic_images(both, finish, synthetic):
    training = replace(both, is_synthetic=np.full(28, synthetic))
    assert_same_weights(fit(training, replace(RECIPE, finish=finish)).state_dict(), fit(training).state_dict())


def test_strong_augmentation_weighs_images_as_their_weights_say(make_images):
    """Images that weigh nothing have no say, though their pixels are mixed in: blank images show the prior."""
    images = replace(make_images((10, 10)), pixels=np.full((20, 4, 4, 1), 128, np.uint8))
    training = TrainingSet(
        images, np.zeros(20, bool), loss_weights=np.repeat([1.0, 0.25], 10), strong_augmentation=True
    )
    recipe = TrainingRecipe(400, batch_size=128, learning_rate=0.02, weight_decay=0)
    classifier = NetworkClassifier(linear, "linear")
    predicted = classifier.fit_predict(training, images.pixels[:1], recipe=recipe, seed=0, device="cpu")
    assert_allclose(predicted[0], [0.8, 0.2], atol=0.04)


def test_no_image_is_an_error(real):
    with pytest.raises(DataError, match="no image"):
        fit(TrainingSet(real.images.select(np.arange(0)), np.zeros(0, bool)))


def test_settings_name_the_classifier_and_the_recipe(tmp_path):
    settings = EvaluationSettings(classifier="resnet-32", optimizer="sgd", finish="last layer", horizontal_flip=True)
    classifier = classifier_of(settings)
    assert classifier == NetworkClassifier(resnet_32, "resnet-32")
    recipe = recipe_of(settings, 500)
    assert recipe.updates == default_updates(500)
    assert (recipe.optimizer, recipe.finish, recipe.horizontal_flip) == ("sgd", "last layer", True)
    assert recipe_of(EvaluationSettings(max_steps=7), 500) == TrainingRecipe(7)


def test_weights_are_part_of_the_name(tmp_path):
    names = {"small-cnn"}
    for seed in range(2):
        torch.manual_seed(seed)
        file = tmp_path / "weights.safetensors"
        save_file(small_cnn(1, 3, (8, 8)).state_dict(), file)
        names.add(classifier_of(EvaluationSettings(checkpoint=str(file))).name)
    assert len(names) == 3


def test_a_factory_of_the_users_is_named_by_its_source():
    first, again = NetworkClassifier.of_factory(linear), NetworkClassifier.of_factory(linear)
    other = NetworkClassifier.of_factory(small_cnn)
    assert first.name == again.name
    assert first.name.startswith("linear ")
    assert first.name != other.name
    assert NetworkClassifier.of_factory(Recorder()).name.startswith("Recorder ")


def test_features_need_an_encoder():
    class Flat:
        name = "flat"

        def features(self, pixels):
            return pixels.reshape(len(pixels), -1).astype(np.float32)

    settings = EvaluationSettings(classifier="features")
    assert classifier_of(settings, Flat()).name == "features of flat"
    assert isinstance(classifier_of(settings, Flat()), FeatureClassifier)
    with pytest.raises(UsageError, match="encoder"):
        classifier_of(settings)
    for only_of_networks in ({"finish": "last layer"}, {"checkpoint": "w.pt"}):
        with pytest.raises(UsageError, match="no finish"):
            classifier_of(EvaluationSettings(classifier="features", **only_of_networks), Flat())


def test_predictions_are_probabilities(real):
    predicted = NetworkClassifier(small_cnn, "small-cnn").fit_predict(
        real, real.images.pixels[:5], recipe=RECIPE, seed=0, device="cpu"
    )
    assert predicted.shape == (5, 3)
    assert_allclose(predicted.sum(axis=1), 1, rtol=1e-5)
    assert_array_equal(
        predicted,
        NetworkClassifier(small_cnn, "other").fit_predict(
            real, real.images.pixels[:5], recipe=RECIPE, seed=0, device="cpu"
        ),
    )


def test_functions_without_a_text_are_told_apart_by_their_code():
    def compiled(text):
        names = {}
        exec(text, names)
        return identity_of(names["train"])

    first = "def train(data):\n    return [step for step in range(3) if step in {'a', 'b'}]"
    assert compiled(first) == compiled(first)
    assert len({compiled(first), compiled(first.replace("3", "4")), compiled(first.replace("'b'", "'c'"))}) == 3
    assert len({compiled(first), compiled(first.replace("range", "list"))}) == 2
