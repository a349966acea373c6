import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from diffaug.diffusion.generator.denoising_errors import denoising_errors
from diffaug.diffusion.process.process import MEASURED_SIGMAS, Moments
from diffaug.synthesis.audit.membership import MAX_HELD_OUT, MembershipErrors, pair


def test_the_score_of_one_class_is_the_area_under_the_roc_curve() -> None:
    rng = np.random.default_rng(0)
    held, trained = rng.normal(0.7, 1, 12).round(1), rng.normal(0, 1, 24).round(1)  # rounded, so that there are ties
    zeros = np.zeros(24, np.int64)
    score = MembershipErrors(held, zeros[:12], trained, zeros).score()
    expected = roc_auc_score(np.repeat([1, 0], [12, 24]), np.concatenate([held, trained]))
    assert score.value == pytest.approx(expected)


def test_only_images_of_one_class_are_compared() -> None:
    held_labels, trained_labels = np.array([0, 0, 1, 1, 1, 1]), np.repeat([0, 1], [4, 8])
    held = np.array([5.0, 6, 100, 101, 102, 90])  # class 1 is harder for everybody
    trained = np.array([1.0, 2, 3, 4, *range(93, 101)])
    errors = MembershipErrors(held, held_labels, trained, trained_labels)
    of_one = roc_auc_score(np.repeat([1, 0], [4, 8]), np.concatenate([held[2:], trained[4:]]))
    assert errors.score(0).value == 1
    assert errors.score(1).value == pytest.approx(of_one)
    assert errors.score().value == pytest.approx((2 * 1 + 4 * of_one) / 6)
    assert errors.score(2) is None
    assert errors.score(0).low < 0.5  # two images that separate perfectly prove little


def test_the_interval_covers_the_true_area_in_95_of_100() -> None:
    """Errors N(0.5, 1) against N(0, 1): the area is Phi(0.5 / sqrt 2)."""
    rng = np.random.default_rng(0)
    truth = float(torch.special.ndtr(torch.tensor(0.5 / 2**0.5)))
    covered = 0
    for _ in range(300):
        labels = np.repeat(np.arange(3), 8)
        errors = MembershipErrors(rng.normal(0.5, 1, 24), labels, rng.normal(0, 1, 48), np.repeat(np.arange(3), 16))
        score = errors.score()
        covered += score.low <= truth <= score.high
    assert covered >= 285


def test_pairs_share_their_class_and_no_image_comes_twice() -> None:
    rng = np.random.default_rng(0)
    held, trained = rng.integers(0, 4, 200), rng.integers(0, 3, 500)  # class 3 has nothing trained
    chosen = pair(held, trained, seed=0)
    assert len(chosen[0]) <= MAX_HELD_OUT < len(chosen[1])
    for positions in chosen:
        assert len(np.unique(positions)) == len(positions)
    counts = [np.bincount(labels[own], minlength=4) for labels, own in zip((held, trained), chosen, strict=True)]
    assert np.array_equal(counts[1], 2 * counts[0])
    assert counts[0][3] == 0
    assert not np.array_equal(pair(held, trained, seed=1)[0], chosen[0])


@pytest.mark.parametrize(("held", "chosen"), [(9, [4, 4]), (0, [0, 0])])
def test_never_more_held_out_than_trained_images(held, chosen) -> None:
    assert [len(part) for part in pair(np.zeros(held, np.int64), np.zeros(4, np.int64), seed=0)] == chosen


def test_the_error_of_a_blind_denoiser_is_the_energy_of_the_image() -> None:
    images = torch.randn(70, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    errors = denoising_errors(lambda x, *_: Moments(0 * x, x), images, torch.zeros(70, dtype=torch.long), seed=0)
    assert errors == pytest.approx(images.square().mean((1, 2, 3)).log().numpy(), abs=1e-5)


def test_the_error_of_an_idle_denoiser_is_that_of_the_noise_the_same_for_all_images() -> None:
    seen: list[Tensor] = []

    def idle(x: Tensor, sigma: Tensor, labels: Tensor) -> Moments:
        seen.append(labels)
        return Moments(x, x)

    images, labels = torch.randn(130, 3, 8, 8), torch.arange(130) % 7
    errors = denoising_errors(idle, images, labels, seed=0)
    assert np.ptp(errors) < 1e-4
    assert errors[0] == pytest.approx(2 * np.log(MEASURED_SIGMAS).mean(), abs=0.2)
    assert torch.equal(torch.cat(seen).unique(), torch.arange(7))
    assert np.array_equal(errors, denoising_errors(idle, images, labels, seed=0))
    assert not np.array_equal(errors, denoising_errors(idle, images, labels, seed=1))
    assert denoising_errors(idle, images[:0], labels[:0], seed=0).shape == (0,)


def test_errors_do_not_depend_on_company() -> None:
    def shrink(x: Tensor, sigma: Tensor, labels: Tensor) -> Moments:
        return Moments(x * (0.25 / (0.25 + sigma**2))[:, None, None, None] + labels[:, None, None, None], x)

    images, labels = torch.randn(90, 1, 4, 4), torch.arange(90) % 3
    together = denoising_errors(shrink, images, labels, seed=0)
    assert denoising_errors(shrink, images[80:], labels[80:], seed=0) == pytest.approx(together[80:], abs=1e-5)
