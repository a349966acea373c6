"""Origins of synthetic images, and how many images of a class each origin gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from diffaug.configuration.settings import SynthesisSettings

Origin = Literal["sampled", "variation", "transplant", "crossed"]
"""sampled: from noise. variation: of a real image of the class. transplant: the object of the class, painted into a
real image of the background class. crossed: a variation of such an image under the label of the class."""

SAMPLED, VARIATION, TRANSPLANT, CROSSED = ORIGINS = get_args(Origin)

VARIATION_FRACTION = 0.25
TRANSPLANT_FRACTION = 0.5  # set by hand; the choice of the mix may leave transplants out
RARE_IMAGES, COMMON_IMAGES = 50, 200  # training images of a class


@dataclass(frozen=True)
class Material:
    """What there is of a class to make images of.

    Attributes:
        images: Its real images.
        varied: Those that variations may begin from; 0 if it gets no variations.
        masks: Its masks, to transplant; 0 if it gets no transplants.
        backgrounds: Real images of the background class, for transplants.
        crossed: Real images of the background class, for crossed variations; 0 if it gets none.
        only_varied: Whether nothing is sampled from noise unless a fraction of variations below 1 asks for it.
    """

    images: int = 0
    varied: int = 0
    masks: int = 0
    backgrounds: int = 0
    crossed: int = 0
    only_varied: bool = False


def rarity(images: int) -> float:
    """1 for a class of up to 50 real images, 0 for one of 200 and more, linear in between."""
    return min(1.0, max(0.0, (COMMON_IMAGES - images) / (COMMON_IMAGES - RARE_IMAGES)))


def origin_fractions(settings: SynthesisSettings, material: Material) -> dict[Origin, float]:
    """Fraction of the synthetic images of a class that each origin gives.

    Samples are only as diverse as the class was learned, and a rare class is learned poorly; variations of real images
    stay near them (Trabucco et al. 2023, DA-Fusion, arXiv 2302.07944). A transplant needs the class to be learned only
    where its object is. So both are for rare classes by default. What is set comes first; defaults share what is left.

    All are 0 if nothing may be sampled and there is nothing else.
    """
    given = {
        VARIATION: (settings.variation_fraction, VARIATION_FRACTION, material.varied),
        TRANSPLANT: (settings.transplant_fraction, TRANSPLANT_FRACTION, material.masks and material.backgrounds),
        CROSSED: (settings.crossed_fraction, 0.0, material.crossed),
    }
    possible = {origin: (chosen, usual) for origin, (chosen, usual, count) in given.items() if count}
    fixed = {origin: chosen for origin, (chosen, _) in possible.items() if chosen is not None}
    wanted = {origin: usual * rarity(material.images) for origin, (chosen, usual) in possible.items() if chosen is None}
    if material.only_varied and VARIATION in wanted:
        wanted = {VARIATION: 1.0}
    left = max(0.0, 1 - sum(fixed.values()))
    scale = min(1.0, left / sum(wanted.values())) if any(wanted.values()) else 0.0
    found = fixed | {origin: part * scale for origin, part in wanted.items()}
    others = {origin: found.get(origin, 0.0) for origin in (VARIATION, TRANSPLANT, CROSSED)}
    total, asked = sum(others.values()), settings.variation_fraction
    if material.only_varied and (asked is None or asked == 1):
        return {SAMPLED: 0.0, **{origin: part / total if total else 0.0 for origin, part in others.items()}}
    return {SAMPLED: max(0.0, 1 - total), **others}


def origin_counts(fractions: Mapping[Origin, float], total: int) -> dict[Origin, int]:
    """The fractions as whole images of a total, by largest remainder; of equal remainders the later origin gets one.

    Fractions that are all 0 give no images.
    """
    if not any(fractions.values()):
        return dict.fromkeys(ORIGINS, 0)
    exact = {origin: fractions[origin] * total for origin in ORIGINS}
    counts = {origin: int(part + 1e-9) for origin, part in exact.items()}
    by_remainder = sorted(ORIGINS, key=lambda one: (counts[one] - exact[one], -ORIGINS.index(one)))
    for origin in by_remainder[: total - sum(counts.values())]:
        counts[origin] += 1
    return counts
