import hashlib
import io
import multiprocessing
import signal

import numpy as np
import pytest
from PIL import Image

from diffaug.errors import DamagedError
from diffaug.files import storage
from diffaug.synthesis.pool.chunks import ChunkStore
from diffaug.synthesis.pool.pool import manifest_columns


def test_a_chunk_records_where_each_candidate_came_from(maker, sources) -> None:
    chunk = maker.make(1, 3)
    assert set(chunk) == {*manifest_columns(["first_pixel"]), "reason", "png", "descriptor"} - {"file"}
    assert chunk["index"].tolist() == [12, 13, 14, 15]
    assert chunk["origin"].tolist() == ["sampled"] * 3 + ["variation"]
    assert chunk["source"].iloc[3] in sources.ids[3:]
    assert chunk["source"].iloc[:3].eq("").all()
    assert chunk["strength"].iloc[:3].eq(0).all()
    assert 0.4 <= chunk["strength"].iloc[3] <= 0.7
    assert chunk["guidance_scale"].nunique() == 1
    assert set(chunk["nearest"]) <= set(maker.judge.image_ids)


def test_pictures_are_what_the_generator_makes_of_plan_and_source(maker, sources, generator) -> None:
    chunk = maker.make(1, 2)
    options = {"solver": "dpm_solver_2m", "num_inference_steps": 3, "guidance_scale": chunk["guidance_scale"][0]}
    source = sources.pixels[[sources.ids.index(chunk["source"][3])]]
    expected = np.concatenate(
        [
            generator.sample("b", range(8, 11), seed=7, **options),
            generator.variations(source, "b", [11], strength=chunk["strength"][3], seed=7, **options),
        ]
    )
    read = [np.asarray(Image.open(io.BytesIO(content)))[..., None] for content in chunk["png"]]
    np.testing.assert_array_equal(np.stack(read), expected)
    assert [storage.sha256_bytes(content) for content in chunk["png"]] == chunk["sha256"].tolist()


def test_a_chunk_depends_on_seed_class_and_number_alone(maker) -> None:
    first = maker.make(0, 5)
    maker.make(1, 0)
    assert maker.make(0, 5).equals(first)
    assert set(maker.make(0, 6)["sha256"]).isdisjoint(first["sha256"])


def test_a_class_without_images_is_only_sampled(maker) -> None:
    assert maker.make(2, 0)["origin"].eq("sampled").all()


def test_broken_images_reach_the_judge_as_not_finite(maker, generator) -> None:
    generator.denoiser.broken_below = np.inf
    assert maker.make(0, 0)["reason"].eq("non-finite").all()


def test_a_stored_chunk_is_read_as_it_was_made(tmp_path, maker) -> None:
    store, chunk = ChunkStore(tmp_path), maker.make(1, 2)
    assert store.finished(1) == set()
    store.write(1, 2, chunk)
    assert store.read(1, 2).equals(chunk)
    assert store.finished(1) == {2}
    assert store.finished(0) == set()


def test_a_chunk_that_was_changed_anywhere_is_named(tmp_path, maker) -> None:
    store = ChunkStore(tmp_path)
    store.write(0, 0, maker.make(0, 0))
    file = next(tmp_path.rglob("000000.*"))
    content = file.read_bytes()
    for position in range(0, len(content), len(content) // 40):
        file.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(DamagedError, match="chunk of the pool was changed"):
            store.read(0, 0, ["reason"])
    for length in (0, 20, 32, 100, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(DamagedError, match="chunk of the pool was changed"):
            store.read(0, 0)


def test_a_chunk_of_another_format_is_named(tmp_path, maker) -> None:
    store, chunk = ChunkStore(tmp_path), maker.make(0, 0)
    store.write(0, 0, chunk)
    file, parquet = next(tmp_path.rglob("000000.*")), chunk.to_parquet()
    file.write_bytes(hashlib.sha256(parquet).digest() + parquet)
    with pytest.raises(DamagedError, match="of a format that this version of diffaug does not read") as caught:
        store.read(0, 0)
    assert caught.value.fix == f"remove {tmp_path}: all chunks in it are made again"


def _hold(folder, has_it) -> None:
    with ChunkStore(folder).claim(0, 0):
        has_it.set()
        signal.pause()


def test_a_claim_is_one_process_s_until_it_dies(tmp_path, maker) -> None:
    context = multiprocessing.get_context("fork")
    has_it = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, has_it))
    holder.start()
    assert has_it.wait(20)
    store = ChunkStore(tmp_path)
    with store.claim(0, 0) as mine, store.claim(0, 1) as other:
        assert (mine, other) == (False, True)
    holder.kill()
    holder.join()
    with store.claim(0, 0) as mine:
        assert mine
        store.write(0, 0, maker.make(0, 0))
    with store.claim(0, 0) as mine:
        assert not mine
    assert not list(tmp_path.rglob("*.lock"))
