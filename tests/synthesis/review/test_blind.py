from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binomtest

from diffaug.errors import UsageError
from diffaug.synthesis.review.blind import Question, draw_questions, score


def gallery(*sizes: tuple[int, int]) -> SimpleNamespace:
    """Real and synthetic images of each class; the number of an image is its class times 1000 and a count."""
    return SimpleNamespace(
        real_of=lambda index: 1000 * index + np.arange(sizes[index][0]),
        synthetic_of=lambda index: 1000 * index + np.arange(sizes[index][1]),
    )


def test_neither_the_class_nor_a_repeated_image_gives_the_answer_away() -> None:
    """A class with few real and many synthetic images is asked for either kind equally often."""
    images = gallery((300, 900), (900, 300), (5, 0))
    asked = [one for seed in range(1000, 1020) for one in draw_questions(images, range(3), 100, seed)]
    for label in (0, 1):
        of_class = [one.is_synthetic for one in asked if one.number // 1000 == label]
        assert binomtest(sum(of_class), len(of_class)).pvalue > 0.001
    assert binomtest(sum(one.number < 1000 for one in asked), len(asked)).pvalue > 0.001
    assert all(one.number < 2000 for one in asked)  # a class without synthetic images is not asked for
    once = draw_questions(images, range(3), 100, 0)
    assert len(set(once)) == len(once) == 100


def test_a_test_ends_when_the_images_do() -> None:
    questions = draw_questions(gallery((3, 4)), [0], 100, 5)
    assert 3 <= len(questions) <= 7
    assert len(set(questions)) == len(questions)
    with pytest.raises(UsageError, match="no class has both"):
        draw_questions(gallery((3, 0), (0, 3)), [0, 1], 10, 0)


@pytest.mark.parametrize(("right", "means"), [(20, "can be told"), (11, "guessing"), (2, "other way round")])
def test_the_score_has_the_interval_of_wilson_and_says_what_it_means(right, means) -> None:
    questions = [Question(number % 2 == 0, number) for number in range(20)]
    answers = [one.is_synthetic if number < right else not one.is_synthetic for number, one in enumerate(questions)]
    found = score(questions, answers)
    expected = binomtest(right, 20).proportion_ci(0.95, method="wilson")
    assert found.right.interval == pytest.approx(tuple(expected), abs=1e-6)
    assert (found.of_synthetic.count + found.of_real.count, found.of_real.total) == (right, 10)
    interval = f"{100 * expected.low:.0f} % to {100 * expected.high:.0f} %"
    assert found.sentence().startswith(f"{right} of 20 right: {5 * right} % (95 % interval {interval}). ")
    assert means in found.sentence()
