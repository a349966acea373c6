import re
import subprocess
import sys

import numpy as np
import pytest

from diffaug.data.resize import SizeChoice, SizeScore
from diffaug.evaluation.experiment.choice import Mix
from diffaug.evaluation.report.charts import Row, mix_chart, rows_chart, size_chart
from diffaug.evaluation.report.choices import curves
from diffaug.evaluation.report.svg import COLORS, shortened
from diffaug.evaluation.statistics.crossed import Estimate
from tests.evaluation.report.contents import BASE, HOSTILE, HOW, choice
from tests.evaluation.report.page import Page

RANGES = [Estimate(0.02, -0.01, 0.05), Estimate(0.1, 0.05, 0.15), Estimate(-0.1, -0.2, -0.05)]
SIZES = SizeChoice(48, (SizeScore(32, 0.9, 0.02), SizeScore(48, 0.95, 0.02)), 80, "")
ROWS = [Row(name, one) for name, one in zip(("cat", "dog", "cow"), RANGES, strict=True)]


def wide_chart(markup):
    """The first of the two charts; Markup of MarkupSafe 2 escapes what it is split at, a plain string does not."""
    return str.partition(markup, "</svg>")[0]


def ends_of_lines(markup, color):
    """x of the first and the last point of each line of a color in the wide chart, in drawing order."""
    paths = re.findall(rf'<path d="([^"]*)"[^>]*stroke: var\(--{color}\)', wide_chart(markup))
    points = [re.findall(r"[ML] ([\d.]+) ([\d.]+)", path) for path in paths]
    return [(float(one[0][0]), float(one[-1][0])) for one in points]


def test_ranges_are_drawn_to_scale_around_zero():
    markup = rows_chart("gains", "what it shows", "recall, %", ROWS)
    drawn = ends_of_lines(markup, "ink")
    zero = ends_of_lines(markup, "soft")[-1][0]
    scale = (drawn[0][1] - drawn[0][0]) / (RANGES[0].high - RANGES[0].low)
    for one, (low, high) in zip(RANGES, drawn, strict=True):
        assert (low - zero, high - zero) == pytest.approx((one.low * scale, one.high * scale), abs=0.01)


@pytest.mark.parametrize(
    ("chart", "axes"),
    [
        (lambda: rows_chart("gains", "", "change in recall, points", ROWS), ["change in recall, points"]),
        (lambda: mix_chart(choice()), ["synthetic images in each batch, %", "balanced accuracy, %"]),
        (lambda: size_chart(SIZES), ["short side, px", "balanced accuracy, %"]),
    ],
)
def test_each_axis_says_what_it_shows_and_in_which_unit(chart, axes):
    for drawn in str(chart()).split("</svg>")[:2]:
        texts = re.findall(r">([^<>]+)</text>", drawn)
        assert [text for text in texts if ", " in text] == axes


def test_bars_are_solid_exactly_if_their_interval_excludes_zero():
    wide = wide_chart(rows_chart("gains", "", "recall, %", ROWS))
    bars = re.findall(r'<path[^>]*fill: var\(--(good|bad)\)([^"]*)"', wide)
    pale = [(color, "opacity: 0.25" in style) for color, style in bars]
    assert pale == [("good", True), ("good", False), ("bad", False)]


def test_roles_differ_in_shape_and_color():
    rows = [Row(role, Estimate(0.5, 0.4, 0.6), role) for role in ("baseline", "candidate", "ablation")]
    wide = wide_chart(rows_chart("arms", "", "recall, %", rows, reference=0.5))
    shapes = dict(re.findall(r'<path id="arms-wide-(\w+)" d="([^"]*)"', wide))
    used = re.findall(r'<use href="#arms-wide-(\w+)"[^>]*style="[^"]*fill: var\(--(\w+)\)', wide)
    is_round = [("C" in shapes[name], fill) for name, fill in used]
    assert is_round == [(True, "real"), (False, "synthetic"), (False, "page")]
    assert wide.count("stroke-dasharray") == 1


def test_names_are_text_and_never_markup():
    names = [HOSTILE, "a & b", "$x^2$", '" onload="x', "a\nb\0\udcff", "#0000f1", "-->", "]]>"]
    page = Page(rows_chart("any", HOSTILE, "recall, %", [Row(name, RANGES[0]) for name in names]))
    tame = Page(rows_chart("any", "", "recall, %", [Row("name", RANGES[0]) for _ in names]))
    assert [(tag, sorted(values)) for tag, values in page.tags] == [(tag, sorted(values)) for tag, values in tame.tags]
    assert all(page.text.count(name if name.isprintable() else "a?b??") == 2 for name in names)


def test_colors_fonts_and_ids_are_the_pages():
    markup = rows_chart("one", "", "recall, %", ROWS) + rows_chart("two", "", "recall, %", ROWS) + mix_chart(choice())
    page = Page(markup)  # which refuses doubled ids
    assert not any(color in markup for color in COLORS.values())
    assert not re.search(r"#[0-9a-f]{6}|font-family|http|<style|<metadata", markup)
    assert all(url[1:] in page.ids for url in page.urls)
    assert all(name in page.ids for name in re.findall(r"url\(#([^)]*)\)", markup))
    assert page.has("svg", role="img") == 6


@pytest.mark.e2e
def test_equal_figures_give_equal_bytes_and_matplotlib_is_imported_only_to_draw():
    program = (
        "import sys, diffaug.evaluation.report.page; assert 'matplotlib' not in sys.modules;"
        "from diffaug.evaluation.report.charts import Estimate, Row, rows_chart;"
        f"sys.stdout.write(rows_chart('gains', '', 'recall, %', {ROWS}))"
    )
    again = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert again == rows_chart("gains", "", "recall, %", ROWS)
    assert mix_chart(choice()) == mix_chart(choice())


def test_the_curve_of_the_mix_is_drawn_to_scale_with_the_choice_ringed_if_it_is_on_it():
    wide = wide_chart(mix_chart(choice()))
    (curve,) = [
        np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", path), float)
        for path in re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--synthetic\)', wide)
        if path.count("L") == 2
    ]
    widths, heights = np.diff(curve, axis=0).T
    assert widths[0] == pytest.approx(widths[1]) and heights[0] == pytest.approx(heights[1]) and heights[0] < 0
    ring = re.search(r'<use href="#[^"]*" x="([\d.]+)" y="([\d.]+)" style="[^"]*stroke: var\(--ink\)', wide)
    assert tuple(map(float, ring.groups())) == pytest.approx(tuple(curve[1]))
    refined = choice(mix=Mix(0.3, excluded_classes=(HOSTILE,)))
    assert "stroke: var(--ink)" not in mix_chart(refined)  # what leaves out classes is no point of the curve
    assert {key: [one.mix.fraction for one in line] for key, line in curves(choice()).items()} == {
        (BASE, HOW): [0, 0.3, 0.6],
        ("real only", "as found"): [0, 0.3],
    }


def test_long_names_are_shortened_to_columns():
    shorter = [shortened(name, 10) for name in ("x" * 12, "猫" * 6, "x" * 10)]
    assert shorter == ["x" * 9 + "…", "猫" * 4 + "…", "x" * 10]
