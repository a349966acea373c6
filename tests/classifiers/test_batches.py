"""What batch k holds depends on its number and the seed, and on nothing that the loss knows."""

from __future__ import annotations

import numpy as np
import torch
from numpy.testing import assert_allclose, assert_array_equal

from diffaug.classifiers.batches import Batches, cumulative_chances, network_input
from diffaug.data.images import LabeledImages


def flat_images(levels, size=6):
    pixels = np.broadcast_to(np.uint8(levels)[:, None, None, None], (len(levels), size, size, 1))
    return LabeledImages(pixels, np.arange(len(levels)) % 2, ("a", "b"), ("",) * len(levels))


def batches(size=50, **arguments):
    return Batches.of(flat_images([0, 100, 200]), size=size, seed=1, purpose="test", **arguments)


def test_images_are_drawn_as_often_as_their_chances_say():
    drawn = torch.cat([batches(draw_probabilities=np.array([1, 0, 3])).draw(step)[1] for step in range(100)])
    assert_allclose(np.bincount(drawn, minlength=3) / len(drawn), [0.25, 0, 0.75], atol=0.02)
    assert_allclose(cumulative_chances(None, 4), [0.25, 0.5, 0.75, 1])


def test_pixels_are_those_of_the_positions_that_come_with_them():
    pixels, positions = batches().draw(3)
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (50, 6, 6, 1)
    assert_array_equal(pixels[:, 0, 0, 0], 100 * positions)


def test_a_batch_depends_on_its_number_alone():
    there_and_back = [batches().draw(step)[1] for step in (5, 2, 5)]
    assert torch.equal(there_and_back[0], there_and_back[2])
    assert not torch.equal(there_and_back[0], there_and_back[1])
    weighted = batches(loss_weights=np.ones(3), soft_labels=np.eye(3)[:, :2], horizontal_flip=True)
    assert torch.equal(weighted.draw(5)[1], there_and_back[0])


def test_network_input_spans_minus_one_to_one_with_channels_last():
    inputs = network_input(torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3).repeat(2, 4, 4, 1))
    torch.testing.assert_close(inputs[0, :, 0, 0], torch.tensor([-1, -0.6, 1]))
    assert inputs.is_contiguous(memory_format=torch.channels_last)
