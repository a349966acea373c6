import dataclasses

import pytest
import torch
from torch import Tensor

from diffaug.configuration.sampling import Sampling
from diffaug.diffusion.process.process import Moments, karras_sigmas
from diffaug.diffusion.sampling.class_noise import ClassNoise
from diffaug.diffusion.sampling.drawing import Drawing, solve
from diffaug.diffusion.sampling.editing import keep_known, resampled
from diffaug.diffusion.sampling.samplers import SOLVERS, integrate

COUNT, CORRELATION, DEVIATION = 3000, 0.9, 0.5
COVARIANCE = DEVIATION**2 * torch.tensor([[1.0, CORRELATION], [CORRELATION, 1.0]])
KNOWN = torch.full((COUNT, 1, 1, 2), 1.0)
SECOND_PIXEL = torch.tensor([False, True]).reshape(1, 1, 1, 2)
NOISE = ClassNoise(0, "test", 0, range(COUNT), (1, 1, 2), torch.device("cpu"))


def correlated(x: Tensor, sigma: Tensor) -> Moments:
    """The exact moments for two correlated Gaussian pixels."""
    gain = COVARIANCE @ torch.linalg.inv(COVARIANCE + sigma.float() ** 2 * torch.eye(2))
    variance = (COVARIANCE - gain @ COVARIANCE).diagonal().reshape(1, 1, 1, 2)
    return Moments((x.flatten(1) @ gain.T).reshape(x.shape), variance.expand_as(x))


def test_resampling_takes_every_step_but_the_last_again() -> None:
    sigmas = torch.tensor([4.0, 2.0, 1.0, 0.0], dtype=torch.float64)
    assert torch.equal(resampled(sigmas, 0), sigmas)
    assert resampled(sigmas, 2).tolist() == [4, 2, 4, 2, 4, 2, 1, 2, 1, 2, 1, 0]


@pytest.mark.parametrize("times", [0, 2])
@pytest.mark.parametrize("solver", SOLVERS)
def test_kept_pixels_are_the_real_ones_noised_to_every_level(solver: str, times: int) -> None:
    known, errors = KNOWN[:500], []
    noise = dataclasses.replace(NOISE, indices=range(500))

    def watched(x: Tensor, sigma: Tensor) -> Moments:
        left = (x - known)[..., 0] / float(sigma)
        errors.append((abs(left.mean().item()), abs(left.std().item() - 1)))
        return correlated(x, sigma)

    drawing = Drawing(0, range(500), Sampling(solver=solver, num_inference_steps=6), resamplings=times)
    made = solve(drawing, karras_sigmas, watched, noise, known=known, masks=SECOND_PIXEL)
    assert max(max(pair) for pair in errors) < 5 / len(known) ** 0.5
    assert torch.equal(made[..., 0], known[..., 0])


@pytest.mark.parametrize("solver", ["dpm_solver_2m", "heun", "ancestral"])
def test_resampling_brings_the_conditional_distribution(solver: str) -> None:
    def moments(times: int) -> tuple[float, float]:
        generator = torch.Generator().manual_seed(times)  # faster than a stream for each of thousands of images

        def noise(_: int) -> Tensor:
            return torch.randn(KNOWN.shape, generator=generator)

        denoise, sigmas = keep_known(correlated, KNOWN, SECOND_PIXEL), resampled(karras_sigmas(20), times)
        made = integrate(denoise, KNOWN + 80 * noise(0), sigmas, SOLVERS[solver], noise)[..., 1]
        return made.mean().item(), made.std().item()

    means, deviations = zip(*(moments(times) for times in (0, 4, 15)), strict=True)
    assert means[0] < means[1] < means[2]
    assert means[2] == pytest.approx(CORRELATION, abs=0.06)
    assert deviations[2] == pytest.approx(DEVIATION * (1 - CORRELATION**2) ** 0.5, abs=0.03)
    assert deviations[0] > 1.3 * deviations[2]


def test_a_mask_of_its_own_for_every_image() -> None:
    masks = torch.stack([SECOND_PIXEL[0], ~SECOND_PIXEL[0]])
    known = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).reshape(2, 1, 1, 2)
    mean, variance = keep_known(correlated, known, masks)(known, torch.tensor(1.0))
    free = correlated(known, torch.tensor(1.0))
    assert torch.equal(torch.where(masks, free.mean, known), mean)
    assert torch.equal(torch.where(masks, free.variance, 0.0), variance)


@pytest.mark.parametrize(("strength", "levels"), [(1.0, 12), (0.5, 6), (0.25, 3), (0.01, 1)])
def test_a_variation_takes_its_share_of_the_steps_from_its_level(strength: float, levels: int) -> None:
    seen: list[float] = []

    def watched(x: Tensor, sigma: Tensor) -> Moments:
        seen.append(sigma.item())
        return correlated(x, sigma)

    drawing = Drawing(0, range(COUNT), Sampling(num_inference_steps=12), strength=strength)
    solve(drawing, karras_sigmas, watched, NOISE, known=KNOWN)
    assert len(seen) == levels
    position = 0.002 ** (1 / 7) + strength * (80 ** (1 / 7) - 0.002 ** (1 / 7))
    assert seen[0] == pytest.approx(position**7)
    assert levels == 1 or seen[-1] == pytest.approx(0.002)


def test_variations_of_data_are_data_at_any_strength() -> None:
    root = torch.linalg.cholesky(COVARIANCE)
    real = (torch.randn(COUNT, 2, generator=torch.Generator().manual_seed(4)) @ root.T).reshape(KNOWN.shape)
    for strength in (0.3, 0.5, 0.8, 1.0):
        drawing = Drawing(0, range(COUNT), Sampling(num_inference_steps=40), strength=strength)
        made = solve(drawing, karras_sigmas, correlated, NOISE, known=real).flatten(1)
        assert made.mean(0).abs().max() < 4 * DEVIATION / COUNT**0.5 + 0.01
        assert (made.T.cov() - COVARIANCE).abs().max() < 0.03


def test_noise_of_an_image_and_step_is_its_own() -> None:
    def draw(*, purpose: str = "a", seed: int = 0, label: int = 0, index: int = 5) -> ClassNoise:
        return ClassNoise(seed, purpose, label, [index], (1, 4, 4), torch.device("cpu"))

    tensors = [draw().at(), *(draw().at(step) for step in range(3))]
    tensors += [draw(**{name: 1}).at() for name in ("seed", "label", "index")] + [draw(purpose="b").at()]
    flat = torch.stack(tensors).flatten(1)
    assert len(torch.unique(flat, dim=0)) == len(tensors)
    batch = ClassNoise(0, "a", 0, [9, 5], (1, 4, 4), torch.device("cpu"))
    assert torch.equal(batch.at(2)[1], draw().at(2)[0])
