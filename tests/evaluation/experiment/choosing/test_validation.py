import numpy as np
import pytest

from diffaug.evaluation.experiment.arms import ARMS
from diffaug.evaluation.experiment.choice import Mix
from diffaug.evaluation.experiment.choosing.validation import (
    Option,
    Part,
    Validation,
    cross_validation,
    mean_over_classes,
    on_judged_images,
)
from diffaug.evaluation.experiment.training_task import Subset
from tests.evaluation.experiment.choosing.worlds import drawn

REAL = ARMS["real only"]


class Answering:
    """Trainings whose share of right answers per option, given by its fraction in percent, is scripted per part."""

    def __init__(self, shares):
        self.shares, self.done = shares, []

    def answers(self, tasks):
        answers = []
        for task in tasks:
            key = round(100 * task.mix.fraction), task.seed
            self.done += [key] if key not in self.done else []
            labels = task.eval_images.labels
            answers.append(np.where(np.arange(len(labels)) < self.shares[key[0]][key[1]], labels, (labels + 1) % 3))
        return answers


def validation_of(shares, parts):
    judged = Subset(drawn((10, 0, 0), 0, "judged"), "hash")
    answering = Answering(shares)
    return answering, Validation(answering, [Part(judged, judged, None, seed) for seed in range(parts)])


def options(count):
    return [Option(REAL, Mix(number / 100)) for number in range(count)]


@pytest.mark.parametrize(
    ("shares", "parts", "best", "trainings"),
    [
        ([[5, 5, 5]] * 8, 3, 0, 8 + 4 + 2),  # of equals the first
        ([[n, n, n] for n in range(8)], 3, 7, 8 + 4 + 2),
        ([[9, 0, 0], [5, 9, 9], [4, 9, 9], [3, 9, 9]], 3, 1, 4 + 2 + 2 - 1),  # the second part turns the order
        ([[9], [10]], 1, 1, 2),
        ([[1, 1]], 2, 0, 2),
    ],
)
def test_halving_trains_the_better_half_on_each_further_part(shares, parts, best, trainings):
    answering, validation = validation_of(shares, parts)
    assert validation.best_by_halving(options(len(shares))) == options(len(shares))[best]
    assert len(answering.done) == trainings


def test_scores_pool_all_parts_and_the_spread_is_over_parts():
    _, validation = validation_of([[2, 4, 6]], 3)
    (option,) = options(1)
    assert validation.scores([option]) == pytest.approx([0.4])
    assert validation.scores([option], 2) == pytest.approx([0.3])
    assert validation.spread(option) == pytest.approx(0.2)


def test_mean_over_classes_is_the_mean_recall_of_classes_that_occur():
    correct, labels = np.array([1, 1, 1, 0, 1], bool), np.array([0, 0, 0, 0, 2])
    assert mean_over_classes(correct, labels) == pytest.approx((0.75 + 1) / 2)


def trained_and_judged(validation):
    validation.correct([Option(REAL)])
    return [(set(part.real.examples().images.ids), set(part.judged.examples().images.ids)) for part in validation.parts]


def test_each_image_is_left_out_once_with_its_group_and_no_synthetic_image_is_used(make):
    groups = np.repeat(np.arange(24), 2)
    trainings = make(groups=groups)
    validation, fold_of = cross_validation(trainings)
    train = trainings.experiment.train
    group_of = dict(zip(train.ids, groups.tolist(), strict=True))
    left_out = []
    for trained, judged in trained_and_judged(validation):
        assert trained | judged == set(train.ids)
        assert not {group_of[one] for one in trained} & {group_of[one] for one in judged}
        left_out += judged
    assert sorted(left_out) == sorted(train.ids)
    assert set(fold_of) == {0, 1, 2}
    for training in trainings.experiment.classifier.done:
        assert not training.is_synthetic.any()
        assert (training.images.class_counts > 0).all()


def test_a_class_that_is_one_group_is_always_trained_on_and_without_two_parts_there_is_no_choice(make):
    one_group = make(groups=np.concatenate([np.arange(42), np.full(6, 42)]))
    validation, fold_of = cross_validation(one_group)
    assert (fold_of[-6:] == -1).all()
    assert all(part.real.labels.max() == 2 for part in validation.parts)
    assert cross_validation(make(counts=(1, 1, 1))) is None


def test_what_the_pilot_has_not_seen_is_judged_with_its_images_and_never_trained_on(make):
    trainings = make()
    experiment = trainings.experiment
    validation = on_judged_images(trainings, experiment.pilot)
    validation.correct([Option(REAL, Mix(0.3))])
    unseen = {name for name, judged in zip(experiment.train.ids, experiment.pilot.judged, strict=True) if judged}
    assert len(validation.parts) == len({part.seed for part in validation.parts}) == 3
    for training in experiment.classifier.done:
        used = set(training.images.ids)
        assert not used & unseen
        assert {name.split()[0] for name in used} == {"train", "pilot"}
    assert all(judged == unseen for _, judged in trained_and_judged(validation))
