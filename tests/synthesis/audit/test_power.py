"""Worlds of classifiers that say what the pixels tell them, so that the truth is known."""

import re
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from diffaug.classifiers.encoders.trained import ClassifierOutput
from diffaug.configuration.settings import SynthesisSettings
from diffaug.data.images import LabeledImages
from diffaug.data.splits import ALWAYS_TRAINED_ON, assign_folds
from diffaug.similarity.intervals import Share
from diffaug.synthesis.audit.power import measure_power
from diffaug.synthesis.filters.crossfit import ReferenceFeatures
from diffaug.synthesis.filters.held_out import HeldOut, judged_by
from diffaug.synthesis.filters.scores import Calibration

CLASSES = ("a", "b", "c")
FOLDS = 3


@dataclass(frozen=True)
class Reader:
    """Classifiers that read the class from the mean of an image: below 80, below 160, or above."""

    def predict(self, pixels) -> list[ClassifierOutput]:
        means = pixels.reshape(len(pixels), -1).mean(axis=1)
        logs = -np.abs(means[:, None] - np.array([40, 120, 200])).astype(np.float32) / 10
        features = np.stack([means, np.full(len(means), 100)], axis=1).astype(np.float32)
        return [ClassifierOutput(features, logs)] * FOLDS


def images(shown, labels, seed=0) -> LabeledImages:
    """Images that show the classes `shown`."""
    noise = np.random.default_rng(seed).integers(-30, 30, (len(shown), 8, 8, 1))
    pixels = (np.array([40, 120, 200])[np.array(shown, int)][:, None, None, None] + noise).astype(np.uint8)
    return LabeledImages(pixels, np.array(labels, np.int64), CLASSES, tuple(f"{n}.png" for n in range(len(shown))))


def calibrated(real: LabeledImages) -> SimpleNamespace:
    folds, outputs = assign_folds(real.labels, np.arange(len(real)), 0), Reader().predict(real.pixels)
    references = ReferenceFeatures((outputs[0].features,) * FOLDS, (real.labels,) * FOLDS)
    held = folds != ALWAYS_TRAINED_ON
    return SimpleNamespace(
        models=Reader(),
        held_out=HeldOut(real.ids, real.labels, folds, judged_by(outputs, folds)),
        references=references,
        distance=Calibration(np.zeros(held.sum(), np.float32), real.labels[held]),
        encoder_name="reader",
    )


REAL = [0] * 40 + [1] * 20 + [2] * 5
SAMPLES = [0] * 30 + [1] * 30 + [2] * 30
ALL_PASSED, NONE_DRAWN = [Share(30, 40)] * 3, [Share(0, 0)] * 3
ALTERNATING = np.arange(90) % 3


@pytest.mark.parametrize(
    ("shown", "samples", "variations", "blind"),
    [
        (REAL, SAMPLES, SAMPLES, {}),
        (REAL, SAMPLES, [], {}),
        (ALTERNATING[:65], SAMPLES, [], dict.fromkeys(CLASSES, "can't tell its real images")),  # shuffled labels
        (REAL, [0] * 30 + [1] * 30 + [0] * 20 + [2] * 10, [], {"c": "10 of 30 (33%, 95 % interval 19% to 51%)"}),
        (REAL, [0] * 26 + [1] * 4 + SAMPLES[30:], [], {}),  # 4 of 30 may be chance
        (REAL, SAMPLES, [0] * 30 + [0] * 15 + [1] * 15 + [2] * 30, {"b": "only 15 of 30"}),
    ],
    ids=["all well", "no variations", "shuffled labels", "samples of another class", "few wrong", "class lost"],
)
def test_blind_classes_are_named_with_their_reason(shown, samples, variations, blind) -> None:
    real = images(shown, REAL)
    own = [np.flatnonzero(real.labels == label)[turn % 5] for label in range(3) for turn in range(30)]
    pool = images([*samples, *variations], (SAMPLES * 2)[: len(samples) + len(variations)], seed=1)
    origins = ["sampled"] * 90 + ["variation"] * len(variations)
    sources = [""] * 90 + [real.ids[position] for position in own][: len(variations)]
    found = measure_power(calibrated(real), real, pool, origins, sources, passed=ALL_PASSED, seed=0).classes
    assert {name: power.blind for name, power in found.items() if power.blind}.keys() == blind.keys()
    for name, reason in blind.items():
        assert reason in found[name].blind[0]


def test_a_class_of_one_image_is_blind_and_an_empty_pool_is_described() -> None:
    real = images([0, 0, 0, 0, 1, 1, 1, 2], [0, 0, 0, 0, 1, 1, 1, 2])
    power = measure_power(calibrated(real), real, images([], []), [], [], passed=NONE_DRAWN, seed=0)
    assert power.unlearned == ()
    assert power.classes["a"].recognized == Share(4, 4)
    assert power.classes["a"].blind == ()
    assert power.classes["c"].recognized == Share(0, 0)
    assert "none of its real images could be held out" in power.classes["c"].blind[0]
    assert power.classes["c"].confirmed == power.classes["c"].kept_class == Share(0, 0)


@pytest.mark.parametrize("only_varies", [False, True])
def test_no_noise_of_an_untrained_generator_is_advised_where_variations_lose_the_class(only_varies) -> None:
    real = images(REAL, REAL)
    pool = images([1] * 30, [0] * 30, seed=1)
    power = measure_power(
        calibrated(real),
        real,
        pool,
        ["variation"] * 30,
        ["0.png"] * 30,
        passed=NONE_DRAWN,
        seed=0,
        only_varies=only_varies,
    )
    (reason,) = power.classes["a"].blind
    assert ("variation_fraction=0" in reason, "--route pipeline" in reason) == (not only_varies, only_varies)


def test_a_variation_of_an_image_that_is_not_recognized_says_nothing() -> None:
    real = images([1, *REAL[1:]], REAL)  # the first image of "a" looks like "b"
    pool = images([0] * 4, [0] * 4)
    sources = ["0.png", "0.png", "1.png", ""]
    power = measure_power(calibrated(real), real, pool, ["variation"] * 4, sources, passed=NONE_DRAWN, seed=0)
    assert power.classes["a"].kept_class == Share(1, 1)
    assert power.classes["a"].confirmed == Share(0, 0)


def test_images_on_real_backgrounds_count_apart_and_are_advised_where_samples_fail() -> None:
    real = images(REAL, REAL)
    pool = images([*SAMPLES[:60], *[0] * 20, *[1] * 20], [*SAMPLES[:60], *[2] * 20, *[1] * 20], seed=1)
    origins = ["sampled"] * 60 + ["crossed"] * 20 + ["transplant"] * 20
    sources = [""] * 60 + ["0.png"] * 40
    passed = [Share(30, 40), Share(2, 40), Share(2, 40)]
    found = measure_power(calibrated(real), real, pool, origins, sources, passed=passed, seed=0).classes
    assert [found[name].on_background for name in CLASSES] == [Share(0, 0), Share(20, 20), Share(0, 20)]
    assert [found[name].confirmed.total for name in CLASSES] == [30, 30, 0]
    assert all(power.kept_class == Share(0, 0) for power in found.values())
    advised = {name for name, power in found.items() if any("transplant_fraction=1" in text for text in power.blind)}
    assert advised == {"b"}
    advice = next(text for text in found["b"].blind if "transplant_fraction=1" in text)
    SynthesisSettings(**{"variation_fraction": 0.5, **dict(re.findall(r"synthesis\.(\w+)=(\d)", advice))})
    assert found["c"].blind


@pytest.mark.parametrize(
    ("passed", "blind", "is_unlearned"),
    [((2, 2, 30), ("a", "b"), False), ((2, 2, 2), CLASSES, True), ((15, 15, 15), (), False)],
)
def test_classes_whose_samples_hardly_pass_are_blind(passed, blind, is_unlearned) -> None:
    """What passes is chosen by the classifiers' own opinion, so that they confirm it proves nothing."""
    real, pool = images(REAL, REAL), images(SAMPLES, SAMPLES, seed=1)
    shares = [Share(count, 40) for count in passed]
    found = measure_power(calibrated(real), real, pool, ["sampled"] * 90, [""] * 90, passed=shares, seed=0)
    assert tuple(name for name, power in found.classes.items() if power.blind) == blind
    assert bool(found.unlearned) == is_unlearned
