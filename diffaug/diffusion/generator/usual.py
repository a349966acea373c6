"""How a kind of generator is usually drawn from, where the settings leave it open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffaug.configuration.sampling import DEFAULT_SAMPLING
from diffaug.configuration.settings import SynthesisSettings

Strength = tuple[float, float]
"""A range of strengths, see `Generator.variations`."""


@dataclass(frozen=True)
class Usual:
    """What is usual for a kind of generator.

    Attributes:
        strengths: Of variations, from weak to strong; those that are tried per class.
        first: The position of the one that is tried first.
        guidance_scale: A scale, or the lowest and highest one.
        only_varies: Whether images are sampled from noise only if a fraction of variations below 1 is set, since the
            generator was not trained on the images.
    """

    strengths: tuple[Strength, ...] = ((0.2, 0.4), (0.4, 0.7), (0.6, 0.85))
    first: int = 1
    guidance_scale: float | tuple[float, float] = DEFAULT_SAMPLING.guidance_scale
    only_varies: bool = False

    @property
    def strength(self) -> Strength:
        """The one that is tried first, and that is used where nothing is tried."""
        return self.strengths[self.first]

    @property
    def weaker(self) -> tuple[Strength, ...]:
        """Those below the first one."""
        return self.strengths[: self.first]

    @property
    def stronger(self) -> tuple[Strength, ...]:
        """Those above the first one."""
        return self.strengths[self.first + 1 :]

    @property
    def typical_guidance(self) -> float:
        """The guidance scale, or the middle between the lowest and the highest one."""
        scale = self.guidance_scale
        return sum(scale) / 2 if isinstance(scale, tuple) else scale

    def settled(self, settings: SynthesisSettings) -> SynthesisSettings:
        """The settings with what is usual where nothing is set."""
        usual: dict[str, Any] = {}
        if settings.guidance_scale is None:
            usual["guidance_scale"] = self.guidance_scale
        return settings.model_copy(update=usual)


USUAL = Usual()
"""Of networks that diffaug trains."""
