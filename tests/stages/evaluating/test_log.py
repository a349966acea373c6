import re
from dataclasses import replace

import numpy as np
import pytest

from diffaug.evaluation.experiment.arms import ARMS
from diffaug.evaluation.experiment.choice import Choice, MeasuredArm, MeasuredMix, Mix
from diffaug.evaluation.experiment.choosing.real_arms import RealArms
from diffaug.evaluation.experiment.training_task import Outcome, TrainingTask
from diffaug.evaluation.experiment.trials import Trial
from diffaug.evaluation.statistics.crossed import Estimate
from diffaug.evaluation.statistics.metrics import PRIMARY_METRIC
from diffaug.evaluation.verdict.arm_summary import Spread
from diffaug.evaluation.verdict.wording import Verdict, gain_in_words
from diffaug.runtime.console import Narrator
from diffaug.stages.evaluating.log import class_rows, describe, in_markdown, study_figures, study_params
from diffaug.stages.evaluating.progress import EvaluationProgress, say_mix, say_real
from tests.evaluation.report.contents import choice, result


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("real + synthetic", "real + synthetic"),
        ("a|b", r"a\|b"),
        ("*bold* _thin_ `code`", r"\*bold\* \_thin\_ \`code\`"),
        ("[link](https://example.org)", r"\[link\](https://example.org)"),
        ("<img src=x>\n# head", r"\<img src=x\> \# head"),
        ("back\\slash", r"back\\slash"),
    ],
)
def test_names_stay_text_in_markdown(text: str, written: str) -> None:
    assert in_markdown(text) == written


def test_each_class_has_a_row_with_its_recall_and_most_frequent_confusion() -> None:
    labels, predicted = np.array([0, 0, 0, 0, 1, 1, 2]), np.array([0, 2, 2, 1, 1, 1, 0])
    trial = Trial.of("real only", 0, labels=labels, num_classes=3, seconds=1.0, predicted=predicted)
    rows = [tuple(row.values()) for row in class_rows(trial, ("a", "b", "c"))]
    assert rows == [("a", 4, 0.25, "c"), ("b", 2, 1.0, ""), ("c", 1, 0.0, "a")]


def test_the_description_has_the_verdict_its_details_as_a_list_and_the_arms_in_order() -> None:
    verdict = Verdict("use", "Use *them*.", ("No class changed.", "By generator: +0.1."), "best real + synthetic", "x")
    first, _, head, _, *rest = describe(replace(result(), verdict=verdict)).splitlines()
    assert first == result().best_real
    assert head == r"**use**: Use \*them\*."
    assert rest[:3] == ["- No class changed.", "- By generator: +0.1.", ""]
    assert [line.partition(" ")[0] for line in rest[3:8]] == ["What", "", "-", "-", ""]
    arms = [line.split(" | ") for line in rest[10:]]
    assert arms[0] == ["| best real + synthetic", "73.4", "2.0", "+3.4 (1.4 to 5.4) |"]
    assert [float(arm[1]) for arm in arms] == sorted((float(arm[1]) for arm in arms), reverse=True)


def test_the_study_has_the_accuracy_of_each_arm_and_the_gain_of_the_verdict_in_points() -> None:
    figures = study_figures(result())
    accuracies = {"real only": 0.6, "oversampling": 0.7, "real and unfiltered synthetic": 0.69}
    accuracies |= {"real and synthetic": 0.71, "best real and synthetic": 0.734}
    gain = {"points": 3.4, "low": 1.4, "high": 5.4}
    expected = {f"balanced_accuracy/{name}": value for name, value in accuracies.items()}
    assert figures == expected | {f"gain/{name}": value for name, value in gain.items()}
    without = replace(result(), used_counts=dict.fromkeys(result().classes, 0))
    assert not any(name.startswith("gain") for name in study_figures(without))
    assert "+3.4" in describe(result()) and "+3.4" not in describe(without)


@pytest.mark.parametrize(
    ("gain", "logged"),
    [
        ((0.0341567, 0.0141567, 0.0541567), (3.4, 1.4, 5.4)),
        ((-0.0000456, -0.0141567, 0.0141567), (0.0, -1.4, 1.4)),
        ((0.0061567, 0.0002567, 0.0121567), (0.62, 0.03, 1.22)),  # with one digit, it would end at 0
    ],
)
def test_figures_have_the_digits_of_the_sentences(gain, logged) -> None:
    shown = result()
    arms = tuple(replace(arm, metrics={**arm.metrics, PRIMARY_METRIC: Spread(1 / 3, None)}) for arm in shown.arms)
    changed = [replace(one, difference=Estimate(*gain)) for one in shown.comparisons]
    shown = replace(shown, arms=arms, comparisons=tuple(changed))
    figures = study_figures(shown)
    assert [figures[f"gain/{name}"] for name in ("points", "low", "high")] == list(logged)
    assert {value for name, value in figures.items() if name.startswith("balanced_accuracy/")} == {0.3333}
    sentence = gain_in_words(shown.compared.difference)
    assert [float(number) for number in re.findall(r"-?\d+\.\d+", sentence)] == list(logged)
    assert not any(np.signbit(value) and not value for value in figures.values())


def test_an_arm_that_is_the_training_of_another_is_logged_once() -> None:
    as_plain = replace(result(), choice=replace(choice(), base="real only"))
    assert as_plain.same_training(as_plain.arm("real + synthetic")) == "best real + synthetic"
    assert "balanced_accuracy/real and synthetic" not in study_figures(as_plain)
    assert "real + synthetic |" in describe(as_plain) and "| real + synthetic" not in describe(as_plain)


def test_the_parameters_of_a_study_are_those_that_matter() -> None:
    params = study_params(result())
    assert params["train_images"] == 54 and params["smallest_class"] == 4 and params["used_synthetic_images"] == 22
    assert (params["base"], params["synthetic_fraction"]) == ("oversampling", 0.3)
    recorded_elsewhere = {"seed", "data", "route", "image_size", "images_seen"}
    assert not recorded_elsewhere & params.keys() and len(recorded_elsewhere | params.keys()) <= 20


class Listening(Narrator):
    def __init__(self):
        self.said, self.steps = [], []

    def say(self, text):
        self.said.append(text)

    def progress(self, stage, done, total, detail=""):
        self.steps.append((done, total))


def task(arm="real only"):
    return TrainingTask(ARMS[arm], None, Mix(0.0), None, None, None, 0)


def test_no_time_is_told_before_it_is_measured_and_regressions_and_kept_trainings_do_not_count():
    narrator = Listening()
    progress = EvaluationProgress(narrator, planned=12)
    assert narrator.said == ["evaluation: about 12 trainings"]
    progress(task(), None)  # was finished before
    progress(task("pretrained features"), Outcome(None, 0.1))
    assert narrator.steps == []
    progress(task(), Outcome(None, 600.0))  # of a worker that had to start
    progress(task(), Outcome(None, 50.0))
    assert len(narrator.said) == 1
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
        "best without synthetic images: 'oversampling' (classes drawn equally often), 91.0 % in cross-validation; "
        "plain training: 88.2 %"
    )
    say_real(narrator, RealArms((ARMS["real only"],)))
    assert len(narrator.said) == 2


def test_the_mix_is_told_by_base_with_what_was_refined():
    narrator = Listening()
    mix, fewer = Mix(0.15), Mix(0.15, excluded_classes=("b",))
    found = [MeasuredMix(arm, Mix(share), mean, 0.0, "as found")
             for arm, share, mean in (("a", 0.3, 0.8), ("a", 0.0, 0.7), ("c", 0.0, 0.6))]  # fmt: skip
    refined = MeasuredMix("a", fewer, 0.75, 0.0)
    say_mix(narrator, Choice("real only", mix, (), tuple(found), (refined,), judged_images=9, reason="Because."))
    assert narrator.said == [
        "'a' (as found) with what synthetic images add on 9 images left out: "
        "70.0 % without, 80.0 % with 30 % of each batch",
        "'c' (as found) with what synthetic images add on 9 images left out: 60.0 % without",
        "without synthetic images of b: 75.0 %, no better",
        "synthetic images: 15 % of each batch, added to 'real only'. Because.",
    ]
    blind = [replace(one, mix=replace(one.mix, excluded_classes=("c",))) for one in found[:1]]
    refined = [MeasuredMix("a", Mix(0.15, **change), 0.75, 0.0) for change in (
        {"excluded_classes": ("b", "c")}, {"excluded_classes": ("c",), "loss_weight": 0.5})]  # fmt: skip
    say_mix(narrator, Choice("real only", mix, (), tuple(blind), tuple(refined), judged_images=9))
    assert narrator.said[5:7] == [
        "without synthetic images of b: 75.0 %, no better",
        "15 % with loss weight 0.5: 75.0 %, no better",
    ]
    assert not re.search(r"\ba class\b", " ".join(narrator.said))
