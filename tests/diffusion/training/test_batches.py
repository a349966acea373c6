import dataclasses

import numpy as np
import pytest
import torch

from diffaug.classifiers.pseudo_labels import PseudoLabels
from diffaug.data.images import LabeledImages, UnlabeledImages
from diffaug.diffusion.planning import defaults
from diffaug.diffusion.planning.sources import unlabeled_share
from diffaug.diffusion.training.batches import TrainingData, UnlabeledPart, draw_batch, draw_probabilities


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


def test_the_limit_is_relative_to_the_average_image(blobs) -> None:
    many = np.concatenate([np.zeros(12, np.int64), np.zeros(108, np.int64), [1]])
    images = LabeledImages(blobs.pixels[many], many, ("a", "b"), tuple(map(str, range(len(many)))))
    drawn = TrainingData.of(images, "cpu").draw_probabilities
    assert drawn[-1] == pytest.approx(defaults.MAX_REPEATS_PER_IMAGE / defaults.EXPECTED_VIEWS / 121)
    assert drawn.sum() == pytest.approx(1)
    few = TrainingData.of(blobs, "cpu").draw_probabilities
    assert few[12:].sum() == pytest.approx(2 / (2 + 12**0.5))


def unlabeled_of(blobs, weights, share: float, labels: PseudoLabels | None = None) -> UnlabeledPart:
    """Images of one value each, so that they are known again."""
    pixels = np.full((len(weights), 6, 5, 1), 0, np.uint8)
    pixels += (np.arange(len(weights)) * 10 + 5).astype(np.uint8)[:, None, None, None]
    ids = tuple(f"u{number}" for number in range(len(weights)))
    return UnlabeledPart(UnlabeledImages(pixels, ids, np.array(weights, np.float64)), share, labels)


def drawn(data: TrainingData, plan, size: int = 6000) -> tuple[np.ndarray, np.ndarray]:
    """Which unlabeled image each image of a large batch is, -1 for labeled ones, and its label."""
    batch = draw_batch(data, dataclasses.replace(plan, batch_size=size), seed=0, step=0)
    pixels = data.normalization.to_pixels(batch.x0).pixels
    flat = pixels.max((1, 2, 3)) == pixels.min((1, 2, 3))
    return np.where(flat, (pixels[:, 0, 0, 0].astype(int) - 5) // 10, -1), batch.labels.numpy()


def test_unlabeled_images_get_their_share_by_weight_and_no_label(blobs, plan) -> None:
    data = TrainingData.of(blobs, "cpu", unlabeled=unlabeled_of(blobs, [1.0, 0.5, 0.5], share=0.4))
    which, labels = drawn(data, plan)
    counts = np.bincount(which[which >= 0], minlength=3) / len(which)
    assert counts == pytest.approx([0.2, 0.1, 0.1], abs=0.02)
    assert (labels[which >= 0] == plan.network.null_label).all()
    hidden = (labels[which < 0] == plan.network.null_label).mean()
    assert hidden == pytest.approx(0.1, abs=0.02)
    shown = labels[(which < 0) & (labels < 2)]
    assert (shown == 1).mean() == pytest.approx(2 / (2 + 12**0.5), abs=0.03)  # as without unlabeled images


def test_pseudo_labels_are_shown_as_often_as_they_are_sure(blobs, plan) -> None:
    labels = PseudoLabels(np.array([0, 1, 1]), np.array([1.0, 0.5, 0.0]))
    data = TrainingData.of(blobs, "cpu", unlabeled=unlabeled_of(blobs, [1, 1, 1], share=0.5, labels=labels))
    which, found = drawn(data, plan)
    for image, (label, sure) in enumerate(zip([0, 1, 1], [1.0, 0.5, 0.0], strict=True)):
        own = found[which == image]
        assert (own == label).mean() == pytest.approx(0.9 * sure, abs=0.05)
        assert set(own) <= {label, plan.network.null_label}


def test_a_batch_with_unlabeled_images_depends_on_seed_and_step_alone(blobs, plan) -> None:
    labels = PseudoLabels(np.array([0, 1]), np.array([0.6, 0.3]))
    data, again = (
        TrainingData.of(blobs, "cpu", unlabeled=unlabeled_of(blobs, [1, 1], share=0.5, labels=labels)) for _ in range(2)
    )
    first, second = draw_batch(data, plan, 0, 7), draw_batch(again, plan, 0, 7)
    assert all(torch.equal(one, other) for one, other in zip(first[:5], second[:5], strict=True))


def test_unlabeled_images_of_another_shape_lie_in_their_own_boxes_and_tell_classes_none(blobs, plan) -> None:
    images = dataclasses.replace(blobs, boxes=np.tile([6, 3], (16, 1)))
    part = unlabeled_of(blobs, [1.0], share=0.5, labels=PseudoLabels(np.array([1]), np.array([1.0])))
    part = dataclasses.replace(part, images=dataclasses.replace(part.images, boxes=np.array([[2, 5]])))
    data = TrainingData.of(images, "cpu", unlabeled=part)
    masks = draw_batch(data, dataclasses.replace(plan, batch_size=64), 0, 0).masks
    assert masks is not None
    assert {(int(mask.any(1).sum()), int(mask.any(0).sum())) for mask in masks[:, 0]} == {(6, 3), (2, 5)}
    boxes = data.class_boxes(2)
    assert boxes is not None
    assert boxes.by_class == (((6, 3, 12),), ((6, 3, 4),))


@pytest.mark.parametrize(
    ("weights", "labeled", "share"), [([1.0] * 10, 90, 0.1), ([0.5] * 20, 90, 0.1), ([1.0] * 500, 90, 0.5)]
)
def test_the_share_is_that_of_all_images_and_at_most_a_half(weights, labeled, share) -> None:
    assert unlabeled_share(labeled, np.array(weights)) == pytest.approx(share)


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
