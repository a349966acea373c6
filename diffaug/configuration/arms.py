"""The arms that an experiment can compare, and the pairs of them that show where a gain comes from."""

from dataclasses import dataclass
from typing import Literal

Role = Literal["baseline", "candidate", "ablation"]
"""`baseline`: real images only. `candidate`: what the verdict is about. `ablation`: shown, never chosen."""

PLAIN_ARM = "real only"
"""Plain training on the real images as found."""

ARM_ROLES: dict[str, Role] = {
    "real only": "baseline",
    "oversampling": "baseline",
    "balanced softmax": "baseline",
    "tuned augmentation": "baseline",
    "pretrained features": "baseline",
    "fine-tuned": "baseline",
    "pseudo-labels": "baseline",
    "replay": "baseline",
    "prior": "baseline",
    "real + unfiltered synthetic": "ablation",
    "real + synthetic": "candidate",
    "best real + synthetic": "candidate",
    "synthetic only": "ablation",
}
ARM_NAMES = tuple(ARM_ROLES)
CONTROL_ARMS = ("replay", "prior", "real + unfiltered synthetic", "real + synthetic", "synthetic only")
"""Arms that only a thorough evaluation compares: the controls, and the candidate that they explain."""
TUNED_DRAWS = ("oversampling", "balanced softmax")
"""Arms that a default evaluation leaves out because "tuned augmentation" is the better of them, or better than both."""
CANDIDATE = "best real + synthetic"
"""The arm that a default evaluation is about."""
QUICK_ARMS = ("real only", "balanced softmax", "pretrained features", CANDIDATE)
"""The arms of a first answer."""


@dataclass(frozen=True)
class Resources:
    """What a study has beside labeled images, each of which makes further arms possible."""

    encoder: bool = False  # A pretrained encoder
    fine_tuning: bool = False  # an encoder whose weights can be trained further
    gpu: bool = False  # A GPU, on which fine-tuning is cheap
    unlabeled: bool = False  # unlabeled images
    pool: bool = True  # synthetic images
    # A network whose training images diffaug augments; the user's own training may not allow it
    augmentable: bool = True

    def missing_for(self, arm: str) -> str:
        """What an arm needs and is not there; empty if nothing is missing."""
        if arm == "pretrained features" and not self.encoder:
            return "a pretrained encoder"
        if arm == "fine-tuned" and not self.fine_tuning:
            return "a pretrained encoder that can be trained further"
        if arm == "pseudo-labels" and not self.unlabeled:
            return "unlabeled images"
        return "synthetic images" if arm == "synthetic only" and not self.pool else ""


def default_arms(resources: Resources, *, quick: bool = False, thorough: bool = False) -> tuple[str, ...]:
    """The arms that are compared unless the user names some.

    Without synthetic images "best real + synthetic" is the best real arm itself.
    """
    left_out = set() if thorough and resources.pool else set(CONTROL_ARMS)
    if not resources.gpu:
        left_out.add("fine-tuned")
    if not resources.augmentable:
        left_out.add("tuned augmentation")
    elif not (quick or thorough):
        left_out.update(TUNED_DRAWS)
    names = QUICK_ARMS if quick else ARM_NAMES
    return tuple(name for name in names if name not in left_out and not resources.missing_for(name))


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
