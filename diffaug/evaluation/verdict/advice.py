"""What the test says about synthetic images of each class. Numbers only, see `advice_wording`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from diffaug.evaluation.experiment.mix import SyntheticMix
from diffaug.evaluation.statistics.crossed import Estimate

Advice = Literal["use", "leave out", "open", "none used"]


@dataclass(frozen=True)
class ClassAdvice:
    """What to do with the synthetic images of one class.

    Attributes:
        advice: `use`: recall rose. `leave out`: it fell. `open`: neither is certain. `none used`: the class had no
            synthetic images, whatever happened to its recall.
        gain: Change in recall, with an interval that holds for all classes at once.
        used: Synthetic images that were trained on; None if not known.
    """

    name: str
    advice: Advice
    gain: Estimate
    used: int | None


def advise(recall_gain: Mapping[str, Estimate], used: Mapping[str, int]) -> tuple[ClassAdvice, ...]:
    """The advice for each class, by its gain and its number of synthetic images; `used` is empty if not known.

    Over all classes whose recall does not change, a wrong "use" or "leave out" occurs in at most 5 % of experiments,
    since the intervals hold for all classes at once.
    """
    return tuple(
        ClassAdvice(name, _advice(gain, used.get(name)), gain, used.get(name)) for name, gain in recall_gain.items()
    )


def _advice(gain: Estimate, used: int | None) -> Advice:
    if used == 0:
        return "none used"
    return "use" if gain.low > 0 else "leave out" if gain.high < 0 else "open"


def used_counts(available: Mapping[str, int], train: Mapping[str, int], mix: SyntheticMix) -> dict[str, int]:
    """Synthetic images per class that a mix trains on."""
    if mix.is_zero:
        return dict.fromkeys(available, 0)
    limit = np.inf if mix.max_per_real is None else mix.max_per_real
    return {
        name: 0 if name in mix.excluded_classes else int(min(count, np.floor(limit * train[name])))
        for name, count in available.items()
    }
