"""diffusers as a peer."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from peer import Candidate, Peer

TIMESTEPS = 1000
WARM_UP_STEPS = 500
MAX_WARM_UP_SHARE = 0.1


class Diffusers(Peer):
    """`UNet2DModel` and the loop of diffusers' unconditional training example, with its class embedding."""

    package = "diffusers"
    follows_budget = True

    def _candidates(self) -> Iterator[Candidate]:
        from diffusers import UNet2DModel

        levels = len(self.recipe.multipliers)
        for width in range(8, 257, 2):
            for layers in (1, 2, 3):
                yield (
                    width,
                    lambda width=width, layers=layers: UNet2DModel(  # type: ignore[misc]
                        sample_size=self.padded_size,
                        in_channels=self.channels,
                        out_channels=self.channels,
                        layers_per_block=layers,
                        block_out_channels=tuple(width * multiplier for multiplier in self.recipe.multipliers),
                        down_block_types=("DownBlock2D", *["AttnDownBlock2D"] * (levels - 1)),
                        up_block_types=(*["AttnUpBlock2D"] * (levels - 1), "UpBlock2D"),
                        norm_num_groups=math.gcd(width, 32),
                        num_class_embeds=len(self.classes) + 1,
                    ),
                )

    def _prepare(self) -> None:
        from diffusers import DDPMScheduler
        from diffusers.training_utils import EMAModel

        self._optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=self.recipe.learning_rate, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
        )
        self._average = EMAModel(
            self.network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75, foreach=True
        )
        self._noise = DDPMScheduler(num_train_timesteps=TIMESTEPS, beta_schedule="linear")
        self._steps = 0

    def _forward(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        output: Tensor = self.network(x, time, class_labels=labels, return_dict=False)[0]
        return output

    def _loss(self, pixels: Tensor, labels: Tensor) -> Tensor:
        clean = pixels * 2 - 1
        noise = torch.randn_like(clean)
        times = torch.randint(0, TIMESTEPS, (len(clean),), device=clean.device)
        predicted = self._forward(self._noise.add_noise(clean, noise, times), times, labels)
        return functional.mse_loss(predicted.float(), noise)

    def _update(self, progress: float) -> None:
        self._steps += 1
        warm_up = max(self._steps / WARM_UP_STEPS, progress / MAX_WARM_UP_SHARE)
        rate = min(1.0, warm_up) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        for group in self._optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._average.step(self.network.parameters())

    def _sample(self, labels: Tensor, steps: int) -> Tensor:
        from diffusers import DPMSolverMultistepScheduler

        solver = DPMSolverMultistepScheduler(
            num_train_timesteps=TIMESTEPS,
            beta_schedule="linear",
            thresholding=True,  # keeps pixels in range, as the library advises for models of pixels
            sample_max_value=1.0,
        )
        solver.set_timesteps(steps, device=self.device)
        x = torch.randn(len(labels), self.channels, self.padded_size, self.padded_size, device=self.device)
        self._average.store(self.network.parameters())
        self._average.copy_to(self.network.parameters())
        self.network.eval()
        for moment in solver.timesteps:
            predicted = self._forward(x, moment.expand(len(x)), labels)
            x = solver.step(predicted.float(), moment, x).prev_sample
        self._average.restore(self.network.parameters())
        return (x + 1) / 2
