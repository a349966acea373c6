"""The denoiser that a sampling follows, made of a network and its guide."""

import torch

from diffaug.configuration.sampling import Sampling
from diffaug.diffusion.generator.network_files import GUIDE
from diffaug.diffusion.network.unet import NetworkConfig
from diffaug.diffusion.sampling.drawing import Drawing
from diffaug.diffusion.sampling.guidance import Denoise, DenoiseFunction, autoguidance, classifier_free
from diffaug.errors import UsageError


def require_guide(sampling: Sampling, guide: Denoise | None) -> None:
    """Raises a UsageError if the method is autoguidance and no guide was kept."""
    if sampling.guidance_method == "autoguidance" and guide is None:
        raise UsageError(
            "autoguidance needs a guide, and this generator was saved without one",
            where=GUIDE,
            fix="use guidance_method='classifier_free', or train the generator again",
        )


def guided(
    drawing: Drawing, denoiser: Denoise, guide: Denoise | None, network: NetworkConfig, device: torch.device
) -> DenoiseFunction:
    """The denoiser of what is drawn, guided as the sampling says; a UsageError as of `require_guide`."""
    require_guide(drawing.sampling, guide)
    labels, scale = drawing.labels(device), drawing.sampling.guidance_scale
    if drawing.sampling.guidance_method == "autoguidance" and guide is not None:
        return autoguidance(denoiser, guide, labels, scale)
    interval = drawing.sampling.guidance_interval
    return classifier_free(denoiser, labels, network.null_label, scale, interval, noise_scale=network.noise_scale)
