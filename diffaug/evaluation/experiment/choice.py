"""What was chosen on training images, with how many synthetic ones, and from which measurements. Values only."""

from dataclasses import dataclass

from diffaug.evaluation.experiment.arms import ARMS, Arm


@dataclass(frozen=True)
class SyntheticMix:
    """How a training uses synthetic images.

    Attributes:
        fraction: Of each batch, 0 to 1; where classes are drawn equally often, of the draws of each class that has
            synthetic images.
        loss_weight: Loss weight of a synthetic image; a real one has 1.
        max_per_real: At most this many synthetic images of a class per real image of it. None: no limit.
        excluded_classes: Classes that get no synthetic images.
        excluded_origins: Origins whose images are not used, see `synthesis.pool.origins`.
    """

    fraction: float
    loss_weight: float = 1.0
    max_per_real: float | None = None
    excluded_classes: tuple[str, ...] = ()
    excluded_origins: tuple[str, ...] = ()

    @property
    def is_zero(self) -> bool:
        """Whether no synthetic image has any effect."""
        return 0 in (self.fraction, self.loss_weight, self.max_per_real)


@dataclass(frozen=True)
class MeasuredMix:
    """Balanced accuracy of a real arm with a mix, on images that neither classifier nor generator has seen.

    Attributes:
        how: What was chosen in the arm, in words.
        sd: Over seeds.
        gain: Paired difference to the best arm without synthetic images.
        standard_error: Of the gain.
        score_gain: Like `gain`, in the score that decides, see `Validation`. So is `score_error`.
    """

    arm: str
    mix: SyntheticMix
    mean: float
    sd: float
    how: str = ""
    gain: float = 0.0
    standard_error: float = 0.0
    score_gain: float = 0.0
    score_error: float = 0.0


@dataclass(frozen=True)
class MeasuredArm:
    """Balanced accuracy of a real arm on training images left out in turn.

    Attributes:
        how: What was chosen in the arm, in words.
        mean: Over all images left out.
        sd: Over the folds.
        score: What decides, see `Validation`.
    """

    arm: str
    how: str
    mean: float
    sd: float
    score: float = 0.0


@dataclass(frozen=True)
class Choice:
    """The choice, and what it was made from. No test image had a part in it.

    Attributes:
        base: The real arm that synthetic images are added to; `based_on` is this arm as it is trained then.
        mix: The synthetic images that are added; zero if none did better than without.
        real: The real arms by cross-validation, the best first; empty where there was nothing to choose.
        mixtures: What was measured with and without synthetic images, on the images that the pilot never saw.
        refinements: The chosen mix without classes that it made worse, or with another weight or amount.
        augmentation: Of the arm "tuned augmentation".
        regularization: Of the arm "pretrained features"; None without an encoder. So is `class_weighted`.
        num_folds: Of the cross-validation; 0 where nothing was measured.
        judged_images: Training images that the mix was chosen on; 0 where it was set or could not be chosen.
        reason: Why the mix is what it is, in a sentence.
        arms: The arms in which something was chosen, as they are trained.
        based_on: The base with its draws as chosen.
        is_quick: Whether this is a first answer, with less tried and shorter trainings.
    """

    base: str
    mix: SyntheticMix
    real: tuple[MeasuredArm, ...] = ()
    mixtures: tuple[MeasuredMix, ...] = ()
    refinements: tuple[MeasuredMix, ...] = ()
    augmentation: str = "none"
    regularization: float | None = None
    class_weighted: bool = False
    num_folds: int = 0
    judged_images: int = 0
    reason: str = ""
    arms: tuple[Arm, ...] = ()
    based_on: Arm | None = None
    is_quick: bool = False

    @property
    def was_set(self) -> bool:
        """Whether the mix was not chosen by measurement."""
        return not self.judged_images

    def arm(self, name: str) -> Arm:
        """An arm as it is trained."""
        return next((arm for arm in self.arms if arm.name == name), ARMS[name])

    @property
    def base_arm(self) -> Arm:
        """The real arm that synthetic images are added to, as it is trained then."""
        return self.based_on or self.arm(self.base)
