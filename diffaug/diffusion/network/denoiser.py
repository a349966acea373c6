"""The denoiser: the UNet with its objective's meaning of inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from diffaug.diffusion.network.unet import NetworkConfig, UNet
from diffaug.diffusion.process.ddpm import Ddpm, PixelBins
from diffaug.diffusion.process.normalization import Normalization
from diffaug.diffusion.process.objectives import Edm, Objective
from diffaug.diffusion.process.process import Moments

OBJECTIVES: Mapping[str, Objective] = {"edm": Edm(), "ddpm": Ddpm()}


def objective_of(config: NetworkConfig, normalization: Normalization | None = None) -> Objective:
    """The objective that a network of this configuration is trained with.

    Args:
        config: Names the objective.
        normalization: Of the images to train on; DDPM's likelihood needs to know where their pixels' levels lie.
    """
    if config.objective == "ddpm" and normalization is not None:
        return Ddpm(bins=PixelBins.of(normalization))
    return OBJECTIVES[config.objective]


class Denoiser(nn.Module):
    """Estimates mean and variance of the clean image given a noisy one and its label.

    Attributes:
        config: The shape of the network.
        objective: What the network's inputs and outputs mean.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.objective = objective_of(config)
        self.unet = UNet(config)

    def output(self, x: Tensor, sigma: Tensor, labels: Tensor, conditions: Tensor | None = None) -> Tensor:
        """What the network itself says, (N, 2C, H, W); for arguments see `forward`."""
        scaled, c_noise = self.objective.network_inputs(x, sigma.float())
        result: Tensor = self.unet(scaled, c_noise, labels, conditions)
        return result

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor, conditions: Tensor | None = None) -> Moments:
        """Denoises.

        Args:
            x: Noisy images (N, C, H, W), normalised.
            sigma: Noise levels (N,).
            labels: int64 (N,) in 0..K, K meaning no label.
            conditions: How the images were augmented, (N, 9); none: not at all.
        """
        return self.objective.moments(x, sigma.float(), self.output(x, sigma, labels, conditions))
