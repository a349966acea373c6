from dataclasses import replace

import numpy as np
import pytest

from diffaug.evaluation.experiment.trials import Trial
from diffaug.evaluation.verdict.wording import Verdict
from diffaug.stages.evaluating.log import class_rows, describe, in_markdown, study_figures, study_params
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
    assert [line.partition(" ")[0] for line in rest[3:6]] == ["-", "-", ""]
    arms = [line.split(" | ") for line in rest[8:]]
    assert arms[0] == ["| best real + synthetic", "0.734", "0.020", "+3.4 (1.4 to 5.4) |"]
    assert [float(arm[1]) for arm in arms] == sorted((float(arm[1]) for arm in arms), reverse=True)


def test_the_study_has_the_accuracy_of_each_arm_and_the_gain_of_the_verdict_in_points() -> None:
    figures = study_figures(result())
    accuracies = {"real only": 0.6, "oversampling": 0.7, "real and unfiltered synthetic": 0.69}
    accuracies |= {"real and synthetic": 0.71, "best real and synthetic": 0.734}
    gain = {"points": 3.4, "low": 1.4, "high": 5.4}
    expected = {f"balanced_accuracy/{name}": value for name, value in accuracies.items()}
    assert figures == pytest.approx(expected | {f"gain/{name}": value for name, value in gain.items()})
    without = replace(result(), used_counts=dict.fromkeys(result().classes, 0))
    assert not any(name.startswith("gain") for name in study_figures(without))
    assert "+3.4" in describe(result()) and "+3.4" not in describe(without)


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
