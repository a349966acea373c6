import json
import os

import numpy as np
import pytest

from diffaug.errors import DamagedError, UsageError
from diffaug.files import storage
from diffaug.synthesis.pool.pool import Pool, Problem, verify_pool


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
        Pool.open(pool.root)


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
