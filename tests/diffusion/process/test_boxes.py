import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffaug.data.resize import boxes_of
from diffaug.diffusion.process.boxes import ClassBoxes, box_masks, image_mean, put_in_boxes, take_out_of_boxes
from diffaug.diffusion.process.ddpm import Ddpm
from diffaug.diffusion.process.edm import Edm

SIDES = st.integers(1, 300)


@settings(max_examples=200, deadline=None)
@given(st.tuples(SIDES, SIDES), st.tuples(st.integers(4, 80), st.integers(4, 80)))
def test_a_box_is_the_largest_with_the_true_proportions_and_exactly_centered(
    size: tuple[int, int], frame: tuple[int, int]
) -> None:
    box = boxes_of(np.array([size]), frame)[0]
    assert ((box >= 1) & (box <= frame) & ((np.array(frame) - box) % 2 == 0)).all()
    assert (box == frame).any()
    exact = np.array(size) * min(frame[0] / size[0], frame[1] / size[1])
    assert (np.abs(box - np.maximum(exact, 1)) <= 1.001).all()


def test_masks_show_the_boxes() -> None:
    masks = box_masks(torch.tensor([[2, 6], [4, 2]]), (4, 6))
    assert masks.shape == (2, 1, 4, 6)
    assert masks[0, 0].int().tolist() == [[0] * 6, [1] * 6, [1] * 6, [0] * 6]
    assert masks[1, 0].int().tolist() == [[0, 0, 1, 1, 0, 0]] * 4


def test_boxes_lose_nothing_of_a_smooth_image_and_go_on_mirrored() -> None:
    rows, columns = np.indices((40, 24))
    smooth = np.stack([100 + 2 * rows + columns, 200 - 3 * columns - rows], axis=2).astype(np.uint8)
    pixels, boxes = np.stack([smooth] * 3), np.array([[40, 24], [40, 12], [20, 24]])
    frames = put_in_boxes(pixels, boxes)
    assert np.array_equal(frames[0], smooth)
    assert np.array_equal(frames[1][:, 5], frames[1][:, 6])  # the last column outside and the first one inside
    assert np.array_equal(frames[2][9], frames[2][10])
    back = take_out_of_boxes(frames, boxes).astype(int)
    assert np.abs(back - pixels).max() <= 4
    assert np.abs(back - pixels).mean() < 1


def test_drawn_boxes_are_those_of_the_class_and_depend_on_seed_class_and_index_alone() -> None:
    boxes = np.array([[8, 4]] * 3 + [[8, 6]] + [[4, 8]] * 2)
    known = ClassBoxes.of(boxes, np.array([0, 0, 0, 0, 2, 2]), 3)
    assert known.by_class == (((8, 4, 3), (8, 6, 1)), (), ((4, 8, 2),))
    drawn = known.draw(0, range(400), seed=1, purpose="sample")
    assert set(map(tuple, drawn.tolist())) == {(8, 4), (8, 6)}
    assert (drawn[:, 1] == 4).mean() == pytest.approx(0.75, abs=0.07)
    assert np.array_equal(known.draw(0, [7, 3], seed=1, purpose="sample"), drawn[[7, 3]])
    assert not np.array_equal(known.draw(0, range(400), seed=2, purpose="sample"), drawn)
    assert (known.draw(2, range(9), seed=0, purpose="sample") == [4, 8]).all()
    assert len(np.unique(known.draw(1, range(99), seed=0, purpose="sample"), axis=0)) == 3  # an empty class


def test_the_mean_counts_pixels_inside_only() -> None:
    values = torch.arange(24.0).reshape(1, 2, 3, 4)
    masks = torch.zeros(1, 1, 3, 4, dtype=torch.bool)
    masks[0, 0, 1, :2] = True
    assert image_mean(values, masks).tolist() == [(4 + 5 + 16 + 17) / 4]
    assert image_mean(values, None).tolist() == [11.5]
    values[0, 0, 0, 0] = float("nan")
    assert image_mean(values, masks).isfinite().all()


@pytest.mark.parametrize("objective", [Edm(), Ddpm()])
def test_nothing_outside_of_a_box_has_weight_in_the_loss(objective: Edm | Ddpm) -> None:
    generator = torch.Generator().manual_seed(0)
    x0, x = torch.randn(2, 3, 1, 6, 4, generator=generator).unbind(0)
    sigma, masks = torch.tensor([0.1, 0.5, 2.0]), box_masks(torch.tensor([[6, 2], [2, 4], [6, 4]]), (6, 4))
    output = torch.randn(3, 2, 6, 4, generator=generator, requires_grad=True)
    losses = objective.losses(x0, x, sigma, output, masks)
    sum(losses).sum().backward()
    inside = masks.expand_as(output)
    assert output.grad is not None
    assert (output.grad[~inside] == 0).all()
    assert (output.grad[inside] != 0).all()
    elsewhere = torch.where(masks, x0, x0 + 9)
    torch.testing.assert_close(objective.losses(elsewhere, x, sigma, output, masks), losses)
    whole, plain = (objective.losses(x0, x, sigma, output, masks)[0][2] for masks in (masks, None))
    torch.testing.assert_close(whole, plain)
