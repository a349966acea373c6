"""Comparing images that may have been moved, scaled, or changed in brightness and contrast.

Images are described without mean and contrast. A search uses tangent distances, what is left of a distance when one
image may move and be scaled a little, to first order; a registration then moves and scales until both fit best.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

THUMBNAIL, FINE, COARSE = 32, 16, 8  # largest sides in px: registered, compared, searched
SMALLEST_SIDE = 0.85
WHOLE = (0.5, 0.5, 1.0)
LEAST_CONTRAST = 1e-3  # gray levels; below, an image is flat rather than faint
IMAGES_AT_ONCE = 1024


def thumbnails(pixels: NDArray[np.uint8], device: str) -> Tensor:
    """uint8 (N, H, W, C) to float (N, C, h, w) of 0 to 255, at most 32 px."""
    height, width = (min(THUMBNAIL, side) for side in pixels.shape[1:3])
    small = torch.empty((len(pixels), pixels.shape[3], height, width), device=device)
    for start in range(0, len(pixels), IMAGES_AT_ONCE):
        part = slice(start, start + IMAGES_AT_ONCE)
        images = torch.from_numpy(np.array(pixels[part])).to(device)
        small[part] = functional.adaptive_avg_pool2d(images.permute(0, 3, 1, 2).float(), (height, width))
    return small


def describe(images: Tensor, side: int, windows: Tensor | None = None) -> Tensor:
    """Images, or a window of each, as vectors of length 1: averaged to at most `side` px, without mean and contrast.

    Images are float (N, C, H, W) of 0 to 255. A window (N, 3) or (1, 3) is center y and x in [0, 1] and side in (0, 1];
    it is enlarged to the image's size by bilinear interpolation.
    """
    windows = torch.tensor([WHOLE], device=images.device) if windows is None else windows
    rows, columns = (
        _resampling(windows[:, axis], windows[:, 2], size, side) for axis, size in enumerate(images.shape[2:])
    )
    pooled = (rows[:, None].mT @ images @ columns[:, None]).flatten(1)
    centered: Tensor = pooled - pooled.mean(dim=1, keepdim=True)
    length: Tensor = centered.norm(dim=1, keepdim=True)
    described: Tensor = centered / (length + LEAST_CONTRAST * centered.shape[1] ** 0.5)
    return described


def searchable(described: Tensor) -> Tensor:
    """Descriptions (..., F) as `tangent_distances` needs them, (..., F + 2)."""
    return torch.cat([described, torch.ones_like(described[..., :1]), described.square().sum(-1, keepdim=True)], dim=-1)


def tangent_probes(queries: Tensor, basis: Tensor | None = None) -> Tensor:
    """Queries (N, C, H, W) as `tangent_distances` needs them, (4, N, F + 2).

    An orthonormal basis (D, F) reduces their descriptions at `COARSE`, as it did those that they are compared with.
    """
    described, jacobian, normal = _linearized(queries, COARSE, basis)
    axes = torch.linalg.solve_triangular(torch.linalg.cholesky(normal), jacobian, upper=False)
    zero, one = torch.zeros_like(axes[..., :1]), torch.ones_like(described[..., :1])
    distance = torch.cat([-2 * described, described.square().sum(2, keepdim=True), one], dim=2)
    along = torch.cat([axes, -axes @ described.mT, zero], dim=2)
    return torch.cat([distance, along], dim=1).transpose(0, 1)


def tangent_distances(products: Tensor) -> Tensor:
    """Squared distances between descriptions when the query may move and be scaled a little, to first order.

    What the query itself changes by then does not count (Simard, LeCun and Denker 1993, one-sided). `products` (4, ...)
    are the inner products of `tangent_probes` and `searchable` descriptions; they are overwritten.
    """
    distances: Tensor = products[0]
    for part in products[1:]:
        distances.addcmul_(part, part, value=-1)
    return distances


def registered_distances(
    queries: Tensor, references: Tensor, windows: Tensor, *, registered: Sequence[int], beyond: float = 0.0
) -> Tensor:
    """Smallest distances (N, S) met while each reference is moved and scaled to fit its query.

    Gauss-Newton on the position and scale of the query, undone on the reference, so that what a movement changes is
    computed once a query (Baker and Matthews 2004, inverse compositional, section 3.2).

    Of the references (N, S, C, H, W), beginning at windows (N, S, 3), those that fit best so far take each step, as
    many as `registered` says. A window may leave its image by a share of its side, where pixels repeat the border.
    """
    wanted, jacobian, normal = _linearized(queries, FINE)
    pseudo_inverse = torch.linalg.solve(normal, jacobian)
    windows, described = windows.clone(), _describe_windows(references, windows)
    best: Tensor = (described - wanted).norm(dim=2)
    rows = torch.arange(len(windows), device=windows.device)[:, None]
    for number in registered:
        chosen = rows, best.topk(min(number, best.shape[1]), dim=1, largest=False).indices
        movements = (described[chosen] - wanted) @ pseudo_inverse.mT
        windows[chosen] = _inside(_undone(movements, windows[chosen]), beyond)
        described[chosen] = _describe_windows(references[chosen], windows[chosen])
        best[chosen] = torch.minimum(best[chosen], (described[chosen] - wanted).norm(dim=2))
    return best


def _linearized(queries: Tensor, side: int, basis: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Descriptions (N, 1, F), their derivatives J by y, x and scale (N, 3, F), and J times J.T, damped (N, 3, 3)."""
    step, axes = 0.25 / max(queries.shape[2:]), torch.eye(3, device=queries.device)
    windows = torch.tensor([WHOLE], device=queries.device) + step * torch.cat([torch.zeros_like(axes[:1]), axes])
    described = torch.stack([describe(queries, side, window[None]) for window in windows], dim=1)
    if basis is not None:
        described = described @ basis
    jacobian = (described[:, 1:] - described[:, :1]) / step
    normal = jacobian @ jacobian.mT
    damping = 1e-3 * normal.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None] + 1e-6
    return described[:, :1], jacobian, normal + damping * axes


def _describe_windows(images: Tensor, windows: Tensor) -> Tensor:
    described = describe(images.flatten(0, 1), FINE, windows.flatten(0, 1))
    return described.reshape(*windows.shape[:2], described.shape[1])


def _undone(movements: Tensor, windows: Tensor) -> Tensor:
    """The windows (..., 3) of references that show what their queries show once these moved by (..., 3)."""
    sides = windows[..., 2:] / (1 + movements[..., 2:])
    return torch.cat([windows[..., :2] - sides * movements[..., :2], sides], dim=-1)


def _resampling(centers: Tensor, sides: Tensor, size: int, side: int) -> Tensor:
    """Matrices (P, size, size pooled) that resample a line of pixels and average it to at most `side` values."""
    pixels = torch.arange(size, device=centers.device)
    positions = ((centers[:, None] + sides[:, None] * ((pixels + 0.5) / size - 0.5)) * size - 0.5).clamp(0, size - 1)
    weights = (1 - (positions[:, None] - pixels[:, None]).abs()).clamp_min(0)
    average = functional.adaptive_avg_pool1d(torch.eye(size, device=centers.device), averaged(size, side))
    return weights @ average


def averaged(size: int, side: int) -> int:
    """What is left of `size` px when as few as possible are averaged to have at most `side`."""
    return size // -(-size // side)


def _inside(windows: Tensor, beyond: float) -> Tensor:
    """Windows (..., 3) moved and shrunk into the image and a margin."""
    sides = windows[..., 2:].clamp(SMALLEST_SIDE, 1)
    reach = (1 - sides) / 2 + beyond
    return torch.cat([(windows[..., :2] - 0.5).clamp(-reach, reach) + 0.5, sides], dim=-1)
