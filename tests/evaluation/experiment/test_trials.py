import re

import numpy as np
import pytest

from diffaug.configuration.arms import ARM_NAMES
from diffaug.evaluation.experiment.trials import Trial, read_trial, trial_file, write_trial
from diffaug.evaluation.statistics.metrics import METRICS, PREDICTION_METRICS

LABELS = np.array([0, 0, 0, 1, 1, 2])
PROBABILITIES = np.array(
    [[0.8, 0.1, 0.1], [0.4, 0.5, 0.1], [0.6, 0.2, 0.2], [0.3, 0.6, 0.1], [0.5, 0.4, 0.1], [0.1, 0.1, 0.8]], np.float32
)


def trial_of(predicted, **options):
    return Trial.of("real + synthetic", 3, predicted=predicted, labels=LABELS, num_classes=3, seconds=1.5, **options)


@pytest.fixture
def trial():
    return trial_of(PROBABILITIES.argmax(axis=1), probabilities=PROBABILITIES)


def test_a_trial_is_scored_by_its_predictions_and_its_probabilities(trial):
    assert trial.predictions == (0, 1, 0, 1, 0, 2)
    assert tuple(trial.metrics) == METRICS
    assert trial.recall == pytest.approx((2 / 3, 1 / 2, 1))
    assert trial.confusion == ((2, 1, 0), (1, 1, 0), (0, 0, 1))
    alone = trial_of(np.array(trial.predictions))
    assert alone.metrics == {name: trial.metrics[name] for name in PREDICTION_METRICS}
    given = trial_of(LABELS, probabilities=PROBABILITIES)  # which outrank the most probable class
    assert (given.metrics["accuracy"], given.predictions) == (1, tuple(LABELS))
    assert given.metrics["nll"] > 0


def test_a_trial_is_read_back_as_it_was_for_the_same_inputs_only(trial, tmp_path):
    write_trial(tmp_path, trial, "inputs")
    assert read_trial(tmp_path, trial.arm, trial.seed, "inputs") == trial
    assert read_trial(tmp_path, trial.arm, trial.seed, "other inputs") is None
    assert read_trial(tmp_path, trial.arm, 4, "inputs") is None
    assert len({trial_file(tmp_path, name, 0) for name in ARM_NAMES}) == len(ARM_NAMES)


@pytest.mark.parametrize(
    ("part", "other"),
    [("]", ""), (".*", "[]"), ("confusion", "confused"), ('"schema": 1', '"schema": 2'), ("0.7", "0.8")],
)
def test_a_trial_whose_file_was_changed_is_done_again(trial, tmp_path, part, other):
    write_trial(tmp_path, trial, "inputs")
    file = trial_file(tmp_path, trial.arm, trial.seed)
    file.write_text(re.sub(part, other, file.read_text(), count=1, flags=re.DOTALL))
    assert read_trial(tmp_path, trial.arm, trial.seed, "inputs") is None
    write_trial(tmp_path, trial, "inputs")
    assert read_trial(tmp_path, trial.arm, trial.seed, "inputs") == trial
