"""The range of a set in closed form, from values that are given without files."""

from pathlib import Path

import numpy as np
import pytest

from diffaug.configuration.settings import DataSettings
from diffaug.decoding import intensity_of_set
from diffaug.decoding.intensity import CLIPPED, FLATTENED, IntensityRange, show
from diffaug.decoding.intensity_of_set import choose_intensity, depth_remarks
from diffaug.decoding.result import Header, RejectedError, Samples


def samples(low: float, high: float, dtype=np.uint16, **others) -> Samples:
    """Values evenly from `low` to `high`."""
    values = np.linspace(low, high, 64).reshape(8, 8, 1)
    return Samples(
        np.asarray(np.rint(values) if np.dtype(dtype).kind in "ui" else values, dtype), "I;16", (8, 8), **others
    )


@pytest.fixture
def range_of(monkeypatch):
    """A function: the range of a set of samples."""

    def chosen(*found: Samples) -> IntensityRange:
        monkeypatch.setattr(intensity_of_set, "read_file", lambda path: found[int(path.name)])
        return choose_intensity({Path(str(n)): Header(8, 8, bits=16) for n in range(len(found))}, DataSettings())

    return chosen


def test_a_set_that_cannot_be_read_has_the_range_of_16_bits(monkeypatch) -> None:
    def damaged(_):
        raise RejectedError("truncated", "damaged")

    monkeypatch.setattr(intensity_of_set, "read_file", damaged)
    found = choose_intensity({Path("a"): Header(8, 8, bits=16)}, DataSettings())
    assert (found.low, found.high, found.reason) == (0, 65535, "16 bits")


def test_every_row_and_column_of_a_small_image_counts(range_of) -> None:
    values = np.zeros((8, 8, 1), np.uint16)
    values[1::2, 1::2] = 1000  # a quarter of the values
    found = range_of(Samples(values, "I;16", (8, 8)))
    assert (found.low, found.high) == (0, 1023)


@pytest.mark.parametrize(
    ("low", "high", "others", "expected"),
    [
        (0, 3900, {"white": 4095}, (0, 4095)),
        (1, 3900, {}, (0, 4095)),
        (0, 2000, {}, (0, 2000)),
        (100, 3000, {}, (100, 3000)),
        (0, 2300, {"declared_white": 3000}, (0, 3000)),
        (0, 2200, {"declared_white": 3000}, (0, 2200)),
        (7, 7, {}, (7, 8)),
        (0, 0, {}, (0, 1)),
    ],
)
def test_the_range_is_that_of_the_values_or_a_white_that_they_nearly_reach(
    range_of, low, high, others, expected
) -> None:
    found = range_of(samples(low, high, **others), samples(low, high, **others))
    assert (found.low, found.high) == expected
    white = expected not in ((low, high), (low, low + 1))
    assert found.reason == ("2 training files use most of this range" if white else "the range of 2 training files")


def test_whites_that_differ_between_files_say_nothing(range_of) -> None:
    assert range_of(samples(0, 2300, declared_white=3000), samples(0, 2300, declared_white=2800)).high == 2300
    some = range_of(samples(0, 2000, white=4095), samples(0, 2000))
    assert (some.white, some.high) == (0, 2000)


def test_values_of_another_depth_are_brought_to_the_largest_white(range_of) -> None:
    found = range_of(samples(0, 800, white=1000), samples(0, 1700, white=2000))
    assert (found.low, found.high, found.white) == (0, 2000, 2000)
    shown = show(samples(0, 800, white=1000), found)
    np.testing.assert_array_equal(shown, np.rint(samples(0, 800).values * (255 / 1000)).astype(np.uint8))


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_a_window_that_all_files_give_is_for_their_kind_of_values(range_of, kind) -> None:
    found = range_of(*(samples(0, 3000, kind, window=(40, 400)) for _ in range(2)))
    assert (found.low, found.high, found.kinds) == (40, 400, ("float" if kind == np.float32 else "integer",))
    other = range_of(samples(0, 2000, kind, window=(40, 400)), samples(0, 2000, kind, window=(50, 400)))
    assert (other.low, other.high) == (0, 2000)


@pytest.mark.parametrize(
    ("integers", "floats", "kinds"),
    [
        ([(0, 60000)], [(0, 1)] * 2, ("float",)),
        ([(0, 60000)] * 2, [(0, 1)], ("integer",)),
        ([(0, 60000)] * 2, [(0, 40000)], ("integer", "float")),
        ([(51000, 52000)], [(0, 900)] * 2, ("float", "integer")),  # spans count, not where they are
        ([(0, 32000)] * 2, [(0, 2000)], ("integer",)),
        ([(0, 31000)] * 2, [(0, 2000)], ("integer", "float")),
    ],
)
def test_the_more_frequent_kind_counts_unless_spans_are_alike(range_of, integers, floats, kinds) -> None:
    """From a ratio of 16 on, spans are not alike."""
    found = range_of(*(samples(*ends) for ends in integers), *(samples(*ends, np.float64) for ends in floats))
    assert found.kinds == kinds
    given = [end for name, ends in (("integer", integers), ("float", floats)) if name in kinds for end in ends]
    assert found.low == min(low for low, _ in given)
    assert found.high >= max(high for _, high in given)


@pytest.mark.parametrize(("bits", "differ"), [((8, 9), True), ((8, 8), False), ((9, 16), False)])
def test_more_than_8_bits_are_deep(bits, differ) -> None:
    assert bool(depth_remarks(["a", "b"], bits)) is differ


@pytest.mark.parametrize(
    ("low", "high", "kinds", "stored"),
    [
        (0, 1, ("integer",), (1, 0)),
        (0, 65535, ("integer",), (1, 0)),
        (0, 0.5, ("integer",), (0.5 / 65535, 0)),
        (0, 131070, ("integer",), (2, 0)),
        (-65535, 0, ("integer",), (1, -65535)),
        (10, 65545, ("float",), (1, 10)),
    ],
)
def test_values_are_stored_as_they_are_where_16_bits_hold_them(low, high, kinds, stored) -> None:
    intensity = IntensityRange(low, high, "", kinds=kinds)
    assert intensity.stored == stored
    black, white = intensity.to_source_depth(np.array([0, 255], np.uint8)).astype(float) * stored[0] + stored[1]
    assert (black, white) == pytest.approx((low, high), abs=0.5 * stored[0])


def test_without_a_range_the_bit_depth_counts_or_the_file_is_rejected() -> None:
    np.testing.assert_array_equal(show(samples(0, 1020, white=1020), None)[..., 0].ravel()[[0, -1]], [0, 255])
    with pytest.raises(RejectedError) as caught:
        show(samples(0, 1, np.float32), None)
    found = caught.value.result
    assert (found.status, found.mode, found.is_deep) == ("unsupported mode", "I;16", True)
    assert (found.width, found.height) == (8, 8)


@pytest.mark.parametrize(
    ("values", "white", "notes"),
    [
        ([0] * 6 + [900] * 4, 0, ()),  # 40 % above
        ([0] * 4 + [900] * 6, 0, (CLIPPED,)),
        ([300] * 10, 1000, ()),  # the white of the range is half of theirs, so they count as 150
        ([300] * 10, 250, (CLIPPED,)),
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 0, (FLATTENED,)),  # ten values become five levels or fewer
        ([0, 100, 200], 0, ()),  # few values, and all stay different
    ],
)
def test_a_note_says_what_a_range_loses(values, white, notes) -> None:
    found = Samples(np.array([values], np.uint16)[..., None], "I;16", (len(values), 1), white=white)
    show(found, IntensityRange(0, 500 if FLATTENED not in notes else 60000, "", white=500))
    assert found.notes == notes


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("opacity", [None, 255, 51, 0])
def test_pixels_are_turned_over_first_and_then_shown_over_white(inverted, opacity) -> None:
    alpha = None if opacity is None else np.full((8, 8), opacity, np.uint8)
    found = samples(0, 630, white=1020, inverted=inverted, alpha=alpha)
    gray = found.values / 4.0
    gray = np.rint(255 - gray if inverted else gray)
    share = 1 if opacity is None else opacity / 255
    expected = share * gray + (1 - share) * 255
    assert np.abs(show(found, None) - expected).max() <= 1
    shallow = Samples(np.arange(64, dtype=np.uint8).reshape(8, 8, 1), "L", (8, 8), inverted=inverted)
    np.testing.assert_array_equal(show(shallow, None), 255 - shallow.values if inverted else shallow.values)


def test_values_of_a_kind_that_the_range_is_not_for_are_rejected() -> None:
    with pytest.raises(RejectedError, match="float values, while those of the training images are integer") as caught:
        show(samples(0, 1, np.float32), IntensityRange(0, 9, "", kinds=("integer",)))
    found = caught.value.result
    assert (found.width, found.height, found.mode, found.is_deep) == (8, 8, "I;16", True)


def test_the_ends_of_a_range_are_black_and_white_and_not_lost() -> None:
    intensity = IntensityRange(100, 100.5, "")
    assert intensity.to_8_bit(np.array([-900, 100, 100.5, 900])).tolist() == [0, 0, 255, 255]
    assert intensity.stored == (0.5 / 65535, 100)
    white = Samples(np.full((8, 8, 1), 500, np.uint16), "I;16", (8, 8))
    assert (show(white, IntensityRange(0, 500, "")) == 255).all() and white.notes == ()
