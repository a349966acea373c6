"""A result as a figure and in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from textwrap import wrap
from typing import TYPE_CHECKING

from diffaug.evaluation.verdict.arm_summary import ArmSummary
from diffaug.evaluation.verdict.wording import Verdict, change_in_words
from diffaug.runtime.console import printable
from diffaug.runtime.notebook import html_table

if TYPE_CHECKING:
    from diffaug.evaluation.statistics.comparison import Comparison
    from diffaug.runtime.figures import NotebookFigure

COLORS = {"baseline": "tab:blue", "candidate": "tab:orange", "ablation": "tab:gray"}
ROW_INCHES, TITLE_COLUMNS = 0.35, 80


def result_figure(arms: Sequence[ArmSummary], verdict: Verdict) -> NotebookFigure:
    """Balanced accuracy of each arm with its 95 % interval, the best on top, and the best baseline as a line."""
    from diffaug.runtime.figures import NotebookFigure

    ordered = sorted(arms, key=lambda arm: arm.accuracy.mean)
    figure = NotebookFigure(figsize=(8, 1.4 + ROW_INCHES * len(ordered)), layout="constrained")
    axes = figure.add_subplot()
    for place, arm in enumerate(ordered):
        low, mean, high = (100 * value for value in (arm.accuracy.low, arm.accuracy.mean, arm.accuracy.high))
        axes.plot([low, high], [place, place], color=COLORS[arm.role], linewidth=2)
        axes.plot(mean, place, "o", color=COLORS[arm.role])
    best = next(arm for arm in arms if arm.name == verdict.baseline)
    axes.axvline(100 * best.accuracy.mean, color="gray", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(ordered)), [printable(arm.name) for arm in ordered], parse_math=False)
    axes.set_xlabel("balanced accuracy on test images, %, with 95 % interval")
    axes.spines[["top", "right"]].set_visible(False)
    title = "\n".join(wrap(printable(verdict.headline), TITLE_COLUMNS))
    figure.suptitle(title, fontsize="medium", parse_math=False)
    return figure


def result_html(arms: Sequence[ArmSummary], comparisons: Sequence[Comparison], verdict: Verdict) -> str:
    """The verdict and a row per arm, the best first, for a notebook."""
    changes = {one.arm: change_in_words(one.difference) for one in comparisons}
    columns = ["arm", "role", "seeds", "balanced accuracy, %", f"points more than {verdict.baseline}"]
    rows = [
        [arm.name, arm.role, arm.seeds, f"{100 * arm.accuracy.mean:.1f}", changes.get(arm.name, "")]
        for arm in sorted(arms, key=lambda arm: -arm.accuracy.mean)
    ]
    details = "".join(f"<li>{escape(detail)}</li>" for detail in verdict.details)
    return f"<p><b>{escape(verdict.headline)}</b></p>{html_table(columns, rows)}<ul>{details}</ul>"
