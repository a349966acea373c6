"""The arms: ways to train. Values only; `training_sets` makes their training sets."""

from dataclasses import dataclass, replace
from typing import Literal

from diffaug.classifiers.training_set import PLAIN, Augmentation
from diffaug.configuration.arms import ARM_ROLES, Role

Learner = Literal["network", "features", "fine-tuned"]


@dataclass(frozen=True)
class PseudoLabeling:
    """Which labels of unlabeled images are trained on, see `classifiers.pseudo_labels`."""

    threshold: float
    class_balanced: bool


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        learner: A network from scratch, a logistic regression on the features of a pretrained encoder, or that encoder,
            trained further.
        draw: Whether all real images or all classes are equally likely in a draw.
        balanced_softmax: Whether the log class prior is added to the logits in the training loss.
        regularization: Weight of the penalty of the regression on features.
        pseudo_labeling: How unlabeled images are trained on; None: not at all.
        control: What it copies from "real + synthetic" without its images: the classes of the extra draws, taken from
            real images ("replay"), or the class prior alone ("prior").
        on_best: Whether all but the synthetic images is as in the baseline that was chosen on training images.
    """

    name: str
    learner: Learner = "network"
    draw: Literal["images", "classes"] = "images"
    balanced_softmax: bool = False
    augmentation: Augmentation = PLAIN
    regularization: float | None = None
    pseudo_labeling: PseudoLabeling | None = None
    control: Literal["none", "replay", "prior"] = "none"
    synthetic: Literal["none", "filtered", "unfiltered"] = "none"
    real: bool = True
    on_best: bool = False

    @property
    def role(self) -> Role:
        """Baseline, candidate or ablation."""
        return ARM_ROLES[self.name]

    @property
    def uses_synthetic(self) -> bool:
        """Whether synthetic images are trained on."""
        return self.synthetic != "none"

    @property
    def depends_on_mix(self) -> bool:
        """Whether its training depends on the synthetic images, even if only on their classes."""
        return self.uses_synthetic or self.control != "none"

    @property
    def how(self) -> str:
        """What was chosen in it, in words."""
        words = {
            "classes drawn equally often": self.draw == "classes",
            "balanced softmax": self.balanced_softmax,
            f"augmentation {self.augmentation}": self.augmentation != PLAIN,
            f"regularization {self.regularization:g}" if self.regularization else "": self.regularization,
            _in_words(self.pseudo_labeling): self.pseudo_labeling,
        }
        return ", ".join(word for word, applies in words.items() if applies) or "as found"


def _in_words(labeling: PseudoLabeling | None) -> str:
    if labeling is None:
        return ""
    ranked = ", the same share per class" if labeling.class_balanced else ""
    return f"pseudo-labels from a confidence of {labeling.threshold:g}{ranked}"


ARMS = {
    arm.name: arm
    for arm in (
        Arm("real only"),
        Arm("oversampling", draw="classes"),
        Arm("balanced softmax", balanced_softmax=True),
        Arm("tuned augmentation", balanced_softmax=True, augmentation=Augmentation("light")),
        Arm("pretrained features", learner="features", draw="classes", regularization=0.03),
        Arm("fine-tuned", learner="fine-tuned", draw="classes"),
        Arm("pseudo-labels", pseudo_labeling=PseudoLabeling(0.95, class_balanced=False)),
        Arm("replay", control="replay"),
        Arm("prior", control="prior"),
        Arm("real + unfiltered synthetic", synthetic="unfiltered"),
        Arm("real + synthetic", synthetic="filtered"),
        Arm("best real + synthetic", synthetic="filtered", on_best=True),
        Arm("synthetic only", synthetic="filtered", real=False),
    )
}
"""The arms before anything is chosen; `Choice.arms` has those in which something was."""


def resolve_arm(arm: Arm, fraction: float, base: Arm | None = None) -> Arm:
    """The arm as it is trained: on its base, and without synthetic images and controls at a fraction of zero."""
    if arm.on_best:
        if base is None:
            raise ValueError(f"'{arm.name}' needs a baseline to build on")
        arm = replace(base, name=arm.name, synthetic=arm.synthetic)
    return replace(arm, synthetic="none", control="none") if arm.real and not fraction else arm
