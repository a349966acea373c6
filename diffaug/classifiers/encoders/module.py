"""An encoder that is any torch module."""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffaug.classifiers.encoders.encoder import Images, common_size, squeezed_batches
from diffaug.errors import DataError

Normalization = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation per RGB channel of images in [0, 1]."""

SYMMETRIC: Normalization = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET: Normalization = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PIXELS_AT_ONCE = {"cpu": 2**17, "cuda": 2**23}  # of a batch; on a CPU larger ones do not fit into its cache


class ModuleEncoder:
    """Any torch module that maps a batch of images to vectors.

    Args:
        module: Float NCHW to (N, D) or (N, D, h, w), which is averaged over h and w. It is put in evaluation mode.
        name: Its name, to which the hash of its weights is added.
        normalization: `symmetric`: [-1, 1]. `imagenet`: ImageNet's mean and deviation, and gray images become RGB. Or a
            mean and a deviation per RGB channel of images in [0, 1], with the same effect on gray images.
        size: Side in px that images are squeezed to. Default: none, then all images need one size.
    """

    def __init__(
        self,
        module: nn.Module,
        name: str,
        *,
        normalization: Literal["symmetric", "imagenet"] | Normalization = "symmetric",
        size: int | None = None,
        device: str = "cpu",
    ) -> None:
        self.module = module.eval().to(device)
        self.size, self.device = size, device
        self.channels = None if normalization == "symmetric" else 3
        if isinstance(normalization, tuple):
            self.normalization = normalization
        else:
            self.normalization = IMAGENET if normalization == "imagenet" else SYMMETRIC
        how = f"mean {self.normalization[0]} sd {self.normalization[1]}"
        self.name = f"{hashed_name(name, module, how)} {f'{size} px' if size else 'as is'}"

    def features(self, images: Images) -> NDArray[np.float32]:
        """Images of any size to float32 (N, D).

        A UsageError if the images differ in size and the encoder has none, a DataError if the module does not return
        vectors.
        """
        size = (self.size, self.size) if self.size else common_size(images, self.name)
        at_once = max(1, PIXELS_AT_ONCE["cpu" if self.device == "cpu" else "cuda"] // (size[0] * size[1]))
        with torch.inference_mode():
            module = self._quick()
            batches = squeezed_batches(images, size, self.channels, at_once)
            outputs = [self.vectors(module(self.prepared(batch))) for batch in batches]
        return torch.cat(outputs).float().cpu().numpy()

    def prepared(self, pixels: Tensor) -> Tensor:
        """The module's input of images uint8 (N, C, H, W): float on the device, normalized, channels last in memory."""
        images = pixels.to(self.device).float().contiguous(memory_format=torch.channels_last)
        mean, deviation = torch.tensor(self.normalization, device=images.device)[:, : images.shape[1], None, None]
        return images.div_(255).sub_(mean).div_(deviation)

    def vectors(self, output: object) -> Tensor:
        """Features (N, D) of what the module returned; a DataError if it is something else than vectors or maps."""
        if not isinstance(output, Tensor) or output.ndim not in (2, 4):
            raise DataError("the encoder does not return vectors", where=self.name, fix="return a tensor (N, D)")
        return output.mean(dim=(2, 3)) if output.ndim == 4 else output

    def _quick(self) -> nn.Module:
        """The module, its normalizations fused into convolutions if it knows how, channels last in memory."""
        fused = getattr(self.module, "fused", lambda: self.module)
        quick: nn.Module = fused()
        return quick.to(memory_format=torch.channels_last)


def hashed_name(name: str, module: nn.Module, *more: str) -> str:
    """The name, and a hash of the module's weights and of `more`."""
    digest = hashlib.sha256("\n".join(more).encode())
    for key, tensor in module.state_dict().items():  # one by one: tied weights cannot be serialized together
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return f"{name} {digest.hexdigest()[:12]}"
