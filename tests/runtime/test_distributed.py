import os
import socket
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffaug.errors import DiffaugError, Interrupted, UsageError
from diffaug.runtime import distributed
from diffaug.runtime.distributed import ALONE, Group, Workers, current, joined, launched_together


def worker(rank: int, size: int) -> Workers:
    workers = Workers()
    workers.rank, workers.size = rank, size
    return workers


@given(count=st.integers(0, 300), size=st.integers(1, 16))
def test_shares_are_contiguous_cover_everything_and_differ_by_one_at_most(count: int, size: int) -> None:
    shares = [range(count)[worker(rank, size).share(count)] for rank in range(size)]
    assert [position for share in shares for position in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_everything_stays_as_it_is() -> None:
    module, values = torch.nn.Linear(1, 1), torch.ones(2)
    assert ALONE.synchronized(module) is module
    assert ALONE.total(values) is values
    assert ALONE.is_main
    assert (ALONE.any(True), ALONE.any(False)) == (True, False)
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("variables", "together"),
    [
        ({}, False),
        ({"WORLD_SIZE": "2"}, False),
        ({"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "localhost"}, False),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost"}, True),
    ],
)
def test_a_launch_is_told_by_its_environment(variables: dict[str, str], together: bool, monkeypatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launched_together() == together


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Iterator[Group]:
    """A process group of one, which goes through the same collectives as one of many."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    with joined() as group:
        yield group


def test_the_group_is_current_while_it_is_joined(group: Group) -> None:
    assert current() is group
    assert os.environ["WORLD_SIZE"] == "1"


def test_arrays_and_json_arrive_as_they_were_sent(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "CHUNK_BYTES", 7)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 2, 1), dtype=np.uint8)[:, ::-1]
    for array in (pixels, np.arange(4), np.empty((0, 3), np.float32)):
        arrived = group.share_array(array)
        assert arrived.dtype == array.dtype
        np.testing.assert_array_equal(arrived, array)
    content = {"name": "ü\udc80", "list": [1, None, 2.5]}
    assert group.share_json(content) == content
    assert group.share_json() is None


def test_the_others_are_idle_after_a_task_and_after_a_stop_but_not_after_a_failure(group: Group) -> None:
    with group.at_work():
        assert not group.is_idle
    assert group.is_idle
    with pytest.raises(Interrupted), group.at_work():
        raise Interrupted("stopped")
    assert group.is_idle
    with pytest.raises(ValueError, match="broken"), group.at_work():
        raise ValueError("broken")
    assert not group.is_idle


def test_an_error_of_another_process_is_told_by_its_last_words(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "LAST_WORDS_SECONDS", 0.1)
    group.size = 3
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:1] Connection closed by peer [127.0.0.1]:5")
    assert "no word from process 1, 2, killed" in str(group.explain(lost))
    group._store.set("ended/2", "ValueError: no such thing")
    explained = group.explain(lost)
    assert isinstance(explained, DiffaugError)
    assert explained.what == "process 0 of 3 lost the others: process 2 failed: ValueError: no such thing"


def test_errors_of_its_own_keep_their_type_and_name_the_process(group: Group) -> None:
    group.rank, group.size = 1, 2
    own = ValueError("mine\nmore")
    assert group.explain(own) is own
    assert group._store.get("ended/1") == b"ValueError: mine"
    explained = group.explain(UsageError("wrong"))
    assert isinstance(explained, UsageError)
    assert explained.what == "process 1 of 2: wrong"


def test_more_processes_than_devices_are_refused(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    group.use_device("cpu")
    with pytest.raises(UsageError, match="4 processes on this machine and 2 CUDA devices"):
        group.use_device("cuda")


def test_a_launcher_that_gives_each_process_one_gpu_is_believed(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    group.use_device("cuda")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "torchrun's")
    with pytest.raises(UsageError, match="4 processes on this machine and 1 CUDA devices"):
        group.use_device("cuda")
