from __future__ import annotations

import base64
import io
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diffaug.data.images import LabeledImages
from diffaug.evaluation.report import MINUS, UNKNOWN, Axis, choose_images, write_report

HOSTILE = '<script>alert("x")</script>'
CLASSES = ("cat", HOSTILE, "rare & <b>bold</b>")
URL_ATTRIBUTES = {"src", "href", "srcset", "data", "action", "poster", "xlink:href"}
VOID = {"meta", "img", "br", "line", "circle", "path", "rect", "link", "input", "hr"}


class Page(HTMLParser):
    """Parses the report and collects what the tests ask about; fails on tags that don't match."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.urls, self.images, self.headings, self.ids, self.text = [], [], [], [], set(), ""
        self._stack, self._heading = [], None
        self.feed(html)
        assert self._stack == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append((tag, values))
        self.urls += [value for name, value in attributes if name in URL_ATTRIBUTES]
        if "id" in values:
            assert values["id"] not in self.ids
            self.ids.add(values["id"])
        if tag == "img":
            self.images.append(values)
        if tag in ("h1", "h2", "h3", "h4"):
            self._heading = ""
        if tag not in VOID:
            self._stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._stack.pop() == tag
        if tag in ("h1", "h2", "h3", "h4"):
            self.headings.append((tag, self._heading.strip()))
            self._heading = None

    def handle_data(self, data):
        if self._stack and self._stack[-1] != "style":
            self.text += data + " "
        if self._heading is not None:
            self._heading += data

    def words(self):
        return " ".join(self.text.split())


def images(counts, size=8, channels=3, seed=0, prefix="train"):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    pixels = rng.integers(0, 256, (len(labels), size, size, channels), dtype=np.uint8)
    ids = tuple(f"{prefix}/{number}.png" for number in range(len(labels)))
    classes = CLASSES if len(counts) == len(CLASSES) else tuple(f"class {number}" for number in range(len(counts)))
    return LabeledImages(pixels, labels, classes, ids)


def interval(mean, half):
    return {"mean": mean, "low": mean - half, "high": mean + half}


def arm(name, uses_synthetic, mean, sd, recall):
    figures = {"mean": mean, "sd": sd}
    metrics = dict.fromkeys(("balanced_accuracy", "accuracy", "macro_f1", "worst_class_recall"), figures)
    return {
        "name": name,
        "uses_synthetic": uses_synthetic,
        "seeds": 3,
        "metrics": metrics,
        "recall": dict.fromkeys(CLASSES, recall),
    }


def evaluation(**changes):
    gains = {"cat": interval(-0.02, 0.05), HOSTILE: interval(0.123, 0.05), CLASSES[2]: interval(0.0, 0.1)}
    comparison = {
        "arm": "real + synthetic",
        "baseline": "real",
        "difference": interval(0.034, 0.02),
        "seeds_only": interval(0.034, 0.01),
        "p_value": 0.00004,
        "p_value_holm": 0.0123,
        "recall_gain": gains,
    }
    verdict = {
        "decision": "use",
        "text": "Balanced accuracy rises by 3.4 points & more.",
        "arm": "real + synthetic",
        "baseline": "real",
        "test_images_needed": None,
    }
    return {
        "classes": list(CLASSES),
        "train_counts": dict(zip(CLASSES, (30, 20, 4), strict=True)),
        "synthetic_counts": dict(zip(CLASSES, (0, 10, 26), strict=True)),
        "test_counts": dict.fromkeys(CLASSES, 15),
        "arms": [arm("real", False, 0.70, 0.01, 0.7), arm("real + synthetic", True, 0.734, 0.02, 0.8)],
        "comparisons": [comparison],
        "verdict": verdict,
    } | changes


def write(path, real=None, synthetic=None, **changes):
    content = {
        "title": f"study {HOSTILE}",
        "evaluation": evaluation(),
        "config_yaml": f"seed: 0 # {HOSTILE}",
        "facts": {"device": "CPU", "time": {"fit": "3 min"}, HOSTILE: HOSTILE},
        "problems": [f"{HOSTILE} is a duplicate"],
        "seed": 7,
        "command": f"diffaug run '{HOSTILE}'",
    } | changes
    real = images([30, 20, 4]) if real is None else real
    synthetic = images([0, 10, 26], seed=1, prefix="pool") if synthetic is None else synthetic
    write_report(path, real=real, synthetic=synthetic, **content)
    html = path.read_text()
    return html, Page(html)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "report.html"


def test_nothing_is_ever_requested(path):
    html, page = write(path)
    assert all(url.startswith(("data:image/png;base64,", "#")) for url in page.urls)
    assert not re.search(r"url\(|@import|https?://", html)
    policy = next(tag["content"] for name, tag in page.tags if tag.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_hostile_texts_stay_texts(path):
    html, page = write(path)
    names = {name for name, _ in page.tags}
    assert "script" not in names
    assert "<b>bold" not in html
    assert page.text.count(HOSTILE) >= 7
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_the_order_and_the_headings(path):
    _, page = write(path)
    assert [text for level, text in page.headings if level == "h2"] == [
        "Use the synthetic images",
        "Ways to train, compared",
        "Gain per class",
        "Real and synthetic images",
        "Problems found in the data",
        "Provenance",
    ]
    links = {url[1:] for url in page.urls if url.startswith("#")}
    assert links <= page.ids
    assert all(image["alt"] for image in page.images)


@pytest.mark.parametrize(
    ("decision", "kind", "word"),
    [
        ("use", "good", "Use the synthetic images"),
        ("do not use", "bad", "Do not use the synthetic images"),
        ("not decidable", "open", "Not decidable with this test set"),
    ],
)
def test_the_verdict_in_colour_and_word(path, decision, kind, word):
    verdict = evaluation()["verdict"] | {"decision": decision}
    _, page = write(path, evaluation=evaluation(verdict=verdict))
    assert ("section", {"class": f"verdict {kind}", "aria-label": "Verdict"}) in page.tags
    assert page.headings[1] == ("h2", word)
    assert "Balanced accuracy rises by 3.4 points & more." in page.text


def test_figures_are_percent_and_points(path):
    _, page = write(path)
    words = page.words()
    assert "70.0 ± 1.0" in words and "73.4 ± 2.0" in words
    assert "+3.4 [+1.4, +5.4]" in words and "+3.4 [+2.4, +4.4]" in words
    assert "< 0.001" in words and "0.012" in words
    assert "+12.3 [+7.3, +17.3]" in words
    assert f"{MINUS}2.0 [{MINUS}7.0, +3.0]" in words
    assert f"0.0 [{MINUS}10.0, +10.0]" in words
    assert "70 → 80" in words


def test_classes_are_sorted_by_train_images(path):
    _, page = write(path)
    assert [text for level, text in page.headings if level == "h3"] == [CLASSES[2], HOSTILE, "cat"]
    words = page.words()
    assert words.index(f"{CLASSES[2]} 4 26 15") < words.index(f"{HOSTILE} 20 10 15") < words.index("cat 30 0 15")


def test_bars_show_sign_and_whether_the_interval_leaves_out_zero(path):
    _, page = write(path)
    bars = [attributes for name, attributes in page.tags if name == "rect"]
    assert [bar["class"] for bar in bars] == ["up uncertain", "up", "down uncertain"]
    percent = [(float(bar["x"][:-1]), float(bar["width"][:-1])) for bar in bars]
    axis = Axis.around([-0.1, 0.0, 0.173])
    zero = axis.at(0.0)
    assert percent[0] == (zero, 0.0)
    assert percent[1] == (zero, pytest.approx(axis.at(0.123) - zero, abs=0.02))
    assert percent[2] == (axis.at(-0.02), pytest.approx(zero - axis.at(-0.02), abs=0.02))


def test_real_and_synthetic_arms_differ_in_shape(path):
    _, page = write(path)
    shapes = [name for name, attributes in page.tags if attributes.get("class") in ("real", "synthetic")]
    assert shapes[:2] == ["circle", "path"]
    assert "with synthetic images · under test" in page.words()
    assert "real images only · best real arm" in page.words()


def test_images_shown_are_the_ones_named(path):
    real, synthetic = images([30, 20, 4]), images([0, 10, 26], seed=1, prefix="pool")
    _, page = write(path, real, synthetic)
    by_id = {
        name: pixels for source in (real, synthetic) for name, pixels in zip(source.ids, source.pixels, strict=True)
    }
    assert len(page.images) == (12 + 0) + (12 + 10) + (4 + 12)
    for image in page.images:
        encoded = base64.b64decode(image["src"].partition(",")[2])
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(encoded))), by_id[image["title"]])


def test_grey_images_and_large_ones(path):
    real, synthetic = images([2, 2, 2], size=200, channels=1), images([2, 2, 2], size=40, channels=1)
    html, page = write(path, real, synthetic)
    sizes = {Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))).size for image in page.images}
    assert sizes == {(160, 160), (40, 40)}
    assert 'class="sides"' in html and "enlarge" not in html.partition("</style>")[2]


def test_small_images_are_enlarged_by_pixel(path):
    html, _ = write(path)
    assert 'class="sides enlarge"' in html


def test_the_choice_is_random_fixed_by_the_seed_and_of_the_class():
    real, synthetic = images([30, 20, 4]), images([0, 10, 26], seed=1)
    first = choose_images(real, synthetic, seed=3)
    assert first == choose_images(real, synthetic, seed=3)
    assert first != choose_images(real, synthetic, seed=4)
    assert first["cat"][0] != sorted(first["cat"][0])
    for index, name in enumerate(CLASSES):
        ours, theirs = first[name]
        assert len(ours) == len(set(ours)) and set(real.labels[ours]) <= {index}
        assert len(theirs) == len(set(theirs)) and set(synthetic.labels[theirs]) <= {index}


def test_classes_are_matched_by_name_where_the_pool_orders_them_otherwise():
    real, synthetic = images([3, 3, 3]), images([5, 5, 5], seed=1)
    other = LabeledImages(synthetic.pixels, synthetic.labels, (CLASSES[2], "cat"), synthetic.ids)
    shown = choose_images(real, other, seed=0)
    assert set(other.labels[shown["cat"][1]]) == {1} and set(other.labels[shown[CLASSES[2]][1]]) == {0}
    assert shown[HOSTILE][1] == []


def test_a_small_budget_is_shared_by_all_classes():
    counts = [20] * 6
    real, synthetic = images(counts, size=16), images(counts, size=16, seed=1)
    shown = choose_images(real, synthetic, seed=0, budget=6 * 2 * 2 * 900)
    numbers = [len(side) for sides in shown.values() for side in sides]
    assert max(numbers) < 12 and max(numbers) - min(numbers) <= 1 and min(numbers) >= 1


def test_many_large_noisy_images_stay_under_10_megabytes(path):
    counts = [3] * 40
    real, synthetic = images(counts, size=220), images(counts, size=220, seed=1)
    html, page = write(path, real, synthetic)
    assert len(html.encode()) < 10_000_000
    assert len(page.images) > 80


def test_json_beside_it_says_the_same(path):
    write(path)
    data = json.loads(path.with_suffix(".json").read_text())
    assert data["evaluation"] == evaluation()
    assert data["facts"]["time"] == "fit 3 min"
    assert data["seed"] == 7 and data["title"] == f"study {HOSTILE}"
    assert len(data["images"]["cat"]["real"]) == 12 and data["images"]["cat"]["synthetic"] == []


def test_unknown_figures_are_dashes(path):
    content = evaluation()
    content["arms"][0] = arm("real", False, 0.7, math.nan, 0.7)
    content["arms"][1] = arm("real + synthetic", True, None, None, 0.7)
    content["comparisons"][0]["recall_gain"] = {"cat": {"mean": math.nan, "low": None, "high": None}}
    content["comparisons"][0]["p_value"] = None
    _, page = write(path, evaluation=content)
    assert f"70.0 ± {UNKNOWN}" in page.words() and f"{UNKNOWN} ± {UNKNOWN}" in page.words()
    assert not re.search(r"\b(nan|none)\b", page.words().lower().replace("none shown", ""))
    assert [name for name, _ in page.tags if name == "rect"] == []


def test_without_comparisons_problems_or_synthetic_images(path):
    none = images([0, 0, 0])
    verdict = evaluation()["verdict"] | {"decision": "not decidable", "arm": None, "baseline": None}
    _, page = write(path, synthetic=none, problems=[], evaluation=evaluation(comparisons=[], arms=[], verdict=verdict))
    assert "None shown." in page.text and "None." in page.words()


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=20))
def test_an_axis_holds_its_values_in_order_between_round_numbers(values):
    axis = Axis.around(values)
    places = [axis.at(value) for value in sorted(values)]
    assert places == sorted(places)
    assert places[0] >= 0 and places[-1] <= 100
    ticks = axis.ticks
    assert ticks[0]["x"] == 0 and ticks[-1]["x"] == 100
    assert 2 <= len(ticks) <= 8
    for tick in ticks:
        assert tick["value"] / axis.step == pytest.approx(round(tick["value"] / axis.step), abs=1e-6)
