"""The denoiser that a sampling follows, made of a network and its guide."""

import torch

from diffaug.configuration.sampling import Sampling
from diffaug.diffusion.generator.network_files import GUIDE
from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.sampling.class_noise import ClassNoise
from diffaug.diffusion.sampling.guidance import DenoiseFunction, autoguidance, classifier_free
from diffaug.errors import UsageError


def require_guide(sampling: Sampling, guide: Denoiser | None) -> None:
    """Raises a UsageError if the method is autoguidance and no guide was kept."""
    if sampling.guidance_method == "autoguidance" and guide is None:
        raise UsageError(
            "autoguidance needs a guide, and this generator was saved without one",
            where=GUIDE,
            fix="use guidance_method='classifier_free', or train the generator again",
        )


def guided(denoiser: Denoiser, guide: Denoiser | None, noise: ClassNoise, sampling: Sampling) -> DenoiseFunction:
    """The denoiser of images of one class, guided as the sampling says; a UsageError as of `require_guide`."""
    require_guide(sampling, guide)
    labels, scale = torch.full((len(noise.indices),), noise.class_index, device=noise.device), sampling.guidance_scale
    if sampling.guidance_method == "autoguidance" and guide is not None:
        return autoguidance(denoiser, guide, labels, scale)
    network, interval = denoiser.config, sampling.guidance_interval
    return classifier_free(denoiser, labels, network.null_label, scale, interval, noise_scale=network.noise_scale)
