from __future__ import annotations

import base64
import io
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from diffaug.data.images import LabeledImages
from diffaug.evaluation.report.format import MINUS, UNKNOWN
from diffaug.evaluation.report.page import write_report
from diffaug.evaluation.report.pool import Pair, PoolFacts, RejectedSample

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


METRICS = ("balanced_accuracy", "macro_f1", "worst_class_recall", "accuracy")
OF_PROBABILITIES = ("auroc", "auprc", "ece", "nll")


def arm(name, role, mean, sd, classes=CLASSES, metrics=(*METRICS, *OF_PROBABILITIES)):
    figures = {"mean": mean, "sd": sd}
    return {
        "name": name,
        "role": role,
        "seeds": 3,
        "metrics": dict.fromkeys(metrics, figures),
        "recall": dict.fromkeys(classes, interval(mean, 0.05)),
        "group_recall": dict.fromkeys(("many", "medium", "few"), figures),
        "confusion": (15 * (mean * np.eye(3) + (1 - mean) * np.roll(np.eye(3), 1, axis=1))).tolist(),
    }


def comparison(name, mean, classes=CLASSES):
    gains = zip(classes, (interval(-0.02, 0.05), interval(0.123, 0.05), interval(0.0, 0.1)), strict=True)
    return {
        "arm": name,
        "baseline": "oversampling",
        "difference": interval(mean, 0.02),
        "seeds_only": interval(mean, 0.01),
        "p_value": 0.00004,
        "p_value_holm": 0.0123,
        "recall_gain": dict(gains),
        "group_gain": {"many": interval(0.01, 0.02), "medium": interval(0.02, 0.01), "few": interval(0.05, 0.01)},
    }


def control(question, name, baseline, mean):
    return {"question": question, "arm": name, "baseline": baseline, "difference": interval(mean, 0.01)}


def dose(share=0.3):
    curve = [(0.0, 1.0, None), (0.3, 1.0, None), (0.6, 1.0, None), (0.3, 0.5, 10.0)]
    return {
        "base": "oversampling",
        "chosen": {"share": share, "weight": 1.0, "max_ratio": math.inf},
        "folds": 3,
        "real": [
            {"arm": "real only", "balanced_accuracy": {"mean": 0.66, "sd": 0.01}},
            {"arm": "oversampling", "balanced_accuracy": {"mean": 0.69, "sd": 0.01}},
        ],
        "curve": [{"share": s, "weight": w, "max_ratio": r, "mean": 0.7 + 0.02 * s, "sd": 0.01} for s, w, r in curve],
    }


def evaluation(classes=CLASSES, **changes):
    """A result of schema 2 with every entry."""
    return {
        "schema_version": 2,
        "classes": list(classes),
        "train_counts": dict(zip(classes, (30, 20, 4), strict=True)),
        "synthetic_counts": dict(zip(classes, (0, 10, 26), strict=True)),
        "test_counts": dict.fromkeys(classes, 15),
        "groups": dict(zip(classes, ("many", "medium", "few"), strict=True)),
        "training": {"classifier": "small-cnn", "updates": 1900, "batch_size": 64, "generators": 2},
        "arms": [
            arm("real only", "real", 0.60, 0.01, classes),
            arm("oversampling", "real", 0.70, 0.01, classes),
            arm("real + unfiltered synthetic", "diagnosis", 0.69, 0.01, classes),
            arm("real + synthetic", "claim", 0.71, 0.02, classes),
            arm("best real + synthetic", "claim", 0.734, 0.02, classes),
        ],
        "comparisons": [
            comparison("real + synthetic", 0.01, classes),
            comparison("best real + synthetic", 0.034, classes),
        ],
        "controls": [
            control("new content", "real + synthetic", "replay", 0.021),
            control("more exposure", "replay", "prior", 0.004),
            control("shifted prior", "prior", "real only", 0.085),
            control("filters", "real + synthetic", "real + unfiltered synthetic", -0.013),
        ],
        "dose": dose(),
        "verdict": {
            "decision": "use",
            "text": "Balanced accuracy rises by 3.4 points & more.",
            "arm": "best real + synthetic",
            "baseline": "oversampling",
            "test_images_needed": None,
            "seeds_needed": None,
        },
    } | changes


def bare_evaluation():
    """A result of schema 2 without what is optional: no dose, no controls, no probabilities, no groups."""
    arms = [arm("real only", "real", 0.7, 0.01, metrics=METRICS), arm("mine", "claim", 0.72, None, metrics=METRICS)]
    for one in arms:
        one |= {"group_recall": {}, "confusion": None}
    claim = comparison("mine", 0.02) | {"baseline": "real only", "group_gain": {}}
    verdict = evaluation()["verdict"] | {"arm": "mine", "baseline": "real only"}
    nothing = {"training": {}, "groups": {}, "controls": [], "dose": None}
    return evaluation(arms=arms, comparisons=[claim], verdict=verdict, **nothing)


def pool_facts(classes=CLASSES, **changes):
    part = {
        "images": 10,
        "copies": {"count": 1, "total": 36, "share": 1 / 36, "interval": [0.0, 0.1]},
        "nearest_ratio": 0.9,
        "distance_ratio": {"value": 0.95, "low": 0.9, "high": 1.0},
        "membership": None,
    }
    quality = dict.fromkeys(("kid", "precision", "recall", "density", "coverage", "confirmed"), 0.5)
    rejected = np.random.default_rng(5).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    everything = {
        "pairs": {
            classes[1]: (Pair("pool/0.png", "train/3.png", "sampled", 0.14, 0.83),),
            classes[2]: (Pair("pool/12.png", "train/40.png", "variation", 0.4, 0.97),),
        },
        "rejected": (
            RejectedSample("rejected/0.png", classes[1], "off-class", rejected[0]),
            RejectedSample("rejected/1.png", classes[2], "copy", rejected[1]),
        ),
        "candidates": {
            name: {"wanted": 26, "accepted": 20, "candidates": 1040, "rejected": {"off-class": 3, "copy": 1}}
            for name in classes
        },
        "audit": {
            "unsafe_to_publish": True,
            "reasons": [f"class '{classes[1]}': 9 of 36 candidates are copies"],
            "limits": {"copies": 0.05, "distance_ratio": 0.8, "membership": 0.6},
            "notes": [f"not compared with held-out images: {classes[0]}"],
            "all": part,
            "origins": {"sampled": part},
            "classes": dict.fromkeys(classes, part),
        },
        "quality": {
            "encoder": "a classifier",
            "classes": {name: {"real": 9, "synthetic": 10, "missing": "", **quality} for name in classes},
        },
    }
    return PoolFacts(**everything | changes)


def write(path, real=None, synthetic=None, **changes):
    content = {
        "title": f"study {HOSTILE}",
        "evaluation": evaluation(),
        "pool_facts": pool_facts(),
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


def pixels_of(image):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))))


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


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), min_size=7, max_size=7))
def test_names_never_change_the_structure_of_the_page(tmp_path, names):
    """Class names, file names, arms and facts of any characters give the tags of a page with tame names."""

    def structure(classes, extra, file):
        path = tmp_path / "any.html"
        real, pool = images([30, 20, 4]), images([0, 10, 26], seed=1, prefix="pool")
        real = LabeledImages(real.pixels, real.labels, classes, tuple(f"{file}{i}" for i in range(54)))
        pool = LabeledImages(pool.pixels, pool.labels, classes, pool.ids)
        result = json.loads(json.dumps(evaluation(classes)).replace('"best real + synthetic"', json.dumps(extra)))
        pairs = {classes[1]: (Pair("pool/0.png", f"{file}3", "sampled", 0.1, 0.9),)}
        facts = pool_facts(classes, pairs=pairs)
        _, page = write(path, real, pool, evaluation=result, pool_facts=facts, title=extra, facts={extra: extra})
        return [(name, sorted(attributes)) for name, attributes in page.tags]

    classes = tuple(f"{number}{name}" for number, name in enumerate(names[:3]))
    hostile = structure(classes, f"arm {names[3]}", names[4])
    assert hostile == structure(("0a", "1b", "2c"), "arm d", "e")


def test_a_file_name_that_is_not_utf8_is_written(path):
    real = images([3, 3, 3])
    real = LabeledImages(real.pixels, real.labels, real.classes, tuple(f"\udcff{i}.png" for i in range(9)))
    _, page = write(path, real)
    assert sum(image["title"].startswith("?") for image in page.images) == 9
    assert json.loads(path.with_suffix(".json").read_text())["images"]["cat"]["real"][0].startswith("\udcff")


def test_the_order_and_the_headings(path):
    _, page = write(path)
    assert [text for level, text in page.headings if level == "h2"] == [
        "Use the synthetic images",
        "Ways to train, compared",
        "Gain per class",
        "Where the gain comes from",
        "The dose",
        "What is mistaken for what",
        "Real and synthetic images",
        "Nearest training images",
        "Rejected samples",
        "Safe to publish?",
        "Quality per class",
        "Problems found in the data",
        "Provenance",
    ]
    links = [url[1:] for url in page.urls if url.startswith("#")]
    assert set(links) <= page.ids
    sections = [tag["id"] for name, tag in page.tags if name == "section" and "id" in tag]
    assert links == ["content", *sections]
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
    assert "70 → 73" in words
    assert "73.4 ± 2.0" in words and "0.73 ± 0.02" in words  # NLL is no share
    assert "1,900 updates of 64 images each. Generators: 2." in words


def test_the_verdict_says_gain_interval_and_dose(path):
    _, page = write(path)
    box = page.words().partition("Skip to the content")[2].partition("Ways to train")[0]
    assert "+3.4 points of balanced accuracy, 95 % interval +1.4 to +5.4" in box
    assert "30 % of each batch synthetic, added to “oversampling” at a loss weight of 1" in box


def test_each_part_of_the_verdict_is_a_paragraph(path):
    evaluation = bare_evaluation()
    evaluation["verdict"]["text"] = "Use it.\nClasses that lost: none."
    html, _ = write(path, evaluation=evaluation)
    assert "<p>Use it.</p><p>Classes that lost: none.</p>" in html


def test_a_dose_of_nothing_is_said(path):
    _, page = write(path, evaluation=evaluation(dose=dose(share=0.0)))
    assert page.words().count("Dose, chosen on validation images: no synthetic images") == 2
    assert "points of balanced accuracy" not in page.words()


@pytest.mark.parametrize(
    ("share", "words"), [(0.3, "30 % of each batch synthetic"), (0.0, "no synthetic images, since their share was set")]
)
def test_a_dose_set_by_hand_has_neither_curve_nor_validation_table(path, share, words):
    by_hand = dose(share=share) | {"folds": 0, "real": [], "curve": []}
    _, page = write(path, evaluation=evaluation(dose=by_hand))
    assert page.words().count(f"Dose, set by hand: {words}") == 2
    section = page.words().partition("The dose ")[2].partition("What is mistaken")[0]
    assert "alidation" not in section and "tried" not in section


MIXED = [{"arm": "real only", "share": 0.3, "balanced_accuracy": {"mean": 0.721, "sd": 0.01}}]


def test_a_real_arm_alone_may_do_better_than_the_one_that_doses_were_tried_on(path):
    chosen = dose(share=0.0) | {"curve_base": "real only", "mixed": MIXED}
    _, page = write(path, evaluation=evaluation(dose=chosen))
    words = page.words()
    assert "since on validation images none did better than “oversampling” alone" in words
    assert "on top of “real only”. “oversampling” alone did better" in words
    assert not [tag for _, tag in page.tags if tag.get("class") == "ring"]


def test_what_was_measured_with_a_set_dose_is_shown(path):
    _, page = write(path, evaluation=evaluation(dose=dose() | {"real": [], "curve": [], "mixed": MIXED}))
    assert "“oversampling” was chosen on 3 validation parts" in page.words()
    assert "real only, 30 % synthetic 72.1 ± 1.0" in page.words()


def test_where_only_the_real_arm_was_chosen_its_table_is_shown(path):
    _, page = write(path, evaluation=evaluation(dose=dose() | {"curve": []}))
    assert "Dose, set by hand: 30 %" in page.words()
    assert "“oversampling” was chosen on 3 validation parts" in page.words()
    assert "All real arms tried" in page.words() and "The generator had seen these parts" not in page.words()


def test_the_dose_is_told_to_be_measured_on_seen_validation_images(path):
    _, page = write(path)
    text = page.words()
    assert "Measured on 3 validation parts of the train images" in text
    assert "The generator had seen these parts" in text
    assert "30 % synthetic 0.50 10" in text and "30 % synthetic 1.00 no limit 70.6 ± 1.0" in text
    assert [tag["r"] for _, tag in page.tags if tag.get("class") == "ring"] == ["9.5"]


def test_classes_are_sorted_by_train_images(path):
    _, page = write(path)
    words = page.words()
    gains = words[words.index("the rarest class first") :]
    assert gains.index(f"{CLASSES[2]} 4 26 15") < gains.index(f"{HOSTILE} 20 10 15") < gains.index("cat 30 0 15")
    walls = words[words.index("Random, not hand-picked") : words.index("Chosen to be the worst")]
    assert walls.index(f"{CLASSES[2]} · 4 real") < walls.index(f"{HOSTILE} · 20 real") < walls.index("cat · 30 real")


def test_bars_show_sign_and_whether_the_interval_leaves_out_zero(path):
    _, page = write(path)
    bars = [attributes["class"] for name, attributes in page.tags if name == "rect"]
    of_classes, of_groups, of_controls = bars[:3], bars[3:6], bars[6:]
    assert of_classes == ["up uncertain", "up", "down uncertain"]
    assert of_groups == ["up", "up", "up uncertain"]
    assert of_controls == ["up", "up uncertain", "up", "down"]


def test_the_groups_tell_their_classes_and_train_images(path):
    _, page = write(path)
    words = page.words()
    assert "few 1 4 +5.0 [+4.0, +6.0] 70 → 73" in words and "many 1 30 +1.0" in words


def test_each_control_names_its_arms_and_its_interval(path):
    _, page = write(path)
    words = page.words()
    assert "New content real + synthetic minus replay +2.1 [+1.1, +3.1]" in words
    assert f"Filters real + synthetic minus real + unfiltered synthetic {MINUS}1.3" in words


def test_controls_that_were_not_run_are_said_to_be_missing(path):
    _, page = write(path, evaluation=evaluation(controls=[]))
    assert "Not measured: it takes the arms" in page.words()


@pytest.mark.parametrize("controls", [[], evaluation()["controls"]])
def test_at_a_dose_of_zero_there_are_no_controls_and_the_reason_is_said(path, controls):
    _, page = write(path, evaluation=evaluation(dose=dose(share=0.0), controls=controls))
    words = page.words()
    assert "Not compared: without synthetic images in any batch" in words
    assert "Not measured" not in words and "real + synthetic minus replay" not in words


def test_roles_differ_in_shape_and_word(path):
    _, page = write(path)
    shapes = [name for name, tag in page.tags if tag.get("class") in ("real", "synthetic", "diagnosis")]
    assert shapes[:5] == ["circle", "circle", "path", "path", "path"]
    kinds = [tag["class"] for _, tag in page.tags if tag.get("class") in ("real", "synthetic", "diagnosis")]
    assert kinds[:5] == ["real", "real", "diagnosis", "synthetic", "synthetic"]
    words = page.words()
    assert "with synthetic images · under test" in words and "real images only · best real arm" in words
    assert "for diagnosis only" in words


def test_confusions_of_the_baseline_and_of_the_claim(path):
    _, page = write(path)
    words = page.words()
    assert f"cat {HOSTILE} 30.0 26.6 {MINUS}3.4" in words
    heat = [tag["class"] for name, tag in page.tags if name == "td" and "--heat" in tag.get("style", "")]
    assert len(heat) == 2 * 9 and heat.count("right") == heat.count("wrong") == heat.count("none") == 6


def test_names_that_are_cut_off_are_whole_in_their_titles(path):
    _, page = write(path)
    titles = [(tag, attributes["title"]) for tag, attributes in page.tags if tag != "img" and "title" in attributes]
    confusions, classes = 2, len(CLASSES)
    assert [tag for tag, _ in titles].count("span") == confusions * 2 * classes + 2  # rows, columns; nearest images
    assert [title for tag, title in titles if tag == "figcaption"] == [CLASSES[2], CLASSES[1]]


def test_pairs_are_shown_with_their_distance(path):
    real, synthetic = images([30, 20, 4]), images([0, 10, 26], seed=1, prefix="pool")
    _, page = write(path, real, synthetic)
    words = page.words()
    assert "Distance 0.14, ratio 0.83, nearest is of cat" in words
    assert "Distance 0.40, ratio 0.97, variation of a real image, nearest is of" in words
    nearest = [image for image in page.images if image["alt"].startswith("Its nearest training image")]
    assert [image["title"] for image in nearest] == ["train/3.png", "train/40.png"]
    assert np.array_equal(pixels_of(nearest[0]), real.pixels[3])


def test_rejected_samples_are_shown_by_reason(path):
    facts = pool_facts()
    _, page = write(path, pool_facts=facts)
    words = page.words()
    assert "copy · 3" in words and "off-class · 9" in words
    shown = {image["title"]: pixels_of(image) for image in page.images if image["alt"].startswith("Rejected as")}
    assert shown.keys() == {sample.file for sample in facts.rejected}
    assert all(np.array_equal(shown[sample.file], sample.pixels) for sample in facts.rejected)
    assert f"{HOSTILE} 26 20 1,040 1 3" in words


def test_the_audit_says_what_is_unsafe_and_what_was_not_measured(path):
    _, page = write(path)
    words = page.words()
    assert "Unsafe to publish : the generator was seen to repeat training images." in words
    assert f"class '{HOSTILE}': 9 of 36 candidates are copies" in words
    assert "not compared with held-out images: cat" in words
    assert "origin: sampled 10 1 of 36 0.95 [0.90, 1.00]" in words


def test_a_pool_without_findings_gets_no_guarantee(path):
    _, page = write(path, pool_facts=pool_facts(audit={"unsafe_to_publish": False, "reasons": []}))
    assert "Unsafe to publish" not in page.words() and "That is no guarantee" in page.words()


def test_a_pool_that_was_never_audited_is_said_to_be_so(path):
    _, page = write(path, pool_facts=PoolFacts())
    words = page.words()
    assert "Not audited" in words and "Nothing is recorded." in words
    assert "does not say which training images" in words and "Quality per class" not in words


def test_without_facts_of_the_pool_its_sections_are_left_out(path):
    _, page = write(path, pool_facts=None)
    assert {"nearest", "rejected", "audit", "quality"}.isdisjoint(page.ids)
    assert json.loads(path.with_suffix(".json").read_text())["pool"] is None


def test_a_result_without_optional_entries(path):
    _, page = write(path, evaluation=bare_evaluation())
    words = page.words()
    assert {"dose", "confusion"}.isdisjoint(page.ids)
    assert not any(word in words for word in ("AUROC", "NLL", "Many, medium, few", "Classifier:"))
    assert f"72.0 ± {UNKNOWN}" in words and "+2.0 [0.0, +4.0]" in words


def test_without_probabilities_in_one_arm_its_cells_are_dashes(path):
    result = evaluation()
    result["arms"][0] = arm("real only", "real", 0.6, 0.01, metrics=METRICS)
    _, page = write(path, evaluation=result)
    figures = page.words().partition("Seeds Balanced")[2]
    assert f"real only 3 {'60.0 ± 1.0 ' * 4}{f'{UNKNOWN} ± {UNKNOWN} ' * 4}60.0" in figures


def test_images_shown_are_the_ones_named(path):
    real, synthetic = images([30, 20, 4]), images([0, 10, 26], seed=1, prefix="pool")
    _, page = write(path, real, synthetic)
    by_id = {
        name: pixels for source in (real, synthetic) for name, pixels in zip(source.ids, source.pixels, strict=True)
    }
    walls = [image for image in page.images if image["alt"].startswith(("Real image of", "Synthetic image of"))][:50]
    assert len(walls) == (12 + 0) + (12 + 10) + (4 + 12)
    assert all(np.array_equal(pixels_of(image), by_id[image["title"]]) for image in walls)


def test_grey_images_and_large_ones(path):
    real, synthetic = images([2, 2, 2], size=200, channels=1), images([2, 2, 2], size=40, channels=1)
    html, page = write(path, real, synthetic, pool_facts=None)
    sizes = {Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))).size for image in page.images}
    assert sizes == {(160, 160), (40, 40)}
    assert 'class="sides"' in html and "enlarge" not in html.partition("</style>")[2]


def test_small_images_are_enlarged_by_pixel(path):
    html, _ = write(path)
    assert 'class="sides enlarge"' in html


def test_many_large_noisy_images_stay_under_10_megabytes(path):
    counts = [2] * 40
    real, synthetic = images(counts, size=180), images(counts, size=180, seed=1, prefix="pool")
    pairs = {f"class {n}": (Pair(f"pool/{2 * n}.png", f"train/{2 * n}.png", "sampled", 0.1, 0.9),) for n in range(40)}
    rejected = [RejectedSample(f"{i}.png", "class 0", "copy", synthetic.pixels[i]) for i in range(24)]
    facts = PoolFacts(pairs=pairs, rejected=rejected)
    html, page = write(path, real, synthetic, evaluation=bare_evaluation(), pool_facts=facts)
    assert 8_000_000 < len(html.encode()) < 10_000_000
    for kind in ("Real image", "Synthetic image", "Its nearest", "Rejected"):
        assert sum(image["alt"].startswith(kind) for image in page.images) >= 8


def test_very_many_classes_are_folded_and_stay_under_10_megabytes(path):
    names = tuple(f"class {number} with a rather long name & a file name of the same kind" for number in range(400))
    real, synthetic = images([2] * 400, size=28), images([2] * 400, size=28, seed=1, prefix="pool")
    real = LabeledImages(real.pixels, real.labels, names, real.ids)
    counts, gain = dict.fromkeys(names, 2), dict.fromkeys(names, interval(0.1, 0.2))
    result = bare_evaluation()
    result |= {"classes": list(names), "train_counts": counts, "synthetic_counts": counts, "test_counts": counts}
    result["comparisons"][0]["recall_gain"] = gain
    for one in result["arms"]:
        one |= {"recall": gain, "confusion": np.full((400, 400), 0.1).tolist()}
    facts = pool_facts()
    facts = PoolFacts(
        pairs={name: (Pair(f"pool/{2 * n}.png", f"train/{2 * n}.png", "", 0.1, 0.9),) for n, name in enumerate(names)},
        candidates=dict.fromkeys(names, next(iter(facts.candidates.values()))),
        audit=facts.audit | {"classes": dict.fromkeys(names, facts.audit["all"])},
        quality=facts.quality | {"classes": dict.fromkeys(names, next(iter(facts.quality["classes"].values())))},
    )
    html, page = write(path, real, synthetic, evaluation=result, pool_facts=facts)
    assert len(html.encode()) < 10_000_000
    assert len(page.images) > 400
    assert page.words().count("375 more classes") == 4  # gains, images, candidates and quality
    assert all(page.text.count(name) >= 4 for name in names)


def test_json_beside_it_says_the_same(path):
    write(path)
    data = json.loads(path.with_suffix(".json").read_text())
    data["evaluation"]["dose"]["chosen"]["max_ratio"] = math.inf  # JSON has none
    assert data["evaluation"] == evaluation()
    assert data["facts"]["time"] == "fit 3 min"
    assert data["seed"] == 7 and data["title"] == f"study {HOSTILE}"
    assert len(data["images"]["cat"]["real"]) == 12 and data["images"]["cat"]["synthetic"] == []


def test_the_json_holds_everything_that_is_known_of_the_pool(path):
    facts = pool_facts()
    write(path, pool_facts=facts)
    pool = json.loads(path.with_suffix(".json").read_text())["pool"]
    assert pool["audit"] == facts.audit and pool["quality"] == facts.quality
    assert pool["candidates"] == facts.candidates
    assert pool["pairs"][HOSTILE] == [
        {"synthetic": "pool/0.png", "nearest": "train/3.png", "origin": "sampled", "distance": 0.14, "ratio": 0.83}
    ]
    assert pool["rejected"][1] == {"file": "rejected/1.png", "label": CLASSES[2], "reason": "copy"}


def test_unknown_figures_are_dashes(path):
    content = evaluation(controls=[], dose=None)
    content["arms"][0] = arm("real only", "real", 0.7, math.nan)
    content["arms"][4] = arm("best real + synthetic", "claim", 0.7, 0.01)
    content["arms"][4]["metrics"] = {"balanced_accuracy": {"mean": None, "sd": None}}
    for one in content["comparisons"]:
        one |= {
            "recall_gain": {"cat": {"mean": math.nan, "low": None, "high": None}},
            "group_gain": {},
            "p_value": None,
        }
    _, page = write(path, evaluation=content)
    assert f"70.0 ± {UNKNOWN}" in page.words() and f"{UNKNOWN} ± {UNKNOWN}" in page.words()
    assert not re.search(r"\b(nan|inf|none)\b", page.words().lower().replace("none shown", ""))
    assert [name for name, _ in page.tags if name == "rect"] == []


def test_without_comparisons_problems_or_synthetic_images(path):
    none = images([0, 0, 0])
    verdict = evaluation()["verdict"] | {"decision": "not decidable", "arm": None, "baseline": None}
    empty = bare_evaluation() | {"comparisons": [], "arms": [], "verdict": verdict}
    _, page = write(path, synthetic=none, problems=[], pool_facts=None, evaluation=empty)
    assert "None shown." in page.text and "None." in page.words()
