"""How much of the training data is synthetic, and from which measurements that was chosen. Values only."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SyntheticMix:
    """How a training uses synthetic images.

    Attributes:
        fraction: Of each batch, 0 to 1; where classes are drawn equally often, of the draws of each class that has
            synthetic images.
        loss_weight: Loss weight of a synthetic image; a real one has 1.
        max_per_real: At most this many synthetic images of a class per real image of it. None: no limit.
        excluded_classes: Classes that get no synthetic images.
    """

    fraction: float
    loss_weight: float = 1.0
    max_per_real: float | None = None
    excluded_classes: tuple[str, ...] = ()

    @property
    def is_zero(self) -> bool:
        """Whether no synthetic image has any effect."""
        return 0 in (self.fraction, self.loss_weight, self.max_per_real)


@dataclass(frozen=True)
class MeasuredMix:
    """Balanced accuracy of a baseline with a mix: the mean over all images left out in turn, and the SD over folds."""

    arm: str
    mix: SyntheticMix
    mean: float
    sd: float


@dataclass(frozen=True)
class MixChoice:
    """The choice, and what it was made from.

    Attributes:
        baselines: The baselines without synthetic images.
        mixtures: The baselines with the middle one of the mixes.
        curve: The mixes on the best of these baselines; empty where the fraction was set.
        refinements: The chosen mix without the classes it made worse, or with other weights or amounts.
        num_folds: Validation folds; 0 where nothing was measured.
    """

    base: str
    mix: SyntheticMix
    baselines: tuple[MeasuredMix, ...] = ()
    mixtures: tuple[MeasuredMix, ...] = ()
    curve: tuple[MeasuredMix, ...] = ()
    refinements: tuple[MeasuredMix, ...] = ()
    num_folds: int = 0

    @property
    def was_set(self) -> bool:
        """Whether the user set the mix, or there was nothing to choose from."""
        return not self.curve
