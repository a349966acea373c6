"""The denoiser: a network with the meaning of its inputs and outputs, and its weights in one block."""

import torch
from torch import Tensor, nn

from diffaug.diffusion.network.local import LocalNetwork
from diffaug.diffusion.network.unet import NetworkConfig, UNet
from diffaug.diffusion.process.ddpm import Ddpm, PixelBins
from diffaug.diffusion.process.edm import Edm
from diffaug.diffusion.process.normalization import Normalization
from diffaug.diffusion.process.process import Moments, per_image, precondition

DDPM = Ddpm()

ALIGNMENT = 16
"""Parameters begin at multiples of this many elements, 64 bytes in float32, as fast kernels want them."""


def objective_of(config: NetworkConfig, normalization: Normalization | None = None) -> Edm | Ddpm:
    """The objective to train with; DDPM's likelihood depends on the normalization of the images."""
    if config.objective == "edm":
        return Edm(config.noise_scale)
    return DDPM if normalization is None else Ddpm(PixelBins.of(normalization))


class Denoiser(nn.Module):
    """Estimates mean and variance of the clean image given a noisy one and its label."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.objective = objective_of(config)
        self.unet = UNet(config) if config.architecture == "unet" else LocalNetwork(config)

    def output(self, x: Tensor, sigma: Tensor, labels: Tensor, conditions: Tensor | None = None) -> Tensor:
        """The output of the network itself, (N, 2C, H, W); for arguments see `forward`."""
        factors = precondition(sigma.float())
        result: Tensor = self.unet(per_image(factors.c_in) * x, factors.c_noise, labels, conditions)
        return result

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor, conditions: Tensor | None = None) -> Moments:
        """Denoises normalized images (N, C, H, W) at noise levels (N,); labels int64 (N,) in 0..K, K meaning no label.

        The conditions (N, 9) say how the images were augmented; None means not at all. Those of a `LocalNetwork` are
        images.
        """
        return self.objective.moments(x, sigma.float(), self.output(x, sigma, labels, conditions))


def join_weights(module: nn.Module) -> nn.Parameter:
    """Moves parameters and gradients into one block each, so that optimizer and average touch a single tensor.

    The module is on its device and in its memory format for good, all of one dtype, and all trained or none. Gradients
    must not be replaced from then on: zero them with `zero_grad(set_to_none=False)`. The block (L,) is zero between
    the parameters; its `grad` holds theirs, none where they are not trained.
    """
    parameters = list(module.parameters())
    starts = [0]
    for parameter in parameters:
        starts.append(starts[-1] - (-parameter.numel() // ALIGNMENT) * ALIGNMENT)
    block = nn.Parameter(parameters[0].new_zeros(starts[-1]), requires_grad=parameters[0].requires_grad)
    block.grad = torch.zeros_like(block) if block.requires_grad else None
    for parameter, start in zip(parameters, starts, strict=False):
        shape, strides = parameter.shape, parameter.stride()
        parameter.data = block.data.as_strided(shape, strides, start).copy_(parameter.data)
        if block.grad is not None:
            parameter.grad = block.grad.as_strided(shape, strides, start)
    return block
