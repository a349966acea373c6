from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from diffaug.configuration.settings import SynthesisSettings
from diffaug.diffusion.generator.usual import USUAL as OF_NETWORKS
from diffaug.similarity.intervals import Share
from diffaug.synthesis.pool.origins import VARIATION
from diffaug.synthesis.pool.strengths import (
    TRIED_IMAGES,
    ChosenStrength,
    TriedStrength,
    choose_strengths,
    strengths_by_class,
)
from tests.synthesis.conftest import PixelFilters

WEAK, USUAL, STRONG = OF_NETWORKS.strengths


@dataclass
class Strengths:
    """Filters that know the strength of the variations that they are shown, instead of looking at them."""

    kept: Callable[[float], float]  # share by strength
    copies: Callable[[float], float]
    strength: float = 0.0

    def keeps_class(self, pixels, sources, class_index):
        assert len(set(sources)) == min(TRIED_IMAGES, 3 if class_index == 0 else 5)
        recognized = np.arange(len(pixels)) < 10  # the others say nothing
        return recognized, recognized & (np.arange(len(pixels)) < round(10 * self.kept(self.strength)))

    def rejections(self, pixels, class_index):
        return {"copy": np.arange(len(pixels)) < round(len(pixels) * self.copies(self.strength))}


@pytest.mark.parametrize(
    ("kept", "copies", "copied", "chosen", "tried"),
    [
        (lambda s: 1, lambda s: 0, (), USUAL, [USUAL]),
        (lambda s: 1, lambda s: 0, ("a",), STRONG, [STRONG]),
        (lambda s: 1 - s, lambda s: 0, (), None, [USUAL, WEAK]),  # the class is lost at any strength
        (lambda s: s < 0.5, lambda s: 0, (), WEAK, [USUAL, WEAK]),
        (lambda s: s < 0.5, lambda s: s < 0.5, (), None, [USUAL, WEAK]),  # lost or copied
        (lambda s: 1, lambda s: s < 0.6, (), STRONG, [USUAL, STRONG]),
        (lambda s: 1, lambda s: 1, (), None, [USUAL, STRONG]),
        (lambda s: s < 0.6, lambda s: 0, ("a",), USUAL, [STRONG, USUAL]),
    ],
)
def test_variations_are_as_strong_as_keeps_the_class_and_is_no_copy(
    maker, monkeypatch, kept, copies, copied, chosen, tried
) -> None:
    filters = Strengths(kept, copies)
    maker = replace(maker, filters=filters)
    draw = type(maker.generator).draw

    def watched(self, drawing):
        filters.strength = drawing.strength
        return draw(self, drawing)

    monkeypatch.setattr(type(maker.generator), "draw", watched)
    found = choose_strengths(maker, copied=copied)
    assert found.keys() == {"a", "b"}  # "c/d" has no real image to vary
    assert found["a"].strength == chosen
    assert [one.strength for one in found["a"].tried] == tried
    again = choose_strengths(maker, copied=copied)
    assert again == found


def test_switched_off_filters_choose_nothing(maker) -> None:
    lost = Strengths(kept=lambda s: 0, copies=lambda s: 1)
    for filters in ((), ("copy",), ("wrong class",)):
        settings = maker.settings.model_copy(update={"filters": filters})
        found = choose_strengths(replace(maker, filters=lost, settings=settings))
        assert set(strengths_by_class(found).values()) == ({None} if filters else set())


def test_what_cannot_be_measured_speaks_for_no_strength() -> None:
    assert TriedStrength(USUAL, Share(0, 0), Share(0, 16)).is_good


def test_a_class_without_variations_is_sampled_only_and_others_in_their_range(maker) -> None:
    chosen = {"a": ChosenStrength(None, ()), "b": ChosenStrength(WEAK, ())}
    maker = replace(
        maker,
        strengths=strengths_by_class(chosen),
        settings=SynthesisSettings(num_inference_steps=2, variation_fraction=0.5),
        filters=PixelFilters(),
    )
    assert VARIATION not in set(maker.make(0, 0)["origin"])
    varied = maker.make(1, 0).query("origin == @VARIATION")
    assert len(varied) == 2
    assert varied["strength"].between(*WEAK).all()
    assert [maker.material(number).varied for number in range(3)] == [0, 5, 0]
