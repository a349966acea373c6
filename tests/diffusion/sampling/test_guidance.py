import pytest
import torch
from torch import Tensor, nn

from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.network.unet import NetworkConfig
from diffaug.diffusion.process.process import Moments, karras_sigmas
from diffaug.diffusion.sampling.guidance import autoguidance, classifier_free, conditional
from diffaug.diffusion.sampling.samplers import integrate
from diffaug.runtime import seeding

INSIDE, BELOW, ABOVE = (torch.tensor(sigma, dtype=torch.float64) for sigma in (1.0, 0.27, 1.7))
NULL = 9


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


@pytest.fixture
def labels() -> Tensor:
    return torch.full((4,), 2)


@pytest.fixture
def x() -> Tensor:
    return torch.zeros(4, 1, 2, 2)


@pytest.mark.parametrize(("scale", "expected", "rows"), [(0.0, 9.0, 8), (1.0, 2.0, 4), (1.5, -1.5, 8), (3.0, -12.0, 8)])
def test_classifier_free_guidance_extrapolates_in_one_batch(labels, x, scale, expected, rows) -> None:
    echo = LabelEcho()
    result = classifier_free(echo, labels, NULL, scale)(x, INSIDE)
    assert torch.allclose(result.mean, torch.full_like(x, expected))
    assert torch.allclose(result.variance, torch.full_like(x, 20.0))
    assert echo.rows == [rows]


@pytest.mark.parametrize("sigma", [BELOW, ABOVE])
def test_outside_the_interval_only_the_conditional_denoiser_is_asked(labels, x, sigma) -> None:
    echo = LabelEcho()
    result = classifier_free(echo, labels, NULL, 3.0)(x, sigma)
    assert torch.equal(result.mean, torch.full_like(x, 2.0))
    assert echo.rows == [4]


@pytest.mark.parametrize("sigma", [0.28, 1.6])
def test_the_ends_of_the_interval_belong_to_it(labels, x, sigma) -> None:
    echo = LabelEcho()
    classifier_free(echo, labels, NULL, 3.0, (0.28, 1.6))(x, torch.tensor(sigma, dtype=torch.float64))
    assert echo.rows == [8]


@pytest.mark.parametrize(
    ("interval", "scale", "guided_steps"),
    [((0.28, 1.62), 2.0, 6), ((0.28, 1.62), 1.0, 0), ((0.0, 80.0), 2.0, 32), ((90.0, 99.0), 2.0, 0)],
)
def test_evaluations_of_32_steps(labels, x, interval, scale, guided_steps) -> None:
    echo = LabelEcho()
    integrate(classifier_free(echo, labels, NULL, scale, interval), x, karras_sigmas(32))
    assert sum(echo.rows) == 4 * (32 + guided_steps)


@pytest.mark.parametrize("sigma", [BELOW, INSIDE, ABOVE])
@pytest.mark.parametrize(("scale", "expected"), [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (3.5, 4.5)])
def test_autoguidance_moves_away_from_the_guide_at_every_level(labels, x, sigma, scale, expected) -> None:
    echo, guide = LabelEcho(), LabelEcho(0.5)
    result = autoguidance(echo, guide, labels, scale)(x, sigma)
    assert torch.allclose(result.mean, torch.full_like(x, expected))
    assert torch.allclose(result.variance, torch.full_like(x, 20.0))
    assert (echo.rows, guide.rows) == ([4], [] if scale == 1 else [4])


@pytest.fixture
def denoiser() -> Denoiser:
    """A network whose answer depends on x, sigma and label."""
    made = Denoiser(NetworkConfig((8, 8), 1, 3, 1, 16, (1, 2), 1, 0.0)).eval()
    with seeding.torch_global_seed(0, "test"):
        for parameter in made.parameters():
            nn.init.normal_(parameter, std=0.1)
    return made


@torch.no_grad()
def test_one_batch_gives_what_two_passes_give(denoiser) -> None:
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2])
    labelled = conditional(denoiser, labels)(x, INSIDE)
    unlabelled = conditional(denoiser, torch.full_like(labels, 3))(x, INSIDE)
    assert not torch.allclose(labelled.mean, unlabelled.mean, atol=1e-3)
    together = classifier_free(denoiser, labels, 3, 2.5)(x, INSIDE)
    assert torch.allclose(together.mean, unlabelled.mean + 2.5 * (labelled.mean - unlabelled.mean), atol=1e-5)
    assert torch.allclose(together.variance, labelled.variance, atol=1e-5)


@torch.no_grad()
def test_a_model_that_guides_itself_stays_as_it_is(denoiser) -> None:
    x, labels = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2])
    expected = conditional(denoiser, labels)(x, INSIDE).mean
    assert torch.allclose(autoguidance(denoiser, denoiser, labels, 3.0)(x, INSIDE).mean, expected, atol=1e-6)


def test_autoguidance_takes_back_an_error_that_model_and_guide_share() -> None:
    """Data N(0, .5^2): a model that takes it for wider is mended by a guide that takes it for wider still."""

    class Wide(nn.Module):
        def __init__(self, std: float) -> None:
            super().__init__()
            self.std = std

        def forward(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Moments:
            gain = self.std**2 / (self.std**2 + sigma[0] ** 2)
            return Moments(gain * x, torch.zeros_like(x))

    start = torch.full((1, 1, 1, 1), 80.0, dtype=torch.float64)
    labels = torch.zeros(1, dtype=torch.int64)

    def spread(scale: float) -> float:
        return integrate(autoguidance(Wide(0.6), Wide(0.75), labels, scale), start, karras_sigmas(64)).item()

    assert spread(1.0) == pytest.approx(0.6, abs=0.01)
    assert spread(1.5) == pytest.approx(0.5, abs=0.05)
    assert spread(1.5) < spread(1.0)
