import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from diffaug.diffusion.planning.planning import Plan
from diffaug.diffusion.process.ddpm import PixelBins
from diffaug.diffusion.training import batches, training
from diffaug.diffusion.training.batches import Batch, TrainingData
from diffaug.diffusion.training.checkpoints import restore_latest, save_checkpoint
from diffaug.diffusion.training.loss import TrainingLoss
from diffaug.diffusion.training.training import TrainingState, new_state, train
from diffaug.errors import DamagedError, DiffaugError

pytestmark = pytest.mark.e2e


def tensors_of(state: TrainingState) -> dict[str, torch.Tensor]:
    moments = {
        f"{name}.{key}": value
        for name, parameter in state.trained.items()
        for key, value in state.optimizer.state.get(parameter, {}).items()
    }
    copies = {"averaged": state.averaged.state_dict(), "guide": state.guide or {}, "safe": state.safe or {}}
    kept = {f"{kind}.{name}": value for kind, weights in copies.items() for name, value in weights.items()}
    return {**state.loss.state_dict(), **kept, **moments}


def assert_identical(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def run(state: TrainingState, data: TrainingData, plan: Plan, until: int = 10**9, save: Path | None = None) -> None:
    for record in train(state, data, plan, seed=3):
        if record.step % 4 == 0:
            state.keep_safe()
        if save:
            save_checkpoint(save / str(record.step), state)
        if record.step == until:
            return


def test_resumes_bit_for_bit_from_any_step(tmp_path, data, plan) -> None:
    reference = new_state(plan, "cpu", 3)
    run(reference, data, plan, save=tmp_path)
    expected = tensors_of(reference)
    assert expected.keys() >= {"denoiser.exp_avg", "guide.unet.stem.weight", "safe.unet.stem.weight"}
    for step in (1, 2, 4, 11, 23, 24):  # the guide is kept after 2, what is safe after 4
        resumed = new_state(plan, "cpu", 99)
        assert restore_latest(tmp_path / str(step), resumed) == (step, [])
        run(resumed, data, plan)
        assert (resumed.step, resumed.safe_step) == (24, 24)
        assert_identical(expected, tensors_of(resumed))


def test_training_depends_on_its_seed_and_leaves_the_callers_random_numbers_alone(data, plan) -> None:
    weights = []
    for seed in (3, 4):
        torch.manual_seed(5)
        expected = torch.rand(6)
        torch.manual_seed(5)
        state = new_state(plan, "cpu", 3)
        first = torch.rand(3)
        records = train(state, data, plan, seed)
        for _ in range(2):
            next(records)
        assert torch.equal(torch.cat([first, torch.rand(3)]), expected)
        weights.append(state.averaged.unet.stem.weight.clone())
    assert not torch.equal(*weights)


@pytest.mark.slow
def test_a_compiled_training_computes_the_same(data, plan_without_dropout) -> None:
    if shutil.which("g++") is None:
        pytest.skip("compiling for the CPU needs a C++ compiler")
    plan = plan_without_dropout
    eager, compiled = (new_state(dataclasses.replace(plan, compiled=compiled), "cpu", 3) for compiled in (False, True))
    records = zip(train(eager, data, plan, seed=3), train(compiled, data, plan, seed=3), strict=True)
    for one, other in records:
        torch.testing.assert_close(other.loss, one.loss, rtol=1e-3, atol=1e-4)
    assert compiled.loss._compiled_call_impl is not None
    assert eager.loss._compiled_call_impl is None
    assert set(tensors_of(compiled)) == set(tensors_of(eager))  # saved under the same names


def test_a_damaged_checkpoint_is_passed_over_and_said(tmp_path, data, plan) -> None:
    state = new_state(plan, "cpu", 3)
    for step in (2, 3, 4):
        run(state, data, plan, until=step)
        save_checkpoint(tmp_path, state)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-00000003", "step-00000004"]
    weights = tmp_path / "step-00000004" / "state.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(bytes(content))
    step, notes = restore_latest(tmp_path, new_state(plan, "cpu", 0))
    assert step == 3
    assert "step-00000004 is damaged" in notes[0]
    (tmp_path / "step-00000003" / "DONE.json").unlink()
    with pytest.raises(DamagedError, match="no checkpoint is whole"):
        restore_latest(tmp_path, new_state(plan, "cpu", 0))


def test_a_step_that_is_not_finite_changes_nothing(data, plan, monkeypatch) -> None:
    state = new_state(plan, "cpu", 0)
    run(state, data, plan, until=2)
    before = {name: tensor.clone() for name, tensor in tensors_of(state).items()}
    draw = batches.draw_batch

    def broken(*args: object) -> Batch:
        batch = draw(*args)
        return batch._replace(x0=batch.x0 * float("inf"))

    monkeypatch.setattr(batches, "draw_batch", broken)
    run(state, data, plan, until=3)
    assert (state.step, int(state.skipped), int(state.skipped_in_a_row)) == (3, 1, 1)
    assert_identical(before, tensors_of(state))
    monkeypatch.setattr(batches, "draw_batch", draw)
    run(state, data, plan, until=4)
    assert (int(state.skipped), int(state.skipped_in_a_row)) == (1, 0)
    assert not torch.equal(tensors_of(state)["denoiser.unet.head.weight"], before["denoiser.unet.head.weight"])


def test_broken_weights_are_rolled_back_to_the_average_and_train_on(data, plan) -> None:
    state = new_state(plan, "cpu", 0)
    run(state, data, plan, until=1)
    with torch.no_grad():
        state.denoiser.unet.stem.weight.fill_(1e30)
        averaged = state.averaged.unet.stem.weight.clone()
    longer = dataclasses.replace(plan, images_seen=8 * 40)
    run(state, data, longer, until=32)
    assert torch.equal(state.denoiser.unet.stem.weight, averaged)
    records = list(train(state, data, longer, seed=3))
    assert (state.rollbacks, int(state.skipped)) == (1, 31)
    assert torch.isfinite(records[-1].loss)
    assert records[2].learning_rate == pytest.approx(training.learning_rate_at(34, longer) / 2)


def test_a_training_that_never_is_finite_fails_with_a_reason(plan, data) -> None:
    endless = dataclasses.replace(plan, images_seen=10**6)
    broken = dataclasses.replace(data, normalization=dataclasses.replace(data.normalization, mean=(float("nan"),)))
    with pytest.raises(DiffaugError, match=r"diverged: the gradients of steps 49 to 64 .* after 3 attempts") as caught:
        run(new_state(plan, "cpu", 0), broken, endless)
    assert caught.value.fix == f"lower the learning rate: --set diffusion.learning_rate={plan.learning_rate / 16:.1g}"


def test_ddpm_trains_with_the_levels_of_its_own_pixels_and_without_uncertainty(data, plan) -> None:
    plan = dataclasses.replace(plan, unet=dataclasses.replace(plan.network, objective="ddpm"))
    state = new_state(plan, "cpu", 0)
    run(state, data, plan, until=2)
    assert state.loss.uncertainty is None
    assert state.denoiser.objective.bins == PixelBins.of(data.normalization)


def test_short_memory_splits_the_batch_and_computes_the_same(data, plan_without_dropout, monkeypatch) -> None:
    plan = plan_without_dropout
    reference, short = new_state(plan, "cpu", 0), new_state(plan, "cpu", 0)
    run(reference, data, plan, until=4)
    whole = TrainingLoss.forward

    def limited(self: TrainingLoss, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        if len(batch.labels) > room:
            raise torch.OutOfMemoryError("out of memory")
        return whole(self, batch)

    monkeypatch.setattr(TrainingLoss, "forward", limited)
    room = 2
    run(short, data, plan, until=4)
    assert short.micro_batches == 4
    for name, tensor in tensors_of(reference).items():
        assert torch.allclose(tensor, tensors_of(short)[name], atol=1e-5), name
    room = 0
    with pytest.raises(torch.OutOfMemoryError):
        run(short, data, plan)


def test_averaged_weights_follow_the_decay(data, plan) -> None:
    state = new_state(plan, "cpu", 3)
    expected = state.averaged.unet.stem.weight.clone()
    for record in train(state, data, plan, seed=3):
        decay = training.ema_decay_at(record.step - 1, plan.batch_size)
        expected = decay * expected + (1 - decay) * state.denoiser.unet.stem.weight.detach()
        if record.step == training.guide_step(plan):
            assert torch.equal(state.guide["unet.stem.weight"], state.averaged.unet.stem.weight)
        if record.step == 6:
            break
    assert not torch.equal(state.guide["unet.stem.weight"], state.averaged.unet.stem.weight)
    assert torch.allclose(state.averaged.unet.stem.weight, expected, atol=1e-6)


def test_learning_rate_warms_up_and_ends_at_zero(plan) -> None:
    long = dataclasses.replace(plan, images_seen=plan.batch_size * 10_000)
    rates = [training.learning_rate_at(step, long) for step in range(long.steps)]
    assert rates[0] == pytest.approx(long.learning_rate / 200)
    assert max(rates) == pytest.approx(long.learning_rate)
    assert rates.index(max(rates)) in (199, 200)
    assert rates[-1] < 1e-4 * long.learning_rate
    assert rates[5100] == pytest.approx(long.learning_rate / 2, rel=0.01)


def test_ema_half_life_is_a_share_of_the_images_seen() -> None:
    decay = training.ema_decay_at(step=999, batch_size=64)
    assert decay ** (0.05 * 64_000 / 64) == pytest.approx(0.5)
    assert training.ema_decay_at(step=10**7, batch_size=64) ** (500_000 / 64) == pytest.approx(0.5)
    assert training.ema_decay_at(step=0, batch_size=64) < 1e-5
