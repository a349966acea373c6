import hashlib
import io
import multiprocessing
import signal

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from diffaug.errors import DamagedError
from diffaug.files import storage
from diffaug.synthesis.pool.chunks import ChunkStore
from diffaug.synthesis.pool.merging import manifest_columns


def test_a_chunk_records_where_each_candidate_came_from(maker, sources) -> None:
    chunk = maker.make(1, 3)
    assert set(chunk) == {*manifest_columns(["first_pixel"]), "reason", "png", "descriptor"} - {"file"}
    assert chunk["index"].tolist() == [12, 13, 14, 15]
    assert chunk["origin"].tolist() == ["sampled", "sampled", "variation", "sampled"]
    assert chunk["source"].iloc[2] in sources.ids[3:]
    assert chunk["source"].iloc[[0, 1, 3]].eq("").all()
    assert chunk["strength"].iloc[[0, 1, 3]].eq(0).all()
    assert 0.4 <= chunk["strength"].iloc[2] <= 0.7
    assert chunk["guidance_scale"].nunique() == 1
    assert set(chunk["nearest"]) <= set(maker.filters.image_ids)
    assert maker.make(2, 0)["origin"].eq("sampled").all()  # there is no image of this class to vary


def test_pictures_are_what_the_generator_makes_of_plan_and_source(maker, sources, generator) -> None:
    chunk = maker.make(1, 2)
    options = {"solver": "dpm_solver_2m", "num_inference_steps": 3, "guidance_scale": chunk["guidance_scale"][0]}
    source = sources.pixels[[sources.ids.index(chunk["source"][2])]]
    sampled = generator.sample("b", [8, 9, 11], seed=7, **options)
    varied = generator.variations(source, "b", [10], strength=chunk["strength"][2], seed=7, **options)
    read = [np.asarray(Image.open(io.BytesIO(content)))[..., None] for content in chunk["png"]]
    np.testing.assert_array_equal(np.stack(read), np.concatenate([sampled[:2], varied, sampled[2:]]))
    assert [storage.sha256_bytes(content) for content in chunk["png"]] == chunk["sha256"].tolist()


def test_a_chunk_depends_on_seed_class_and_number_alone(maker) -> None:
    first = maker.make(0, 5)
    maker.make(1, 0)
    assert maker.make(0, 5).equals(first)
    assert set(maker.make(0, 6)["sha256"]).isdisjoint(first["sha256"])


@pytest.mark.parametrize(("fault", "reason"), [({"broken_below": np.inf}, "non-finite"), ({"offset": -9.0}, "")])
def test_broken_images_are_not_finite_for_the_filters_and_black_ones_are(maker, generator, fault, reason) -> None:
    vars(generator.denoiser).update(fault)
    chunk = maker.make(0, 0)
    assert all(not np.asarray(Image.open(io.BytesIO(content))).any() for content in chunk["png"])
    assert chunk["reason"].eq(reason).all()


def test_a_stored_chunk_is_read_as_it_was_made_and_named_if_it_was_changed_anywhere(tmp_path, maker) -> None:
    store, chunk = ChunkStore(tmp_path / "my chunks"), maker.make(1, 2)
    assert store.finished(1) == set()
    store.write(1, 2, chunk)
    assert store.read(1, 2).equals(chunk)
    assert (store.finished(0), store.finished(1)) == (set(), {2})
    file = next(tmp_path.rglob("000002.*"))
    content = file.read_bytes()
    positions = range(0, len(content), len(content) // 40)
    changed = [content[:one] + bytes([content[one] ^ 1]) + content[one + 1 :] for one in positions]
    cut_short = [content[:length] for length in (0, 20, 32, 100, len(content) - 1)]
    for damaged in changed + cut_short:
        file.write_bytes(damaged)
        with pytest.raises(DamagedError, match="chunk of the pool was changed") as caught:
            store.read(1, 2, ["reason"])
        assert f"rm '{file}'" in caught.value.fix
    parquet = chunk.to_parquet()
    file.write_bytes(hashlib.sha256(parquet).digest() + parquet)
    with pytest.raises(DamagedError, match="unknown format") as caught:
        store.read(1, 2)
    assert f"rm -r '{tmp_path}/my chunks'" in caught.value.fix


def _hold(folder, has_it) -> None:
    with ChunkStore(folder).claim(0, 0):
        has_it.set()
        signal.pause()


@pytest.mark.e2e
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


def test_damage_names_the_chunk_and_what_to_remove(tmp_path) -> None:
    store = ChunkStore(tmp_path)
    store.write(2, 5, pd.DataFrame({"index": [7]}))
    (path,) = (file for file in tmp_path.rglob("*") if file.is_file())
    content = b"no table"
    for stored, removed in ((b"", f"rm {path}"), (hashlib.sha256(content).digest() + content, f"rm -r {tmp_path}")):
        path.write_bytes(stored)
        with pytest.raises(DamagedError) as caught:
            store.read(2, 5)
        assert caught.value.where == str(path) and caught.value.fix.endswith(removed)
