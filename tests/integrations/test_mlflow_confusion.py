import io

import numpy as np
import pytest
from PIL import Image

from diffaug.integrations.mlflow_confusion import confusion_png, row_shares


def opened(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def test_only_the_shares_of_each_class_matter_and_equal_input_gives_equal_bytes():
    assert np.array_equal(row_shares([[3, 1], [0, 0]]), [[0.75, 0.25], [0, 0]])
    first = confusion_png([[8, 2], [1, 4]], ["a", "b"])
    assert confusion_png([[4, 1], [2, 8]], ["a", "b"]) == first
    assert confusion_png([[2, 8], [1, 4]], ["a", "b"]) != first
    assert confusion_png([[8, 2], [1, 4]], ["a", "c"]) != first
    assert opened(first).format == "PNG"


@pytest.mark.parametrize(("flipped", "sign"), [(False, 1), (True, -1)])
def test_a_perfect_classifier_is_a_dark_diagonal_from_the_upper_left(flipped, sign):
    counts = np.eye(30)[::-1] if flipped else np.eye(30)
    image = opened(confusion_png(counts.tolist(), [str(k) for k in range(30)]))
    red, _, blue = np.moveaxis(np.asarray(image.convert("RGB")).astype(int), -1, 0)
    cells = (red < 40) & (blue > 80)
    cells[:, int(0.8 * cells.shape[1]) :] = False  # the color bar
    rows, columns = np.nonzero(cells)
    assert sign * np.corrcoef(rows, columns)[0, 1] > 0.95


@pytest.mark.parametrize("count", [1, 2, 40])
def test_every_label_has_room(count):
    image = opened(confusion_png(np.eye(count).tolist(), [f"class number {k}" for k in range(count)]))
    assert 300 <= image.height <= 2000 and 300 <= image.width <= 2200
    assert image.height >= 14 * count


@pytest.mark.parametrize("name", ["$x^2$", "$", "a\nb", "猫", "x" * 300, "", "<b>", "\\frac{", "\udcff"])
def test_any_class_name_can_be_drawn(name):
    opened(confusion_png([[1, 0], [0, 1]], [name, "b"]))
