"""Stops trainings where a test wants it."""

import signal

import pytest

from diffaug.stages.fitting import running


def stop_at(patch: pytest.MonkeyPatch, *stops: int) -> None:
    """Requests a stop in these steps, counted over all trainings."""
    taken, log = [0], running.TrainingRun._log

    def count(self, record) -> None:
        taken[0] += 1
        if taken[0] in stops:
            signal.raise_signal(signal.SIGINT)
        log(self, record)

    patch.setattr(running.TrainingRun, "_log", count)
