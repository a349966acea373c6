"""Images of three classes, and classifiers whose errors are known."""

import numpy as np
from sklearn.linear_model import LogisticRegression

from diffaug.data.images import LabeledImages

SIZE = 6


def drawn(counts, seed, prefix, *, labels_are_noise=False):
    """Images of three classes that differ faintly in brightness of one third of the picture."""
    random = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2], counts).astype(np.int64)
    shown = random.permutation(labels) if labels_are_noise else labels
    pixels = random.normal(128, 40, (len(labels), SIZE, SIZE, 1))
    for image, label in zip(pixels, shown, strict=True):
        image[2 * label : 2 * label + 2] += 25
    ids = tuple(f"{prefix} {number}" for number in range(len(labels)))
    return LabeledImages(pixels.clip(0, 255).astype(np.uint8), labels, ("a", "b", "c"), ids)


def flat(pixels):
    return pixels.reshape(len(pixels), -1) / 64 - 2


class Linear:
    """Logistic regression on pixels, which heeds draws."""

    name = "linear"

    def __init__(self):
        self.done = []

    def fit_predict(self, training, pixels, *, recipe, seed, device):
        self.done.append(training)
        images = training.images
        model = LogisticRegression(C=0.05, max_iter=500).fit(flat(images.pixels), images.labels, training.importances)
        return model.predict_proba(flat(pixels)).astype(np.float32)


class Scripted(Linear):
    """Errs in so many of each ten images of a class as `errors(training)` says, the same ones each time."""

    def __init__(self, images, errors):
        super().__init__()
        self.errors = errors
        self.labels, self.ranks, seen = {}, {}, [0, 0, 0]
        for pixels, label in zip(images.pixels, images.labels.tolist(), strict=True):
            self.labels[pixels.tobytes()], self.ranks[pixels.tobytes()] = label, seen[label]
            seen[label] += 1

    def fit_predict(self, training, pixels, *, recipe, seed, device):
        self.done.append(training)
        errors = self.errors(training)
        true = np.array([self.labels.get(image.tobytes(), 0) for image in pixels])
        ranks = np.array([self.ranks.get(image.tobytes(), 0) for image in pixels])
        by_class = np.broadcast_to(errors, 3)
        wrong = ranks % 10 < by_class[true]
        return np.eye(3, dtype=np.float32)[np.where(wrong, (true + 1) % 3, true)]


def draws_classes_equally(training):
    draws = training.draw_probabilities
    return draws is not None and np.ptp(draws[~training.is_synthetic]) > 1e-9


def synthetic_share(training):
    """The share of the draws that are synthetic images."""
    if not training.is_synthetic.any():
        return 0.0
    return float(training.draw_probabilities[training.is_synthetic].sum())
