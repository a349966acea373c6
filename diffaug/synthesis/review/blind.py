"""The blind test: can a person tell synthetic images from real ones?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffaug.errors import UsageError
from diffaug.similarity.intervals import Share
from diffaug.synthesis.review.gallery import Gallery

MOST_QUESTIONS = 200


@dataclass(frozen=True)
class Question:
    """An image to tell: `number` of a synthetic or a real image of a gallery."""

    is_synthetic: bool
    number: int


@dataclass(frozen=True)
class BlindScore:
    """How many images were told right, also among those that are synthetic, and those that are real."""

    right: Share
    of_synthetic: Share
    of_real: Share

    def sentence(self) -> str:
        """The share of right answers with its 95 % interval, and what it means."""
        low, high = self.right.interval
        found = f"{self.right.count} of {self.right.total} right: {_percent(self.right.value)} "
        found += f"(95 % interval {_percent(low)} to {_percent(high)}). "
        if low > 0.5:
            return found + "Synthetic images can be told from real ones."
        if high < 0.5:
            return found + "Real images were taken for synthetic ones and the other way round."
        return found + "That may be guessing, which gets 50 % right."


def draw_questions(gallery: Gallery, classes: Sequence[int], count: int, seed: int) -> list[Question]:
    """Images in random order, no image twice, of the classes that have real and synthetic ones.

    The class is drawn first, then by a fair coin whether the image is synthetic, so that how frequent a class is among
    either kind does not give the answer away, and the share of right guesses is binomial. Fewer than `count` if a class
    runs out of images.

    Raises:
        UsageError: No class has both.
    """
    random = np.random.default_rng(seed)
    left = {
        one: [random.permutation(found(one)).tolist() for found in (gallery.real_of, gallery.synthetic_of)]
        for one in classes
    }
    left = {one: both for one, both in left.items() if all(both)}
    if not left:
        raise UsageError("no class has both real and synthetic images", fix="choose a class that has synthetic images")
    questions: list[Question] = []
    while left and len(questions) < min(count, MOST_QUESTIONS):
        chosen = list(left)[random.integers(len(left))]
        is_synthetic = bool(random.integers(2))
        questions.append(Question(is_synthetic, left[chosen][is_synthetic].pop()))
        if not all(left[chosen]):
            del left[chosen]
    return questions


def score(questions: Sequence[Question], answers: Sequence[bool]) -> BlindScore:
    """The score of the answers, each of which says whether the image is synthetic."""
    pairs = [(one.is_synthetic, one.is_synthetic == answer) for one, answer in zip(questions, answers, strict=True)]

    def share(*kinds: bool) -> Share:
        right = [is_right for is_synthetic, is_right in pairs if is_synthetic in kinds]
        return Share(sum(right), len(right))

    return BlindScore(share(False, True), of_synthetic=share(True), of_real=share(False))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
