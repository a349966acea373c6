import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from diffaug.files import storage
from diffaug.synthesis.pool.chunks import ChunkStore
from diffaug.synthesis.pool.merging import SHOWN_REJECTED, ClassMerge, write_pool
from diffaug.synthesis.pool.pool import ClassSummary
from tests.synthesis.conftest import PixelFilters

SIZE = 3
PNG = storage.png_bytes(np.zeros((2, 2, 1), np.uint8))
candidates = st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=SIZE, max_size=6 * SIZE).map(
    lambda drawn: drawn[: len(drawn) // SIZE * SIZE]
)


def write_chunks(store: ChunkStore, drawn: list[tuple[bool, int]]) -> None:
    for number in range(len(drawn) // SIZE):
        part = drawn[number * SIZE : (number + 1) * SIZE]
        columns = {
            "label": "x",
            "index": range(number * SIZE, (number + 1) * SIZE),
            "sha256": storage.sha256_bytes(PNG),
            "reason": ["" if good else "wrong class" for good, _ in part],
            "png": [PNG] * SIZE,
            "descriptor": [np.float32([value]).tobytes() for _, value in part],
        }
        store.write(0, number, pd.DataFrame(columns))


def one_by_one(drawn: list[tuple[bool, int]], target: int) -> tuple[list[int], Counter[str]]:
    """The merge's definition, candidate by candidate; the chunk in which the class gets full counts to its end."""
    kept: list[int] = []
    seen: set[int] = set()
    rejected: Counter[str] = Counter()
    for index, (good, value) in enumerate(drawn):
        if index % SIZE == 0 and len(kept) >= target:
            break
        if not good or value in seen:
            rejected["duplicate" if good else "wrong class"] += 1
        else:
            kept.append(index)
            seen.add(value)
    return kept[:target], rejected


def merged(folder: Path, target: int, attempts: int = 99) -> ClassMerge:
    merge = ClassMerge("x", 0, target, chunk_size=SIZE, max_attempts=attempts)
    merge.advance(ChunkStore(folder / "chunks"), PixelFilters())
    return merge


def pool_of(folder: Path, merge: ClassMerge) -> tuple[pd.DataFrame, pd.DataFrame]:
    pool = folder / f"pool-{merge.target}"
    write_pool(pool, [merge], ChunkStore(folder / "chunks"), classes=["x"], score_names=[])
    return pd.read_parquet(pool / "manifest.parquet"), pd.read_parquet(pool / "rejected.parquet")


@settings(deadline=None, max_examples=8)
@given(candidates, st.integers(1, 8))
def test_the_merge_is_its_definition_whatever_was_computed_beyond(drawn, target) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_chunks(ChunkStore(folder / "chunks"), drawn)
        kept, rejected = one_by_one(drawn, target)
        merge = merged(folder, target)
        assert (merge.kept, merge.rejected) == (len(kept), rejected)
        manifest, refused = pool_of(folder, merge)
        assert manifest["index"].tolist() == kept
        assert Counter(refused["reason"]) == rejected
        larger, _ = pool_of(folder, merged(folder, target + 2))
        pd.testing.assert_frame_equal(larger.head(len(manifest)), manifest, check_dtype=False)


def test_chunks_are_taken_in_order_only(tmp_path) -> None:
    store = ChunkStore(tmp_path / "chunks")
    write_chunks(store, [(True, value) for value in range(9)])
    second = tmp_path / "chunks" / "0000" / "000001.chunk"
    second.rename(tmp_path / "later")
    merge = merged(tmp_path, 9)
    assert (merge.kept, merge.decided, merge.is_over) == (3, 1, False)
    (tmp_path / "later").rename(second)
    merge.advance(store, PixelFilters())
    assert (merge.kept, merge.decided, merge.is_over) == (9, 3, True)


def test_the_forecast_follows_what_passes_and_ends_at_the_attempts(tmp_path) -> None:
    fresh = ClassMerge("x", 0, 9, chunk_size=SIZE, max_attempts=4)
    assert (fresh.needed_chunks, fresh.most_chunks) == (3, 12)
    write_chunks(ChunkStore(tmp_path / "chunks"), [(True, 0), (False, 1), (False, 2)])
    assert merged(tmp_path, 9, attempts=4).needed_chunks == 9
    assert merged(tmp_path, 9, attempts=1).needed_chunks == 3
    hopeless = tmp_path / "hopeless"
    write_chunks(ChunkStore(hopeless / "chunks"), [(False, 0)] * 12)
    assert merged(hopeless, 9, attempts=4).needed_chunks == 9
    given_up = merged(hopeless, 3, attempts=4)
    assert given_up.is_over
    assert given_up.summary == ClassSummary(3, 0, 12, {"wrong class": 12})


def test_the_first_rejected_are_kept_as_pictures_and_all_in_the_table(tmp_path) -> None:
    write_chunks(ChunkStore(tmp_path / "chunks"), [(False, 0)] * 30)
    manifest, rejected = pool_of(tmp_path, merged(tmp_path, 10, attempts=3))
    assert len(manifest) == 0
    files = rejected["file"].tolist()
    assert files == [f"rejected/x/{index:06d}.png" for index in range(SHOWN_REJECTED)] + [""] * 6
    assert all((tmp_path / "pool-10" / file).read_bytes() == PNG for file in files if file)
