"""The page of `diffaug review` in a real browser, on a screen and on a phone."""

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("selenium")

from selenium import webdriver

from diffaug.data.images import LabeledImages
from diffaug.integrations.review import server
from diffaug.synthesis.review.review import Review
from tests.conftest import eventually

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="apt install chromium chromium-driver"),
]
CLASSES = ("<b>bold</b>", "many")
COUNTS = (3, 10_000)
SIZES = {"screen": (1400, 900), "phone": (390, 844)}


@pytest.fixture
def review(make_pool, tmp_path, monkeypatch) -> Review:
    """A pool of 10,000 images, which share a few files, so that it is written quickly."""
    few = [(label, np.full((8, 8, 1), 25 * number, np.uint8)) for number, label in enumerate([0, 0, 0, 1, 1, 1])]
    pool = make_pool(tmp_path / "study" / "pool", CLASSES, few, copy_ratio=0.5, nearest="1.png")
    rows = pool.manifest.iloc[[0, 1, 2, *np.resize([3, 4, 5], COUNTS[1])]].reset_index(drop=True)
    rows["sha256"] = [f"{number:064x}" for number in range(len(rows))]  # each is an image of its own for a reviewer
    monkeypatch.setattr(type(pool), "_table", lambda self, *_, **__: rows)
    monkeypatch.setattr(type(pool), "read", lambda self, index: few[index % len(few)][1])
    train = LabeledImages(
        np.full((4, 8, 8, 1), 200, np.uint8),
        np.array([0, 0, 1, 1]),
        CLASSES,
        tuple(f"{number}.png" for number in range(4)),
    )
    catalog = SimpleNamespace(images=lambda split: train, unlabeled=lambda: (train.pixels[:0], ()))
    return Review.of("study", "anna", catalog, type(pool).open(pool.root))  # which has read no table yet


@pytest.fixture
def address(review: Review) -> Iterator[str]:
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    running = server._server(review, "token", port, print)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    assert eventually(lambda: running.started)
    yield f"http://127.0.0.1:{port}/?token=token"
    running.should_exit = True
    thread.join()


@pytest.fixture(params=SIZES)
def browser(request: pytest.FixtureRequest) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    width, height = SIZES[request.param]
    if request.param == "phone":
        metrics = {"width": width, "height": height, "pixelRatio": 2}
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    else:
        options.add_argument(f"--window-size={width},{height}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.implicitly_wait(10)  # s, for elements of a page that is still being loaded
    yield driver
    driver.quit()


@pytest.fixture
def text(browser: Any) -> Callable[[str], str]:
    return lambda name: browser.find_element("id", name).text


@pytest.fixture
def press(browser: Any) -> Callable[[str], None]:
    return lambda keys: browser.find_element("tag name", "body").send_keys(keys)


def choose(browser: Any, name: str, value: str) -> None:
    code = "const one = document.getElementById(arguments[0]); one.value = arguments[1]; one.onchange();"
    browser.execute_script(code, name, value)


def test_a_reviewer_works_through_a_class_of_10_000_images_by_keyboard(browser, address, review, text, press) -> None:
    browser.get(address)
    assert eventually(lambda: text("place") == "1 of 3")
    assert browser.current_url == address.partition("?")[0]  # the token is not left in the history
    assert "<b>bold</b>: 0 of 3 reviewed" in text("class")
    press("r")
    assert eventually(lambda: text("place") == "2 of 3")
    press("a")
    assert eventually(lambda: text("place") == "3 of 3")
    assert eventually(lambda: len(review.file.read()) == 2)
    press("u")
    assert eventually(lambda: text("place") == "2 of 3" and [one.decision for one in review.file.read()] == ["reject"])
    choose(browser, "class", "1")
    assert eventually(lambda: text("place") == "1 of 10000")
    assert len(browser.find_elements("css selector", "#made img")) == 60
    for _ in range(65):
        press("n")
    assert eventually(lambda: text("place") == "66 of 10000" and "120 of 10000" in text("made-pages"))
    assert eventually(lambda: browser.execute_script("return document.getElementById('synthetic').naturalWidth") == 8)
    press("r")
    assert eventually(lambda: len(review.file.read()) == 2)
    choose(browser, "show", "rejected")
    assert eventually(lambda: text("place") == "1 of 1")
    review.decide(68, "ben", "accept")
    choose(browser, "show", "disputed")
    assert eventually(lambda: "disagree" in text("state"))
    assert {"✕ anna", "✓ ben"} == set(text("decisions").splitlines())
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_nothing_is_wider_than_the_screen_and_the_buttons_are_in_reach(browser, address, text) -> None:
    browser.get(address)
    assert eventually(lambda: text("place") == "1 of 3")
    wide = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert browser.execute_script(wide)
    places = [browser.find_element("id", name).rect for name in ("synthetic", "nearest", "reject", "accept")]
    assert places[0]["y"] == places[1]["y"] and places[0]["x"] < places[1]["x"]  # side by side
    height = browser.execute_script("return window.innerHeight")
    assert all(place["y"] + place["height"] <= height for place in places)


def test_a_blind_test_ends_with_a_score(browser, address, text, press) -> None:
    browser.get(address)
    assert eventually(lambda: text("place") == "1 of 3")
    browser.find_element("id", "to-test").click()
    browser.find_element("id", "begin").click()
    assert eventually(lambda: text("progress").startswith("Image 1 of"))
    for number in range(1, int(text("progress").split()[-1]) + 1):
        assert eventually(lambda number=number: text("progress").startswith(f"Image {number} of"))
        press("s")
    assert eventually(lambda: "95 % interval" in text("sentence"))


def test_a_decision_that_could_not_be_kept_is_told_and_not_shown(browser, address, review, text, press) -> None:
    browser.get(address)
    assert eventually(lambda: text("place") == "1 of 3")
    review.file.path.write_text("nonsense\n")
    press("r")
    assert eventually(lambda: "line 1 can't be read" in text("problem"))
    assert review.file.path.read_text() == "nonsense\n"
    assert eventually(lambda: not browser.find_elements("css selector", "#made .reject"))
