"""Trials: scored from probabilities or predictions, kept on disk, trained again where an older version wrote them."""

from __future__ import annotations

import numpy as np
import pytest

from diffaug.errors import DamagedError, DataError
from diffaug.evaluation.experiment.trials import Trial, read_trial, trial_file, write_trial
from diffaug.evaluation.statistics.metrics import METRICS, PREDICTION_METRICS
from diffaug.files import storage

LABELS = np.array([0, 0, 0, 1, 1, 2])
PROBABILITIES = np.array(
    [[0.8, 0.1, 0.1], [0.4, 0.5, 0.1], [0.6, 0.2, 0.2], [0.3, 0.6, 0.1], [0.5, 0.4, 0.1], [0.1, 0.1, 0.8]], np.float32
)


def trial_of(**options):
    return Trial.of("real + synthetic", 3, labels=LABELS, num_classes=3, seconds=1.5, **options)


@pytest.fixture
def trial():
    return trial_of(probabilities=PROBABILITIES)


def test_probabilities_decide_the_predictions(trial):
    assert trial.predictions == (0, 1, 0, 1, 0, 2)
    assert tuple(trial.metrics) == METRICS
    assert trial.recall == pytest.approx((2 / 3, 1 / 2, 1))
    assert trial.confusion == ((2, 1, 0), (1, 1, 0), (0, 0, 1))


def test_predictions_alone_give_no_figures_about_probabilities(trial):
    alone = trial_of(predicted=np.array(trial.predictions))
    assert tuple(alone.metrics) == PREDICTION_METRICS
    assert alone.metrics == {name: trial.metrics[name] for name in PREDICTION_METRICS}


def test_given_predictions_outrank_the_most_probable_class():
    trial = trial_of(probabilities=PROBABILITIES, predicted=LABELS)
    assert (trial.metrics["accuracy"], trial.predictions) == (1, tuple(LABELS))
    assert trial.metrics["nll"] > 0


def test_a_trial_needs_something_to_score_and_an_image_of_every_class():
    with pytest.raises(ValueError, match="probabilities, predicted or both"):
        trial_of()
    with pytest.raises(DataError, match="class number 3"):
        Trial.of("a", 0, predicted=LABELS, labels=LABELS, num_classes=4, seconds=0)


def test_a_trial_is_read_back_as_it_was_for_the_same_inputs_only(trial, tmp_path):
    write_trial(tmp_path, trial, "inputs")
    assert read_trial(tmp_path, trial.arm, trial.seed, "inputs") == trial
    assert read_trial(tmp_path, trial.arm, trial.seed, "other inputs") is None
    assert read_trial(tmp_path, trial.arm, 4, "inputs") is None


def test_a_trial_of_an_older_version_is_trained_again(trial, tmp_path):
    write_trial(tmp_path, trial, "inputs")
    file = trial_file(tmp_path, trial.arm, trial.seed)
    record = storage.read_json(file)
    del record["schema"], record["trial"]["confusion"]
    for older in (record, {**record, "schema": 2}, [], "text"):
        storage.write_json(file, older)
        assert read_trial(tmp_path, trial.arm, trial.seed, "inputs") is None


def test_a_trial_cut_short_is_damaged(trial, tmp_path):
    write_trial(tmp_path, trial, "inputs")
    file = trial_file(tmp_path, trial.arm, trial.seed)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DamagedError):
        read_trial(tmp_path, trial.arm, trial.seed, "inputs")
