"""Class-conditional training and sampling with the libraries that a user would otherwise pick.

Each peer is a library with the settings of one recipe, and each library has two recipes: what it documents, and the
same tuned for small images and small networks (fewer levels, a larger batch and learning rate), so that neither loses
by its defaults; what counts is the better of all. Of diffusers that is `UNet2DModel` in the loop of its
`train_unconditional` example, sampled by DPM-Solver++; of denoising-diffusion-pytorch (lucidrains) the `Unet` and
`GaussianDiffusion` of its `classifier_free_guidance` module in the loop of its `Trainer`, sampled by DDIM. Neither
loop knows classes; they are passed on here. What differs from the libraries' defaults, each time to their advantage:

- diffusers' solver clips what it takes for the clean image to the range of pixels, without which few steps saturate;
- images stay in memory on the device and a batch costs an index, no data loader;
- diffusers' cosine decay ends where the time budget ends, and its warm-up of 500 steps takes a tenth of it at most;
- denoising-diffusion-pytorch hides a tenth of the labels instead of half of them and samples without guidance, since
  the distribution is to be met; its objective is v, which is its `GaussianDiffusion`'s default outside that module;
- of the shapes within 10 % of the parameters the one with the roundest width is taken, since it computes fastest, and
  the memory format is the faster of the two, measured;
- on CUDA both run under bfloat16 autocast, as diffaug does.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from diffaug.data.images import LabeledImages
from diffaug.errors import MissingExtraError

from diffusers_peer import Diffusers
from lucidrains_peer import Lucidrains
from peer import Peer, Recipe

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
