"""Masks and real images for transplants: objects painted into images of another class."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from diffaug.configuration.settings import SynthesisSettings
from diffaug.data.images import LabeledImages, ObjectMasks
from diffaug.synthesis.pool.transplants import Backgrounds

HEIGHT, WIDTH = 9, 7


def labeled(images, labels=None) -> LabeledImages:
    """Images of the classes x and y, named by their number; all of x by default."""
    labels = np.zeros(len(images), np.int64) if labels is None else labels
    return LabeledImages(np.stack(images), labels, ("x", "y"), tuple(map(str, range(len(images)))))


def rectangle(top: int, left: int, bottom: int, right: int, shape=(HEIGHT, WIDTH)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.fixture
def backgrounds(sources: LabeledImages) -> Backgrounds:
    """Masks of the three images of "a", one of them empty; "b" is the background."""
    masks = np.stack([rectangle(0, 0, 1, 1, (5, 6)), rectangle(0, 0, 0, 0, (5, 6)), rectangle(4, 4, 5, 6, (5, 6))])
    return Backgrounds(1, ObjectMasks(sources.ids[:3], masks), np.arange(len(sources)))


@pytest.fixture
def painting(maker, backgrounds):
    """A maker of which half of each chunk of "a" are transplants."""
    settings = SynthesisSettings(num_inference_steps=2, transplant_fraction=0.5, variation_fraction=0.0)
    return replace(maker, settings=settings, backgrounds=backgrounds)


def pixels_of(chunk) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(content)))[..., None] for content in chunk["png"]])
