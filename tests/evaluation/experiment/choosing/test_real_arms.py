from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from diffaug.classifiers.training_set import Augmentation
from diffaug.configuration.arms import Resources, default_arms
from diffaug.data.images import LabeledImages, UnlabeledImages
from diffaug.evaluation.experiment.arms import ARMS, PseudoLabeling
from diffaug.evaluation.experiment.choosing.choose import (
    choice_of,
    choose_real,
    needs_choice,
    planned_trainings,
)
from diffaug.evaluation.experiment.choosing.mixes import choose_mix
from diffaug.evaluation.experiment.trainings import Trainings, run_experiment
from tests.evaluation.experiment.choosing.worlds import Linear, Scripted, drawn, draws_classes_equally

DEFAULT = default_arms(Resources())
TRAIN = drawn((30, 12, 6), 0, "train")
GRID = (0.0, 0.15, 0.3, 0.5)


def way(training):
    """How the real images are trained on: the draw or the loss, and the augmentation."""
    draw = "classes" if draws_classes_equally(training) else "softmax" if training.log_prior is not None else "plain"
    return draw, str(training.augmentation)


def by_way(best, others=4, **errors):
    """Errs least in the best way; in others as the draw alone says."""
    return Scripted(TRAIN, lambda training: 0 if way(training) == best else errors.get(way(training)[0], others))


@pytest.mark.parametrize(
    ("best", "errors", "how"),
    [
        (("classes", "light"), {"classes": 3}, "classes drawn equally often, augmentation light"),
        (
            ("softmax", "trivial on half with MixUp"),
            {"softmax": 3},
            "balanced softmax, augmentation trivial on half with MixUp",
        ),
        (("plain", "none"), {}, "as found"),
    ],
)
def test_the_best_draw_gets_the_augmentation_that_is_best_with_it(make, best, errors, how):
    trainings = make(by_way(best, **errors), settings={"arms": DEFAULT})
    real = choose_real(trainings)
    tuned = next(one for one in real.measured if one.arm == "tuned augmentation")
    assert (tuned.how, tuned.mean) == (how, 1.0)
    assert real.measured[0].mean == 1.0 and real.num_folds == 3
    assert real.best.name == ("real only" if how == "as found" else "tuned augmentation")
    assert [one.mean for one in real.measured] == sorted((one.mean for one in real.measured), reverse=True)
    redrawn = 0 if best[1] == "none" else 3
    assert len(trainings.experiment.classifier.done) == 3 * 3 + 7 + 3 + 1 + redrawn


def test_another_draw_may_be_best_with_the_augmentation(make):
    """Without augmentation balanced softmax is best, with it classes drawn equally often."""
    errors = {("softmax", "none"): 2, ("softmax", "light"): 1, ("classes", "light"): 0}
    trainings = make(Scripted(TRAIN, lambda training: errors.get(way(training), 3)), settings={"arms": DEFAULT})
    assert choose_real(trainings).best.how == "classes drawn equally often, augmentation light"


def test_arms_that_are_not_compared_are_neither_trained_nor_built_on(make):
    trainings = make(
        by_way(("softmax", "none")), settings={"arms": ("real only", "oversampling", "best real + synthetic")}
    )
    real = choose_real(trainings)
    assert {arm.name for arm in real.arms} == {"real only", "oversampling"}
    assert {way(training)[0] for training in trainings.experiment.classifier.done} == {"plain", "classes"}


@pytest.mark.parametrize(
    ("arms", "needed"),
    [
        (("real only", "best real + synthetic"), False),
        (("real only", "oversampling", "real + synthetic"), False),
        (("real only", "oversampling", "best real + synthetic"), True),
        (("tuned augmentation", "real + synthetic"), True),
    ],
)
def test_nothing_is_trained_where_there_is_nothing_to_choose(make, arms, needed):
    trainings = make(settings={"arms": arms})
    assert needs_choice(trainings.experiment) == needed
    real = choose_real(trainings)
    assert bool(trainings.experiment.classifier.done) == bool(real.measured) == needed


def test_where_no_part_can_be_left_out_the_arms_stay_as_they_are(make):
    real = choose_real(make(counts=(1, 1, 1), pilot=False, settings={"arms": DEFAULT}))
    assert (real.best.name, real.measured) == ("tuned augmentation", ())


def test_a_first_answer_trains_no_network_to_choose(make):
    trainings = make(settings={"arms": None, "quick": True})
    assert choose_real(trainings).best.name == "balanced softmax"
    assert trainings.experiment.classifier.done == []


def test_a_first_answer_ranks_features_and_networks_on_one_part(make):
    noise = np.random.default_rng(0).normal(size=(48, 4)).astype(np.float32)
    settings = {"arms": ("real only", "pretrained features", "best real + synthetic"), "quick": True}
    features = {"train": noise, "test": noise[:6], "pool-0": noise[:1].repeat(60, axis=0)}
    encoder = SimpleNamespace(name="an encoder of noise")
    trainings = make(settings=settings, encoder=encoder, features=features, pilot=False)
    real = choose_real(trainings)
    assert [arm.name for arm in real.arms] == ["real only", "pretrained features"]
    assert len(trainings.experiment.classifier.done) == real.num_folds == 1


class Teaching(Linear):
    """Sure of bright thirds; with pseudo-labels of every class it makes no mistake, without it errs in a third."""

    def __init__(self, needs_balance):
        super().__init__()
        self.needs_balance = needs_balance

    def fit_predict(self, training, pixels, *, recipe, seed, device):
        self.done.append(training)
        shown = pixels.reshape(len(pixels), 3, -1).mean(axis=2).argmax(axis=1)
        labels = training.images.labels[[name.startswith("unlabeled") for name in training.images.ids]]
        has_learned = len(set(labels.tolist())) == 3
        guess = np.where((np.arange(len(shown)) % 3 == 0) & (not has_learned), (shown + 1) % 3, shown)
        confidence = np.where(guess == 2, 0.6 if self.needs_balance else 0.99, 0.99)[:, None]
        return np.where(np.eye(3)[guess], confidence, (1 - confidence) / 2).astype(np.float32)


def clear(counts, prefix):
    """Images whose brightest third is that of their class."""
    labels = np.repeat([0, 1, 2], counts)
    pixels = np.random.default_rng(len(prefix)).integers(0, 20, (len(labels), 6, 6, 1)).astype(np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[2 * label : 2 * label + 2] += 100
    return LabeledImages(pixels, labels, ("a", "b", "c"), tuple(f"{prefix} {n}" for n in range(len(labels))))


@pytest.mark.parametrize(
    ("needs_balance", "labeling"), [(True, PseudoLabeling(0.8, True)), (False, PseudoLabeling(0.8, False))]
)
def test_unlabeled_images_are_labeled_by_the_best_arm_and_the_labeling_is_chosen(make, needs_balance, labeling):
    arms = ("real only", "pseudo-labels", "best real + synthetic")
    images = clear((20, 20, 20), "unlabeled")
    unlabeled = UnlabeledImages(images.pixels, images.ids, np.ones(60))
    trainings = make(Teaching(needs_balance), settings={"arms": arms}, unlabeled=unlabeled, pilot=False)
    experiment = replace(trainings.experiment, train=clear((30, 12, 6), "train"), test=clear((3, 3, 3), "test"))
    trainings = Trainings(experiment)
    real = choose_real(trainings)
    assert real.best == replace(ARMS["pseudo-labels"], pseudo_labeling=labeling)
    choice = choice_of(real, choose_mix(trainings, real, GRID))
    experiment.classifier.done.clear()
    trials = {(one.arm, one.seed): one for one in run_experiment(experiment, choice)}
    assert (
        trials["pseudo-labels", 0].metrics["balanced_accuracy"]
        == 1.0
        > trials["real only", 0].metrics["balanced_accuracy"]
    )
    assert len(experiment.classifier.done) == 2 * (1 + 3)  # a teacher, and the three arms
    experiment.classifier.done.clear()
    assert len(list(run_experiment(experiment, choice))) == 6
    assert experiment.classifier.done == []


def test_no_choice_trains_on_an_unlabeled_image_that_shows_a_judged_one(make) -> None:
    images, arms = clear((20, 20, 20), "unlabeled"), ("real only", "pseudo-labels")
    groups = np.r_[0, np.arange(48, 48 + 59)]  # the first one shows the first training image
    unlabeled = UnlabeledImages(images.pixels, images.ids, np.ones(60), groups=groups)
    trainings = make(Teaching(False), settings={"arms": arms}, unlabeled=unlabeled, pilot=False)
    train = clear((30, 12, 6), "train")
    experiment = replace(trainings.experiment, train=train, test=clear((3, 3, 3), "test"), groups=np.arange(48))
    choose_real(Trainings(experiment))
    taught = [one for one in map(set, (done.images.ids for done in experiment.classifier.done)) if "unlabeled 1" in one]
    assert {("train 0" in one, "unlabeled 0" in one) for one in taught} == {(True, True), (False, False)}


def test_the_choice_records_how_each_arm_is_trained_and_the_plan_counts_what_is_trained(make):
    trainings = make(by_way(("softmax", "light"), softmax=3), settings={"arms": DEFAULT})
    planned = planned_trainings(trainings.experiment)
    real = choose_real(trainings)
    choice = choice_of(real, choose_mix(trainings, real, GRID))
    assert choice.arm("tuned augmentation").augmentation == Augmentation("light")
    assert choice.arm("real only") is ARMS["real only"]
    assert (choice.augmentation, choice.base, choice.num_folds, choice.judged_images) == (
        "light", "tuned augmentation", 3, 16)  # fmt: skip
    assert choice.real == real.measured
    chosen, left = len(trainings.experiment.classifier.done), []
    list(run_experiment(trainings.experiment, choice, expect=left.append))
    done = len(trainings.experiment.classifier.done)
    assert left == [done - chosen]
    assert abs(planned - done) <= 0.25 * done
