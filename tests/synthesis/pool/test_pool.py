import json
import os
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest

from diffaug.errors import DamagedError, UsageError
from diffaug.files import storage
from diffaug.files.records import write_record
from diffaug.synthesis.decisions import ReviewFile
from diffaug.synthesis.filters.power import POOL_POWER, UNKNOWN, FilterPower, PoolPower
from diffaug.synthesis.pool import pool as module
from diffaug.synthesis.pool.pool import (
    AUDIT,
    MANIFEST,
    POWER,
    PUBLICATION_CHECK,
    REJECTED,
    SUMMARIES,
    SUMMARY,
    ClassSummary,
    Pool,
    Problem,
    PublicationCheck,
    blind_classes,
    pool_facts,
    verify_pool,
    without_blind,
)
from tests.conftest import with_blind, write_pool


@pytest.fixture
def pool(tmp_path, maker, complete):
    return Pool.open(complete(tmp_path / "study", maker, {"a": 3, "b": 4}))


def test_a_class_named_pool_is_not_taken_for_the_pool(make_pool, tmp_path) -> None:
    root = make_pool(tmp_path / "pool", ["pool"], [(0, np.zeros((2, 2, 1), np.uint8))]).root
    assert (root / "pool").is_dir()
    assert Pool.open(root).root == Pool.open(tmp_path).root == root
    for lost in ("DONE.json", "manifest.parquet"):
        content = (root / lost).read_bytes()
        (root / lost).unlink()
        assert Problem(lost, "missing") in verify_pool(root)
        (root / lost).write_bytes(content)


@pytest.mark.e2e
def test_random_damages_are_all_found(pool) -> None:
    random = np.random.default_rng(0)
    files = sorted(path for path in pool.root.rglob("*") if path.is_file())
    for turn in range(100):
        file = files[random.integers(len(files))]
        content = file.read_bytes()
        if turn % 5 == 3 and file.name != "manifest.parquet":
            file.unlink()
            found = Problem(file.relative_to(pool.root).as_posix(), "missing")
        elif turn % 5 == 4:
            file = file.with_name(f"{turn}.png")
            content = b""
            file.write_bytes(random.bytes(turn))
            found = Problem(file.relative_to(pool.root).as_posix(), "foreign")
        else:
            position = random.integers(len(content))
            flipped = content[position] ^ int(random.integers(1, 256))
            file.write_bytes(content[:position] + bytes([flipped]) + content[position + 1 :])
            found = Problem(file.relative_to(pool.root).as_posix(), "changed")
        assert verify_pool(pool.root) == [found]
        file.write_bytes(content) if content else file.unlink()
    assert pool.verify() == []


def test_a_pool_as_written_has_no_problem_and_several_are_all_named(pool) -> None:
    assert pool.verify() == verify_pool(pool.root) == verify_pool(pool.root.parent) == []
    first, second, third = pool.files[:3]
    (pool.root / first).unlink()
    (pool.root / second).write_bytes(b"other")
    (pool.root / third).rename(pool.root / "aside")
    (pool.root / third).symlink_to(pool.root / "aside")
    problems = [(first, "missing"), (second, "changed"), (third, "changed"), ("aside", "foreign")]
    assert set(pool.verify()) == {Problem(*problem) for problem in problems}
    with pytest.raises(DamagedError):
        Pool.open(pool.root).images()


@pytest.mark.parametrize(
    "rewrite", [json.dumps, lambda record: json.dumps({"files": record["files"]}), str, lambda record: "{}"]
)
def test_a_rewritten_record_is_a_change(pool, rewrite) -> None:
    done = pool.root / "DONE.json"
    done.write_text(rewrite(json.loads(done.read_text())))
    assert pool.verify() == [Problem("DONE.json", "changed")]
    (pool.root / "manifest.parquet").unlink()
    assert Problem("DONE.json", "changed") in pool.verify()


@pytest.mark.parametrize("look", [Pool.open, verify_pool])
def test_an_unfinished_pool_or_another_folder_names_the_command_that_fills_it(tmp_path, look) -> None:
    storage.write_text(tmp_path / "my study" / "pool" / "BEGUN.json", "{}")
    with storage.new_directory(tmp_path / "my filters", {"filters": "1"}) as staging:
        storage.write_bytes(staging / "filters.safetensors", b"weights")
    for folder in (tmp_path / "my study", tmp_path / "my filters"):
        with pytest.raises(UsageError, match="no finished pool") as caught:
            look(folder)
        assert caught.value.fix == f"diffaug generate '{folder}'"


@pytest.mark.e2e
def test_readers_see_the_old_pool_or_the_new_one(tmp_path, maker, complete) -> None:
    root = tmp_path / "study"
    complete(root, maker, {"a": 1})
    writer = os.fork()
    if not writer:
        for number in range(2, 8):
            complete(root, maker, {"a": number})
        os._exit(0)
    seen = set()
    while os.waitpid(writer, os.WNOHANG) == (0, 0):
        assert verify_pool(root) == []
        seen.add(len(Pool.open(root)))
    assert len(seen) > 1
    assert seen <= set(range(1, 8))
    assert len(Pool.open(root)) == 7


LABELS = (0, 2, 0, 1, 2, 0)
CLASSES = ("cat", "a dog", "emu", "none")


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Pool:
    """Six images, of which image i has the value 10 i in its corner."""
    pixels = [np.full((2, 3, 3), 1, np.uint8) for _ in LABELS]
    for number, image in enumerate(pixels):
        image[0, 0] = 10 * number
    origins = ["sampled", "variation"] * 3
    root = tmp_path_factory.mktemp("kept") / "pool"
    return write_pool(root, CLASSES, list(zip(LABELS, pixels, strict=True)), origin=origins)


@pytest.fixture
def small(kept, tmp_path) -> Pool:
    """A copy of it that may be changed."""
    shutil.copytree(kept.root, tmp_path / "study" / "pool")
    return Pool.open(tmp_path / "study" / "pool")


def committed_again(pool: Pool, **facts: object) -> Pool:
    """The pool as if it had been finished with the present files and other facts."""
    storage.commit_directory(pool.root, {**storage.recorded_metadata(pool.root), **facts})
    return Pool.open(pool.root)


def corners(pool: Pool) -> list[int]:
    return [int(value) // 10 for value in pool.images().pixels[:, 0, 0, 0]]


def test_a_pool_tells_its_images_apart_without_reading_them(kept) -> None:
    assert (len(kept), kept.image_size, kept.channels, kept.classes) == (6, (2, 3), 3, CLASSES)
    assert kept.class_to_idx == {"cat": 0, "a dog": 1, "emu": 2, "none": 3}
    assert kept.counts_by_name == {"cat": 3, "a dog": 1, "emu": 2, "none": 0}
    assert kept.labels.tolist() == list(LABELS) and kept.labels.dtype == np.int64
    assert [kept.indices_of(index).tolist() for index in range(4)] == [[0, 2, 5], [3], [1, 4], []]
    hashes = [storage.sha256_file(kept.root / file) for file in kept.files]
    assert kept.image_keys == tuple(zip(kept.files, hashes, strict=True))
    assert kept.manifest["file"].tolist() == list(kept.files)
    images = kept.images()
    assert corners(kept) == list(range(6)) and images.pixels.shape == (6, 2, 3, 3)
    assert (images.ids, images.classes) == (kept.files, CLASSES)
    assert images.labels.tolist() == list(LABELS)
    assert images.origins == ("sampled", "variation") * 3
    np.testing.assert_array_equal(kept.read(4), images.pixels[4])


def test_a_pool_opens_by_its_folder_the_study_or_a_text(small) -> None:
    for path in (small.root, small.root.parent, str(small.root), str(small.root.parent)):
        assert Pool.open(path) == small
    again = pickle.loads(pickle.dumps(small))
    assert small.manifest is small.manifest and "manifest" not in vars(again)
    assert again == small and corners(again) == corners(small)


def test_left_out_classes_and_images_that_a_reviewer_rejects_are_not_looked_at(small) -> None:
    files, review = small.files, ReviewFile(small.root)
    review.add("ann", small.image_keys[2], "reject")
    review.add("ann", small.image_keys[3], "accept")
    review.add("ann", (small.files[5], "0" * 64), "reject")  # of an older pool
    seen = Pool.open(small.root)
    assert corners(seen) == [0, 1, 3, 4, 5] and len(seen) == 5
    assert seen.manifest["file"].tolist() == list(seen.files) == [*files[:2], *files[3:]]
    assert seen.manifest.index.tolist() == list(range(5))
    part = replace(seen, left_out=("emu", "a dog"))
    assert corners(part) == [0, 5] and part.counts_by_name == {"cat": 2, "a dog": 0, "emu": 0, "none": 0}
    assert part.images().origins == ("sampled", "variation")
    for one in (seen, part, replace(small, left_out=("emu",))):
        assert corners(one.whole) == list(range(6)) and one.whole == small
    assert small.whole is small


def test_an_empty_part_of_a_pool_has_images_of_its_shape(kept) -> None:
    none = replace(kept, left_out=CLASSES)
    assert none.images().pixels.shape == (0, 2, 3, 3) and none.labels.shape == (0,)


def test_what_is_recorded_beside_the_images_reads_back_or_is_absent(small) -> None:
    assert small.rejected is None and small.summaries == {} and small.power is None
    assert small.publication_check is None and small.unsafe_to_publish == ()
    summaries = {"cat": ClassSummary(4, 3, 9, {"copy": 6})}
    power = PoolPower("made", {name: FilterPower(UNKNOWN, None, UNKNOWN, UNKNOWN, blind=()) for name in CLASSES}, ())
    check = PublicationCheck(True, ("too alike",), ("copies",), ("membership",))
    write_record(small.root / SUMMARY, SUMMARIES, summaries)
    write_record(small.root / POWER, POOL_POWER, power)
    write_record(small.root / AUDIT, PUBLICATION_CHECK, check)
    storage.write_parquet(small.root / REJECTED, small.manifest.head(2).assign(reason=["copy", "duplicate"]))
    full = committed_again(small, dataset_class_to_idx={"cat": 7}, levels=[0.5, 9])
    assert (full.summaries, full.power, full.publication_check) == (summaries, power, check)
    assert full.unsafe_to_publish == ("too alike",)
    assert full.rejected["reason"].tolist() == ["copy", "duplicate"]
    assert (full.dataset_class_to_idx, full.levels) == ({"cat": 7}, (0.5, 9.0))
    facts = pool_facts(full.root)
    assert (facts.classes, facts.image_size, facts.channels, facts.targets) == (CLASSES, (2, 3), 3, {})
    (full.root / full.files[0]).unlink()
    assert pool_facts(full.root) == facts


@pytest.mark.parametrize(
    ("facts", "place"),
    [
        ({"classes": []}, "classes"),
        ({"image_size": [0, 3]}, "image_size.0"),
        ({"channels": 4}, "channels"),
        ({"levels": [1]}, "levels"),
        ({"targets": {"cat": "many"}}, "targets.cat"),
    ],
)
def test_a_record_of_another_shape_is_damage(small, facts, place) -> None:
    for read in (lambda: committed_again(small, **facts), lambda: pool_facts(small.root)):
        with pytest.raises(DamagedError, match=rf"not as diffaug wrote it \({place}") as caught:
            read()
        assert caught.value.where == str(small.root / "DONE.json")


@pytest.mark.parametrize(
    "columns",
    [{"class_index": [0, 1, 2, 3, 4, 0]}, {"class_index": [0, -1, 0, 0, 0, 0]}, {"class_index": [0.5] * 6}]
    + [{name: [1] * 6} for name in ("file", "label", "sha256", "origin")]
    + [{name: None} for name in ("class_index", "file", "label", "sha256", "origin")],
)
def test_a_manifest_that_does_not_fit_the_pool_is_damage(small, columns) -> None:
    (name, values), table = *columns.items(), small.manifest
    table = table.drop(columns=name) if values is None else table.assign(**columns)
    storage.write_parquet(small.root / MANIFEST, table)
    changed = committed_again(small)
    for look in (lambda: changed.manifest, lambda: len(changed)) if name != "origin" else (lambda: changed.manifest,):
        with pytest.raises(DamagedError, match=r"the table (does not fit the pool|lacks|has no texts)") as caught:
            look()
        assert (caught.value.where, caught.value.fix) == (str(small.root / MANIFEST), storage.REPAIR_HINT)


def test_a_table_of_rejected_candidates_has_reasons(small) -> None:
    storage.write_parquet(small.root / REJECTED, small.manifest)
    with pytest.raises(DamagedError, match="lacks the column 'reason'"):
        _ = committed_again(small).rejected
    storage.write_parquet(small.root / REJECTED, small.manifest.head(0).assign(reason=[]))
    assert len(committed_again(small).rejected) == 0


def test_an_image_that_was_changed_or_lies_outside_is_not_read(small, tmp_path) -> None:
    whole = small.images()
    (small.root / small.files[1]).write_bytes(storage.png_bytes(whole.pixels[0]))
    assert corners(replace(small, left_out=("emu",))) == [0, 2, 3, 5]
    for read in (lambda: small.read(1), small.images):
        with pytest.raises(DamagedError, match="changed after it was written"):
            read()
    shutil.copy(small.root / small.files[0], tmp_path / "secret.png")
    storage.write_parquet(small.root / MANIFEST, small.manifest.assign(file="../../secret.png"))
    with pytest.raises(DamagedError, match="outside its folder"):
        committed_again(small).read(0)


def test_images_of_blind_classes_are_left_out_with_a_sentence(small) -> None:
    assert without_blind(small) == (small, "") and blind_classes(small) == ()
    pool = with_blind(small, "cat", "none")
    assert blind_classes(pool) == ("cat", "none")
    part, said = without_blind(pool)
    assert corners(part) == [1, 3, 4] and part.left_out == ("cat",)
    assert said == "3 synthetic images are left out, since nothing shows that they belong to their class: cat"
    none_has_images = with_blind(small, "none")
    assert without_blind(none_has_images) == (none_has_images, "")
    unlearned = with_blind(small, unlearned=("nothing was learned",))
    assert blind_classes(unlearned) == CLASSES
    part, said = without_blind(unlearned)
    assert len(part) == 0 and said.startswith("6 synthetic images are left out") and said.endswith("cat, a dog, emu")


def test_a_pool_that_is_replaced_while_it_is_opened_is_opened_again(small, tmp_path, monkeypatch) -> None:
    """The records of one and the files of another are damage, which is none if the folder was exchanged meanwhile."""
    read, turns = storage.committed_metadata, []

    def replaced(root, **options):
        turns.append(root)
        if len(turns) == 1:
            shutil.copytree(root, tmp_path / "new")
            root.rename(tmp_path / "old")
            (tmp_path / "new").rename(root)
            raise DamagedError("half of each")
        return read(root, **options)

    monkeypatch.setattr(storage, "committed_metadata", replaced)
    assert Pool.open(small.root) == small and len(turns) == 2

    def removed(root, **_):
        turns.append(root)
        shutil.rmtree(root, ignore_errors=True)

    monkeypatch.setattr(storage, "committed_metadata", removed)
    with pytest.raises(UsageError, match="no finished pool"):
        Pool.open(small.root)
    assert len(turns) == 4  # looked at again, since it was gone


def test_damage_is_no_replacement(small) -> None:
    (small.root / MANIFEST).write_bytes(b"")
    with pytest.raises(DamagedError) as caught:
        Pool.open(small.root)
    assert caught.value.where == str(small.root / MANIFEST)


def test_a_folder_that_never_was_a_pool_has_nothing_to_verify(tmp_path) -> None:
    (tmp_path / "cats").mkdir()
    for look in (Pool.open, verify_pool):
        for path, study in ((tmp_path / "cats", tmp_path / "cats"), (tmp_path / "gone" / "pool", tmp_path / "gone")):
            with pytest.raises(UsageError, match="no finished pool") as caught:
                look(path)
            assert (caught.value.where, caught.value.fix) == (str(path), f"diffaug generate {study}")
    assert module._root(tmp_path / "cats") == tmp_path / "cats"
