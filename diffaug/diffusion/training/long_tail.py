"""Two published regularisers for long-tailed training sets, in EDM's coordinates x = x0 + sigma n.

`transfer_targets` changes what the rare classes' noisy images are denoised to, `class_balancing_loss` adds a term
to the loss. Either lets rare classes learn from frequent ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffaug.diffusion.process.process import LOG_SIGMA_MEAN, LOG_SIGMA_STD, precondition

COMMITMENT = 0.25


def transfer_targets(
    x: Tensor,
    x0: Tensor,
    labels: Tensor,
    sigma: Tensor,
    *,
    class_counts: Tensor,
    generator: torch.Generator,
    conditions: Tensor | None = None,
) -> Tensor:
    """Draws denoising targets from the batch's posterior, from rare towards frequent classes (OC's T2H).

    For noisy image i, image j is drawn with probability proportional to exp(-|x_i - x0_j|^2 / (2 sigma_i^2)), which
    is q(x0_j | x_i) if the batch were the data, and replaces x0_i if its class has at least as many training images
    (Zhang et al., "Long-tailed diffusion models with oriented calibration", ICLR 2024).

    Args:
        x: Noisy images (N, C, H, W).
        x0: Clean images (N, C, H, W) that `x` was made from.
        labels: True classes, int64 (N,) in 0..K-1, before label dropout.
        sigma: Noise levels (N,).
        class_counts: Training images of each class (K,).
        generator: On the images' device.
        conditions: Augmentation conditions (N, D); images then only trade targets under equal conditions, since
            a transformed target under the conditions of an untransformed image would leak.

    Returns:
        Targets (N, C, H, W), each one of `x0`.
    """
    # the faster |x|^2 - 2 x x0 + |x0|^2 loses all digits at small sigma
    distances = torch.cdist(x.flatten(1), x0.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    log_weights = -0.5 * (distances / sigma[:, None]).square()
    if conditions is not None:
        alike = (conditions[:, None] == conditions).all(dim=2)
        log_weights = log_weights.masked_fill(~alike, -torch.inf)
    drawn = _draw_categories(log_weights, generator)
    counts = class_counts[labels]
    own = torch.arange(len(x), device=x.device)
    return x0[torch.where(counts[drawn] >= counts, drawn, own)]


def class_balancing_loss(mean: Tensor, other_mean: Tensor, sigma: Tensor, strength: float) -> Tensor:
    """CBDM's regulariser, which draws the predictions under two labels together (Qin et al. 2023, arXiv 2305.00562).

    strength q(sigma) (|D - sg(D')|^2 + 1/4 |sg(D) - D'|^2) / c_out(sigma)^2, with the squares averaged over the pixels
    and weighted as in EDM's loss, and sg stopping gradients. The paper's factor t / T, with t uniform, is the noise
    level's quantile; q is that of EDM's training distribution, so it is uniform over a batch here, too.

    Args:
        mean: D(x; sigma, y), (N, C, H, W).
        other_mean: D(x; sigma, y') of the same x with labels of `draw_other_labels`, (N, C, H, W).
        sigma: Noise levels (N,).
        strength: The paper's tau, at least 0.

    Returns:
        (N,), to be added to the denoising loss.
    """
    pulled = (mean - other_mean.detach()).square().flatten(1).mean(dim=1)
    committed = (mean.detach() - other_mean).square().flatten(1).mean(dim=1)
    quantile = torch.special.ndtr((sigma.log() - LOG_SIGMA_MEAN) / LOG_SIGMA_STD)
    weight: Tensor = strength * quantile / precondition(sigma).c_out ** 2
    return weight * (pulled + COMMITMENT * committed)


def draw_other_labels(labels: Tensor, class_shares: Tensor, generator: torch.Generator) -> Tensor:
    """Draws CBDM's second label of each image from the class prior.

    Args:
        labels: int64 (N,) in 0..K, K meaning no label.
        class_shares: The prior (K,), non-negative; need not sum to 1.
        generator: On the labels' device.

    Returns:
        int64 (N,) in 0..K-1, but K where there is no label: the unconditional prediction has no class to balance.
    """
    drawn = _draw_categories(class_shares.log().expand(len(labels), -1), generator)
    return torch.where(labels < len(class_shares), drawn, labels)


def _draw_categories(log_weights: Tensor, generator: torch.Generator) -> Tensor:
    """One column index for each row (N, K), by the Gumbel-max trick: no overflow, and the host need not wait."""
    waiting = torch.empty(log_weights.shape, dtype=log_weights.dtype, device=log_weights.device)
    gumbel = -waiting.exponential_(generator=generator).log()
    return (log_weights + gumbel).argmax(dim=1)
