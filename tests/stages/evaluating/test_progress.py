import re

from diffaug.evaluation.experiment.arms import ARMS
from diffaug.evaluation.experiment.choice import Choice, MeasuredArm, MeasuredMix, SyntheticMix
from diffaug.evaluation.experiment.choosing.real_arms import RealArms
from diffaug.evaluation.experiment.training_task import Outcome, TrainingTask
from diffaug.runtime.console import Narrator
from diffaug.stages.evaluating.progress import EvaluationProgress, say_mix, say_real


class Listening(Narrator):
    def __init__(self):
        self.said, self.steps = [], []

    def say(self, text):
        self.said.append(text)

    def progress(self, stage, done, total, detail=""):
        self.steps.append((done, total))


def task(arm="real only"):
    return TrainingTask(ARMS[arm], None, SyntheticMix(0.0), None, None, None, 0)


def test_the_time_is_told_after_the_first_training_and_regressions_and_kept_trainings_do_not_count():
    narrator = Listening()
    progress = EvaluationProgress(narrator, planned=12, workers=2)
    progress(task(), None)  # was finished before
    progress(task("pretrained features"), Outcome(None, 0.1))
    assert (narrator.said, narrator.steps) == ([], [])
    progress(task(), Outcome(None, 6.0))
    progress(task(), Outcome(None, 50.0))
    assert narrator.said == ["evaluation: about 11 trainings, about 33 s"]
    progress.expect(1)
    progress(task(), Outcome(None, 6.0))
    progress(task(), Outcome(None, 6.0))  # more than was planned
    progress.end()
    assert narrator.steps == [(1, 11), (2, 11), (3, 4), (4, 5), (4, 4)]


def test_how_far_plain_training_is_from_the_best_is_told_first():
    narrator = Listening()
    measured = (
        MeasuredArm("oversampling", "classes drawn equally often", 0.91, 0.01),
        MeasuredArm("real only", "", 0.882, 0.0),
    )
    say_real(narrator, RealArms((ARMS["oversampling"], ARMS["real only"]), measured))
    assert narrator.said[0] == (
        "best without synthetic images: 'oversampling' (classes drawn equally often), 0.910 in cross-validation; "
        "plain training: 0.882"
    )
    say_real(narrator, RealArms((ARMS["real only"],)))
    assert len(narrator.said) == 2


def test_the_mix_is_told_by_base_with_what_was_refined():
    narrator = Listening()
    mix, fewer = SyntheticMix(0.15), SyntheticMix(0.15, excluded_classes=("b",))
    found = [MeasuredMix(arm, SyntheticMix(share), mean, 0.0, "as found")
             for arm, share, mean in (("a", 0.3, 0.8), ("a", 0.0, 0.7), ("c", 0.0, 0.6))]  # fmt: skip
    refined = MeasuredMix("a", fewer, 0.75, 0.0)
    say_mix(narrator, Choice("real only", mix, (), tuple(found), (refined,), judged_images=9, reason="Because."))
    assert narrator.said == [
        "'a' (as found) with synthetic images, on 9 images left out: 0% 0.700, 30% 0.800",
        "'c' (as found) with synthetic images, on 9 images left out: 0% 0.600",
        "without synthetic images of b: 0.750, no better",
        "synthetic images: 15% of each batch, added to 'real only'. Because.",
    ]
    assert not re.search(r"\ba class\b", " ".join(narrator.said))
