"""diffaug's own generator behind the interface that the peers have."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

import diffaug
from diffaug.configuration.settings import DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.generator.network_files import for_inference
from diffaug.diffusion.generator.pixels import PixelGenerator
from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.planning.planning import Plan, make_plan
from diffaug.diffusion.training.batches import TrainingData
from diffaug.diffusion.training.training import new_state, train

WIDTHS = range(16, 513, 16)
ENDLESS_STEPS = 10_000_000
CHUNK = 100


class Ours:
    """The network, training step and sampler that `diffaug fit` and `diffaug generate` use, for timing.

    Args:
        images: What to train on.
        parameters: Aim for the size of the network: the plan's own shape at the nearest width; none: as planned. The
            peers are then sized to what came of it.
        batch_size: Images a step.
        device: `cpu` or `cuda`.
    """

    name = "diffaug"

    def __init__(self, images: LabeledImages, *, parameters: int | None, batch_size: int, device: str) -> None:
        width = None if parameters is None else _width(images, parameters, device)
        plan = make_plan(images, DiffusionSettings(batch_size=batch_size), device, base_channels=width)
        self._plan = replace(plan, images_seen=ENDLESS_STEPS * batch_size)
        data = TrainingData.of(images, device)
        self._state = new_state(self._plan, device, seed=0)
        self._steps = train(self._state, data, self._plan, seed=0)
        self._generator = PixelGenerator(
            classes=images.classes,
            weights_sha256="",
            denoiser=for_inference(self._state.averaged, device),
            normalization=data.normalization,
        )
        self.parameters = count_parameters(plan)

    def step(self, progress: float = 0.5) -> None:
        """One training step, from drawing the batch to the moving average."""
        next(self._steps)

    @torch.no_grad()
    def evaluate(self, batch_size: int) -> None:
        """Runs the network once."""
        network, device = self._plan.network, self._generator.device
        x = torch.zeros(batch_size, network.channels, *network.image_size, device=device)
        labels = torch.zeros(batch_size, dtype=torch.int64, device=device)
        with torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext():
            self._state.averaged(x, torch.ones(batch_size, device=device), labels)

    def sample(self, labels: NDArray[np.int64], steps: int) -> NDArray[np.uint8]:
        """Samples as many images as there are labels; of one class, as `diffaug generate` does."""
        return self._generator.sample(self._generator.classes[labels[0]], range(len(labels)), num_inference_steps=steps)


def count_parameters(plan: Plan) -> int:
    """Parameters of a plan's network, which is not really built."""
    with torch.device("meta"):
        denoiser = Denoiser(plan.network)
    return sum(parameter.numel() for parameter in denoiser.parameters())


def planned_parameters(images: LabeledImages, settings: DiffusionSettings, device: str) -> int:
    """Parameters of the network that diffaug itself chooses for these images."""
    return count_parameters(make_plan(images, settings, device))


def draw(augmenter: diffaug.DiffusionAugmenter, per_class: int, seed: int = 0) -> LabeledImages:
    """Unfiltered samples of a fitted augmenter, equally many of each class, as its configuration says to sample."""
    generator, settings = augmenter.generator_, augmenter.config.synthesis
    low, high = generator.usual.settled(settings).guidance_range
    chunks = [
        generator.sample(
            name,
            range(start, min(start + CHUNK, per_class)),
            seed=seed,
            solver=settings.solver,
            num_inference_steps=settings.num_inference_steps,
            guidance_method=settings.guidance_method,
            guidance_scale=(low + high) / 2,
        )
        for name in generator.classes
        for start in range(0, per_class, CHUNK)
    ]
    return labelled(np.concatenate(chunks), generator.classes)


def labelled(pixels: NDArray[np.uint8], classes: tuple[str, ...]) -> LabeledImages:
    """Images that lie class after class, equally many of each."""
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), len(pixels) // len(classes))
    return LabeledImages(pixels, labels, classes, tuple(map(str, range(len(pixels)))))


def _width(images: LabeledImages, parameters: int, device: str) -> int:
    def distance(width: int) -> int:
        plan = make_plan(images, DiffusionSettings(), device, base_channels=width)
        return abs(count_parameters(plan) - parameters)

    widths = [width for width in WIDTHS if width <= WIDTHS.start or width**2 <= 4 * parameters]
    return min(widths, key=distance)
