"""Arms that learn on features of an encoder, from the images to the verdict's trials."""

from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from diffaug.classifiers.encoders import fine_tuning
from diffaug.classifiers.encoders.module import ModuleEncoder
from diffaug.classifiers.feature_regression import FeatureRegression
from diffaug.configuration.evaluation import EvaluationSettings
from diffaug.data.images import UnlabeledImages
from diffaug.evaluation.experiment.arms import ARMS, PseudoLabeling
from diffaug.evaluation.experiment.choice import Choice, Mix
from diffaug.evaluation.experiment.choosing.choose import choice_of, choose_real
from diffaug.evaluation.experiment.choosing.mixes import choose_mix
from diffaug.evaluation.experiment.experiment import Experiment, PilotImages
from diffaug.evaluation.experiment.training_sets import Examples, training_set
from diffaug.evaluation.experiment.training_task import train_regression
from diffaug.evaluation.experiment.trainings import Trainings, run_experiment, run_on_fewer_images
from tests.evaluation.experiment.choosing.worlds import Linear, drawn

COUNTS, GRID = (24, 9, 6), (0.0, 0.15, 0.3, 0.5)
NAMES = ("real only", "pretrained features", "pseudo-labels", "best real + synthetic")


def features_of(images):
    """What tells the classes apart, and noise."""
    thirds = images.pixels.reshape(len(images.pixels), 3, -1).mean(axis=2) / 50
    return np.column_stack([thirds, images.pixels[:, 0, 0] / 100]).astype(np.float32)


class Blind(Linear):
    """A network that learns nothing."""

    def fit_predict(self, training, pixels, **options):
        self.done.append(training)
        return np.tile(np.eye(3, dtype=np.float32)[0], (len(pixels), 1))


@pytest.fixture
def make(tmp_path):
    def make(classifier, *, side=None, **settings):
        train, test = drawn(COUNTS, 0, "train"), drawn((5, 5, 5), 1, "test")
        pool, pilot, others = (drawn((0, 20, 20), seed, name) for seed, name in enumerate(("pool", "pilot", "more"), 2))
        sets = {"train": train, "test": test, "pool-0": pool, "pilot": pilot, "unlabeled": others}
        judged = np.concatenate([np.arange(count) for count in COUNTS]) % 3 == 0
        return Experiment(
            train=train,
            test=test,
            pools=[pool],
            settings=EvaluationSettings(**{"arms": NAMES, "num_seeds": 3, "workers": 1, **settings}),
            seed=0,
            device="cpu",
            directory=tmp_path,
            groups=np.arange(len(train)),
            pilot=PilotImages(pilot, judged),
            unlabeled=UnlabeledImages(others.pixels, others.ids, np.ones(len(others))),
            encoder=ModuleEncoder(nn.Flatten(), "flat", size=side),
            features={name: features_of(images) for name, images in sets.items()},
            classifier=classifier,
        )

    return make


def test_the_features_of_an_encoder_are_chosen_built_on_and_fitted_once_for_all_seeds(make, monkeypatch):
    fits, fit = [], FeatureRegression.fit_predict
    monkeypatch.setattr(FeatureRegression, "fit_predict", lambda *given: fits.append(given) or fit(*given))
    experiment = make(Blind())
    trainings = Trainings(experiment)
    real = choose_real(trainings)
    assert real.best.learner == "features" and real.measured[0].mean > 0.7
    assert next(one for one in real.measured if one.arm == "real only").mean == pytest.approx(1 / 3)
    choice = choice_of(real, choose_mix(trainings, real, GRID))
    assert choice.regularization == real.best.regularization
    assert {one.arm for one in choice.mixtures} == {real.best.name}  # the network is hopeless
    assert choice.judged_images == 13
    fits.clear()
    trials = list(run_experiment(experiment, choice))
    assert len(fits) == (4 if choice.mix.fraction else 3)  # a teacher, and each arm on features that differs
    by_arm = {name: {trial.predictions for trial in trials if trial.arm == name} for name in NAMES}
    assert {name: len(found) for name, found in by_arm.items()} == dict.fromkeys(NAMES, 1)
    assert len(trials) == 12
    fewer = run_on_fewer_images(experiment, choice)
    assert [trial.seed for trial in fewer] == [0, 1, 2]
    assert {trial.arm for trial in fewer} == {real.best.name}
    assert len(fits) <= 7


def test_a_network_near_the_best_features_may_be_built_on(make):
    experiment = make(Linear(), arms=("real only", "pretrained features", "best real + synthetic"))
    trainings = Trainings(experiment)
    real = choose_real(trainings)
    near = replace(real, measured=tuple(replace(one, mean=0.9) for one in real.measured))
    ordered = replace(near, arms=tuple(sorted(real.arms, key=lambda arm: arm.learner)))
    assert {one.arm for one in choose_mix(trainings, ordered, GRID).mixtures} == {"real only", "pretrained features"}


def test_a_regression_weighs_synthetic_images_by_their_share_and_real_ones_as_without_them():
    train, made = drawn(COUNTS, 0, "train"), drawn((0, 200, 100), 2, "made")
    examples = [Examples(one, features_of(one)) for one in (train, made)]
    for draw in ("images", "classes"):
        arm = replace(ARMS["pretrained features"], draw=draw, synthetic="filtered")
        training = training_set(arm, *examples, Mix(0.3))
        weights = training.worth / len(training.images) * training.importances
        share = weights[training.is_synthetic].sum() / weights.sum()
        assert share == pytest.approx(0.3 if draw == "images" else 0.2)
        assert weights[~training.is_synthetic].sum() == pytest.approx(len(train))
    halved = training_set(arm, *examples, Mix(0.3, loss_weight=0.5))
    weights = halved.worth / len(halved.images) * halved.importances
    assert weights[~halved.is_synthetic].sum() == pytest.approx(len(train))


def test_the_same_images_more_often_change_nothing():
    """A pool of copies of itself is worth what one copy is worth."""
    train, made = drawn(COUNTS, 0, "train"), drawn((0, 20, 10), 2, "made")
    arm = replace(ARMS["pretrained features"], synthetic="filtered")
    others = Examples(drawn((9, 9, 9), 5, "others"), features_of(drawn((9, 9, 9), 5, "others")))
    answers = []
    for positions in (np.arange(30), np.tile(np.arange(30), 5)):
        pool = Examples(made, features_of(made)).select(positions)
        training = training_set(arm, Examples(train, features_of(train)), pool, Mix(0.3))
        answers.append(train_regression(training, others, seed=0, regularization=0.03))
    np.testing.assert_allclose(*answers, atol=2e-3)


def test_features_that_are_missing_are_an_error(make):
    training = training_set(ARMS["pretrained features"], *[Examples(drawn(COUNTS, 0, "train"))] * 2, Mix(0.0))
    with pytest.raises(ValueError, match="needs features"):
        train_regression(training, Examples(drawn(COUNTS, 0, "train")), seed=0, regularization=1.0)


def test_pseudo_labels_add_their_features(make):
    arm = replace(ARMS["pretrained features"], name="pseudo-labels", pseudo_labeling=PseudoLabeling(0.5, True))
    experiment = make(Blind())
    choice = Choice("real only", Mix(0.0), arms=(arm,))
    trials = {trial.arm: trial for trial in run_experiment(experiment, choice)}
    assert trials["pseudo-labels"].metrics["nll"] != trials["pretrained features"].metrics["nll"]


def test_fine_tuning_looks_at_the_pictures_of_real_images_and_at_the_pixels_of_synthetic_ones(make, monkeypatch):
    seen = []

    def fine_tune_predict(training, others, *, encoder, updates, seed, device, images):
        seen.append(([image.shape[0] for image in images], {image.shape[0] for image in others}, updates, encoder.name))
        return np.tile(np.eye(3, dtype=np.float32)[1], (len(others), 1))

    monkeypatch.setattr(fine_tuning, "fine_tune_predict", fine_tune_predict)
    arms = ("real only", "fine-tuned", "best real + synthetic")
    plain = make(Blind(), side=12, arms=arms, num_seeds=1, max_steps=7)
    large = {name: list(np.zeros((count, 12, 12, 1), np.uint8)) for name, count in (("train", 39), ("test", 15))}
    pictures = {**large, "pool-0": list(plain.pools[0].pixels)}
    experiment = replace(plain, pictures=pictures)
    choice = Choice("fine-tuned", Mix(0.3))
    trials = {trial.arm: trial for trial in run_experiment(experiment, choice)}
    assert [(sizes, others, updates) for sizes, others, updates, _ in seen] == [
        ([12] * 39, {12}, 7),
        ([12] * 39 + [6] * 40, {12}, 7),
    ]
    assert {name for *_, name in seen} == {plain.encoder.name}
    assert set(trials["fine-tuned"].predictions) == {1} != set(trials["real only"].predictions)
