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


def test_a_pool_as_written_has_no_problem(pool) -> None:
    assert pool.verify() == verify_pool(pool.root) == verify_pool(pool.root.parent) == []


def test_500_random_damages_are_all_found(pool) -> None:
    random = np.random.default_rng(0)
    files = sorted(path for path in pool.root.rglob("*") if path.is_file())
    for turn in range(500):
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


def test_several_problems_are_all_named(pool) -> None:
    first, second, third = pool.files[:3]
    (pool.root / first).unlink()
    (pool.root / second).write_bytes(b"other")
    content = (pool.root / third).read_bytes()
    (pool.root / "aside").write_bytes(content)
    (pool.root / third).unlink()
    (pool.root / third).symlink_to(pool.root / "aside")
    assert set(pool.verify()) == {
        Problem(first, "missing"),
        Problem(second, "changed"),
        Problem(third, "changed"),
        Problem("aside", "foreign"),
    }
    with pytest.raises(DamagedError):
        Pool.open(pool.root)


@pytest.mark.parametrize("rewrite", [json.dumps, lambda record: json.dumps({"files": record["files"]}), str])
def test_a_rewritten_record_is_a_change(pool, rewrite) -> None:
    done = pool.root / "DONE.json"
    done.write_text(rewrite(json.loads(done.read_text())))
    assert pool.verify() == [Problem("DONE.json", "changed")]


def test_an_unfinished_pool_says_what_to_do(tmp_path) -> None:
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "BEGUN.json").write_text("{}")
    for look in (Pool.open, verify_pool):
        with pytest.raises(UsageError, match="no finished pool") as caught:
            look(tmp_path)
        assert caught.value.fix == f"diffaug generate {tmp_path}"


def test_a_finished_folder_of_something_else_is_no_pool(tmp_path) -> None:
    with storage.new_directory(tmp_path / "judge", {"judge": "1"}) as staging:
        storage.write_bytes(staging / "judge.safetensors", b"weights")
    for look in (Pool.open, verify_pool):
        with pytest.raises(UsageError, match="no finished pool"):
            look(tmp_path / "judge")


def test_a_pool_without_manifest_and_record_of_it_is_damaged(pool) -> None:
    (pool.root / "manifest.parquet").unlink()
    assert pool.verify() == [Problem("manifest.parquet", "missing")]
    (pool.root / "DONE.json").write_text("{}")
    assert pool.verify() == [Problem("DONE.json", "changed")]


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
