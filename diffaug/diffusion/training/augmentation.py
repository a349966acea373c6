"""Non-leaky geometric augmentation: the network sees how each image was transformed (EDM appendix F.2).

What the network learns about transformed images is tied to their conditions, so with conditions of zero it
generates untransformed ones (Karras et al. 2022, arXiv 2206.00364, table 6). The nine conditions are

    0, 1    mirrored left to right, top to bottom: 0 or 1
    2       log of the isotropic scale, in units of 0.2 ln 2
    3, 4    cos(angle) - 1 and sin(angle) of the rotation
    5, 6    log of the stretch, in the same units, times cos and sin of twice the angle of its axis
    7, 8    translation right and down, in units of 1/8 of the image's side

with angles counter-clockwise as displayed. They determine the transformation; EDM's own conditions 5 and 6 use the
single angle, for which stretching along an axis and squeezing along it look alike.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

TRANSFORMATIONS = 6
LOG_SCALE_UNIT = 0.2 * math.log(2)
TRANSLATION_UNIT = 0.125


def augment(
    images: Tensor,
    probability: float,
    generator: torch.Generator,
    *,
    flips: bool,
    strength: float = 1.0,
    boxes: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Transforms images (N, C, H, W) at random, without waiting for the device; see `draw_conditions` and `warp`.

    Also returns the conditions. Untouched images stay bit for bit, and exactly theirs are zero.
    """
    conditions = draw_conditions(len(images), probability, generator, flips=flips, strength=strength)
    return warp(images, conditions, boxes), conditions


def draw_conditions(
    count: int, probability: float, generator: torch.Generator, *, flips: bool, strength: float = 1.0
) -> Tensor:
    """Draws which of six transformations each image gets, and how much of each, float32 (N, 9) (EDM table 6).

    Without `flips` no image is mirrored: a network short of data shares features between a class and its mirror image
    in spite of the conditions, and that may be another class. The strength, in [0, 1], multiplies all magnitudes but
    the flips. At 1 rotations are uniform over the full circle; less suits labels that a half turn exchanges, such as
    6 and 9, and short trainings.
    """
    device = generator.device
    applied = torch.rand(count, TRANSFORMATIONS, generator=generator, device=device) < probability
    mirror_x, mirror_y, scale, rotate, stretch, shift = applied.float().unbind(1)
    scaling, stretching, right, down = (strength * torch.randn(4, count, generator=generator, device=device)).unbind()
    circle = math.pi * (2 * torch.rand(2, count, generator=generator, device=device) - 1)
    angle, twice_axis = rotate * strength * circle[0], circle[1]
    return torch.stack(
        [
            mirror_x * flips,
            mirror_y * flips,
            scale * scaling,
            angle.cos() - 1,
            angle.sin(),
            stretch * stretching * twice_axis.cos(),
            stretch * stretching * twice_axis.sin(),
            shift * right,
            shift * down,
        ],
        dim=1,
    )


def warp(images: Tensor, conditions: Tensor, boxes: Tensor | None = None) -> Tensor:
    """Applies the transformations that `conditions` (N, 9) describe, as one affine map and one bicubic resampling.

    Around the border, or that of the boxes, int64 (N, 2), the image is mirrored, and no value leaves its channel's own
    range. Images (N, C, H, W) with conditions of zero stay bit for bit.
    """
    grid = _source_grid(conditions.to(images.dtype), *images.shape[-2:])
    if boxes is not None:
        ends = torch.stack([boxes[:, 1] / images.shape[3], boxes[:, 0] / images.shape[2]], dim=1)
        grid = _mirrored(grid, ends.to(grid.dtype)[:, None, None])
    warped = functional.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    warped = warped.clamp(images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True))
    touched = conditions.any(dim=1)[:, None, None, None]
    return torch.where(touched, warped, images)


def _source_grid(conditions: Tensor, height: int, width: int) -> Tensor:
    """Where each pixel comes from, (N, H, W, 2) in `grid_sample`'s (x, y) from -1 to 1.

    Nothing here is a matrix product to torch, which would round positions under TF32 and autocast.
    """
    mirrored, scaling, turn, stretch, shift = conditions.tensor_split([2, 3, 5, 7], dim=1)
    x = _centered(width, conditions) - TRANSLATION_UNIT * width * shift[:, 0, None, None]
    y = _centered(height, conditions)[:, None] - TRANSLATION_UNIT * height * shift[:, 1, None, None]
    inverse = (_inverse_rotation(turn)[..., None] * _inverse_stretch(stretch)[:, None]).sum(dim=2)
    inverse = inverse * ((1 - 2 * mirrored) * torch.exp(-LOG_SCALE_UNIT * scaling))[..., None]
    xx, xy, yx, yy = inverse.reshape(-1, 4, 1, 1).unbind(dim=1)
    return torch.stack([(xx * x + xy * y) * (2 / width), (yx * x + yy * y) * (2 / height)], dim=3)


def _mirrored(places: Tensor, ends: Tensor) -> Tensor:
    """Brings places beyond -ends or ends back as a mirror there does."""
    turned = (places + ends).remainder(4 * ends)
    return torch.minimum(turned, 4 * ends - turned) - ends


def _centered(size: int, like: Tensor) -> Tensor:
    """Positions of pixel centers along one side, 0 in the middle."""
    return torch.arange(size, dtype=like.dtype, device=like.device) - (size - 1) / 2


def _inverse_rotation(turn: Tensor) -> Tensor:
    """(N, 2, 2) from cos - 1 and sin (N, 2); y points down, so the signs are swapped."""
    cos, sin = turn[:, 0] + 1, turn[:, 1]
    return _matrices(cos, -sin, sin, cos)


def _inverse_stretch(stretch: Tensor) -> Tensor:
    """(N, 2, 2): the exponential of the symmetric, traceless matrix that the conditions (N, 2) span."""
    amount = stretch.norm(dim=1).clamp_min(1e-6)  # 0 / 0 otherwise
    even, odd = (LOG_SCALE_UNIT * amount).cosh(), (LOG_SCALE_UNIT * amount).sinh() / amount
    along, across = odd * stretch[:, 0], odd * stretch[:, 1]
    return _matrices(even - along, across, across, even + along)


def _matrices(xx: Tensor, xy: Tensor, yx: Tensor, yy: Tensor) -> Tensor:
    return torch.stack([xx, xy, yx, yy], dim=1).reshape(-1, 2, 2)
