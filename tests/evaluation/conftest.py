"""Tiny images and simulated arms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from diffaug.data.images import LabeledImages


@pytest.fixture
def make_images():
    """Noise images whose brightness grows with the class."""

    def make(counts, *, size=8, channels=1, seed=0, prefix="image"):
        random = np.random.default_rng(seed)
        labels = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
        noise = random.integers(0, 60, (len(labels), size, size, channels))
        pixels = (noise + 60 * labels[:, None, None, None]).astype(np.uint8)
        classes = tuple(f"class {i}" for i in range(len(counts)))
        return LabeledImages(pixels, labels, classes, tuple(f"{prefix} {i}" for i in range(len(labels))))

    return make


class SimulatedArms:
    """Right and wrong answers with images of varying difficulty, arms that differ on images, and varying seeds."""

    seed_sd = 0.5

    def __init__(self, seed, counts=(60, 40, 20, 15, 10, 5), seeds=5):
        self.random = np.random.default_rng(seed)
        self.labels = np.repeat(np.arange(len(counts)), counts)
        self.num_classes = len(counts)
        self.seeds = seeds
        self.base = np.linspace(2.0, 0.5, self.num_classes)

    def _logits(self, labels, effect, shared, own):
        return self.base[labels] + effect + 1.5 * shared + 0.5 * own

    def draw(self, effects):
        """Correctness (S, N) of one arm an effect, and each arm's chance of being right (N,) over all seeds."""
        count = len(self.labels)
        shared = self.random.normal(size=count)
        nodes, node_weights = np.polynomial.hermite_e.hermegauss(15)
        node_weights = node_weights / node_weights.sum()
        correct, chances = [], []
        for effect in effects:
            logits = self._logits(self.labels, effect, shared, self.random.normal(size=count))
            by_seed = self.seed_sd * self.random.normal(size=(self.seeds, self.num_classes))
            correct.append(self.random.random((self.seeds, count)) < expit(logits + by_seed[:, self.labels]))
            chances.append(node_weights @ expit(logits + self.seed_sd * nodes[:, None]))
        return correct, chances

    def balanced(self, values):
        """Mean over classes of the class means."""
        return np.mean([values[self.labels == c].mean() for c in range(self.num_classes)])

    def true_accuracy(self, effect):
        """Balanced accuracy over all seeds and all images that there could be."""
        spread = np.sqrt(1.5**2 + 0.5**2 + self.seed_sd**2)
        nodes, node_weights = np.polynomial.hermite_e.hermegauss(61)
        chances = expit(self.base[:, None] + effect + spread * nodes) @ node_weights / node_weights.sum()
        return chances.mean()


@pytest.fixture
def simulated_arms():
    return SimulatedArms
