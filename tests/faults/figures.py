"""What a test has tried and what went wrong: collected from all workers, printed at the end, kept as JSON."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PROPERTY = "faults"
KINDS = (
    *("kills", "failed operations", "power cuts", "flips", "damaged files", "hostile records"),
    *("processes at once", "leaping clocks", "limits", "outages of MLflow"),
)


@dataclass
class Figures:
    """The tries of one test.

    Attributes:
        kind: One of `KINDS`.
        subject: The command, or what else was disturbed.
        possible: How many different tries there are, if that is known.
    """

    kind: str
    subject: str
    possible: int | None = None
    tries: int = 0
    struck: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    def add(self, label: str, problem: str, *, struck: bool = True) -> None:
        self.tries += 1
        self.struck += struck
        if problem:
            self.failures.append(f"{self.subject}, {label}: {problem}")

    def require_none(self) -> None:
        shown = "\n\n".join(self.failures[:5])
        assert not self.failures, f"{len(self.failures)} of {self.tries} tries failed, such as:\n{shown}"


def collected(reports: Iterable[Any]) -> list[Figures]:
    calls = [report for report in reports if report.when == "call"]
    values = [value for report in calls for name, value in report.user_properties if name == PROPERTY]
    return sorted((Figures(**value) for value in values), key=lambda one: (KINDS.index(one.kind), one.subject))


def totals(figures: Iterable[Figures]) -> dict[str, dict[str, int]]:
    """Tries, tries in which something was struck, and failures, by kind."""
    sums: dict[str, dict[str, int]] = defaultdict(lambda: {"tries": 0, "struck": 0, "failures": 0})
    for one in figures:
        sums[one.kind]["tries"] += one.tries
        sums[one.kind]["struck"] += one.struck
        sums[one.kind]["failures"] += len(one.failures)
    return dict(sums)


def write_json(file: Path, figures: list[Figures], machine: dict[str, Any]) -> None:
    content = {"summary": totals(figures), "machine": machine, "rows": [asdict(one) for one in figures]}
    file.write_text(json.dumps(content, indent=1) + "\n")
