import numpy as np
import torch
from numpy.testing import assert_allclose, assert_array_equal

from diffaug.classifiers.batches import Batches, network_input
from diffaug.classifiers.training_set import TrainingRecipe, TrainingSet
from diffaug.data.images import LabeledImages


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
