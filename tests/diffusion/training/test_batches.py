import dataclasses

import numpy as np
import pytest
import torch

from diffaug.diffusion.planning import defaults
from diffaug.diffusion.training.batches import TrainingData, draw_batch, draw_probabilities


@pytest.mark.parametrize(("temperature", "share"), [(1.0, 0.9), (0.5, 0.75), (0.0, 0.5)])
def test_classes_are_drawn_by_their_tempered_size(temperature: float, share: float) -> None:
    labels = np.array([0] * 90 + [1] * 10, dtype=np.int64)
    probabilities = draw_probabilities(labels, temperature, limit=1.0)
    assert probabilities.sum() == pytest.approx(1)
    assert probabilities[:90].sum() == pytest.approx(share)


def test_no_image_is_drawn_more_often_than_the_limit_and_the_rest_goes_to_other_classes() -> None:
    labels = np.array([0] * 60 + [1] * 30 + [2] * 6 + [3] * 4, dtype=np.int64)
    free = draw_probabilities(labels, 0.0, limit=1.0)
    assert free[[0, 60, 90, 96]] == pytest.approx([0.25 / 60, 0.25 / 30, 0.25 / 6, 0.25 / 4])
    capped = draw_probabilities(labels, 0.0, limit=0.02)
    assert capped.sum() == pytest.approx(1)
    assert capped[[90, 96]] == pytest.approx([0.02, 0.02])
    assert capped[0] / capped[60] == pytest.approx(30 / 60)
    assert capped[:60].sum() == pytest.approx(0.4)


def test_a_long_training_draws_every_image_equally_often(blobs) -> None:
    long = TrainingData.of(blobs, "cpu", images_seen=16 * defaults.MAX_REPEATS_PER_IMAGE + 1)
    assert long.draw_probabilities == pytest.approx(np.full(16, 1 / 16))
    short = TrainingData.of(blobs, "cpu", images_seen=16)
    assert short.draw_probabilities[12:].sum() == pytest.approx(2 / (2 + 12**0.5))


def test_labels_are_hidden_at_the_set_rate_and_images_match_their_labels(data, plan) -> None:
    big = dataclasses.replace(plan, batch_size=4000)
    x0, labels, sigma, noise, _, masks = draw_batch(data, big, seed=0, step=0)
    assert masks is None
    hidden = (labels == 2).float().mean().item()
    assert hidden == pytest.approx(0.1, abs=4 * (0.09 / 4000) ** 0.5)
    lit_on_top = (x0[:, 0, :3].mean((1, 2)) > x0[:, 0, 3:].mean((1, 2))).long()
    shown = labels != 2
    assert torch.equal(labels[shown], 1 - lit_on_top[shown])
    assert sigma.shape == (4000,)
    assert noise.std().item() == pytest.approx(1, abs=0.01)


def test_augmentation_tells_the_network_and_changes_only_what_it_tells(data, plan) -> None:
    plan = dataclasses.replace(plan, batch_size=64)
    plain = draw_batch(data, dataclasses.replace(plan, augmentation=0.0), 0, 0)
    changed = draw_batch(data, dataclasses.replace(plan, augmentation=0.3), 0, 0)
    assert torch.count_nonzero(plain.conditions) == 0
    untouched = (changed.conditions == 0).all(dim=1)
    assert 0 < untouched.sum() < 64
    assert torch.equal(changed.x0[untouched], plain.x0[untouched])
    assert (changed.x0[~untouched] != plain.x0[~untouched]).flatten(1).any(dim=1).all()


def test_flips_only_when_asked(blobs, plan) -> None:
    pixels = blobs.pixels.copy()
    pixels[:, :, 0] = 255
    data = TrainingData.of(dataclasses.replace(blobs, pixels=pixels), "cpu")
    plain, *_ = draw_batch(data, plan, 0, 0)
    flipped, *_ = draw_batch(data, dataclasses.replace(plan, horizontal_flip=True), 0, 0)

    def left(x: torch.Tensor) -> float:
        return (x[..., 0].mean((1, 2)) > x[..., -1].mean((1, 2))).float().mean().item()

    assert left(plain) == 1.0
    assert 0 < left(flipped) < 1
