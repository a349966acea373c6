"""The generator's model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffaug._version import __version__
from diffaug.diffusion.network.unet import NetworkConfig


def model_card(network: NetworkConfig, counts: Mapping[str, int], training: Mapping[str, Any]) -> str:
    """Markdown that says what the model is, what it was trained on, and how to treat it.

    Args:
        network: The shape of the network.
        counts: Training images of each class, by name.
        training: Facts by name.
    """
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
