"""The trained generator as a folder: `config.json`, `model.safetensors` and a model card. Nothing is unpickled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor

from diffaug import __version__, seeding, storage
from diffaug.diffusion.denoiser import Denoiser, guided
from diffaug.diffusion.normalization import Normalization
from diffaug.diffusion.process import karras_sigmas
from diffaug.diffusion.samplers import dpm_solver_2m
from diffaug.diffusion.unet import NetworkConfig
from diffaug.errors import DamagedError, UsageError

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Generator:
    """A class-conditional generator that is ready to sample.

    Attributes:
        denoiser: The network with averaged weights, in evaluation mode.
        normalization: Maps pixels to what the network sees and back.
        classes: Class names; a label is a position here.
        weights_sha256: Names the weights; part of every sample's provenance.
    """

    denoiser: Denoiser
    normalization: Normalization
    classes: tuple[str, ...]
    weights_sha256: str

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu") -> Generator:
        """Loads a generator, or the generator of a study.

        Raises:
            UsageError: There is none.
            DamagedError: A file was changed since it was written.
        """
        path = Path(path)
        folder = path / "generator" if (path / "generator").is_dir() else path
        if storage.committed_facts(folder, verify=True) is None:
            raise UsageError("there is no finished generator here", where=path, fix="diffaug fit DATA")
        config = storage.read_json(folder / CONFIG)
        if config["schema_version"] != SCHEMA_VERSION:
            raise UsageError("this generator was written by another version of diffaug", where=folder)
        denoiser = Denoiser(_network_from(config["network"]))
        try:
            denoiser.load_state_dict(load_file(folder / WEIGHTS))
        except RuntimeError as error:
            raise DamagedError("the weights don't fit the configuration", where=folder / WEIGHTS) from error
        normalization = Normalization(tuple(config["mean"]), tuple(config["std"]))
        sha256 = storage.sha256_file(folder / WEIGHTS)
        return cls(for_inference(denoiser, device), normalization, tuple(config["classes"]), sha256)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images in px."""
        return self.denoiser.config.image_size

    @property
    def channels(self) -> int:
        """1 grey, 3 RGB."""
        return self.denoiser.config.channels

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self.denoiser.parameters()).device

    def sample(
        self,
        label: str | int,
        indices: Sequence[int],
        *,
        seed: int = 0,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 12,
    ) -> NDArray[np.uint8]:
        """Samples images of one class from noise.

        Image i depends on (seed, class, i) alone. On one machine the same call gives the same bytes; another
        set of `indices` may change the last bit, since convolutions round differently by batch size.

        Args:
            label: Class name or index.
            indices: Numbers of the images; each stands for one image.
            seed: Seed of the whole series.
            guidance_scale: 1 samples the class as learnt; larger values trade diversity for typicality.
            num_inference_steps: Solver steps; each costs one pass of the network, two with guidance.

        Returns:
            uint8 (N, H, W, C); an image with a non-finite value comes back all zero.
        """
        return self.decode(
            self.sample_normalised(
                label, indices, seed=seed, guidance_scale=guidance_scale, num_inference_steps=num_inference_steps
            )
        )

    def sample_normalised(
        self, label: str | int, indices: Sequence[int], *, seed: int, guidance_scale: float, num_inference_steps: int
    ) -> Tensor:
        """Samples as `sample` does and returns what the network made, (N, C, H, W), possibly not finite."""
        class_index = self.class_index(label)
        noise = _class_noise(self, seed, class_index, indices)
        labels = torch.full((len(noise),), class_index, device=self.device)
        denoise = guided(self.denoiser, labels, self.denoiser.config.null_label, guidance_scale)
        return dpm_solver_2m(denoise, noise, karras_sigmas(num_inference_steps))

    def decode(self, images: Tensor) -> NDArray[np.uint8]:
        """Normalised images (N, C, H, W) to uint8 (N, H, W, C)."""
        return self.normalization.to_pixels(images)

    def class_index(self, label: str | int) -> int:
        """The index of a class given by name or index.

        Raises:
            UsageError: There is no such class.
        """
        if isinstance(label, str) and label in self.classes:
            return self.classes.index(label)
        if isinstance(label, int) and 0 <= label < len(self.classes):
            return label
        raise UsageError(f"the generator knows no class {label!r}", fix=f"classes: {', '.join(self.classes)}")


def _class_noise(generator: Generator, seed: int, class_index: int, indices: Sequence[int]) -> Tensor:
    """The noise of samples `indices` of a class, standard normal (N, C, H, W), on the generator's device."""
    shape = (generator.channels, *generator.image_size)
    noise = [
        seeding.numpy_generator(seed, "sample", class_index, index).standard_normal(shape, dtype=np.float32)
        for index in indices
    ]
    return torch.from_numpy(np.stack(noise)).to(generator.device)


def for_inference(denoiser: Denoiser, device: str) -> Denoiser:
    """Moves a denoiser to `device`, in evaluation mode and the fast memory format."""
    denoiser.to(device=device)
    denoiser.to(memory_format=torch.channels_last)
    return denoiser.eval().requires_grad_(False)


def write_generator(
    folder: Path,
    *,
    network: NetworkConfig,
    weights: Mapping[str, Tensor],
    normalization: Normalization,
    counts: Mapping[str, int],
    training: Mapping[str, Any],
) -> None:
    """Writes the artifact's files into `folder`; committing it is the caller's part.

    Args:
        folder: An empty directory.
        network: The shape of the network.
        weights: The averaged weights by name.
        normalization: As used in training.
        counts: Training images of each class, in class order.
        training: Facts for the model card: images seen, seconds, loss, seed.
    """
    config = {
        "schema_version": SCHEMA_VERSION,
        "diffaug": __version__,
        "classes": list(counts),
        "train_counts": dict(counts),
        "network": asdict(network),
        "mean": normalization.mean,
        "std": normalization.std,
        "training": dict(training),
    }
    storage.write_json(folder / CONFIG, config)
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    storage.write_bytes(folder / WEIGHTS, save(contiguous))
    storage.write_text(folder / CARD, _model_card(network, counts, training))


def _network_from(stored: Mapping[str, Any]) -> NetworkConfig:
    return NetworkConfig(
        **{
            **stored,
            "image_size": tuple(stored["image_size"]),
            "channel_multipliers": tuple(stored["channel_multipliers"]),
        }
    )


def _model_card(network: NetworkConfig, counts: Mapping[str, int], training: Mapping[str, Any]) -> str:
    height, width = network.image_size
    rows = "\n".join(f"| {name} | {count} |" for name, count in counts.items())
    facts = "\n".join(f"- {name}: {value}" for name, value in training.items())
    return (
        f"# Class-conditional image generator\n\n"
        f"A diffusion model that diffaug {__version__} trained from scratch on {sum(counts.values())} images of "
        f"{width} x {height} px, {network.channels} channel(s). Made to augment the training set of a classifier "
        f"of the same classes, and for nothing else.\n\n"
        f"Its images can repeat training images, above all in classes with few of them. Treat model and images "
        f"with the care that the training images need.\n\n"
        f"| class | training images |\n|---|---|\n{rows}\n\n{facts}\n"
    )
