from types import SimpleNamespace

import numpy as np
import pytest

from diffaug.evaluation.experiment.trials import Trial
from diffaug.stages.evaluating.log import class_rows, describe, in_markdown


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


def test_each_class_has_a_row_with_its_recall_and_what_it_was_most_taken_for() -> None:
    labels, predicted = np.array([0, 0, 0, 0, 1, 1, 2]), np.array([0, 2, 2, 1, 1, 1, 0])
    trial = Trial.of("real only", 0, labels=labels, num_classes=3, seconds=1.0, predicted=predicted)
    rows = [tuple(row.values()) for row in class_rows(trial, ("a", "b", "c"))]
    assert rows == [("a", 4, 0.25, "c"), ("b", 2, 1.0, ""), ("c", 1, 0.0, "a")]


def test_what_a_verdict_rests_on_is_a_list() -> None:
    verdict = SimpleNamespace(decision="use", text="Use *it*.\nClasses that lost: none.\nBy generator: +0.1.")
    text = describe(SimpleNamespace(verdict=verdict, comparisons=(), arms=()))
    assert text.startswith("**use**: Use \\*it\\*.\n\n- Classes that lost: none.\n- By generator: +0.1.\n\n| arm |")
