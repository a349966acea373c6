"""What hardly anyone sets, of all stages."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from diffaug.configuration.base import BatchShare, Positive, PositiveInt, Settings


class AdvancedSettings(Settings):
    """Settings that hardly anyone needs to change."""

    base_channels: Annotated[int, Field(ge=16, multiple_of=16)] | None = None
    """Channels of the UNet's first level. Default: given by the preset."""
    checkpoint_seconds: Positive = 60.0
    """Time between two checkpoints, each with a grid of samples, in seconds."""
    chunk_size: PositiveInt = 32
    """Number of images sampled together; the images of the pool depend on it."""
    pilot: bool = True
    """First train a generator without a third of the images, the pilot, to choose the training length, and the amount
    of synthetic images, on images that it has not seen. false: train as long as minutes or images_seen say."""
    holdout: Annotated[float, Field(ge=0, lt=0.5)] = 0.05
    """Fraction of each class of 20 images or more that is not trained on, to detect memorization."""
    stop_on_copying: bool = True
    """End the training when the generator begins to copy training images, with the weights from before. false: only
    warn."""
    pipeline_size: Annotated[int, Field(ge=8, multiple_of=8)] | None = None
    """Side in px at which a pretrained pipeline works; smaller is faster and coarser. Default: that of its training."""
    background_class: str | None = None
    """Class whose real images objects of other classes are painted into. Default: the most frequent one."""
    filter_max_steps: PositiveInt | None = None
    """Optimizer steps of each classifier behind the filters. Default: chosen from the data."""
    synthetic_fraction_grid: Annotated[tuple[BatchShare, ...], Field(min_length=1)] = (0.0, 0.15, 0.3, 0.5)
    """Synthetic fractions to choose from; 0 means none."""
