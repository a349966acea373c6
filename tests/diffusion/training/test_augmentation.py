import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage, stats
from torch import Tensor

from diffaug.diffusion.training.augmentation import augment, draw_conditions, warp
from diffaug.runtime import seeding

GROUPS = {"mirror_x": [0], "mirror_y": [1], "scale": [2], "rotate": [3, 4], "stretch": [5, 6], "shift": [7, 8]}
SINGLE = {
    "mirror_x": [1, 0, 0, 0, 0, 0, 0, 0, 0],
    "mirror_y": [0, 1, 0, 0, 0, 0, 0, 0, 0],
    "scale": [0, 0, 0.9, 0, 0, 0, 0, 0, 0],
    "rotate": [0, 0, 0, math.cos(0.6) - 1, math.sin(0.6), 0, 0, 0, 0],
    "stretch": [0, 0, 0, 0, 0, 0.8, -0.9, 0, 0],
    "shift": [0, 0, 0, 0, 0, 0, 0, 0.7, -0.4],
    "all": [1, 0, 0.5, math.cos(-1) - 1, math.sin(-1), -0.6, 0.7, 0.3, 0.5],
}


def generator(index: int = 0) -> torch.Generator:
    return seeding.torch_generator(0, "test", index)


def smooth_image(height: int, width: int) -> Tensor:
    """float64 (1, 2, height, width) without symmetry, resolved well enough to be interpolated."""
    y, x = (torch.linspace(0, 1, size, dtype=torch.float64) for size in (height, width))
    y = y[:, None]
    return torch.stack([(3 * x + y).sin() + x * y, (2 * y - x).cos() - x**2])[None]


def one(values: list[float]) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def forward_matrix(conditions: list[float], height: int, width: int) -> NDArray[np.float64]:
    """The paper's chain of 3 x 3 matrices in (x, y) pixels around the center, y up as in its figures."""
    mirror_x, mirror_y, scale, cos, sin, stretch_cos, stretch_sin, right, down = conditions

    def rotation(angle: float) -> NDArray[np.float64]:
        return np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])

    amount, axis = 2 ** (0.2 * math.hypot(stretch_cos, stretch_sin)), math.atan2(stretch_sin, stretch_cos) / 2
    translation = np.array([[1, 0, right * width / 8], [0, 1, -down * height / 8], [0, 0, 1]])
    return (
        translation
        @ rotation(axis)
        @ np.diag([amount, 1 / amount, 1])
        @ rotation(-axis)
        @ rotation(math.atan2(sin, cos + 1))
        @ np.diag([2 ** (0.2 * scale), 2 ** (0.2 * scale), 1])
        @ np.diag([1 - 2 * mirror_x, 1 - 2 * mirror_y, 1])
    )


def scipy_warp(image: NDArray[np.float64], forward: NDArray[np.float64]) -> NDArray[np.float64]:
    """Moves (C, H, W) by a matrix in centered (x, y up) coordinates, with cubic splines and mirrored borders."""
    height, width = image.shape[1:]
    to_centered = np.array([[0, 1, -(width - 1) / 2], [-1, 0, (height - 1) / 2], [0, 0, 1]])  # from (row, column)
    backward = np.linalg.inv(to_centered) @ np.linalg.inv(forward) @ to_centered
    return np.stack([ndimage.affine_transform(channel, backward, order=3, mode="reflect") for channel in image])


@pytest.mark.parametrize("size", [(8, 8), (9, 14)])
def test_conditions_are_zero_exactly_where_an_image_is_untouched(size: tuple[int, int]) -> None:
    images = torch.randn(200, 1, *size, generator=generator(1))
    augmented, conditions = augment(images, 0.15, generator(), flips=True)
    same = (augmented == images).flatten(1).all(dim=1)
    assert torch.equal(same, ~conditions.any(dim=1))
    assert torch.equal(augment(images, 0.15, generator(), flips=True)[0], augmented)
    assert torch.equal(augment(images, 0.0, generator(), flips=True)[0], images)
    assert 0.5 * 0.85**6 < same.float().mean() < 1.5 * 0.85**6


@pytest.mark.parametrize("probability", [0.12, 1.0])
def test_each_transformation_comes_as_often_as_asked_and_by_itself(probability: float) -> None:
    count = 20_000
    conditions = draw_conditions(count, probability, generator(), flips=True)
    applied = torch.stack([conditions[:, columns].any(dim=1) for columns in GROUPS.values()]).double().numpy()
    deviation = math.sqrt(probability * (1 - probability) / count)
    assert applied.mean(axis=1) == pytest.approx([probability] * len(GROUPS), abs=4 * deviation)
    if probability < 1:
        assert np.abs(np.corrcoef(applied) - np.eye(len(GROUPS))).max() < 4.5 / math.sqrt(count)


def test_magnitudes_have_the_published_distributions() -> None:
    conditions = draw_conditions(5_000, 1.0, generator(), flips=True).double().numpy()
    angle = np.arctan2(conditions[:, 4], conditions[:, 3] + 1)
    twice_axis = np.arctan2(conditions[:, 6], conditions[:, 5])
    for normal in (conditions[:, 2], conditions[:, 7], conditions[:, 8]):
        assert stats.kstest(normal, "norm").pvalue > 1e-3
    assert stats.kstest(np.hypot(conditions[:, 5], conditions[:, 6]), "halfnorm").pvalue > 1e-3
    for uniform in (angle, twice_axis):
        assert stats.kstest(uniform, "uniform", (-np.pi, 2 * np.pi)).pvalue > 1e-3


def test_strength_scales_all_magnitudes_but_the_flips() -> None:
    full = draw_conditions(100, 1.0, generator(), flips=True)
    weak = draw_conditions(100, 1.0, generator(), flips=True, strength=0.25)
    assert torch.allclose(weak[:, [2, 5, 6, 7, 8]], 0.25 * full[:, [2, 5, 6, 7, 8]])
    angles = [torch.atan2(drawn[:, 4], drawn[:, 3] + 1) for drawn in (full, weak)]
    assert torch.allclose(angles[1], 0.25 * angles[0], atol=1e-5)
    assert torch.equal(weak[:, :2], full[:, :2])


@pytest.mark.parametrize("flips", [False, True])
def test_only_flips_mirror(flips: bool) -> None:
    """Two ramps, x and y, show where the middle came from; mirrored if the Jacobian is negative."""
    ramps = torch.stack(torch.meshgrid(torch.arange(33.0), torch.arange(33.0), indexing="xy"))
    warped, conditions = augment(ramps.expand(400, 2, 33, 33), 0.5, generator(), flips=flips)
    columns = warped[:, :, 16, 17] - warped[:, :, 16, 15], warped[:, :, 17, 16] - warped[:, :, 15, 16]
    jacobian = torch.stack(columns, 2)
    unpadded = (conditions[:, 7:].abs() < 1).all(dim=1)  # the border of a far translation is mirrored, not flipped
    mirrored = (jacobian.det() < 0)[unpadded]
    assert torch.equal(mirrored, (conditions[:, :2].sum(dim=1) == 1)[unpadded])
    assert mirrored.any() == flips


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("size", [(48, 48), (41, 60)])
def test_agrees_with_scipy(name: str, size: tuple[int, int]) -> None:
    image = smooth_image(*size)
    matrix, original = forward_matrix(SINGLE[name], *size), image[0].numpy()
    warped = warp(image, one(SINGLE[name]))[0].numpy()
    assert np.abs(warped - scipy_warp(original, matrix)).max() < 0.01
    middle = (slice(None), *(slice(side // 2 - 3, side // 2 + 4) for side in size))  # never left the frame
    restored = scipy_warp(warped, np.linalg.inv(matrix))
    assert np.abs(restored - original)[middle].max() < 0.004
    assert np.abs(warped - original)[middle].max() > 0.012


def test_grid_preserving_transformations_are_exact() -> None:
    image = torch.rand(1, 1, 16, 16, dtype=torch.float64, generator=generator())
    quarter_turn = [0, 0, 0, -1, 1, 0, 0, 0, 0]
    assert torch.allclose(warp(image, one(SINGLE["mirror_x"])), image.flip(3))
    assert torch.allclose(warp(image, one(SINGLE["mirror_y"])), image.flip(2))
    assert torch.allclose(warp(image, one(quarter_turn)), image.rot90(1, (2, 3)))
    moved = np.pad(image[0, 0].numpy(), ((0, 4), (2, 0)), mode="symmetric")[4:, :16]  # 2 px right, 4 px up
    assert np.allclose(warp(image, one([0, 0, 0, 0, 0, 0, 0, 1, -2]))[0, 0], moved)


def test_values_stay_in_the_range_of_their_channel() -> None:
    images = (torch.rand(100, 2, 12, 12, generator=generator()) < 0.5).float() * torch.tensor([1.0, 3.0])[:, None, None]
    augmented, _ = augment(images, 0.9, generator(), flips=True)
    assert augmented.amin() >= 0
    assert torch.all(augmented.amax((0, 2, 3)) <= torch.tensor([1.0, 3.0]))


def test_warp_reads_no_value_on_the_host() -> None:
    images, conditions = torch.empty(4, 3, 8, 8, device="meta"), torch.empty(4, 9, device="meta")
    assert warp(images, conditions).shape == images.shape  # a meta tensor raises when its values are asked for


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_never_waited_for() -> None:
    images, randomness = torch.randn(8, 3, 10, 12, device="cuda"), seeding.torch_generator(0, "test", device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        augmented, conditions = augment(images, 0.5, randomness, flips=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.allclose(warp(images.cpu(), conditions.cpu()), augmented.cpu(), atol=1e-4)
