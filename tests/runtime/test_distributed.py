import socket
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffaug.errors import DiffaugError, Interrupted, UsageError
from diffaug.runtime.distributed import ALONE, ProcessGroup, TorchGroup, current, joined, launched_together


@given(count=st.integers(0, 300), size=st.integers(1, 16))
def test_shares_are_contiguous_cover_everything_and_differ_by_one_at_most(count: int, size: int) -> None:
    members = [SimpleNamespace(rank=rank, size=size) for rank in range(size)]
    shares = [range(count)[ProcessGroup.share(member, count)] for member in members]
    assert [position for share in shares for position in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_everything_stays_as_it_is() -> None:
    module, values = torch.nn.Linear(1, 1), torch.ones(2)
    assert ALONE.synchronized(module) is module
    assert ALONE.total(values) is values
    assert ALONE.is_main
    assert (ALONE.any(True), ALONE.any(False)) == (True, False)
    assert ALONE.broadcast([1]) == [1]
    with ALONE.main_first():
        pass
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
def test_a_launch_shows_in_its_environment(variables: dict[str, str], together: bool, monkeypatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launched_together() == together


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Iterator[TorchGroup]:
    """A process group of one, which goes through the same collectives as one of many."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    with joined() as group:
        yield group


def test_json_arrives_as_it_was_sent_in_the_group_that_is_joined(group: TorchGroup) -> None:
    assert current() is group
    content = {"name": "ü\udc80", "list": [1, None, 2.5]}
    assert group.broadcast(content) == content
    assert group.broadcast() is None


def test_errors_name_the_process(group: TorchGroup) -> None:
    group.rank, group.size = 1, 2
    own = ValueError("mine")
    assert group.named(own) is own
    refused = group.named(UsageError("wrong"))
    assert isinstance(refused, UsageError)
    assert refused.what == "process 1 of 2: wrong"
    lost = group.named(RuntimeError("[gloo/transport/tcp/pair.cc:1] Connection closed by peer [127.0.0.1]:5"))
    assert isinstance(lost, DiffaugError)
    assert lost.what.startswith("process 1 of 2 lost the connection")


@pytest.mark.parametrize(
    ("error", "code"),
    [(UsageError(""), 2), (KeyboardInterrupt(), 130), (Interrupted(""), 130), (ValueError(), 1), (SystemExit(4), 4)],
)
def test_the_others_learn_the_exit_code_of_the_main_process(group, monkeypatch, error, code) -> None:
    sent: list[object] = []
    monkeypatch.setattr(group, "broadcast", sent.append)
    with pytest.raises(type(error)), group.main_first(), group.main_first():
        raise error
    assert sent == [code]
    monkeypatch.setattr(group, "broadcast", lambda: code)
    group.rank = 1
    with pytest.raises(SystemExit) as caught, group.main_first():
        pytest.fail("entered")
    assert caught.value.code == code


@pytest.mark.parametrize("devices", [1, 2])
def test_more_processes_than_devices_are_refused_unless_each_has_its_own(group, monkeypatch, devices) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    group.use_device("cpu")
    if devices == 1:
        group.use_device("cuda")
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "torchrun's")
    with pytest.raises(UsageError, match=f"4 processes on this machine but only {devices} CUDA devices"):
        group.use_device("cuda")
