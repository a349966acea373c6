"""Trainings of two real processes share the batches of one sampler, however they are started."""

import json
import multiprocessing
import os
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from diffaug import AugmentedDataset, MixedBatchSampler
from diffaug.errors import UsageError
from diffaug.synthesis.pool.pool import Pool

REAL, MADE, BATCH, FRACTION, EPOCHS = 22, 6, 4, 0.25, 2
Epochs = list[list[list[int]]]


class Counted(Dataset):
    """Items that hold their index."""

    targets, classes = [0, 1] * (REAL // 2), ["cat", "dog"]

    def __len__(self) -> int:
        return REAL

    def __getitem__(self, index: int) -> Any:
        return torch.zeros(1, 2, 2), self.targets[index], index


@pytest.fixture(scope="module")
def pool(make_pool: Any, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    images = [(k % 2, np.full((2, 2, 1), 9, np.uint8)) for k in range(MADE)]
    return make_pool(tmp_path_factory.mktemp("study") / "pool", ["cat", "dog"], images)


def loader_of(pool: Pool, **chosen: Any) -> DataLoader[Any]:
    dataset = AugmentedDataset(Counted(), pool)
    return DataLoader(dataset, batch_sampler=MixedBatchSampler(dataset, BATCH, FRACTION, **chosen))


def in_torch(pool: Pool) -> Epochs:
    torch.distributed.init_process_group("gloo")
    loader = loader_of(pool)
    return [[batch[2].tolist() for batch in loader] for _ in range(EPOCHS)]


def in_lightning(pool: Pool) -> Epochs:
    import lightning

    class Model(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.seen = torch.nn.Linear(4, 2), []

        def on_train_epoch_start(self) -> None:
            self.seen.append([])

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            self.seen[-1].append(batch[2].tolist())
            return torch.nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    quiet = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary", "logger"), False)
    model, loader = Model(), loader_of(pool)
    trainer = lightning.Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=EPOCHS, **quiet)
    trainer.fit(model, loader)
    assert trainer.train_dataloader is not loader  # it was made anew
    return model.seen


def in_accelerate(pool: Pool) -> Epochs:
    import accelerate

    loader = accelerate.Accelerator(cpu=True).prepare(loader_of(pool))
    return [[batch[2].tolist() for batch in loader] for _ in range(EPOCHS)]


def in_accelerate_told_of_replicas(pool: Pool) -> str:
    import accelerate

    early = loader_of(pool, num_replicas=2, rank=int(os.environ["RANK"]))  # before accelerate runs
    state = accelerate.Accelerator(cpu=True)
    for use in (lambda: list(state.prepare(early)), lambda: loader_of(pool, num_replicas=2, rank=0)):
        with pytest.raises(UsageError, match="twice") as caught:
            use()
    return str(caught.value.fix)


def in_process(rank: int, port: int, train: Callable[[Pool], Any], pool: Pool, folder: Path) -> None:
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0}
    os.environ.update({name: str(value) for name, value in own.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="test")
    (folder / f"{rank}.json").write_text(json.dumps(train(pool)))


def trained(train: Callable[[Pool], Any], pool: Pool, folder: Path) -> list[Any]:
    """What each of two processes returns."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=in_process, args=(rank, port, train, pool, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
    assert [process.exitcode for process in processes] == [0, 0]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("train", [in_torch, in_lightning, in_accelerate])
def test_two_processes_share_each_epoch_once(pool: Pool, tmp_path: Path, train: Callable[[Pool], Epochs]) -> None:
    pytest.importorskip(train.__name__.removeprefix("in_"))
    first, second = trained(train, pool, tmp_path)
    steps = [len(epoch) for epoch in first]
    assert len(set(steps)) == 1
    assert [len(epoch) for epoch in second] == steps
    together = [[index for batch in one + other for index in batch] for one, other in zip(first, second, strict=True)]
    assert together[0] != together[1]
    for epoch in together:
        times = Counter(index for index in epoch if index < REAL)
        assert set(times) == set(range(REAL))
        # Accelerate needs full batches, so that its last step repeats some.
        assert max(times.values()) == 1 or (train is in_accelerate and max(times.values()) == 2)
        assert abs(sum(index >= REAL for index in epoch) - FRACTION * len(epoch)) < 1
    if train is in_accelerate:
        assert {len(batch) for epoch in first + second for batch in epoch} == {BATCH}


@pytest.mark.slow
def test_accelerate_is_not_told_of_replicas_too(pool: Pool, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    assert trained(in_accelerate_told_of_replicas, pool, tmp_path) == ["leave num_replicas and rank out"] * 2


def test_a_sampler_is_made_anew_from_its_class_as_lightning_does(pool: Pool) -> None:
    dataset = AugmentedDataset(Counted(), pool)
    sampler = MixedBatchSampler(dataset, BATCH, FRACTION, equal_classes=True, seed=3)
    own = [DistributedSampler(dataset, num_replicas=2, rank=rank) for rank in range(2)]
    made = [type(sampler)(one, batch_size=sampler.batch_size, drop_last=sampler.drop_last) for one in own]
    told = [
        MixedBatchSampler(dataset, BATCH, FRACTION, equal_classes=True, seed=3, num_replicas=2, rank=rank)
        for rank in range(2)
    ]
    assert [list(one) for one in made] == [list(one) for one in told]
    assert [(one.num_replicas, one.rank) for one in made] == [(2, 0), (2, 1)]


def test_a_sampler_that_is_unknown_or_one_of_several_is_not_made_anew(pool: Pool) -> None:
    dataset = AugmentedDataset(Counted(), pool)
    own = DistributedSampler(dataset, num_replicas=2, rank=0)
    with pytest.raises(UsageError, match="unknown"):
        MixedBatchSampler(own, BATCH, drop_last=False)
    several = [MixedBatchSampler(dataset, BATCH, fraction) for fraction in (0.25, 0.5)]
    with pytest.raises(UsageError, match="unknown") as caught:
        MixedBatchSampler(own, BATCH)
    assert "use_distributed_sampler=False" in str(caught.value.fix)
    assert len(several) == 2
