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
