import base64
import io
import json
import re
import tempfile
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from diffaug.data.images import LabeledImages
from diffaug.evaluation.report.format import MINUS, UNKNOWN
from diffaug.evaluation.report.page import write_report
from diffaug.evaluation.report.pool import Pair, PoolOverview, RejectedSample
from diffaug.evaluation.statistics.crossed import Estimate
from diffaug.evaluation.statistics.metrics import METRICS
from diffaug.synthesis.pool.pool import PublicationCheck
from tests.evaluation.report.contents import (
    BASE,
    BEST,
    CLASSES,
    HOSTILE,
    arm,
    bare_result,
    choice,
    images,
    overview,
    result,
)
from tests.evaluation.report.page import Page

SNAPSHOT = Path(__file__).parent / "snapshots" / "report.txt"
REAL, SYNTHETIC = images([30, 20, 4]), images([0, 10, 26], seed=1, prefix="pool")


def write(path, real=REAL, synthetic=SYNTHETIC, **changes):
    content = {
        "title": f"study {HOSTILE}",
        "result": result(),
        "pool": overview(),
        "config_yaml": f"seed: 0 # {HOSTILE}",
        "facts": {"device": "CPU", "time": {"fit": "3 min"}, HOSTILE: HOSTILE},
        "problems": [f"{HOSTILE} is a duplicate"],
        "seed": 7,
        "command": f"diffaug run '{HOSTILE}'",
    } | changes
    write_report(path, real=real, synthetic=synthetic, **content)
    html = path.read_text()
    return html, Page(html)


def pixels_of(image):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))))


def pairs_of(classes):
    return {name: [Pair(f"pool/{2 * n}.png", f"train/{2 * n}.png", "", 0.1, 0.9)] for n, name in enumerate(classes)}


def shown(page, *beginnings):
    return [image for image in page.images if image["alt"].startswith(beginnings)]


def json_beside(path):
    return json.loads(path.with_suffix(".json").read_text())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "report.html"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    return *write(path), json_beside(path)


def sentences(html):
    """The text of the page, a line per paragraph, heading, term or row."""
    body = re.sub(r"<(svg|pre)\b.*?</\1>|<img[^>]*>", "", html.partition("<main")[2], flags=re.DOTALL)
    blocks = re.split(r"</?(?:p|h\d|dt|dd|li|tr|div|summary|figcaption)\b[^>]*>", body)
    lines = (" ".join(unescape(re.sub(r"<[^>]*>", " ", block)).split()) for block in blocks[1:])
    return "\n".join(filter(None, lines)) + "\n"


def test_the_words_are_those_of_the_snapshot(written):
    """`python -m tests.evaluation.report.test_page` renews it."""
    assert sentences(written[0]) == SNAPSHOT.read_text(encoding="utf-8")


def test_nothing_is_ever_requested_or_run(written):
    html, page, _ = written
    assert all(url.startswith(("data:image/png;base64,", "#")) for url in page.urls)
    assert not re.search(r"url\([^#]|@import|https?://", html)
    policy = next(tag["content"] for name, tag in page.tags if tag.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "script" not in {name for name, _ in page.tags} and page.text.count(HOSTILE) >= 7
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


@pytest.mark.e2e
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), min_size=5, max_size=5))
def test_names_never_change_the_structure_of_the_page(tmp_path, names):
    def structure(classes, extra, file):
        real = LabeledImages(REAL.pixels, REAL.labels, classes, tuple(f"{file}{i}" for i in range(54)))
        pool = LabeledImages(SYNTHETIC.pixels, SYNTHETIC.labels, classes, SYNTHETIC.ids)
        pairs = {classes[1]: [Pair("pool/0.png", f"{file}3", "sampled", 0.1, 0.9)]}
        facts = {"pool": overview(classes, pairs=pairs), "title": extra, "facts": {extra: extra}}
        _, page = write(tmp_path / "any.html", real, pool, result=result(classes, extra), **facts)
        return [(name, sorted(attributes)) for name, attributes in page.tags]

    classes = tuple(f"{number}{name}" for number, name in enumerate(names[:3]))
    hostile = structure(classes, f"arm {names[3]}", names[4])
    assert hostile == structure(("0a", "1b", "2c"), "arm d", "e")


def test_a_file_name_that_is_not_utf8_is_written(path):
    real = images([3, 3, 3], prefix="\udcff")
    _, page = write(path, real, pool=None)
    assert sum(image["title"].startswith("?") for image in page.images) == 9
    assert json_beside(path)["images"]["cat"]["real"][0].startswith("\udcff")


def test_links_lead_to_the_sections_in_order_and_images_have_descriptions(written):
    _, page, _ = written
    links = [tag["href"][1:] for name, tag in page.tags if name == "a"]
    sections = [tag["id"] for name, tag in page.tags if name == "section" and "id" in tag]
    assert links == ["content", *sections]
    assert all(image["alt"] for image in page.images)
    assert page.has("svg", **{"class": "chart wide"}) == page.has("svg", **{"class": "chart narrow"}) == 5
    assert all(tag["aria-label"] for name, tag in page.tags if name == "svg")


@pytest.mark.parametrize(("decision", "kind"), [("use", "good"), ("do not use", "bad"), ("not decidable", "open")])
def test_the_verdict_has_its_color_and_a_paragraph_per_sentence(path, decision, kind):
    html, page = write(path, result=result(verdict=replace(result().verdict, decision=decision)))
    assert page.has("section", **{"class": f"verdict {kind}"}) == 1
    box = html.partition('aria-label="Verdict"')[2].partition("</section>")[0]
    assert all(f"<p>{text}</p>" in box for text in ("Use them &amp; more.", "The &lt;first&gt;.", "The second."))


def without_synthetic(**changes):
    """A result with a mix of zero, in which the candidate repeats a baseline."""
    arms = tuple(
        replace(one, same_as=BASE if one.name == BEST else "real only" if one.role == "candidate" else "")
        for one in result().arms
    )
    nothing = {"choice": choice(0.0), "used_counts": dict.fromkeys(CLASSES, 0), "controls": (), "class_advice": ()}
    return result(**{"arms": arms} | nothing | changes)


def test_without_synthetic_images_no_arm_is_shown_as_if_it_had_some(path):
    html, page = write(path, result=without_synthetic())
    words = page.words()
    assert "of balanced accuracy, 95" not in html and "with synthetic images , " not in words
    assert f"“{BEST}” is not drawn: without synthetic images it is the same training as “{BASE}”" in words
    assert f"{BEST} same as {BASE}" in words and f"{BEST} minus" not in words
    assert "sources" not in page.ids
    assert f"Change in recall from real only to {BASE} , since no synthetic image was used" in words
    assert "0 of 26" in words and "4 real, 26 synthetic, 0 used" in words


def test_if_plain_training_is_the_best_nothing_is_compared(path):
    _, page = write(path, result=without_synthetic(lead=None))
    assert "no synthetic image was used, and plain training is the best without" in page.words()
    assert page.words().count("Confusion matrix of") == 0 and page.has("table", **{"class": "heat"}) == 1


@pytest.mark.parametrize(
    ("changes", "charts", "note"),
    [
        ({}, 5, True),
        ({"mixtures": (), "refinements": (), "judged_images": 0}, 4, False),
        ({"mixtures": (), "refinements": (), "judged_images": 0, "real": (), "num_folds": 0}, 4, False),
    ],
)
def test_of_a_choice_only_what_was_measured_is_shown(path, changes, charts, note):
    html, page = write(path, result=result(choice=choice(**changes)))
    assert page.has("svg", **{"class": "chart wide"}) == charts
    assert (">Everything measured with synthetic images<" in html) is note
    assert ("Nothing was chosen about the real arms" in page.words()) is ("real" in changes)
    assert "30 % of each batch, added to “oversampling”. The smallest & best." in page.words()


def test_validation_stands_beside_the_test_figure(written):
    table = written[1].words().partition("Validation minus test ")[2].partition(" A choice looks better")[0]
    how = f"30 % of each batch, on {BASE}: classes drawn equally often"
    assert table == (
        f"{BASE} classes drawn equally often 72.0 70.0 +2.0 real only as found 66.0 60.0 +6.0 "
        f"{BEST} {how} 70.6 73.4 {MINUS}2.8"
    )
    assert "Here validation minus test is +1.7 points on average." in written[1].words()


def test_the_choice_is_marked_and_names_that_are_cut_off_are_whole_in_their_titles(written):
    html = written[0].partition('id="choice"')[2].partition("</section>")[0]
    assert html.count('<tr class="marked">') == 2 and html.count("<tr") == (1 + 2 + 1) + (1 + 5 + 2)
    titled = [(tag, attributes["title"]) for tag, attributes in written[1].tags if "title" in attributes]
    matrices = 2
    assert [tag for tag, _ in titled].count("span") == matrices * 2 * len(CLASSES) + 2  # rows, columns; nearest images
    assert [title for tag, title in titled if tag == "figcaption"] == [CLASSES[2], CLASSES[1]]


def test_the_images_shown_are_the_ones_named(written):
    _, page, _ = written
    by_id = {name: pixels for one in (REAL, SYNTHETIC) for name, pixels in zip(one.ids, one.pixels, strict=True)}
    by_id |= {sample.file: sample.pixels for sample in overview().rejected}
    assert len(shown(page, "Real image of", "Synthetic image of")) == (12 + 0) + (12 + 10) + (4 + 12) + 2
    assert [image["title"] for image in shown(page, "Its nearest")] == ["train/3.png", "train/40.png"]
    assert [image["title"] for image in shown(page, "Rejected as")] == ["rejected/1.png", "rejected/0.png"]
    assert all(np.array_equal(pixels_of(image), by_id[image["title"]]) for image in page.images)


def test_gray_images_and_large_ones(path):
    real, synthetic = images([2, 2, 2], size=200, channels=1), images([2, 2, 2], size=40, channels=1)
    html, page = write(path, real, synthetic, pool=None)
    assert {pixels_of(image).shape for image in page.images} == {(160, 160), (40, 40)}
    assert 'class="sides"' in html
    assert 'class="sides enlarge"' in write(path)[0]


def first_card(html):
    return html.partition('aria-label="Verdict"')[2].partition("</section>")[0]


def test_the_first_card_has_the_advice_per_class_and_whether_publishing_is_unsafe(path):
    advice = ("use", "leave out", "open")
    given = tuple(replace(one, advice=word) for one, word in zip(result().class_advice, advice, strict=True))
    card = first_card(write(path, result=result(class_advice=given))[0])
    card = " ".join(unescape(re.sub(r"<[^>]*>", " ", card)).split())
    by_name = {one.name: one.advice for one in given}
    labels = {"use": "Use for", "leave out": "Leave out for", "open": "Not certain for"}
    assert all(f"{labels[word]} {name}" in card for name, word in by_name.items())
    unsafe = overview(publication=PublicationCheck(True, ("It copies & more.",), ("copies",)))
    assert "Unsafe to publish" in first_card(write(path, pool=unsafe)[0])
    assert "It copies &amp; more." in first_card(write(path, pool=unsafe)[0])
    safe = overview(publication=PublicationCheck(False, (), ("copies",)))
    assert "Unsafe to publish" not in write(path, pool=safe)[0]


def test_ends_of_the_interval_keep_the_digits_that_the_verdict_rests_on(path):
    close = replace(result().compared, difference=Estimate(0.01, 0.0003, 0.0197))
    _, page = write(path, result=result(comparisons=(close,)))
    assert "95 % interval +0.03 to +1.97" in page.words() and "+1.00 [+0.03, +1.97]" in page.words()


def test_two_candidates_that_are_one_training_are_shown_once(path):
    _, page = write(path, result=result(choice=choice(base="real only")))
    words = page.words()
    assert f"“real + synthetic” is not drawn: it is the same training as “{BEST}”" in words
    assert f"real + synthetic same as {BEST}" in words
    assert f"real + synthetic minus {BASE}" not in words.replace(f"{BEST} minus", "")


def test_the_command_of_the_review_is_given_where_there_is_something_to_review(path):
    assert "diffaug review" not in write(path)[0]
    html, _ = write(path, review="diffaug review runs/a")
    assert "diffaug review runs/a" in html and json_beside(path)["review"] == "diffaug review runs/a"


@pytest.mark.e2e
def test_what_is_not_known_of_a_pool_is_said_and_nothing_made_up(path):
    html, page = write(path, pool=PoolOverview())
    assert {"nearest", "rejected", "audit"} <= page.ids and "quality" not in page.ids
    assert "Not audited" in html and "Not recorded" in html
    nothing, some = PublicationCheck(False, (), (), ("copies", "x")), PublicationCheck(False, (), ("copies",), ("x",))
    _, page = write(path, pool=PoolOverview(publication=nothing))
    assert not page.has("div", **{"class": "alarm"}) and "Not checked: none of the measures" in page.words()
    assert "Copies: not checked X: not checked" in page.words() and "failed" not in page.words()
    _, page = write(path, pool=PoolOverview(publication=some))
    assert (
        "Copies: checked X: not checked" in page.words() and "None of the checks that were made failed" in page.words()
    )
    _, page = write(path, pool=None)
    assert {"nearest", "rejected", "audit", "quality"}.isdisjoint(page.ids)
    assert json_beside(path)["pool"] is None


def test_a_result_of_predictions_has_fewer_parts_and_a_figure_that_one_arm_lacks_is_a_dash(path):
    _, page = write(path, result=bare_result(), pool=None, synthetic=images([0, 0, 0]), problems=[])
    assert {"choice", "next"}.isdisjoint(page.ids) and page.has("svg", **{"class": "chart wide"}) == 2
    words = page.words()
    assert not any(word in words for word in ("AUROC", "NLL", "Many, medium, few", "Classifier:"))
    assert f"72.0 ± {UNKNOWN}" in words and "+2.0 [0.0, +4.0]" in words
    partial = arm("real only", "baseline", 0.60, metrics=METRICS[:4])
    _, page = write(path, result=result(arms=(partial, *result().arms[1:])))
    assert f"real only baseline 3 {'60.0 ± 1.0 ' * 4}{f'{UNKNOWN} ' * 4}60.0" in page.words()


@pytest.mark.e2e
def test_many_large_noisy_images_stay_under_10_megabytes(path):
    counts = [2] * 40
    real, synthetic = images(counts, size=180), images(counts, size=180, seed=1, prefix="pool")
    rejected = [RejectedSample(f"{i}.png", "class 0", "copy", synthetic.pixels[i]) for i in range(24)]
    pool = PoolOverview(pairs=pairs_of(real.classes), rejected=rejected)
    html, page = write(path, real, synthetic, result=bare_result(), pool=pool)
    assert 7_500_000 < len(html.encode()) < 10_000_000
    for kind in ("Real image", "Synthetic image", "Its nearest", "Rejected"):
        assert len(shown(page, kind)) >= 8


@pytest.mark.e2e
def test_very_many_classes_are_folded_and_stay_under_10_megabytes(path):
    names = tuple(f"class {number} with a rather long name & a file name of the same kind" for number in range(400))
    real, synthetic = (images([2] * 400, size=28, prefix=prefix, classes=names) for prefix in ("train", "pool"))
    html, page = write(path, real, synthetic, result=bare_result(names), pool=overview(names, pairs=pairs_of(names)))
    assert len(html.encode()) < 10_000_000 and len(page.images) > 400
    assert html.count('<details class="more">') == 5  # gains, images, nearest, candidates and quality
    assert all(page.text.count(name) >= 4 for name in names)


def test_json_beside_it_holds_the_same(written):
    _, _, data = written
    assert data["evaluation"] == result().to_dict()
    assert data["pool"] == json.loads(json.dumps(overview().to_dict()))
    assert (data["facts"]["time"], data["seed"], data["title"]) == ("fit 3 min", 7, f"study {HOSTILE}")
    assert len(data["images"]["cat"]["real"]) == 12 and data["images"]["cat"]["synthetic"] == []


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        SNAPSHOT.parent.mkdir(exist_ok=True)
        SNAPSHOT.write_text(sentences(write(Path(folder) / "report.html")[0]), encoding="utf-8")
