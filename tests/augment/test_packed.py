import multiprocessing
import pickle
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffaug.augment import packed
from diffaug.augment.packed import CHECKSUMS, PACKED, PIXELS, PackedImages, packed_reader
from diffaug.errors import DamagedError
from diffaug.files import storage
from diffaug.synthesis.pool.pool import Pool
from tests.conftest import with_blind

COUNT = 12


@pytest.fixture(params=[1, 3])
def pool(make_pool: Callable[..., Pool], tmp_path: Path, request: pytest.FixtureRequest) -> Pool:
    random = np.random.default_rng(0)
    images = [(k % 2, random.integers(0, 256, (4, 5, request.param), np.uint8)) for k in range(COUNT)]
    return make_pool(tmp_path / "study" / "pool", ["cat", "dog"], images)


def all_of(read: Callable[[int], Any], pool: Pool) -> list[Any]:
    return [read(index).tolist() for index in range(len(pool))]


def test_packed_images_are_those_of_the_files_and_are_packed_once(pool: Pool) -> None:
    read = packed_reader(pool)
    assert isinstance(read, PackedImages)
    assert all_of(read, pool) == all_of(pool.read, pool)
    inode = (pool.root / PACKED / PIXELS).stat().st_ino
    assert all_of(packed_reader(Pool.open(pool.root)), pool) == all_of(read, pool)
    assert (pool.root / PACKED / PIXELS).stat().st_ino == inode
    with pytest.raises(ValueError, match="read-only"):
        read(0)[:] = 0


def test_a_part_of_the_pool_has_its_own_images(pool: Pool) -> None:
    part = replace(pool, left_out=("cat",))
    assert all_of(packed_reader(part), part) == all_of(part.read, part)
    assert len(part) == COUNT // 2


def test_pickling_takes_the_path_alone(pool: Pool) -> None:
    read = packed_reader(pool)
    content = pickle.dumps((pool, read))
    assert len(content) < 2000
    other, again = pickle.loads(content)
    assert all_of(again, other) == all_of(read, pool)


def test_the_array_is_no_part_of_the_pool(pool: Pool, tmp_path: Path) -> None:
    packed_reader(pool)
    assert pool.verify() == []
    storage.copy_directory(pool.root, tmp_path / "copy")
    assert not (tmp_path / "copy" / storage.CACHE).exists()
    again = with_blind(pool, "cat")  # commits the folder again
    assert again.verify() == []
    shutil.rmtree(pool.root / storage.CACHE)
    assert again.verify() == []
    assert all_of(packed_reader(again), again) == all_of(pool.read, pool)


@pytest.mark.parametrize("lost", [PIXELS, CHECKSUMS, storage.DONE])
@pytest.mark.parametrize("how", ["removed", "cut short"])
def test_a_damaged_array_is_made_again(pool: Pool, lost: str, how: str) -> None:
    packed_reader(pool)
    file = pool.root / PACKED / lost
    file.unlink() if how == "removed" else file.write_bytes(file.read_bytes()[:-1])
    assert all_of(packed_reader(pool), pool) == all_of(pool.read, pool)


def test_a_changed_pixel_is_found_and_the_advice_works(pool: Pool) -> None:
    packed_reader(pool)
    file = pool.root / PACKED / PIXELS
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    read = packed_reader(pool)
    read(0)
    with pytest.raises(DamagedError) as caught:
        read(COUNT - 1)
    assert caught.value.fix is not None
    shutil.rmtree(caught.value.fix.split("rm -r ")[1])
    assert all_of(packed_reader(pool), pool) == all_of(pool.read, pool)


def test_the_array_of_another_pool_is_not_used(pool: Pool, make_pool: Callable[..., Pool], tmp_path: Path) -> None:
    packed_reader(pool)
    other = make_pool(tmp_path / "other", ["cat", "dog"], [(0, np.full((4, 5, pool.channels), 7, np.uint8))] * COUNT)
    shutil.copytree(pool.root / storage.CACHE, other.root / storage.CACHE)
    assert np.unique(packed_reader(other)(0)).tolist() == [7]


def test_where_nothing_can_be_written_files_are_read_with_a_warning(pool: Pool) -> None:
    (pool.root / storage.CACHE).write_bytes(b"")  # no folder can be made
    with pytest.warns(UserWarning, match="slower"):
        read = packed_reader(pool)
    assert all_of(read, pool) == all_of(pool.read, pool)


def test_a_present_array_is_read_where_nothing_can_be_written(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    packed_reader(pool)
    monkeypatch.setattr(packed.locks, "waiting_lock", None)
    monkeypatch.setattr(packed.storage, "new_directory", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(packed_reader(pool), PackedImages)


def test_a_damaged_file_is_not_packed(pool: Pool) -> None:
    (pool.root / pool.files[3]).write_bytes(b"no image")
    with pytest.raises(DamagedError):
        packed_reader(pool)
    assert not (pool.root / PACKED).exists()


def read_all(root: Path) -> list[Any]:
    pool = Pool.open(root)
    return all_of(packed_reader(pool), pool)


@pytest.mark.e2e
@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_processes_that_need_it_at_once_make_it_once(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make, log = packed._pack, tmp_path / "made"

    def noted(*given: Any) -> None:
        with log.open("a") as file:
            file.write("x")
        make(*given)

    monkeypatch.setattr(packed, "_pack", noted)
    with multiprocessing.get_context("fork").Pool(4) as workers:
        seen = workers.map(read_all, [pool.root] * 8)
    assert seen == [all_of(pool.read, pool)] * 8
    assert log.read_text() == "x"
