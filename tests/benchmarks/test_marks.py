import json
from pathlib import Path

import numpy as np
import pytest
import transplant
from PIL import Image

import measuring
from marks import CLEAN, TRAIN_COUNTS, marked_surface, write_marks


def test_a_made_image_is_the_same_each_time_and_its_mask_is_where_the_mark_is() -> None:
    for label in TRAIN_COUNTS:
        made = [marked_surface(label, "train", number) for number in range(10)]
        again = marked_surface(label, "train", 3)
        np.testing.assert_array_equal(made[3].pixels, again.pixels)
        assert (made[3].pixels != marked_surface(label, "test", 3).pixels).any()
        assert all(one.mask.any() == (label != CLEAN) for one in made)
        assert all(one.mask.mean() < 0.2 for one in made)


def test_the_set_is_written_with_a_mask_per_mark(tmp_path: Path) -> None:
    root = write_marks(tmp_path / "data", {CLEAN: 3, "pit": 2}, test_count=1, side=16)
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    assert [name.rpartition("/")[0] for name in names] == [
        *["masks/pit"] * 2,
        *["test/clean", "test/pit"],
        *["train/clean"] * 3,
        *["train/pit"] * 2,
    ]
    mask = np.asarray(Image.open(root / "masks" / "pit" / "pit-train-0001.png")) > 0
    np.testing.assert_array_equal(mask, marked_surface("pit", "train", 1, side=16).mask)


def test_a_set_whose_writing_was_stopped_is_written_anew_and_a_quick_run_has_its_own(tmp_path: Path) -> None:
    arguments = transplant.parse(["--quick", "--work", str(tmp_path)])
    partly = transplant.write_data(arguments, masks=True)
    complete = len(list(partly.rglob("*.png")))
    partly.rename(partly.with_suffix(".writing"))
    next(partly.with_suffix(".writing").rglob("*.png")).unlink()
    assert len(list(transplant.write_data(arguments, masks=True).rglob("*.png"))) == complete
    full = transplant.parse(["--work", str(tmp_path)])
    assert transplant.named(full) != transplant.named(arguments)


@pytest.mark.slow
def test_transplants_are_measured(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    transplant.main(["--quick", "--work", str(tmp_path / "work"), "--json", str(report)])
    summary = json.loads(report.read_text())["summary"]
    assert summary["transplants.images_transplant"] > 0
    assert summary["transplants.changed_outside"] == 0
    assert summary["without.changed_outside"] == -1
    assert 0.3 < summary["iou_difference"] < 1


def test_a_table_shows_what_only_some_variants_have(capsys: pytest.CaptureFixture[str]) -> None:
    measuring.print_table([{"variant": "a", "images": 3}, {"variant": "b", "fraction": 0.25, "nested": {}}])
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["variant", "images", "fraction"],
        ["a", "3"],
        ["b", "0.25"],
    ]
