"""Prints what an evaluation found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffaug.runtime.console import printable

if TYPE_CHECKING:
    from diffaug.evaluation.verdict.result import EvaluationResult

COLUMNS = {"balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1", "worst_class_recall": "worst class"}


def print_verdict(result: EvaluationResult) -> None:
    """Prints the best without synthetic images, a table of arms, the verdict about synthetic ones, and what would help.

    Without synthetic images there is no verdict, and no arm with them.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    table = Table(title="Test results in percent, mean over seeds (SD)", title_justify="left", title_style="bold")
    table.add_column("arm", no_wrap=True)
    table.add_column("role", overflow="fold")
    for heading in COLUMNS.values():
        table.add_column(heading, justify="right", overflow="fold")
    arms = [arm for arm in result.arms if arm.role != "candidate" or not result.has_no_pool]
    for arm in sorted(arms, key=lambda arm: -arm.mean()):
        figures = [arm.metrics[name] for name in COLUMNS]
        cells = [f"{100 * f.mean:.1f}" + ("" if f.sd is None else f" ({100 * f.sd:.1f})") for f in figures]
        same = result.same_training(arm)
        role = f"same as {same}" if same else arm.role
        table.add_row(printable(arm.name), printable(role), *cells)
    console.print(printable(result.best_real), style="bold")
    console.print(table)
    if not result.has_no_pool:
        console.print(f"verdict: {result.verdict.decision}", style="bold")
        for sentence in (result.verdict.headline, *result.verdict.details):
            console.print(printable(sentence))
    if result.advice:
        console.print("what would help:")
    for sentence in result.advice:
        console.print(printable(f"- {sentence}"))
