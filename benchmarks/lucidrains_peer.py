"""denoising-diffusion-pytorch as a peer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from peer import Candidate, Peer

TIMESTEPS = 1000
LABEL_DROPOUT = 0.1


class Lucidrains(Peer):
    """denoising-diffusion-pytorch's class-conditional `Unet` and the loop of its `Trainer`."""

    package = "denoising-diffusion-pytorch"
    follows_budget = False

    def _candidates(self) -> Iterator[Candidate]:
        network = _unguided_unet()
        *upper, last = self.recipe.multipliers
        for width in range(4, 257, 2):
            for lowest in (last, last - 1):  # even widths alone lie more than 10 % apart
                yield (
                    width,
                    lambda width=width, lowest=lowest: network(  # type: ignore[misc]
                        width,
                        num_classes=len(self.classes) + 1,
                        cond_drop_prob=LABEL_DROPOUT,
                        dim_mults=(*upper, lowest),
                        channels=self.channels,
                    ),
                )

    def _prepare(self) -> None:
        from denoising_diffusion_pytorch import classifier_free_guidance as library
        from ema_pytorch import EMA

        library.tqdm = lambda moments, **_: moments  # it would draw a progress bar for every batch it samples
        self._diffusion = library.GaussianDiffusion(
            self.network, image_size=self.padded_size, timesteps=TIMESTEPS, objective="pred_v", ddim_sampling_eta=0.0
        ).to(self.device)
        self._optimizer = torch.optim.Adam(self.network.parameters(), lr=self.recipe.learning_rate, betas=(0.9, 0.99))
        self._average = EMA(self._diffusion, beta=0.995, update_every=10).to(self.device)

    def _forward(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        output: Tensor = self.network(x, time, labels, cond_drop_prob=0.0)
        return output

    def _loss(self, pixels: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = self._diffusion(pixels, classes=labels)
        return loss

    def _update(self, progress: float) -> None:
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._average.update()

    def _sample(self, labels: Tensor, steps: int) -> Tensor:
        diffusion = self._average.ema_model.eval()
        diffusion.sampling_timesteps, diffusion.is_ddim_sampling = steps, steps < TIMESTEPS
        images: Tensor = diffusion.sample(labels, cond_scale=1.0)
        return images


def _unguided_unet() -> type[nn.Module]:
    from denoising_diffusion_pytorch.classifier_free_guidance import Unet

    class UnguidedUnet(Unet):  # type: ignore[misc]
        def forward_with_cond_scale(self, *inputs: Any, cond_scale: float = 1.0, **options: Any) -> Any:
            """Without guidance the library (2.3.4) returns one tensor where its caller unpacks two."""
            result = super().forward_with_cond_scale(*inputs, cond_scale=cond_scale, **options)
            return (result, result) if cond_scale == 1 else result

    return UnguidedUnet
