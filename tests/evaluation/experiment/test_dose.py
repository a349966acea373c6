"""The dose is zero where synthetic images are noise, positive where they are new and true, and never a look at test."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from diffaug.configuration.settings import EvaluationSettings
from diffaug.data.images import LabeledImages
from diffaug.errors import DataError
from diffaug.evaluation.experiment import dose
from diffaug.evaluation.experiment.arms import Dose
from diffaug.evaluation.experiment.dose import DoseChoice, Measured, base_of_the_good, choose_dose, smallest_of_the_good
from diffaug.evaluation.experiment.experiment import Experiment
from diffaug.evaluation.experiment.synthetic import SyntheticPool

SETTINGS = EvaluationSettings(arms=("real only", "oversampling", "best real + synthetic"), num_seeds=3)
SIZE = 6


class Linear:
    """Logistic regression on pixels, which honours draws and weights."""

    name = "linear"

    def __init__(self):
        self.done = []

    def fit_predict(self, training, pixels, *, recipe, seed, device):
        self.done.append(training)
        images = training.images
        draws = training.draw_probabilities
        weights = np.ones(len(images)) if draws is None else draws * len(images)
        model = LogisticRegression(C=0.05, max_iter=500).fit(flat(images.pixels), images.labels, weights)
        return model.predict_proba(flat(pixels)).astype(np.float32)


def flat(pixels):
    return pixels.reshape(len(pixels), -1) / 64 - 2


def erring(pixels, errors):
    """The class that each image shows, but for so many of every ten."""
    shown = flat(pixels).reshape(len(pixels), 3, -1).mean(axis=2).argmax(axis=1)
    answers = np.where(np.arange(len(pixels)) % 10 < errors, (shown + 1) % 3, shown)
    return np.eye(3, dtype=np.float32)[answers]


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


def pool_of(images, nearest=None, source=None):
    unknown = ("",) * len(images)
    return SyntheticPool(images, nearest or unknown, source or unknown)


@pytest.fixture
def make(tmp_path):
    def make(pool, settings=SETTINGS, *, counts=(60, 12, 6), groups=None, directory=tmp_path, world=0, **options):
        train = drawn(counts, world, "train")
        given = np.arange(len(train)) if groups is None else groups
        return Experiment(
            train,
            drawn((5, 5, 5), 1, "test"),
            [pool],
            settings,
            seed=world,
            device="cpu",
            directory=directory,
            groups=given,
            **{"classifier": Linear(), **options},
        )

    return make


FRESH = pool_of(drawn((0, 60, 60), 2, "fresh"))


def test_new_and_true_images_get_a_share_and_wrong_ones_none(make, tmp_path):
    """Few validation images make single choices uncertain, so four worlds must agree by and large."""
    fresh, noise = [], []
    for seed in range(10, 14):
        true = pool_of(drawn((0, 60, 60), seed + 90, "fresh"))
        wrong = pool_of(drawn((60, 60, 60), seed + 50, "noise", labels_are_noise=True))
        for pool, shares in [(true, fresh), (wrong, noise)]:
            choice = choose_dose(make(pool, counts=(60, 30, 15), world=seed, directory=tmp_path / str(seed)))
            assert (choice.dose.share == 0) == (max(choice.curve, key=lambda one: one.mean).dose.share == 0)
            shares.append(choice.dose.share)
    assert sum(share > 0 for share in fresh) == 4
    assert sum(share == 0 for share in noise) >= 3


def test_the_arm_that_goes_best_with_synthetic_images_gets_all_doses_and_zero_repeats_its_figure(make):
    choice = choose_dose(make(FRESH))
    arms = ["real only", "oversampling"]
    assert [one.arm for one in choice.real] == [one.arm for one in choice.mixed] == arms
    base = base_of_the_good(choice.real, choice.mixed, choice.folds)
    assert {one.arm for one in choice.curve} == {base.arm}
    assert choice.curve[0].mean == choice.real[arms.index(base.arm)].mean
    assert choice.base == max((*choice.real, *choice.curve), key=lambda one: one.mean).arm


@pytest.mark.parametrize(
    ("alone", "means", "sd", "base"),
    [
        (0.8, [0.9, 0.89, 0.91], 0.04, "oversampling"),  # within one standard error of the best, 0.023
        (0.8, [0.9, 0.89, 0.91], 0.03, "balanced softmax"),
        (0.89, [0.9, 0.89, 0.91], 0.04, "balanced softmax"),  # oversampling with synthetic images is no gain here
        (0.95, [0.9, 0.89, 0.91], 0.04, "balanced softmax"),
        (0.8, [0.92, 0.93, 0.91], 0.0, "oversampling"),
        (0.8, [0.92, 0.92, 0.91], 0.0, "oversampling"),
        (0.8, [0.92, None, 0.91], 0.04, "real only"),
    ],
)
def test_of_arms_that_are_about_as_good_one_that_draws_classes_equally_often_is_built_on(alone, means, sd, base):
    arms = ("real only", "oversampling", "balanced softmax")
    mixed = [Measured(arm, Dose(0.3), mean, sd) for arm, mean in zip(arms, means, strict=True) if mean is not None]
    assert base_of_the_good([Measured("balanced softmax", Dose(0.0), alone, sd)], mixed, 3).arm == base


@pytest.mark.parametrize(
    ("alone", "means", "sd", "share"),
    [
        (0.8, [0.8, 0.88, 0.89, 0.9], 0.04, 0.15),  # all within one standard error, 0.023
        (0.8, [0.8, 0.85, 0.89, 0.9], 0.04, 0.3),
        (0.8, [0.8, 0.85, 0.86, 0.9], 0.04, 0.5),
        (0.895, [0.8, 0.88, 0.89, 0.9], 0.04, 0.5),  # smaller doses are no better than nothing
        (0.9, [0.8, 0.88, 0.89, 0.9], 0.04, 0.0),
        (0.8, [0.8, 0.9, 0.9, 0.9], 0.0, 0.15),
    ],
)
def test_of_doses_that_are_about_as_good_the_smallest_is_taken(alone, means, sd, share):
    curve = [Measured("a", Dose(s), mean, sd) for s, mean in zip((0.0, 0.15, 0.3, 0.5), means, strict=True)]
    assert smallest_of_the_good([Measured("b", Dose(0.0), alone, sd), curve[0]], curve, 3).dose.share == share


def test_an_arm_that_is_best_alone_is_taken_alone_when_no_mixture_beats_it(make):
    class Scripted(Linear):
        """Never errs when trained on images as found, often with synthetic ones, and oftener in any other way."""

        def fit_predict(self, training, pixels, **options):
            mixed, as_found = training.is_synthetic.any(), training.draw_probabilities is None
            return erring(pixels, 0 if as_found else 3 if mixed else 5)

    choice = choose_dose(make(FRESH, classifier=Scripted()))
    assert (choice.base, choice.dose) == ("real only", Dose(0.0))


class Oracle(Linear):
    """Knows every image; without synthetic images it misses half of "c", with them a quarter of "b".

    Args:
        images: What it knows.
        blames_b: Whether it is the synthetic images of "b" that make it miss some, not those of any class.
    """

    def __init__(self, images, *, blames_b):
        super().__init__()
        self.labels = {pixels.tobytes(): label for pixels, label in zip(images.pixels, images.labels, strict=True)}
        self.blames_b = blames_b

    def fit_predict(self, training, pixels, **options):
        self.done.append(training)
        shown = set(training.images.labels[training.is_synthetic].tolist())
        misses_b = 1 in shown if self.blames_b else bool(shown)
        true = np.array([self.labels[image.tobytes()] for image in pixels])
        nth = np.arange(len(true))
        missed = (true == 2) & (nth % 2 == 0) & (not shown) | (true == 1) & (nth % 4 == 0) & misses_b
        return np.eye(3, dtype=np.float32)[np.where(missed, 0, true)]


@pytest.mark.parametrize("blames_b", [True, False])
def test_a_class_that_synthetic_images_made_worse_goes_without_if_that_helps(make, blames_b):
    classifier = Oracle(drawn((60, 12, 6), 0, "train"), blames_b=blames_b)
    steps = []
    choice = choose_dose(make(FRESH, classifier=classifier), lambda *step: steps.append(step))
    (fewer,) = choice.finer
    assert fewer.dose.without == ("b",)
    assert choice.dose == Dose(0.15, without=("b",) if blames_b else ())
    assert (fewer.mean == 1.0) == blames_b
    assert steps[-1] == (21, 21)
    assert choice.to_dict()["finer"][0]["without"] == ["b"]


class Scripted(Linear):
    """Errs least with what is told: a loss weight of a half, or few synthetic images of "c" for its real ones."""

    def __init__(self, likes):
        super().__init__()
        self.likes = likes

    def fit_predict(self, training, pixels, **options):
        synthetic = training.is_synthetic
        counts = np.bincount(training.images.labels[synthetic], minlength=3)
        is_liked = {
            "weight": training.loss_weights is not None and training.loss_weights.min() == 0.5,
            "amount": 0 < counts[2] <= 3 * (training.images.labels[~synthetic] == 2).sum(),
            "neither": False,
        }[self.likes]
        return erring(pixels, 0 if is_liked else 2 if synthetic.any() else 5)


@pytest.mark.parametrize(
    ("likes", "weight", "ratio"), [("weight", 0.5, inf), ("amount", 1.0, 3.0), ("neither", 1.0, inf)]
)
def test_a_thorough_choice_tries_half_the_weight_and_few_for_each_real_image(make, likes, weight, ratio):
    steps = []
    experiment = make(FRESH, SETTINGS.model_copy(update={"thorough": True}), classifier=Scripted(likes))
    choice = choose_dose(experiment, lambda *step: steps.append(step))
    assert (choice.dose.weight, choice.dose.max_ratio) == (weight, ratio)
    share = choice.dose.share
    assert [one.dose for one in choice.finer if not one.dose.without] == [Dose(share, 0.5), Dose(share, 1.0, 3.0)]
    assert steps[-1][0] == steps[-1][1] == 3 * (2 + 2 + 2 + len(choice.finer))


def test_a_finished_choice_is_read_and_progress_counts_every_training_once(make):
    steps = []
    first = make(FRESH)
    choice = choose_dose(first, lambda done, total: steps.append((done, total)))
    assert len(first.classifier.done) == 3 * (2 + 2 + 2)
    assert steps[-1] == (18, 18) and {total for _, total in steps} == {18}
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    again = make(FRESH)
    assert choose_dose(again) == choice
    assert again.classifier.done == []


def test_each_image_is_left_out_once_with_its_unit_and_the_synthetic_ones_like_it(make):
    groups = np.repeat(np.arange(39), 2)
    train = drawn((60, 12, 6), 0, "train")
    images = drawn((0, 30, 30), 2, "fresh")
    nearest = tuple(train.ids[i % 78] for i in range(60))
    source = tuple(train.ids[(7 * i) % 78] if i % 2 else "" for i in range(60))
    experiment = make(pool_of(images, nearest, source), groups=groups)
    choose_dose(experiment)
    unit_of = dict(zip(train.ids, groups.tolist(), strict=True))
    related = dict(zip(images.ids, zip(nearest, source, strict=True), strict=True))
    left_out = []
    for training in experiment.classifier.done:
        real = {name for name, fake in zip(training.images.ids, training.is_synthetic, strict=True) if not fake}
        missing = set(train.ids) - real
        assert not {unit_of[name] for name in missing} & {unit_of[name] for name in real}
        assert set(training.images.labels[~training.is_synthetic]) == {0, 1, 2}
        used = set(training.images.ids) - real
        if used:
            assert used == {name for name, others in related.items() if not missing & set(others)}
        left_out.append(frozenset(missing))
    folds = set(left_out)
    assert len(folds) == 3 and sum(map(len, folds)) == 78 == len(frozenset.union(*folds))


def test_every_class_of_two_images_is_measured(make):
    experiment = make(FRESH, counts=(30, 2, 2))
    choose_dose(experiment)
    seen = [set(training.images.labels[~training.is_synthetic]) for training in experiment.classifier.done]
    assert all(labels == {0, 1, 2} for labels in seen)
    missing = [
        4 - (training.images.labels[~training.is_synthetic] > 0).sum() for training in experiment.classifier.done
    ]
    assert sum(missing[:3]) == 4


def test_a_share_that_is_set_is_not_chosen(make):
    settings = SETTINGS.model_copy(
        update={"share": 0.2, "synthetic_loss_weights": (0.5, 1.0), "max_synthetic_ratios": (3.0,)}
    )
    experiment = make(FRESH, settings)
    choice = choose_dose(experiment)
    assert choice.dose == Dose(0.2, 0.5, 3.0)
    assert (choice.base, choice.curve, len(experiment.classifier.done)) == ("oversampling", (), 6)


def test_a_share_that_is_set_is_added_to_the_arm_that_is_chosen(make, monkeypatch):
    monkeypatch.setattr(dose, "base_of_the_good", lambda alone, mixed, folds: min(mixed, key=lambda one: one.mean))
    choice = choose_dose(make(FRESH, SETTINGS.model_copy(update={"share": 0.2})))
    assert choice.base == min(choice.mixed, key=lambda one: one.mean).arm == "real only"


@pytest.mark.parametrize("arms", [("real only", "real + synthetic"), ("replay", "best real + synthetic")])
def test_nothing_to_choose_is_nothing_trained(make, arms):
    experiment = make(FRESH, SETTINGS.model_copy(update={"share": 0.2, "arms": arms}))
    choice = choose_dose(experiment)
    assert choice == DoseChoice("real only", Dose(0.2))
    assert (choice.to_dict()["chosen"]["share"], choice.to_dict()["folds"]) == (0.2, 0)
    assert experiment.classifier.done == []


def test_without_synthetic_images_the_dose_is_zero(make):
    choice = choose_dose(make(pool_of(drawn((0, 0, 0), 0, "none"))))
    assert (choice.base, choice.dose, choice.curve) == ("oversampling", Dose(0.0), ())


def test_of_equal_doses_the_smallest_wins(make):
    class Constant(Linear):
        def fit_predict(self, training, pixels, **options):
            return np.tile(np.float32([1, 0, 0]), (len(pixels), 1))

    settings = SETTINGS.model_copy(update={"shares": (0.5, 0.3, 0.0), "synthetic_loss_weights": (2.0, 1.0)})
    choice = choose_dose(make(FRESH, settings, classifier=Constant()))
    assert (choice.base, choice.dose) == ("real only", Dose(0.0))
    assert [(one.dose.share, one.dose.weight) for one in choice.curve] == [
        (0, 1),
        (0.3, 1),
        (0.3, 2),
        (0.5, 1),
        (0.5, 2),
    ]
    assert [one.mean for one in choice.curve] == pytest.approx([1 / 3] * 5)


def test_where_no_image_can_be_spared_the_share_must_be_given(make):
    with pytest.raises(DataError, match="no training image can be spared") as error:
        choose_dose(make(FRESH, counts=(1, 1, 1)))
    assert "evaluation.synthetic_fraction" in error.value.fix


def test_the_result_says_what_was_measured(make):
    choice = choose_dose(make(FRESH))
    content = choice.to_dict()
    assert content["base"] == "oversampling" and content["folds"] == 3
    assert content["chosen"] == {"share": choice.dose.share, "weight": 1.0, "max_ratio": None, "without": []}
    assert content["curve"][1].keys() == {"share", "weight", "max_ratio", "without", "mean", "sd"}
    assert content["real"][0]["balanced_accuracy"].keys() == {"mean", "sd"}
    assert "validation parts" in content["remark"]
    assert "not measured" in replace(choice, folds=0).to_dict()["remark"]
