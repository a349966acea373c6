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
