"""What a whole job is expected to take."""

from __future__ import annotations

from dataclasses import dataclass

from diffaug.runtime.console import duration


@dataclass(frozen=True)
class Seconds:
    """An expected duration: from `low` to `high` seconds."""

    low: float
    high: float

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.low + other.low, self.high + other.high)

    def __str__(self) -> str:
        low, high = duration(self.low), duration(self.high)
        return low if low == high else f"{low} to {high}"


@dataclass(frozen=True)
class RouteOption:
    """A way to a generator, and what speaks for and against it here.

    Attributes:
        name: As in the setting `diffusion.route`.
        obstacle: Why it is not possible, empty if it is. Then the rest is not known.
        trained_size: Height and width that its first network is trained at, in `trained_unit`.
        trained_unit: px or latents.
        seconds: Of the longest training that is expected.
        memory: Of the training, beside the images, in bytes.
        expectation: What its images will look like.
    """

    name: str
    obstacle: str = ""
    trained_size: tuple[int, int] | None = None
    trained_unit: str = "px"
    seconds: float | None = None
    memory: int | None = None
    expectation: str = ""


@dataclass(frozen=True)
class Costs:
    """The durations of the stages; generating and evaluating are estimated from a sample and a few classifier steps."""

    fitting: Seconds
    generating: Seconds
    evaluating: Seconds

    @property
    def total(self) -> Seconds:
        """All stages one after another."""
        return self.fitting + self.generating + self.evaluating

    def sentence(self) -> str:
        """The durations for a person."""
        return (
            f"fit takes {self.fitting}, generate about {self.generating}, evaluate about {self.evaluating}; "
            f"together {self.total}"
        )
