"""Two processes that train together, held against one."""

import dataclasses
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffaug.configuration.settings import DiffusionSettings
from diffaug.diffusion.planning.planning import Plan, make_plan, set_length
from diffaug.diffusion.training import batches, measuring
from diffaug.diffusion.training.batches import Batch, TrainingData
from diffaug.diffusion.training.checkpoints import restore_latest, save_checkpoint
from diffaug.diffusion.training.loss import TrainingLoss
from diffaug.diffusion.training.measuring import measure_images_per_second
from diffaug.diffusion.training.training import TrainingState, new_state, train
from diffaug.errors import UsageError
from diffaug.runtime.distributed import ALONE, ProcessGroup, joined
from tests.diffusion.conftest import two_classes

pytestmark = pytest.mark.e2e

SEED, STEPS, BATCH, STOP = 3, 20, 7, 9
Result = dict[str, torch.Tensor]
Scenario = Callable[[ProcessGroup, Path], Result]


class Setup:
    """A tiny training of 20 steps on 7 images each, which two processes can't share equally."""

    def __init__(self, dropout: float = 0.0) -> None:
        settings = DiffusionSettings(images_seen=STEPS * BATCH, batch_size=BATCH, dropout=dropout, augmentation=0.5)
        self.plan: Plan = set_length(make_plan(two_classes(), settings, "cpu", base_channels=16), settings, 16)
        self.data = TrainingData.of(two_classes(), "cpu")
        self.state = new_state(self.plan, "cpu", SEED)

    def run(self, group: ProcessGroup = ALONE, until: int = STEPS) -> Result:
        losses = []
        for record in train(self.state, self.data, self.plan, SEED, group=group):
            losses.append(record.loss.clone())
            if record.step == until:
                break
        return result_of(self.state, losses)


@contextmanager
def before_forward(action: Callable[[Batch], None]) -> Iterator[None]:
    whole = TrainingLoss.forward

    def forward(self: TrainingLoss, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        action(batch)
        return whole(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingLoss, "forward", forward)
        yield


def result_of(state: TrainingState, losses: list[torch.Tensor]) -> Result:
    weights = {f"averaged.{name}": tensor for name, tensor in state.averaged.state_dict().items()}
    weights |= {name: tensor.detach() for name, tensor in state.loss.state_dict().items()}
    counters = torch.tensor([state.step, int(state.skipped), state.rollbacks, state.micro_batches])
    return {**weights, "losses": torch.stack(losses), "counters": counters}


def assert_close(first: Result, second: Result, *, but: tuple[str, ...] = ("counters",)) -> None:
    assert first.keys() == second.keys()
    for name in first.keys() - set(but):
        torch.testing.assert_close(first[name], second[name], atol=2e-5, rtol=2e-5, msg=lambda text, n=name: n + text)


def plain(group: ProcessGroup, folder: Path) -> Result:
    return Setup().run(group)


def with_dropout(group: ProcessGroup, folder: Path) -> Result:
    return Setup(dropout=0.5).run(group, until=4)


def interrupted(group: ProcessGroup, folder: Path) -> Result:
    setup = Setup()
    result = setup.run(group, until=STOP)
    if group.is_main:
        save_checkpoint(folder / "of-two", setup.state)
    return result


def resumed(group: ProcessGroup, folder: Path) -> Result:
    setup = Setup()
    setup.state = new_state(setup.plan, "cpu", SEED if group.is_main else 77)
    assert restore_latest(folder / "of-one", setup.state)[0] == STOP
    return setup.run(group)


def short_of_memory(group: ProcessGroup, folder: Path, *, later: bool = False) -> Result:
    """The second process alone has memory for one image only, or later, once the optimizer keeps moments."""
    setup = Setup()

    def limit(batch: Batch) -> None:
        if len(batch.labels) > 1 and not group.is_main and (setup.state.optimizer.state or not later):
            raise torch.OutOfMemoryError("out of memory")

    with before_forward(limit):
        return setup.run(group)


def short_of_memory_later(group: ProcessGroup, folder: Path) -> Result:
    return short_of_memory(group, folder, later=True)


def not_compiled(group: ProcessGroup, folder: Path) -> Result:
    def fail(batch: Batch) -> None:
        if not group.is_main:
            raise RuntimeError("no compiler here")

    setup = Setup()
    reason = "another process failed in the first step" if group.is_main else "no compiler here"
    with before_forward(fail), pytest.raises(RuntimeError, match=reason):
        measure_images_per_second(setup.data, setup.plan, group)
    return {"together": torch.tensor(group.any(not group.is_main))}


def not_finite(group: ProcessGroup, folder: Path) -> Result:
    draw = batches.draw_batch

    def broken(*arguments: Any) -> Batch:
        batch = draw(*arguments)
        if arguments[-1] % 2:
            batch.x0[-1] = float("nan")
        return batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "draw_batch", broken)
        result = plain(group, folder)
    result["losses"] = result["losses"][::2]
    return result


def images_seen(group: ProcessGroup, folder: Path) -> Result:
    seen: list[Batch] = []
    with before_forward(seen.append):
        Setup().run(group, until=5)
    passed = seen[-3:]  # before them a group tries what fits in memory
    names = set(Batch._fields) - {"masks"}
    return {f"{name}.{step}": getattr(batch, name) for step, batch in enumerate(passed) for name in names}


def measured(group: ProcessGroup, folder: Path) -> Result:
    setup = Setup()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "MEASURED_SECONDS", 0.1 * (1 + group.rank))
        return {"speed": torch.tensor(measure_images_per_second(setup.data, setup.plan, group))}


def main_first(group: ProcessGroup, folder: Path) -> Result:
    """The main process writes what the other reads; a block inside of another one adds nothing."""
    with group.main_first(), group.main_first():
        if group.is_main:
            (folder / "written").write_text("7")
        number = int((folder / "written").read_text())
    return {"read": torch.tensor(number), "heard": torch.tensor(group.broadcast([group.rank, 5]))}


TRAININGS = (plain, with_dropout, interrupted, resumed, short_of_memory, short_of_memory_later, not_finite, images_seen)
SCENARIOS = (*TRAININGS, not_compiled, main_first, measured)


def play(rank: int, port: int, folder: Path, scenarios: tuple[Scenario, ...]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with joined() as group:
        for scenario in scenarios:
            result = {name: tensor.contiguous().clone() for name, tensor in scenario(group, folder).items()}
            save_file(result, folder / f"{scenario.__name__}.{rank}.safetensors")


def start_both(target: Callable[..., None], *arguments: object) -> list[Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=target, args=(rank, port, *arguments), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    return processes


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, setup = tmp_path_factory.mktemp("together"), Setup()
    setup.run(until=STOP)
    save_checkpoint(folder / "of-one", setup.state)
    return folder


@pytest.fixture(scope="module")
def together(alone: Path) -> Callable[[Scenario], tuple[Result, Result]]:
    processes = start_both(play, alone, SCENARIOS)
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0]

    def results(scenario: Scenario) -> tuple[Result, Result]:
        return tuple(load_file(alone / f"{scenario.__name__}.{rank}.safetensors") for rank in range(2))

    return results


@pytest.fixture(scope="module")
def reference() -> Result:
    return plain(ALONE, Path())


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
    one = with_dropout(ALONE, Path())
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    assert one["losses"][0] == pytest.approx(float(first["losses"][0]), abs=1e-5)  # the untrained network's
    assert not torch.equal(one["denoiser.unet.head.weight"], first["denoiser.unet.head.weight"])


def test_checkpoints_of_one_process_and_of_two_serve_the_other(together, alone, reference) -> None:
    together(interrupted)
    setup = Setup()
    assert restore_latest(alone / "of-two", setup.state) == (STOP, [])
    for result in (setup.run(), *together(resumed)):
        assert torch.allclose(result["losses"], reference["losses"][STOP:], atol=2e-5)
        assert_close(result, reference, but=("counters", "losses"))


@pytest.mark.parametrize("scenario", [short_of_memory, short_of_memory_later])
def test_short_memory_in_one_process_changes_nothing_for_the_other(together, reference, scenario) -> None:
    results = together(scenario)
    assert [int(result["counters"][3]) for result in results] == [1, 4]
    for result in results:
        assert_close(result, reference)


def test_when_one_process_cannot_compile_none_waits_and_speed_is_measured_until_one_has_enough(together) -> None:
    assert [result["together"].item() for result in together(not_compiled)] == [True, True]
    assert min(result["speed"].item() for result in together(measured)) > 0


def test_the_others_read_what_the_main_process_wrote_and_broadcast(together) -> None:
    for result in together(main_first):
        assert result["read"].item() == 7
        assert result["heard"].tolist() == [0, 5]


def test_a_gradient_that_is_not_finite_in_one_process_is_skipped_by_both(together) -> None:
    one = not_finite(ALONE, Path())
    assert one["counters"].tolist() == [STEPS, STEPS // 2, 0, 1]
    for result in together(not_finite):
        assert_close(result, one, but=())


def test_fewer_images_than_saved_parts_are_no_empty_parts(reference) -> None:
    setup = Setup()
    setup.state.micro_batches = 64
    assert_close(setup.run(), reference)
    assert setup.state.micro_batches == BATCH


def ending(rank: int, port: int, folder: Path, how: str) -> None:
    def forever(group: ProcessGroup, folder: Path) -> Result:
        if how == "refused":
            with group.main_first():
                if group.is_main:
                    raise UsageError("not like this")
        setup = Setup()
        plan = dataclasses.replace(setup.plan, images_seen=10**9)
        for _ in train(setup.state, setup.data, plan, SEED, group=group):
            (folder / f"training.{group.rank}").touch()
        return {}

    try:
        play(rank, port, folder, (forever,))
    except Exception as error:
        (folder / f"error.{rank}").write_text(str(error))
        raise


def test_when_one_process_is_killed_the_other_ends_with_a_clear_error(tmp_path: Path) -> None:
    main, other = start_both(ending, tmp_path, "killed")
    while not (tmp_path / "training.1").exists():
        assert other.is_alive()
        other.join(timeout=0.05)
    other.kill()
    other.join(timeout=60)
    main.join(timeout=60)
    assert main.exitcode in (1, -signal.SIGABRT)  # gloo's threads can abort a process that ends with a lost connection
    assert (tmp_path / "error.0").read_text().startswith("process 0 of 2 lost the connection to another one")


def test_what_the_main_process_refuses_ends_the_others_with_its_exit_code(tmp_path: Path) -> None:
    main, other = start_both(ending, tmp_path, "refused")
    main.join(timeout=60)
    other.join(timeout=60)
    assert (main.exitcode, other.exitcode) == (1, UsageError.exit_code)
    assert (tmp_path / "error.0").read_text() == "not like this"
    assert not (tmp_path / "error.1").exists()
