"""Noise levels against the closed forms of the two kinds of process."""

import numpy as np
import pytest
import torch

from diffaug.integrations.pipelines.levels import FlowMatching, VariancePreserving

BARS = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
LOG_RATIOS = np.log((1 - BARS) / BARS) / 2
KINDS = [VariancePreserving(LOG_RATIOS, kind) for kind in ("epsilon", "v_prediction", "sample")] + [FlowMatching(3.0)]


@pytest.mark.parametrize("levels", KINDS)
def test_a_network_that_says_the_target_gives_the_clean_latents(levels) -> None:
    random = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(5, 4, 2, 2, generator=random) for _ in range(2))
    sigma = levels.draw(torch.tensor([0.01, 0.3, 0.5, 0.7, 0.99]))
    clean = levels.clean(x0 + sigma[:, None, None, None] * noise, sigma, levels.target(x0, noise, sigma))
    torch.testing.assert_close(clean, x0, rtol=1e-3, atol=1e-3)


def test_variance_preserving_latents_are_those_of_ddpm() -> None:
    levels, step = VariancePreserving(LOG_RATIOS, "v_prediction"), 700
    bar = BARS[step]
    sigma = torch.tensor([0.5 * np.sqrt((1 - bar) / bar)], dtype=torch.float64)
    x0, noise = torch.randn(1, 4, 2, 2).double(), torch.randn(1, 4, 2, 2).double()  # x0 of deviation 1
    seen = levels.inputs(0.5 * x0 + sigma * noise, sigma)
    torch.testing.assert_close(seen, np.sqrt(bar) * x0 + np.sqrt(1 - bar) * noise)
    assert float(levels.times(sigma)) == pytest.approx(step)
    target = levels.target(0.5 * x0, noise, sigma)
    torch.testing.assert_close(target, np.sqrt(bar) * noise - np.sqrt(1 - bar) * x0)


def test_flow_latents_lie_on_the_line_between_image_and_noise() -> None:
    part = 0.3
    sigma = torch.tensor([0.5 * part / (1 - part)], dtype=torch.float64)
    x0, noise = torch.randn(1, 4, 2, 2).double(), torch.randn(1, 4, 2, 2).double()
    torch.testing.assert_close(FlowMatching().inputs(0.5 * x0 + sigma * noise, sigma), (1 - part) * x0 + part * noise)
    assert float(FlowMatching().times(sigma)) == pytest.approx(1000 * part)


@pytest.mark.parametrize("levels", KINDS)
def test_a_path_falls_from_the_strength_to_0(levels) -> None:
    path = levels.path(10, 0.5)
    assert len(path) == 11
    assert path[-1] == 0
    assert (path.diff() < 0).all()
    whole = levels.path(20, 1.0)
    torch.testing.assert_close(path, whole[10:])  # half of the time is half of the steps


def test_the_shift_is_that_of_stable_diffusion_3() -> None:
    parts = FlowMatching(3.0).path(4, 1.0)[1:]
    wanted = 3 * torch.tensor([0.75, 0.5, 0.25, 0.0]) / (1 + 2 * torch.tensor([0.75, 0.5, 0.25, 0.0]))
    torch.testing.assert_close((parts / (0.5 + parts)).float(), wanted)


def test_a_schedule_that_ends_in_pure_noise_has_finite_levels() -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    levels = VariancePreserving.of(scheduler)
    assert torch.isfinite(levels.path(5, 1.0)).all()
    assert levels.prediction == "v_prediction"
