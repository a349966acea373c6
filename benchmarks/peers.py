"""Class-conditional training and sampling with the libraries that a user would otherwise pick.

Each peer is a library with the settings of one recipe, and each library has two recipes: what it documents, and the same
tuned for small images and small networks (a shape from its small-image examples, a larger batch and learning rate), so
that neither loses by its defaults. Of diffusers that is `UNet2DModel` in the loop of its `train_unconditional` example,
sampled by DPM-Solver++; of denoising-diffusion-pytorch (lucidrains) the `Unet` and `GaussianDiffusion` of its
`classifier_free_guidance` module in the loop of its `Trainer`, sampled by DDIM. Neither loop knows classes; they are
passed on here. What differs from the libraries' defaults, each time to their advantage:

- images stay in memory on the device and a batch costs an index, no data loader;
- the cosine decay of diffusers ends where the time budget ends, and its warm-up of 500 steps takes a tenth of it at most;
- denoising-diffusion-pytorch hides a tenth of the labels instead of half of them and samples without guidance, since the
  distribution is to be met; its objective is v, which is its `GaussianDiffusion`'s default outside that module;
- the memory format is the faster of the two, measured;
- on CUDA both run under bfloat16 autocast, as diffaug does.
"""

from __future__ import annotations

import importlib.util
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from diffaug import seeding
from diffaug.data.images import LabeledImages
from diffaug.errors import MissingExtraError

TOLERANCE = 0.10
WARM_UP_STEPS = 500
MAX_WARM_UP_SHARE = 0.1
MAX_GRADIENT_NORM = 1.0
TIMESTEPS = 1000
SAMPLED_TOGETHER = 100
PROBED_STEPS = 2


@dataclass(frozen=True)
class Recipe:
    """Settings of one peer.

    Attributes:
        multipliers: Width of each level as a multiple of the first one's.
        learning_rate: Peak, or constant.
        batch_size: Images a step.
    """

    multipliers: tuple[int, ...]
    learning_rate: float
    batch_size: int


class Peer(ABC):
    """A library's network, loop and sampler on one set of images.

    Args:
        images: Square training images.
        recipe: Shape and optimiser settings.
        parameters: Size of the network, met within 10 %.
        device: `cpu` or `cuda`.
        seed: Decides initial weights and batches; noise and dropout are the library's own.
    """

    package: ClassVar[str]
    """What to install."""

    follows_budget: ClassVar[bool]
    """Whether the learning rate depends on the length of the training."""

    def __init__(self, images: LabeledImages, recipe: Recipe, *, parameters: int, device: str, seed: int = 0) -> None:
        self.recipe, self.device, self.classes = recipe, device, images.classes
        self.size, self.channels = images.pixels.shape[1], images.pixels.shape[-1]
        multiple = 2 ** (len(recipe.multipliers) - 1)
        self.padded_size = self.size + -self.size % multiple
        self._pixels = self._padded(torch.from_numpy(np.array(images.pixels)).permute(0, 3, 1, 2)).to(device)
        self._labels = torch.from_numpy(np.array(images.labels)).to(device)
        with seeding.torch_global_seed(seed, "peer weights"):
            self.network = _sized(self._candidates(), parameters).to(device)
        self.parameters = _count(self.network)
        self._random = seeding.torch_generator(seed, "peer batches")
        self._use_faster_layout()
        self._prepare()

    def step(self, progress: float = 0.5) -> None:
        """One training step, from drawing the batch to the moving average.

        Args:
            progress: Share of the training that has passed.
        """
        chosen = torch.randint(len(self._labels), (self.recipe.batch_size,), generator=self._random).to(self.device)
        self.network.train()
        with self._precision():
            loss = self._loss(self._pixels[chosen].float() / 255, self._labels[chosen])
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRADIENT_NORM)
        self._update(progress)

    @torch.no_grad()
    def evaluate(self, batch_size: int) -> None:
        """Runs the network once."""
        self.network.eval()
        x = torch.zeros(batch_size, self.channels, self.padded_size, self.padded_size, device=self.device)
        index = torch.zeros(batch_size, dtype=torch.int64, device=self.device)
        with self._precision():
            self._forward(x, index, index)

    @torch.no_grad()
    def sample(self, labels: NDArray[np.int64], steps: int) -> NDArray[np.uint8]:
        """Samples one image for each label with the averaged weights.

        Returns:
            uint8 (N, H, W, C).
        """
        batches = torch.from_numpy(labels).to(self.device).split(SAMPLED_TOGETHER)
        with self._precision():
            images = torch.cat([self._sample(batch, steps).float() for batch in batches])
        margin = (self.padded_size - self.size) // 2
        inner = images[..., margin : margin + self.size, margin : margin + self.size]
        pixels = (inner.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        return np.ascontiguousarray(pixels.cpu().numpy())

    def _padded(self, pixels: Tensor) -> Tensor:
        before = (self.padded_size - self.size) // 2
        after = self.padded_size - self.size - before
        return functional.pad(pixels.float(), (before, after, before, after), mode="replicate").to(torch.uint8)

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast("cuda", torch.bfloat16) if self.device == "cuda" else nullcontext()

    def _use_faster_layout(self) -> None:
        formats = (torch.contiguous_format, torch.channels_last)
        self.network.to(memory_format=min(formats, key=self._seconds_in))  # type: ignore[call-overload]

    def _seconds_in(self, layout: torch.memory_format) -> float:
        self.network.to(memory_format=layout)  # type: ignore[call-overload]
        x = torch.zeros(self.recipe.batch_size, self.channels, self.padded_size, self.padded_size, device=self.device)
        index = torch.zeros(len(x), dtype=torch.int64, device=self.device)
        times = []
        for _ in range(1 + PROBED_STEPS):
            began = time.perf_counter()
            with self._precision():
                output = self._forward(x, index, index)
            output.square().mean().backward()  # type: ignore[no-untyped-call]
            if self.device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        self.network.zero_grad(set_to_none=True)
        return min(times[1:])

    @abstractmethod
    def _candidates(self) -> Iterable[Callable[[], nn.Module]]:
        """Makers of networks of different sizes."""

    @abstractmethod
    def _prepare(self) -> None:
        """Makes optimiser, moving average and noise process."""

    @abstractmethod
    def _forward(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """The network's output for (N, C, H, W), (N,) and (N,)."""

    @abstractmethod
    def _loss(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """The loss of images in [0, 1] (N, C, H, W)."""

    @abstractmethod
    def _update(self, progress: float) -> None:
        """Optimiser and moving average."""

    @abstractmethod
    def _sample(self, labels: Tensor, steps: int) -> Tensor:
        """Images in about [0, 1] (N, C, H, W)."""


class Diffusers(Peer):
    """`UNet2DModel` and the loop of diffusers' unconditional training example, with its class embedding."""

    package = "diffusers"
    follows_budget = True

    def _candidates(self) -> Iterator[Callable[[], nn.Module]]:
        from diffusers import UNet2DModel

        levels = len(self.recipe.multipliers)
        for width in range(8, 257, 4):
            for layers in (2, 1):
                yield lambda width=width, layers=layers: UNet2DModel(  # type: ignore[misc]
                    sample_size=self.padded_size,
                    in_channels=self.channels,
                    out_channels=self.channels,
                    layers_per_block=layers,
                    block_out_channels=tuple(width * multiplier for multiplier in self.recipe.multipliers),
                    down_block_types=("DownBlock2D", *["AttnDownBlock2D"] * (levels - 1)),
                    up_block_types=(*["AttnUpBlock2D"] * (levels - 1), "UpBlock2D"),
                    norm_num_groups=math.gcd(width, 32),
                    num_class_embeds=len(self.classes) + 1,
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

        solver = DPMSolverMultistepScheduler(num_train_timesteps=TIMESTEPS, beta_schedule="linear")
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


class Lucidrains(Peer):
    """denoising-diffusion-pytorch's class-conditional `Unet` and the loop of its `Trainer`."""

    package = "denoising-diffusion-pytorch"
    follows_budget = False

    def _candidates(self) -> Iterator[Callable[[], nn.Module]]:
        network = _unguided_unet()
        for width in range(4, 257, 2):
            yield lambda width=width: network(  # type: ignore[misc]
                width,
                num_classes=len(self.classes) + 1,
                cond_drop_prob=0.1,
                dim_mults=self.recipe.multipliers,
                channels=self.channels,
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


PEERS: dict[str, tuple[type[Peer], Recipe]] = {
    "diffusers": (Diffusers, Recipe((1, 2, 3, 4), 1e-4, 16)),
    "diffusers tuned": (Diffusers, Recipe((1, 2, 2), 1e-3, 64)),
    "lucidrains": (Lucidrains, Recipe((1, 2, 4, 8), 8e-5, 32)),
    "lucidrains tuned": (Lucidrains, Recipe((1, 2, 4), 1e-3, 64)),
}
"""What is compared, by name."""


def make_peer(
    name: str, images: LabeledImages, *, parameters: int, device: str, batch_size: int | None = None, seed: int = 0
) -> Peer:
    """A peer with its recipe.

    Args:
        name: A key of `PEERS`.
        images: Square training images.
        parameters: Size of the network, met within 10 %.
        device: `cpu` or `cuda`.
        batch_size: Images a step; none: as the recipe says.
        seed: Decides initial weights and batches.

    Raises:
        MissingExtraError: Its library is not installed.
        ValueError: The recipe's shape has no such size.
    """
    library, recipe = PEERS[name]
    if importlib.util.find_spec(library.package.replace("-", "_")) is None:
        raise MissingExtraError.of(library.package, "benchmarks")
    recipe = replace(recipe, batch_size=batch_size or recipe.batch_size)
    return library(images, recipe, parameters=parameters, device=device, seed=seed)


def train_until(peer: Peer, stops: Iterable[float]) -> Iterator[float]:
    """Trains and yields whenever the training itself, warm-up excluded, has taken one of `stops` seconds, ascending."""
    stops = list(stops)
    peer.step(0.0)  # the first step sets up the libraries' kernels and is nobody's merit
    spent = 0.0
    for stop in stops:
        while spent < stop:
            began = time.perf_counter()
            peer.step(spent / stops[-1])
            if peer.device == "cuda":
                torch.cuda.synchronize()
            spent += time.perf_counter() - began
        yield spent


def _unguided_unet() -> type[nn.Module]:
    from denoising_diffusion_pytorch.classifier_free_guidance import Unet

    class UnguidedUnet(Unet):  # type: ignore[misc]
        def forward_with_cond_scale(self, *inputs: Any, cond_scale: float = 1.0, **options: Any) -> Any:
            """Without guidance the library (2.3.4) returns one tensor where its caller unpacks two."""
            result = super().forward_with_cond_scale(*inputs, cond_scale=cond_scale, **options)
            return (result, result) if cond_scale == 1 else result

    return UnguidedUnet


def _sized(candidates: Iterable[Callable[[], nn.Module]], parameters: int) -> nn.Module:
    """The candidate nearest to a number of parameters; growing ones stop at twice that number."""
    nearest, distance = None, math.inf
    for make in candidates:
        with torch.device("meta"):
            count = _count(make())
        if abs(count - parameters) < distance:
            nearest, distance = make, abs(count - parameters)
        if count > 2 * parameters:
            break
    if nearest is None or distance > TOLERANCE * parameters:
        raise ValueError(f"no shape has {parameters} parameters within {TOLERANCE:.0%}")
    return nearest()


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
