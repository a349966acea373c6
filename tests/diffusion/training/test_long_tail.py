import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from diffaug.diffusion.process.process import draw_training_sigmas
from diffaug.diffusion.training.long_tail import class_balancing_loss, draw_other_labels, transfer_targets
from diffaug.runtime import seeding

COUNTS = torch.tensor([100, 10, 10, 1])


def edm_weight(sigma: Tensor) -> Tensor:
    return (sigma**2 + 0.5**2) / (sigma * 0.5) ** 2


def generator(index: int = 0) -> torch.Generator:
    return seeding.torch_generator(0, "test", index)


def numbered(labels: list[int], spread: float = 1.0) -> Tensor:
    """Images (N, 1, 1, 2) that differ; the last value tells which is which."""
    positions = torch.arange(len(labels), dtype=torch.float32)
    return spread * torch.stack([positions.sin(), positions], dim=1)[:, None, None]


def target_shares(
    x: Tensor, x0: Tensor, labels: list[int], sigma: Tensor, draws: int, conditions: Tensor | None = None
) -> np.ndarray:
    """(N, N): how often image i got target j."""
    randomness, times = generator(), np.zeros((len(x), len(x)))
    for _ in range(draws):
        targets = transfer_targets(
            x, x0, torch.tensor(labels), sigma, class_counts=COUNTS, generator=randomness, conditions=conditions
        )
        times += (targets[:, None] == x0[None]).flatten(2).all(dim=2).numpy()
    return times / draws


def brute_force_shares(x: Tensor, x0: Tensor, labels: list[int], sigma: Tensor) -> np.ndarray:
    expected = np.zeros((len(x), len(x)))
    for i in range(len(x)):
        likelihoods = [
            math.exp(-float((x[i] - x0[j]).double().square().sum()) / (2 * float(sigma[i]) ** 2)) for j in range(len(x))
        ]
        for j, likelihood in enumerate(likelihoods):
            accepted = j if COUNTS[labels[j]] >= COUNTS[labels[i]] else i
            expected[i, accepted] += likelihood / sum(likelihoods)
    return expected


def assert_shares(shares: np.ndarray, expected: np.ndarray, draws: int) -> None:
    assert np.all(np.abs(shares - expected) <= 4.5 * np.sqrt(expected * (1 - expected) / draws) + 1e-12)


def test_two_images_follow_the_closed_form() -> None:
    x0, sigma = torch.tensor([-0.5, 0.5])[:, None, None, None], torch.tensor([0.8, 2.0])
    x = torch.tensor([0.1, -0.3])[:, None, None, None]
    other = 1 / (1 + np.exp([-0.1 / 0.8**2, -0.3 / 2.0**2]))  # log odds of the other image: (2 x) (1/2) / sigma^2
    expected = np.array([[1 - other[0], other[0]], [other[1], 1 - other[1]]])
    assert_shares(target_shares(x, x0, [1, 2], sigma, 3000), expected, 3000)
    expected[0] = [1, 0]  # class 0 takes nothing from class 1
    assert_shares(target_shares(x, x0, [0, 1], sigma, 3000), expected, 3000)


def test_a_batch_follows_the_brute_force_softmax() -> None:
    labels = [0, 1, 2, 3, 1]
    x0, sigma = numbered(labels, 0.5), torch.tensor([0.3, 0.5, 0.8, 1.5, 40.0])
    x = x0 + sigma[:, None, None, None] * torch.randn(x0.shape, generator=generator(1))
    expected = brute_force_shares(x, x0, labels, sigma)
    assert np.count_nonzero(expected > 0.02) >= 12
    assert_shares(target_shares(x, x0, labels, sigma, 3000), expected, 3000)


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=8),
    log_sigma=st.floats(math.log(0.002), math.log(80)),
    seed=st.integers(0, 1000),
)
def test_targets_come_from_the_batch_and_never_from_a_rarer_class(
    labels: list[int], log_sigma: float, seed: int
) -> None:
    x0, sigma = numbered(labels), torch.full((len(labels),), math.exp(log_sigma))
    x = x0 + sigma[0] * torch.randn(x0.shape, generator=generator(seed))
    classes = torch.tensor(labels)
    targets = transfer_targets(x, x0, classes, sigma, class_counts=COUNTS, generator=generator(seed))
    chosen = targets[:, 0, 0, 1].round().long()
    assert torch.equal(targets, x0[chosen])
    assert torch.all(COUNTS[classes[chosen]] >= COUNTS[classes])


def test_little_noise_changes_no_target() -> None:
    x0 = torch.randn(32, 3, 16, 16, generator=generator(1))
    x0[1] = x0[0] + 0.01  # the nearest pair is 0.28 apart, 140 deviations of the noise
    sigma = torch.full((32,), 0.002)
    x = x0 + 0.002 * torch.randn(x0.shape, generator=generator(2))
    labels = torch.zeros(32, dtype=torch.long)
    for k in range(20):
        targets = transfer_targets(x, x0, labels, sigma, class_counts=COUNTS, generator=generator(k))
        assert torch.equal(targets, x0)


def test_near_copies_are_weighed_exactly_at_the_smallest_noise_level() -> None:
    """They differ by one deviation of the noise in one pixel; rounding the distances would decide for one of them."""
    x0 = torch.randn(1, 3, 16, 16, generator=generator(1)).repeat(2, 1, 1, 1)
    x0[1, 0, 0, 0] += 0.002
    sigma = torch.full((2,), 0.002)
    x = x0 + 0.002 * torch.randn(x0.shape, generator=generator(2))
    expected = brute_force_shares(x, x0, [1, 2], sigma)
    assert expected.min() > 0.1
    assert_shares(target_shares(x, x0, [1, 2], sigma, 1000), expected, 1000)


def test_much_noise_draws_all_allowed_targets_alike() -> None:
    labels = [0, 1, 1, 3]
    x0, sigma = numbered(labels, 0.1), torch.full((4,), 80.0)
    x = x0 + 80 * torch.randn(x0.shape, generator=generator(1))
    expected = np.array([[1, 0, 0, 0], [0.25, 0.5, 0.25, 0], [0.25, 0.25, 0.5, 0], [0.25] * 4])
    shares = target_shares(x, x0, labels, sigma, 3000)
    assert np.abs(shares - expected).max() < 0.01 + 4.5 * math.sqrt(0.25 / 3000)
    assert np.all(shares[expected == 0] == 0)


def test_targets_are_traded_under_equal_conditions_only() -> None:
    labels, sigma = [1, 2, 1, 2], torch.full((4,), 80.0)
    x0 = numbered(labels, 0.1)
    conditions = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.5], [1.0, 0.0]])
    shares = target_shares(x0, x0, labels, sigma, 400, conditions)
    expected = np.array([[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert_shares(shares, expected, 400)


def test_class_balancing_is_the_formula_at_the_median_noise_level() -> None:
    mean, other = torch.zeros(1, 1, 2, 2), torch.tensor([1.0, -1.0, 3.0, 0.0]).reshape(1, 1, 2, 2)
    sigma = torch.tensor([math.exp(-1.2)])
    expected = 0.7 * 0.5 * edm_weight(sigma).item() * 1.25 * 11 / 4
    assert class_balancing_loss(mean, other, sigma, 0.7).item() == pytest.approx(expected, rel=1e-5)


def test_class_balancing_vanishes_for_equal_means_and_without_strength() -> None:
    mean, sigma = torch.randn(6, 3, 4, 4), torch.logspace(-2.7, 1.9, 6)
    assert torch.equal(class_balancing_loss(mean, mean.clone(), sigma, 1.0), torch.zeros(6))
    assert torch.equal(class_balancing_loss(mean, mean + 1, sigma, 0.0), torch.zeros(6))


def test_the_other_labels_mean_is_pulled_a_quarter_as_hard() -> None:
    mean, other = (torch.randn(3, 2, 4, 4, generator=generator(k), requires_grad=True) for k in range(2))
    class_balancing_loss(mean, other, torch.tensor([0.1, 0.5, 2.0]), 1.0).sum().backward()
    assert mean.grad is not None
    assert other.grad is not None
    assert torch.allclose(other.grad, -mean.grad / 4)
    towards = (other - mean).detach()
    assert torch.all((-mean.grad * towards).flatten(1).sum(dim=1) > 0)


def test_class_balancing_grows_with_the_noise_level_like_t_over_T() -> None:
    sigma = draw_training_sigmas(512, generator()).sort().values
    x = torch.zeros(512, 1, 2, 2)
    factor = class_balancing_loss(x, x + 1, sigma, 1.0) / (1.25 * edm_weight(sigma))
    assert torch.all(factor.diff() > 0)
    assert stats.kstest(factor.numpy(), "uniform").pvalue > 0.5  # as t / T is for uniform t
    extremes = class_balancing_loss(x[:2], x[:2] + 1, torch.tensor([0.002, 80.0]), 1.0)
    assert extremes.isfinite().all()
    assert extremes[0] < 2e-4 * edm_weight(torch.tensor(0.002))


def test_other_labels_follow_the_class_prior_whatever_the_label() -> None:
    labels, shares = torch.tensor([0, 1, 2, 2] * 1000), torch.tensor([0.7, 0.0, 0.3])
    other = draw_other_labels(labels, shares, generator())
    times = torch.zeros(3, 3).index_put((labels, other), torch.ones(4000), accumulate=True).numpy()
    assert np.all(times[:, 1] == 0)
    assert stats.chi2_contingency(times[:, [0, 2]]).pvalue > 1e-3
    assert stats.binomtest(int(times[:, 0].sum()), 4000, 0.7).pvalue > 1e-3
    assert torch.equal(other, draw_other_labels(labels, 10 * shares, generator()))


def test_hidden_labels_stay_hidden() -> None:
    labels = torch.tensor([3, 0, 3, 2])
    other = draw_other_labels(labels, torch.ones(3), generator())
    assert torch.equal(other == 3, labels == 3)
