"""What was chosen on training images, with how many synthetic ones, and from which measurements. Values only."""

from dataclasses import dataclass

from diffaug.evaluation.experiment.arms import ARMS, Arm


@dataclass(frozen=True)
class Mix:
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
    """A real arm with a mix, measured on images that neither classifier nor generator has seen."""

    arm: str
    mix: Mix
    mean: float  # balanced accuracy to expect: that of the best arm without synthetic images, and the gain
    sd: float  # over seeds
    how: str = ""  # what was chosen in the arm, in words
    gain: float = 0.0  # over the best arm without synthetic images, from paired differences; see `Contest`
    standard_error: float = 0.0  # of the gain
    score_gain: float = 0.0  # like `gain`, in the score that decides, see `Validation`. So is `score_error`
    score_error: float = 0.0


@dataclass(frozen=True)
class MeasuredArm:
    """Balanced accuracy of a real arm on training images left out in turn."""

    arm: str
    how: str  # what was chosen in the arm, in words
    mean: float  # over all images left out
    sd: float  # over the folds
    score: float = 0.0  # what decides, see `Validation`


@dataclass(frozen=True)
class Choice:
    """The choice, and what it was made from. No test image had a part in it."""

    base: str  # the real arm that synthetic images are added to; `based_on` is this arm as it is trained then
    mix: Mix  # the synthetic images that are added; zero if none did better than without
    # the real arms by cross-validation, the best first; empty where there was nothing to choose
    real: tuple[MeasuredArm, ...] = ()
    # what was measured with and without synthetic images, on the images that the pilot never saw
    mixtures: tuple[MeasuredMix, ...] = ()
    # the chosen mix without classes that it made worse, or with another weight or amount
    refinements: tuple[MeasuredMix, ...] = ()
    augmentation: str = "none"  # of the arm "tuned augmentation"
    # of the arm "pretrained features"; None without an encoder. So is `class_weighted`
    regularization: float | None = None
    class_weighted: bool = False
    num_folds: int = 0  # of the cross-validation; 0 where nothing was measured
    judged_images: int = 0  # training images that the mix was chosen on; 0 where it was set or could not be chosen
    # the mix as it was measured: without classes that only the pool's filters know. None: as it is, or not measured
    measured_mix: Mix | None = None
    reason: str = ""  # why the mix is what it is, in a sentence
    arms: tuple[Arm, ...] = ()  # the arms in which something was chosen, as they are trained
    based_on: Arm | None = None  # the base with its draws as chosen
    is_quick: bool = False  # whether this is a first answer, with less tried and shorter trainings

    @property
    def was_set(self) -> bool:
        """Whether the mix was not chosen by measurement."""
        return not self.judged_images

    def arm(self, name: str) -> Arm:
        """An arm as it is trained."""
        return next((arm for arm in self.arms if arm.name == name), ARMS[name])

    def is_of(self, measured: MeasuredMix) -> bool:
        """Whether this is the measurement of the mix that was chosen, on its base."""
        mix = self.measured_mix or self.mix
        return (measured.arm, measured.how, measured.mix) == (self.base, self.base_arm.how, mix)

    @property
    def base_arm(self) -> Arm:
        """The real arm that synthetic images are added to, as it is trained then."""
        return self.based_on or self.arm(self.base)
