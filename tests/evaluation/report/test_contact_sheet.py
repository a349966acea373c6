import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffaug.configuration.settings import DataSettings
from diffaug.data.building.build import build_catalog
from diffaug.data.catalog import Catalog
from diffaug.data.resize import SizeChoice, SizeScore
from diffaug.evaluation.report.contact_sheet import write_contact_sheet

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of images of differing shapes; one name is hostile, one file broken."""
    folder, rng = tmp_path_factory.mktemp("page") / "<b>set", np.random.default_rng(0)
    for name in ("dark", "bright <i>"):
        (folder / name).mkdir(parents=True)
        for number in range(5):
            shape = (20, 40) if number % 2 else (40, 20)
            level = 60 if name == "dark" else 190
            pixels = (level + rng.integers(-40, 40, shape)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    (folder / "dark" / "broken.png").write_bytes(b"no image")
    return folder


class Page(HTMLParser):
    """The tags of a page and its links to elsewhere."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))


def page_of(root: Path, folder: Path, **settings: object) -> tuple[Page, str, Catalog]:
    chosen = DataSettings.model_validate({"image_size": 16, "near_duplicates": False, **settings})
    catalog = build_catalog(root, chosen, directory=folder / "catalog", seed=0)
    scores = (SizeScore(32, 0.7, 0.05), SizeScore(48, 0.9, 0.02))
    object.__setattr__(catalog, "size", SizeChoice(48, scores, 10, "48 px is the best size"))
    write_contact_sheet(folder / "page.html", catalog, facts=["a fact <u>"], seed=0)
    text = (folder / "page.html").read_text()
    return Page(text), text, catalog


@pytest.mark.parametrize(("resize", "kinds"), [("squeeze", 2), ("crop", 2), ("pad", 3)])
def test_the_page_shows_what_is_seen_and_is_self_contained(root, tmp_path, resize: str, kinds: int) -> None:
    page, text, catalog = page_of(root, tmp_path, resize=resize)
    assert catalog.resize.resize == resize
    boxes = catalog.images("train").boxes
    assert (boxes is not None) == (resize == "pad")
    assert boxes is None or {tuple(box) for box in boxes.tolist()} == {(32, 16), (8, 16)}
    assert len(page.images) == 10 * kinds
    assert all(str(image["src"]).startswith("data:image/png;base64,") and image["alt"] for image in page.images)
    assert not {"b", "i", "u", "script", "link"} & set(page.tags)  # names and facts are escaped
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)
    assert "broken.png" in text
    assert "48 px is the best size" in text
    again, _, _ = page_of(root, tmp_path / "again", resize=resize)
    assert again.images == page.images
