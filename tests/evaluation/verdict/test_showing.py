from dataclasses import replace

import pytest

from tests.evaluation.report.contents import HOSTILE, arm, result


def test_the_figure_has_the_interval_of_each_arm_and_the_best_baseline():
    shown = result()
    figure = shown.plot()
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    by_accuracy = sorted(shown.arms, key=lambda one: one.accuracy.mean)
    assert labels == [one.name for one in by_accuracy]
    for place, one in enumerate(by_accuracy):
        ends, mean = axes.lines[2 * place].get_xdata(), axes.lines[2 * place + 1].get_xdata()
        assert [*ends, *mean] == pytest.approx(
            [100 * one.accuracy.low, 100 * one.accuracy.high, 100 * one.accuracy.mean]
        )
    baseline = shown.arm(shown.verdict.baseline)
    assert axes.lines[-1].get_xdata()[0] == pytest.approx(100 * baseline.accuracy.mean)
    assert " ".join(figure.get_suptitle().split()) == " ".join(shown.verdict.headline.split())
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_notebook_shows_the_verdict_and_the_arms_with_literal_names():
    shown = result()
    shown = replace(shown, arms=(*shown.arms, arm(HOSTILE, "ablation", 0.1)))
    html = shown._repr_html_()
    assert HOSTILE not in html and "&lt;script&gt;" in html
    positions = [html.index(f"<tr><td>{one.name}</td>") for one in sorted(result().arms, key=lambda one: -one.mean())]
    assert positions == sorted(positions)
