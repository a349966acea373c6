"""Two processes that train together, held against one."""

import dataclasses
import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffaug.configuration.settings import DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.planning.planning import Plan, make_plan, set_length
from diffaug.diffusion.training import measuring, training
from diffaug.diffusion.training.batches import Batch, TrainingData
from diffaug.diffusion.training.checkpoints import restore_latest, save_checkpoint
from diffaug.diffusion.training.loss import TrainingLoss
from diffaug.diffusion.training.measuring import measure_images_per_second
from diffaug.diffusion.training.training import TrainingState, new_state, train
from diffaug.runtime.distributed import ALONE, Workers, joined
from diffaug.stages.launch import Training, follow, share_state, taking_part
from diffaug.stages.launch import measured as measured_together

SEED, STEPS, BATCH, STOP = 3, 20, 7, 9
Result = dict[str, torch.Tensor]


def blobs() -> LabeledImages:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 6, 5, 1), dtype=np.uint8)
    labels = np.array([0] * 12 + [1] * 4, dtype=np.int64)
    return LabeledImages(pixels, labels, ("top", "bottom"), tuple(map(str, range(16))))


class Setup:
    """A tiny training of 20 steps on 7 images each, which two processes can't share equally."""

    def __init__(self, dropout: float = 0.0, **more: Any) -> None:
        self.settings = DiffusionSettings(
            images_seen=STEPS * BATCH, batch_size=BATCH, base_channels=16, dropout=dropout, **more
        )
        self.plan: Plan = set_length(make_plan(blobs(), self.settings, "cpu"), self.settings, 16)
        self.data = TrainingData.of(blobs(), self.settings, "cpu", self.plan.images)

    def state(self) -> TrainingState:
        return new_state(self.plan, self.settings, "cpu", SEED)

    def run(self, state: TrainingState, workers: Workers = ALONE, until: int = STEPS) -> Result:
        losses = []
        for record in train(state, self.data, self.plan, self.settings, SEED, workers=workers):
            losses.append(record.loss.clone())
            if record.step == until:
                break
        return result_of(state, losses)


def result_of(state: TrainingState, losses: list[torch.Tensor]) -> Result:
    weights = {f"averaged.{name}": tensor for name, tensor in state.averaged.state_dict().items()}
    weights |= {name: tensor.detach() for name, tensor in state.loss.state_dict().items()}
    counters = torch.tensor([state.step, int(state.skipped), state.rollbacks, state.micro_batches])
    return {**weights, "losses": torch.stack(losses), "counters": counters}


def assert_close(first: Result, second: Result, *, but: tuple[str, ...] = ("counters",)) -> None:
    assert first.keys() == second.keys()
    for name in first.keys() - set(but):
        torch.testing.assert_close(first[name], second[name], atol=2e-5, rtol=2e-5, msg=lambda text, n=name: n + text)


def plain(workers: Workers, folder: Path) -> Result:
    setup = Setup()
    return setup.run(setup.state(), workers)


def with_dropout(workers: Workers, folder: Path) -> Result:
    setup = Setup(dropout=0.5)
    return setup.run(setup.state(), workers, until=4)


def all_parts_of_the_loss(workers: Workers, folder: Path) -> Result:
    """The network is passed twice in a step, and all of its inputs are used."""
    setup = Setup(long_tail="class balancing", augmentation=0.5)
    return setup.run(setup.state(), workers, until=5)


def interrupted(workers: Workers, folder: Path) -> Result:
    setup = Setup()
    state = setup.state()
    result = setup.run(state, workers, until=STOP)
    if workers.is_main:
        save_checkpoint(folder / "of-two", state)
    return result


def resumed(workers: Workers, folder: Path) -> Result:
    """Goes on from a checkpoint of one process, which only the main process reads."""
    setup = Setup()
    state = new_state(setup.plan, setup.settings, "cpu", SEED if workers.is_main else 77)
    if workers.is_main:
        assert restore_latest(folder / "of-one", state)[0] == STOP
    share_state(workers, state)
    return setup.run(state, workers)


def short_of_memory(workers: Workers, folder: Path) -> Result:
    """The second process alone has memory for one image only."""
    whole = TrainingLoss.forward

    def limited(self: TrainingLoss, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        if len(batch.labels) > 1 and not workers.is_main:
            raise torch.OutOfMemoryError("out of memory")
        return whole(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingLoss, "forward", limited)
        return plain(workers, folder)


def short_of_memory_later(workers: Workers, folder: Path) -> Result:
    """The second process has memory for its part only as long as the optimiser keeps no moments."""
    setup = Setup()
    state, whole = setup.state(), TrainingLoss.forward

    def limited(self: TrainingLoss, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        if len(batch.labels) > 1 and state.optimizer.state and not workers.is_main:
            raise torch.OutOfMemoryError("out of memory")
        return whole(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingLoss, "forward", limited)
        return setup.run(state, workers)


def not_compiled(workers: Workers, folder: Path) -> Result:
    """Compiling fails in the second process alone; both learn of it, and the group goes on."""
    setup, whole = Setup(), TrainingLoss.forward
    plan = dataclasses.replace(setup.plan, compiled=True)

    def broken(self: TrainingLoss, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        if not workers.is_main:
            raise RuntimeError("no compiler here")
        return whole(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingLoss, "forward", broken)
        patch.setattr(TrainingLoss, "compile", lambda *_, **__: None)
        if not workers.is_main:
            follow(workers)
            return {"speed": torch.zeros(())}
        training = Training(blobs(), plan, setup.settings, "cpu", 0)
        with taking_part("measure", training):
            speed, failure = measured_together(workers, setup.data, training)
        assert str(failure) == "another process failed in the first step"
        workers.share_json()  # nothing more to do
        return {"speed": torch.tensor(speed)}


def not_finite(workers: Workers, folder: Path) -> Result:
    """The last image of every second batch is broken, which only the second process sees."""
    draw = training.draw_batch

    def broken(*arguments: Any) -> Batch:
        batch = draw(*arguments)
        if arguments[-1] % 2:
            batch.x0[-1] = float("nan")
        return batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "draw_batch", broken)
        result = plain(workers, folder)
    result["losses"] = result["losses"][::2]
    return result


def images_seen(workers: Workers, folder: Path) -> Result:
    """What each process passes through the network, in order."""
    setup, state, seen = Setup(), Setup().state(), []
    forward = TrainingLoss.forward

    def noted(self: TrainingLoss, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(batch)
        return forward(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingLoss, "forward", noted)
        setup.run(state, workers, until=5)
    passed = seen[-3:]  # before them a group tries what fits in memory
    return {f"{name}.{step}": getattr(batch, name) for step, batch in enumerate(passed) for name in Batch._fields}


def measured(workers: Workers, folder: Path) -> Result:
    setup = Setup()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "SECONDS", 0.1 * (1 + workers.rank))
        return {"speed": torch.tensor(measure_images_per_second(setup.data, setup.plan, setup.settings, workers))}


SCENARIOS = (
    plain,
    with_dropout,
    all_parts_of_the_loss,
    interrupted,
    resumed,
    short_of_memory,
    short_of_memory_later,
    not_compiled,
    not_finite,
    images_seen,
    measured,
)


def play(rank: int, port: int, folder: Path, scenarios: tuple[Callable[[Workers, Path], Result], ...]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with joined() as workers:
        for scenario in scenarios:
            result = {
                name: tensor.clone(memory_format=torch.contiguous_format)
                for name, tensor in scenario(workers, folder).items()
            }
            save_file(result, folder / f"{scenario.__name__}.{rank}.safetensors")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of one process."""
    folder = tmp_path_factory.mktemp("together")
    setup = Setup()
    state = setup.state()
    setup.run(state, until=STOP)
    save_checkpoint(folder / "of-one", state)
    return folder


@pytest.fixture(scope="module")
def together(alone: Path) -> Callable[[Callable[[Workers, Path], Result]], tuple[Result, Result]]:
    """The results of both processes by scenario."""
    context, port = multiprocessing.get_context("spawn"), free_port()
    processes = [context.Process(target=play, args=(rank, port, alone, SCENARIOS), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0]

    def results(scenario: Callable[[Workers, Path], Result]) -> tuple[Result, Result]:
        first, second = (load_file(alone / f"{scenario.__name__}.{rank}.safetensors") for rank in range(2))
        return first, second

    return results


@pytest.fixture(scope="module")
def reference() -> Result:
    setup = Setup()
    return setup.run(setup.state())


def test_two_processes_take_the_steps_of_one(together, reference) -> None:
    first, second = together(plain)
    assert len(first["losses"]) == STEPS
    assert_close(first, reference, but=())
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_they_see_the_images_of_one_in_its_order(together) -> None:
    first, second = together(images_seen)
    for name, batch in images_seen(ALONE, Path()).items():
        assert (len(first[name]), len(second[name])) == (3, 4)
        assert torch.equal(torch.cat([first[name], second[name]]), batch), name


def test_with_dropout_both_processes_keep_the_same_weights(together) -> None:
    first, second = together(with_dropout)
    setup = Setup(dropout=0.5)
    one = setup.run(setup.state(), until=4)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    assert one["losses"][0] == pytest.approx(float(first["losses"][0]), abs=1e-5)  # the untrained network's
    assert not torch.equal(one["denoiser.unet.head.weight"], first["denoiser.unet.head.weight"])


def test_two_passes_through_the_network_are_exchanged_as_one(together) -> None:
    for result in together(all_parts_of_the_loss):
        assert_close(result, all_parts_of_the_loss(ALONE, Path()))


def test_one_process_goes_on_from_a_checkpoint_of_two(together, alone, reference) -> None:
    together(interrupted)
    setup, state = Setup(), Setup().state()
    assert restore_latest(alone / "of-two", state) == (STOP, [])
    assert_close(setup.run(state), reference, but=("counters", "losses"))


def test_two_processes_go_on_from_a_checkpoint_of_one(together, reference) -> None:
    for result in together(resumed):
        assert torch.allclose(result["losses"], reference["losses"][STOP:], atol=2e-5)
        assert_close(result, reference, but=("counters", "losses"))


def test_short_memory_in_one_process_changes_nothing_for_the_other(together, reference) -> None:
    first, second = together(short_of_memory)
    assert (int(first["counters"][3]), int(second["counters"][3])) == (1, 4)
    assert_close(first, reference)
    assert_close(second, reference)


def test_memory_that_gets_short_after_the_first_step_changes_nothing_either(together, reference) -> None:
    first, second = together(short_of_memory_later)
    assert (int(first["counters"][3]), int(second["counters"][3])) == (1, 4)
    assert_close(first, reference)
    assert_close(second, reference)


def test_when_one_process_cannot_compile_none_waits(together) -> None:
    assert [result["speed"].item() for result in together(not_compiled)] == [0, 0]


def test_a_gradient_that_is_not_finite_in_one_process_is_skipped_by_both(together) -> None:
    one = not_finite(ALONE, Path())
    assert one["counters"].tolist() == [STEPS, STEPS // 2, 0, 1]
    for result in together(not_finite):
        assert_close(result, one, but=())


def test_speed_is_measured_until_one_process_has_enough(together) -> None:
    for result in together(measured):
        assert result["speed"] > 0


def test_fewer_images_than_saved_parts_are_no_empty_parts(reference) -> None:
    setup = Setup()
    state = setup.state()
    state.micro_batches = 64
    assert_close(setup.run(state), reference)
    assert state.micro_batches == BATCH


def endless(rank: int, port: int, folder: Path, failing: bool) -> None:
    def forever(workers: Workers, folder: Path) -> Result:
        setup = Setup()
        plan = dataclasses.replace(setup.plan, images=10**9)
        for record in train(setup.state(), setup.data, plan, setup.settings, SEED, workers=workers):
            if failing and not workers.is_main and record.step == 3:
                raise OSError("no space left")
            (folder / f"training.{workers.rank}").touch()
        return {}

    try:
        play(rank, port, folder, (forever,))
    except Exception as error:
        (folder / f"error.{rank}").write_text(str(error))
        raise


@pytest.mark.parametrize("failing", [False, True], ids=["killed", "failed"])
def test_when_one_process_ends_the_other_ends_within_seconds_and_names_it(tmp_path: Path, failing: bool) -> None:
    context, port = multiprocessing.get_context("spawn"), free_port()
    main, other = (
        context.Process(target=endless, args=(rank, port, tmp_path, failing), daemon=True) for rank in range(2)
    )
    main.start()
    other.start()
    while not (tmp_path / "training.1").exists():
        assert other.is_alive()
        other.join(timeout=0.05)
    if not failing:
        other.kill()
    other.join(timeout=30)
    main.join(timeout=20)
    assert main.exitcode == 1
    error = (tmp_path / "error.0").read_text()
    expected = "process 1 failed: OSError: no space left" if failing else "no word from process 1, killed or cut off"
    assert f"process 0 of 2 lost the others: {expected}" in error
