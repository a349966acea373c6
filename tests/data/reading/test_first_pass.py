"""The first pass gives the same whatever happens to it: in processes or not, stopped, killed, or on a full disk."""

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from diffaug.data.reading import first_pass as module
from diffaug.data.reading import parts
from diffaug.data.reading.first_pass import STAMP, FirstPass, first_pass
from diffaug.data.reading.parts import Reader, Source
from diffaug.data.reading.pictures import MAX_AREA, Pictures, reduced, reduced_size
from diffaug.data.resize import fit_to_size
from diffaug.decoding.decode import decode
from diffaug.files import storage
from tests.files.faults import each_call, killed, survives_full_disk

WHERE = ["part", "begin"]  # the only columns that may depend on how a pass went


@pytest.fixture
def root(make_folder) -> Path:
    """22 sound files of two sizes, gray and RGB, and two bad ones."""
    make_folder({"cat": 9}, size=(12, 20))
    make_folder({"dog": 8}, channels=1)
    root = make_folder({"emu": 5}, size=(200, 120))
    (root / "cat" / "cut.png").write_bytes((root / "cat" / "0.png").read_bytes()[:100])
    (root / "emu" / "text.png").write_text("no")
    for file in root.rglob("*.png"):
        os.utime(file, (1, 1))
    return root


@pytest.fixture(autouse=True)
def _old_files(monkeypatch):
    """Files written a moment ago count as old, and parts are small."""
    monkeypatch.setattr(parts, "is_trusted", lambda stamp, began: True)
    monkeypatch.setattr(module, "PART_FILES", 4)


def sources_of(root: Path) -> list[Source]:
    return [Source(path.relative_to(root).as_posix()) for path in sorted(root.rglob("*.png"))]


def run(root: Path, folder: Path, progress=lambda done, total: None) -> FirstPass:
    return first_pass(Reader(root), sources_of(root), folder, progress)


def assert_same(one: FirstPass, other: FirstPass, but: Sequence[str] = ()) -> None:
    ours, theirs = (found.table.drop(columns=[*WHERE, *but]) for found in (one, other))
    pd.testing.assert_frame_equal(ours, theirs)
    assert len(one.pictures()) == len(other.pictures())
    for left, right in zip(one.pictures(), other.pictures(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_each_file_is_read_once_whole_and_small(root, tmp_path):
    done: list[tuple[int, int]] = []
    found = run(root, tmp_path / "parts", lambda *step: done.append(step))
    assert done == [(4, 24), (8, 24), (12, 24), (16, 24), (20, 24), (24, 24)]
    assert found.table["file"].tolist() == [source.file for source in sources_of(root)]
    usable = found.table[found.table["status"] == "ok"]
    for file, picture in zip(usable["file"], found.pictures(), strict=True):
        whole = decode(root / file).pixels
        np.testing.assert_array_equal(picture, reduced(whole))
        assert picture.shape[0] * picture.shape[1] <= MAX_AREA and picture.shape[2] == whole.shape[2]
    bad = found.table[found.table["status"] != "ok"].set_index("file")["status"]
    assert bad.to_dict() == {"cat/cut.png": "truncated", "emu/text.png": "not an image"}


@pytest.mark.e2e
def test_processes_find_the_same(root, tmp_path, monkeypatch):
    serial = run(root, tmp_path / "serial")
    monkeypatch.setattr(module, "WORTH_PROCESSES", 0)
    monkeypatch.setattr(module, "cpu_count", lambda: 2)
    assert_same(run(root, tmp_path / "parallel"), serial, but=STAMP)  # patches don't reach the workers


def test_a_stopped_pass_goes_on_with_what_is_left(root, tmp_path, monkeypatch):
    whole = run(root, tmp_path / "whole")
    for number in range(1, 6):
        folder = tmp_path / str(number)
        with pytest.raises(KeyboardInterrupt):
            run(root, folder, stop_after(4 * number))
        read = count_reads(monkeypatch)
        assert_same(run(root, folder), whole)
        assert len(read) == 24 - 4 * number


def stop_after(images: int):
    def progress(done: int, total: int) -> None:
        if done >= images:
            raise KeyboardInterrupt

    return progress


def count_reads(monkeypatch) -> list[Path]:
    read: list[Path] = []
    monkeypatch.setattr(parts, "decode", lambda path, **options: read.append(path) or decode(path, **options))
    return read


def test_only_what_changed_since_the_stop_is_read_again(root, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path / "parts", stop_after(16))
    (root / "cat" / "3.png").write_bytes((root / "dog" / "1.png").read_bytes())
    (root / "dog" / "2.png").unlink()
    (root / "ant").mkdir()
    (root / "cat" / "4.png").rename(root / "ant" / "4.png")
    read = count_reads(monkeypatch)
    resumed = run(root, tmp_path / "parts")
    unread = {path.name for path in root.rglob("*.png")} - {path.name for path in read}
    assert {f"{path.parent.name}/{path.name}" for path in read} >= {"cat/3.png", "ant/4.png", "emu/4.png"} and unread
    assert_same(resumed, run(root, tmp_path / "new"))


def test_torn_and_damaged_parts_and_those_of_other_settings_are_not_used(root, tmp_path, monkeypatch):
    whole = run(root, tmp_path / "parts")
    pictures = sorted(whole.folder.glob("*.pictures"))
    pictures[0].write_bytes(pictures[0].read_bytes()[:-1] + b"?")
    pictures[1].unlink()
    records = sorted(whole.folder.glob("*.json"))
    records[2].write_bytes(records[2].read_bytes()[:-9])
    records[3].write_bytes(records[3].read_bytes().replace(b'"L"', b'"I"').replace(b'"RGB"', b'"BGR"'))
    read = count_reads(monkeypatch)
    assert_same(run(root, tmp_path / "parts"), run(root, tmp_path / "new"))
    assert len(read) == 16 + 24
    first_pass(Reader(root, side=64), sources_of(root), tmp_path / "parts", lambda done, total: None)
    assert len(list((tmp_path / "parts").iterdir())) == 1


def test_a_file_that_changes_while_it_is_read_is_read_again(root, tmp_path, monkeypatch):
    content = (root / "dog" / "1.png").read_bytes()

    def changing(path: Path, **options):
        found = decode(path, **options)
        if path.name == "0.png" and path.parent.name == "cat" and path.read_bytes() != content:
            path.write_bytes(content)
        if path.parent.name == "emu" and path.name == "1.png":
            os.utime(path, (time.time(), next(clock)))
        return found

    clock = itertools.count(100)
    monkeypatch.setattr(parts, "decode", changing)
    rows = run(root, tmp_path / "parts").table.set_index("file")
    assert rows.loc["cat/0.png", "sha256"] == storage.sha256_bytes(content)
    assert tuple(rows.loc["emu/1.png", ["status", "note"]]) == ("unreadable", "it changes while it is read")


@pytest.mark.parametrize("survives", [killed, pytest.param(survives_full_disk, marks=pytest.mark.slow)])
def test_a_catalog_survives_a_fault_at_any_call(make_folder, build, tmp_path, survives):
    root = make_folder({"cat": 4, "dog": 4})
    wanted = build(root, near_duplicates=False)
    for number, attempt in enumerate(each_call(survives, at_least=20)):
        directory = tmp_path / str(number) / "catalog"
        attempt(lambda directory=directory: build(root, directory=directory, near_duplicates=False), number + 1)
        found = build(root, directory=directory, near_duplicates=False)
        assert found.fingerprint == wanted.fingerprint
        assert (directory / "table.parquet").read_bytes() == (wanted_file(wanted, "table.parquet"))
        np.testing.assert_array_equal(found.pixels, wanted.pixels)
        assert sorted(path.name for path in directory.parent.iterdir()) == ["catalog", "catalog-stamps.npy"]


def wanted_file(catalog, name: str) -> bytes:
    return (Path(catalog.pixels.filename).parent / name).read_bytes()


MEASURE = """
import resource, sys
from pathlib import Path
from diffaug.configuration.settings import DataSettings
from diffaug.data.building.build import build_catalog
root, directory = map(Path, sys.argv[1:])
settings = DataSettings(near_duplicates=False, image_size=48)
assert len(build_catalog(root, settings, directory=directory, seed=0).pixels)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """1,200 more images are 60 MB of pictures and 8 MB of working pixels."""
    peaks = []
    for count in (200, 1400):
        root = tmp_path / str(count)
        for number in range(count):
            folder = root / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            color = Image.new("RGB", (128, 128), (number % 256, number // 256, 200))
            color.save(folder / f"{number}.bmp")
        command = [sys.executable, "-c", MEASURE, str(root), str(tmp_path / f"{count}-study" / "catalog")]
        peaks.append(int(subprocess.run(command, capture_output=True, check=True, text=True).stdout) / 1024)
    assert peaks[1] - peaks[0] < 25, peaks


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((128, 128), 0, (128, 128)),
        ((512, 512), 0, (128, 128)),
        ((512, 512), 256, (256, 256)),
        ((100, 900), 256, (100, 900)),
        ((200, 800), 0, (64, 256)),
        ((4, 200_000), 0, (1, 16_384)),
    ],
)
def test_size_of_pictures(size, side, expected):
    assert reduced_size(*size, side) == expected


def test_pictures_keep_shape_and_content():
    arrays = [np.full((h, w, c), h, np.uint8) for h, w, c in [(3, 5, 1), (200, 150, 3), (4, 4, 3)]]
    shapes = np.array([array.shape for array in arrays])
    pictures = Pictures.in_one_file(np.concatenate([array.ravel() for array in arrays]), shapes)
    for array, picture in zip(arrays, pictures, strict=True):
        np.testing.assert_array_equal(picture, array)
    assert [picture.shape for picture in pictures.select(np.array([2, 0]))] == [(4, 4, 3), (3, 5, 1)]
    assert [picture.shape for picture in pictures.small()[1:]] == [(147, 110, 3), (4, 4, 3)]
    np.testing.assert_array_equal(pictures[-1], arrays[2])
    with pytest.raises(IndexError):
        pictures[3]


def test_pixels_come_from_the_picture_or_where_it_is_too_small_from_the_file(make_folder, build):
    root = make_folder({"cat": 3, "dog": 3}, size=(300, 300))
    for side in (64, 128):
        catalog = build(root, image_size=side, near_duplicates=False)
        [pixels, *_] = catalog.pixels
        np.testing.assert_array_equal(pixels, fit_to_size(catalog.pictures[0], (side, side)))
    catalog = build(root, image_size=None, near_duplicates=False, measure=choosing(200))
    whole = decode(root / catalog.images("train").ids[0]).pixels
    np.testing.assert_array_equal(catalog.pixels[0], fit_to_size(whole, (200, 200)))


def choosing(side: int):
    from diffaug.data.resize import SizeChoice

    def measure(load_at, labels, groups, *, median_side, seed):
        assert load_at(np.array([1, 0]), 50).shape == (2, 50, 50, 3)
        return SizeChoice(side, (), len(labels), "as wished")

    return measure
