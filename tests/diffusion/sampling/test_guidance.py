from functools import partial

import pytest
import torch
from torch import Tensor, nn

from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.network.unet import NetworkConfig
from diffaug.diffusion.process.process import Moments, karras_sigmas
from diffaug.diffusion.sampling.guidance import autoguidance, classifier_free, conditional
from diffaug.diffusion.sampling.samplers import integrate
from diffaug.runtime import seeding

INSIDE, BELOW, ABOVE, *ENDS = torch.tensor([1.0, 0.27, 1.7, 0.28, 1.6], dtype=torch.float64)
NULL = 9
INTERVAL = (0.28, 1.6)
LABELS, X = torch.full((4,), 2), torch.zeros(4, 1, 2, 2)


class LabelEcho(nn.Module):
    """Answers with a multiple of the label, and counts the images it is given."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor
        self.rows: list[int] = []

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Moments:
        self.rows.append(len(x))
        echo = self.factor * labels.to(x.dtype)[:, None, None, None].expand_as(x)
        return Moments(echo, 10 * echo)


@pytest.mark.parametrize(
    ("sigma", "scale", "expected", "rows"),
    [
        *((INSIDE, *case) for case in ((0.0, 9.0, 8), (1.0, 2.0, 4), (1.5, -1.5, 8), (3.0, -12.0, 8))),
        *((end, 3.0, -12.0, 8) for end in ENDS),
        *((outside, 3.0, 2.0, 4) for outside in (BELOW, ABOVE)),
    ],
)
def test_classifier_free_guidance_extrapolates_in_one_batch_within_the_interval(sigma, scale, expected, rows) -> None:
    echo = LabelEcho()
    result = classifier_free(echo, LABELS, NULL, scale, INTERVAL)(X, sigma)
    assert torch.allclose(result.mean, torch.full_like(X, expected))
    assert torch.allclose(result.variance, torch.full_like(X, 20.0))
    assert echo.rows == [rows]


@pytest.mark.parametrize(
    ("interval", "scale", "guided_steps"),
    [((0.28, 1.62), 2.0, 6), ((0.28, 1.62), 1.0, 0), ((0.0, 80.0), 2.0, 32), ((90.0, 99.0), 2.0, 0)],
)
def test_evaluations_of_32_steps(interval, scale, guided_steps) -> None:
    echo = LabelEcho()
    integrate(classifier_free(echo, LABELS, NULL, scale, interval), X, karras_sigmas(32))
    assert sum(echo.rows) == 4 * (32 + guided_steps)


@pytest.mark.parametrize("sigma", [BELOW, INSIDE, ABOVE])
@pytest.mark.parametrize(("scale", "expected"), [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (3.5, 4.5)])
def test_autoguidance_moves_away_from_the_guide_at_every_level(sigma, scale, expected) -> None:
    echo, guide = LabelEcho(), LabelEcho(0.5)
    result = autoguidance(echo, guide, LABELS, scale)(X, sigma)
    assert torch.allclose(result.mean, torch.full_like(X, expected))
    assert torch.allclose(result.variance, torch.full_like(X, 20.0))
    assert (echo.rows, guide.rows) == ([4], [] if scale == 1 else [4])


@torch.no_grad()
def test_one_batch_gives_what_two_passes_give() -> None:
    denoiser = Denoiser(NetworkConfig((8, 8), 1, 3, 1, 16, (1, 2), 1, 0.0)).eval()
    with seeding.torch_global_seed(0, "test"):
        for parameter in denoiser.parameters():
            nn.init.normal_(parameter, std=0.1)
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2])
    labeled = conditional(denoiser, labels)(x, INSIDE)
    unlabeled = conditional(denoiser, torch.full_like(labels, 3))(x, INSIDE)
    assert not torch.allclose(labeled.mean, unlabeled.mean, atol=1e-3)
    together = classifier_free(denoiser, labels, 3, 2.5, INTERVAL)(x, INSIDE)
    assert torch.allclose(together.mean, unlabeled.mean + 2.5 * (labeled.mean - unlabeled.mean), atol=1e-5)
    assert torch.allclose(together.variance, labeled.variance, atol=1e-5)


def test_autoguidance_takes_back_an_error_that_model_and_guide_share() -> None:
    """Data N(0, .5^2): a model that takes it for wider is mended by a guide that takes it for wider still."""

    def gaussian(x: Tensor, sigma: Tensor, labels: Tensor, *, std: float) -> Moments:
        return Moments(std**2 / (std**2 + sigma[0] ** 2) * x, torch.zeros_like(x))

    model, guide = partial(gaussian, std=0.6), partial(gaussian, std=0.75)
    start = torch.full((1, 1, 1, 1), 80.0, dtype=torch.float64)

    def spread(scale: float) -> float:
        return integrate(autoguidance(model, guide, LABELS[:1], scale), start, karras_sigmas(64)).item()

    assert spread(1.0) == pytest.approx(0.6, abs=0.01)
    assert spread(1.5) == pytest.approx(0.5, abs=0.05)
    assert spread(1.5) < spread(1.0)
