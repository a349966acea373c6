import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffaug import Pool, UsageError

HOSTILE = "<b>$rare$</b>"


@pytest.fixture(scope="module")
def pool(make_pool: Any, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Twelve flat images of the first class, one of the hostile one and none of the last, 6 x 4 px."""
    images = [(0, np.full((6, 4, 1), 20 * i, np.uint8)) for i in range(12)] + [(1, np.full((6, 4, 1), 255, np.uint8))]
    return make_pool(tmp_path_factory.mktemp("study") / "pool", ("common", HOSTILE, "none"), images)


def test_the_figure_has_a_row_per_class_that_has_images(pool: Pool, tmp_path: Path) -> None:
    figure = pool.show(per_class=3)
    assert [axes.texts[0].get_text() for axes in figure.axes] == ["common (12)", f"{HOSTILE} (1)"]
    strip = np.asarray(figure.axes[0].images[0].get_array())
    assert strip.shape == (6, 15)
    assert [strip[0, place] for place in (0, 5, 10)] == [0, 120, 220]  # spread over the class
    figure.savefig(tmp_path / "pool.png")
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert len(pool.show(classes=[1]).axes) == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"per_class": 0}, "per_class"),
        ({"classes": ["comon"]}, "did you mean 'common'"),
        ({"classes": [2]}, "no images"),
    ],
)
def test_what_can_not_be_shown_is_refused(pool: Pool, wrong: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pool.show(**wrong)


def test_a_notebook_shows_counts_and_some_images_with_literal_names(pool: Pool) -> None:
    shown = pool._repr_html_()
    assert "&lt;b&gt;$rare$&lt;/b&gt;" in shown and HOSTILE not in shown
    assert len(re.findall('src="data:image/png;base64,', shown)) == 6 + 1
    assert "<td>common</td><td>12</td>" in shown and "<td>none</td><td>0</td>" in shown
