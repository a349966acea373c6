"""The arms that an experiment can compare, and the pairs of them that show where a gain comes from."""

from dataclasses import dataclass
from typing import Literal

Role = Literal["baseline", "candidate", "ablation"]
"""`baseline`: real images only. `candidate`: what the verdict is about. `ablation`: shown, never chosen."""

ARM_ROLES: dict[str, Role] = {
    "real only": "baseline",
    "strong augmentation": "baseline",
    "oversampling": "baseline",
    "replay": "baseline",
    "prior": "baseline",
    "balanced softmax": "baseline",
    "real + unfiltered synthetic": "ablation",
    "real + synthetic": "candidate",
    "best real + synthetic": "candidate",
    "synthetic only": "ablation",
}
ARM_NAMES = tuple(ARM_ROLES)
CONTROL_ARMS = ("replay", "prior", "real + unfiltered synthetic", "synthetic only")
DEFAULT_ARMS = tuple(name for name in ARM_NAMES if name not in CONTROL_ARMS)


@dataclass(frozen=True)
class ControlPair:
    """Two arms whose difference, `arm` minus `baseline`, answers a question about a gain."""

    question: str
    arm: str
    baseline: str
    explanation: str


CONTROLS = (
    ControlPair(
        "new content",
        "real + synthetic",
        "replay",
        "Synthetic images instead of as many extra draws of real images of the same classes.",
    ),
    ControlPair(
        "more exposure",
        "replay",
        "prior",
        "Rare classes are drawn more often, beyond the shifted class prior that comes with it.",
    ),
    ControlPair(
        "shifted prior",
        "prior",
        "real only",
        "The class prior that the synthetic images imply, without any extra image.",
    ),
    ControlPair(
        "filters",
        "real + synthetic",
        "real + unfiltered synthetic",
        "Images that passed the filters instead of all images that the generator made.",
    ),
)
"""The first three differences add up to "real + synthetic" minus "real only"."""
