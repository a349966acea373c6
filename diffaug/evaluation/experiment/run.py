"""Every arm trained with the same seeds and number of updates, tested on the same images."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np

from diffaug.data.splits import assign_folds
from diffaug.evaluation.experiment.choice import Choice
from diffaug.evaluation.experiment.experiment import TEST, TRAIN, Experiment
from diffaug.evaluation.experiment.training_task import Outcome, TrainingTask
from diffaug.evaluation.experiment.trainings import Finished, Trainings, ignore
from diffaug.evaluation.experiment.trials import Trial, read_trial, write_trial
from diffaug.runtime.seeding import derive_seed

PURPOSE, FEWER = "evaluation", "fewer real images"


def run_experiment(experiment: Experiment, choice: Choice, finished: Finished = ignore) -> Iterator[Trial]:
    """Trains every arm as chosen with every seed and yields each trial once it is on disk.

    Seeds are the outer loop, so everything finished is paired. All arms of a seed share initial weights, random draws
    and shifts. A trial on disk with the same fingerprint is read instead of trained. Arms with identical trainings, as
    all have at a mix of zero, are trained once, and what has no random draw is trained once for all seeds. `finished`
    is called after each training.
    """
    keys = [(number, arm.name) for number in range(experiment.settings.repetitions) for arm in experiment.arms]
    given = [_test_task(experiment, choice, *key) for key in keys]
    tasks = dict(zip(keys, Trainings(experiment, finished).with_pseudo_labels(given), strict=True))
    inputs = {key: experiment.fingerprint(task) for key, task in tasks.items()}
    read = {key: read_trial(experiment.directory, key[1], key[0], name) for key, name in inputs.items()}
    trials = {key: trial for key, trial in read.items() if trial is not None}
    missing = {inputs[key]: task for key, task in tasks.items() if key not in trials}
    with closing(experiment.run(missing)) as outcomes:
        for key in tasks:
            while key not in trials:
                name, outcome = next(outcomes)
                for number, arm in (key for key in tasks if inputs[key] == name):
                    trials[number, arm] = _trial(experiment, outcome, arm, number)
                    write_trial(experiment.directory, trials[number, arm], name)
                finished(missing[name], outcome)
            yield trials[key]


def run_on_fewer_images(experiment: Experiment, choice: Choice, finished: Finished = ignore) -> list[Trial]:
    """The best real arm trained on two thirds of the real images, one trial per seed, to see what more images bring.

    The third that is left out takes turns over the seeds. Only where that costs next to nothing or the evaluation is
    thorough; otherwise there is no trial.
    """
    if not choice.real:
        return []
    arm = choice.arm(choice.real[0].arm)
    if arm.learner != "features" and not experiment.settings.thorough:
        return []
    folds = assign_folds(experiment.train.labels, experiment.groups, derive_seed(experiment.seed, FEWER))
    parts = [experiment.subset(TRAIN, np.flatnonzero(folds != left_out)) for left_out in range(max(folds) + 1)]
    numbers = range(experiment.settings.repetitions)
    tasks = [
        replace(_test_task(experiment, choice, number, arm.name), real=parts[number % len(parts)]) for number in numbers
    ]
    answers = Trainings(experiment, finished).answers(tasks)
    return [
        _trial(experiment, Outcome(answer, 0.0), arm.name, number)
        for number, answer in zip(numbers, answers, strict=True)
    ]


def _test_task(experiment: Experiment, choice: Choice, number: int, name: str) -> TrainingTask:
    arm = choice.arm(name)
    return TrainingTask(
        arm=arm,
        base=choice.base_arm,
        mix=choice.mix,
        real=experiment.subset(TRAIN),
        synthetic=experiment.synthetic_subset(arm, number),
        eval_images=experiment.subset(TEST),
        seed=derive_seed(experiment.seed, PURPOSE, number),
    )


def _trial(experiment: Experiment, outcome: Outcome, arm: str, number: int) -> Trial:
    return Trial.of(
        arm,
        number,
        predicted=outcome.predicted,
        labels=experiment.test.labels,
        num_classes=len(experiment.test.classes),
        seconds=outcome.seconds,
        probabilities=outcome.answer if outcome.answer.ndim == 2 else None,
        curve=outcome.curve,
    )
