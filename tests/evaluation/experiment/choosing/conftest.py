import numpy as np
import pytest

from diffaug.configuration.evaluation import EvaluationSettings
from diffaug.evaluation.experiment.experiment import Experiment, PilotImages
from diffaug.evaluation.experiment.trainings import Trainings
from tests.evaluation.experiment.choosing.worlds import Linear, drawn

ARMS = ("real only", "oversampling", "best real + synthetic")


@pytest.fixture
def make(tmp_path):
    """Makes trainings on 30, 12 and 6 images; every third image of a class is judged by the pilot, if there is one."""

    def make(classifier=None, *, counts=(30, 12, 6), pool=(0, 30, 30), pilot=True, settings=None, **options):
        train = drawn(counts, 0, "train")
        fresh = drawn(pool, 2, "pool")
        ranks = np.concatenate([np.arange(count) for count in counts])
        judged = PilotImages(drawn(pool, 3, "pilot"), ranks % 3 == 0) if pilot else None
        given = {"groups": np.arange(len(train)), "directory": tmp_path, "pilot": judged, **options}
        experiment = Experiment(
            train=train,
            test=drawn((2, 2, 2), 1, "test"),
            pools=[fresh],
            settings=EvaluationSettings(**{"arms": ARMS, "num_seeds": 2, **(settings or {})}),
            seed=0,
            device="cpu",
            classifier=classifier or Linear(),
            **given,
        )
        return Trainings(experiment)

    return make
