import dataclasses
import shutil

import numpy as np
import pytest
import torch

from diffaug.configuration.settings import DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.planning.planning import Plan
from diffaug.diffusion.process.ddpm import PixelBins
from diffaug.diffusion.training import training
from diffaug.diffusion.training.batches import Batch, TrainingData
from diffaug.diffusion.training.checkpoints import restore_latest, save_checkpoint
from diffaug.diffusion.training.loss import TrainingLoss
from diffaug.diffusion.training.schedules import ema_decay_at, learning_rate_at
from diffaug.diffusion.training.training import TrainingState, new_state, train
from diffaug.errors import DamagedError, DiffaugError


def tensors_of(state: TrainingState) -> dict[str, torch.Tensor]:
    moments = {
        f"{name}.{key}": value
        for name, parameter in state.trained.items()
        for key, value in state.optimizer.state.get(parameter, {}).items()
    }
    averaged = {f"averaged.{name}": value for name, value in state.averaged.state_dict().items()}
    return {**state.loss.state_dict(), **averaged, **moments}


def assert_identical(a: TrainingState, b: TrainingState) -> None:
    first, second = tensors_of(a), tensors_of(b)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.fixture
def data(blobs: LabeledImages, settings: DiffusionSettings) -> TrainingData:
    return TrainingData.of(blobs, settings, "cpu")


def run(state: TrainingState, data: TrainingData, plan: Plan, settings: DiffusionSettings, until: int = 10**9) -> None:
    for record in train(state, data, plan, settings, seed=3):
        if record.step == until:
            return


def test_resumes_bit_for_bit_from_every_step(tmp_path, data, plan, settings) -> None:
    reference = new_state(plan, settings, "cpu", 3)
    for record in train(reference, data, plan, settings, seed=3):
        if record.step < plan.steps:
            save_checkpoint(tmp_path / str(record.step), reference)
    assert plan.steps == 24
    for step in range(1, plan.steps):
        resumed = new_state(plan, settings, "cpu", 99)
        assert restore_latest(tmp_path / str(step), resumed) == (step, [])
        run(resumed, data, plan, settings)
        assert "denoiser.exp_avg" in tensors_of(resumed)
        assert_identical(reference, resumed)


@pytest.mark.slow
def test_a_compiled_training_computes_the_same(data, plan, settings) -> None:
    if shutil.which("g++") is None:
        pytest.skip("compiling for the CPU needs a C++ compiler")
    settings = settings.model_copy(update={"dropout": 0.0})
    plan = dataclasses.replace(plan, network=dataclasses.replace(plan.network, dropout=0.0))
    eager, compiled = (
        new_state(dataclasses.replace(plan, compiled=compiled), settings, "cpu", 3) for compiled in (False, True)
    )
    records = zip(
        train(eager, data, plan, settings, seed=3), train(compiled, data, plan, settings, seed=3), strict=True
    )
    for one, other in records:
        torch.testing.assert_close(other.loss, one.loss, rtol=1e-3, atol=1e-4)
    assert compiled.loss._compiled_call_impl is not None
    assert eager.loss._compiled_call_impl is None
    assert set(tensors_of(compiled)) == set(tensors_of(eager))  # saved under the same names


def test_another_seed_trains_other_weights(data, plan, settings) -> None:
    first, second = new_state(plan, settings, "cpu", 3), new_state(plan, settings, "cpu", 3)
    run(first, data, plan, settings)
    for _ in train(second, data, plan, settings, seed=4):
        pass
    assert any(not torch.equal(v, tensors_of(second)[k]) for k, v in tensors_of(first).items())


def test_training_does_not_touch_the_callers_random_numbers(data, plan, settings) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(new_state(plan, settings, "cpu", 3), data, plan, settings, until=3)
    assert torch.equal(torch.rand(3), expected)


def test_overfits_eight_images(blobs, settings, plan) -> None:
    images = blobs.select(np.arange(8, dtype=np.int64))
    settings = settings.model_copy(update={"dropout": 0.0, "learning_rate": 2e-3})
    plan = dataclasses.replace(
        plan, images=8 * 300, learning_rate=2e-3, network=dataclasses.replace(plan.network, dropout=0.0)
    )
    losses = [
        r.loss.item()
        for r in train(new_state(plan, settings, "cpu", 0), TrainingData.of(images, settings, "cpu"), plan, settings, 0)
    ]
    assert losses[0] == pytest.approx(1.0, abs=0.35)
    assert np.mean(losses[-30:]) < 0.35


def test_a_damaged_checkpoint_is_passed_over_and_said(tmp_path, data, plan, settings) -> None:
    state = new_state(plan, settings, "cpu", 3)
    for record in train(state, data, plan, settings, seed=3):
        save_checkpoint(tmp_path, state)
        if record.step == 4:
            break
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-00000003", "step-00000004"]
    weights = tmp_path / "step-00000004" / "state.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(bytes(content))
    step, notes = restore_latest(tmp_path, new_state(plan, settings, "cpu", 0))
    assert step == 3
    assert "step-00000004 is damaged" in notes[0]
    (tmp_path / "step-00000003" / "DONE.json").unlink()
    with pytest.raises(DamagedError, match="no checkpoint is whole"):
        restore_latest(tmp_path, new_state(plan, settings, "cpu", 0))


def test_a_step_that_is_not_finite_changes_nothing(data, plan, settings, monkeypatch) -> None:
    state = new_state(plan, settings, "cpu", 0)
    run(state, data, plan, settings, until=2)
    before = {name: tensor.clone() for name, tensor in tensors_of(state).items() if "averaged" not in name}
    draw = training.draw_batch

    def broken(*args: object) -> Batch:
        batch = draw(*args)
        return batch._replace(x0=batch.x0 * float("inf"))

    monkeypatch.setattr(training, "draw_batch", broken)
    run(state, data, plan, settings, until=3)
    assert (state.step, int(state.skipped), int(state.skipped_in_a_row)) == (3, 1, 1)
    after = tensors_of(state)
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    monkeypatch.setattr(training, "draw_batch", draw)
    run(state, data, plan, settings, until=4)
    assert (int(state.skipped), int(state.skipped_in_a_row)) == (1, 0)
    assert not torch.equal(tensors_of(state)["denoiser.unet.head.weight"], before["denoiser.unet.head.weight"])


def test_broken_weights_are_rolled_back_to_the_average_and_train_on(data, plan, settings) -> None:
    state = new_state(plan, settings, "cpu", 0)
    run(state, data, plan, settings, until=1)
    with torch.no_grad():
        state.denoiser.unet.stem.weight.fill_(1e30)
        averaged = state.averaged.unet.stem.weight.clone()
    records = []
    for record in train(state, data, dataclasses.replace(plan, images=8 * 40), settings, seed=3):
        records.append(record)
        if record.step == 32:
            assert torch.equal(state.denoiser.unet.stem.weight, averaged)
            break
    for record in train(state, data, dataclasses.replace(plan, images=8 * 40), settings, seed=3):
        records.append(record)
    assert state.rollbacks == 1
    assert int(state.skipped) == 31
    assert torch.isfinite(records[-1].loss)
    assert records[33].learning_rate == pytest.approx(
        learning_rate_at(34, dataclasses.replace(plan, images=8 * 40)) / 2
    )


def test_a_training_that_never_is_finite_fails_with_a_reason(plan, settings, data) -> None:
    endless = dataclasses.replace(plan, images=10**6)
    broken = dataclasses.replace(data, normalization=dataclasses.replace(data.normalization, mean=(float("nan"),)))
    with pytest.raises(DiffaugError, match=r"diverged: the gradients of steps 49 to 64 .* after 3 attempts") as caught:
        run(new_state(plan, settings, "cpu", 0), broken, endless, settings)
    assert caught.value.fix == f"lower the learning rate: --set diffusion.learning_rate={plan.learning_rate / 16:.1g}"


def test_ddpm_trains_with_the_levels_of_its_own_pixels_and_without_uncertainty(data, plan, settings) -> None:
    network = dataclasses.replace(plan.network, objective="ddpm")
    plan, settings = dataclasses.replace(plan, network=network), settings.model_copy(update={"objective": "ddpm"})
    state = new_state(plan, settings, "cpu", 0)
    run(state, data, plan, settings, until=2)
    assert state.loss.uncertainty is None
    assert state.denoiser.objective.bins == PixelBins.of(data.normalization)


def test_short_memory_splits_the_batch_and_computes_the_same(data, plan, settings, monkeypatch) -> None:
    settings = settings.model_copy(update={"dropout": 0.0})
    plan = dataclasses.replace(plan, network=dataclasses.replace(plan.network, dropout=0.0))
    reference, short = new_state(plan, settings, "cpu", 0), new_state(plan, settings, "cpu", 0)
    run(reference, data, plan, settings, until=4)
    whole = TrainingLoss.forward

    def limited(self: TrainingLoss, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        if len(batch.labels) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return whole(self, batch)

    monkeypatch.setattr(TrainingLoss, "forward", limited)
    run(short, data, plan, settings, until=4)
    assert short.micro_batches == 4
    for name, tensor in tensors_of(reference).items():
        assert torch.allclose(tensor, tensors_of(short)[name], atol=1e-5), name


def test_other_errors_and_memory_too_short_for_one_image_are_raised(data, plan, settings, monkeypatch) -> None:
    def fail(self: TrainingLoss, batch: Batch) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(TrainingLoss, "forward", fail)
    with pytest.raises(torch.OutOfMemoryError):
        run(new_state(plan, settings, "cpu", 0), data, plan, settings)


def test_averaged_weights_follow_the_decay(data, plan, settings) -> None:
    state = new_state(plan, settings, "cpu", 3)
    expected = state.averaged.unet.stem.weight.clone()
    for record in train(state, data, plan, settings, seed=3):
        decay = ema_decay_at(record.step - 1, plan.batch_size)
        expected = decay * expected + (1 - decay) * state.denoiser.unet.stem.weight.detach()
        if record.step == 6:
            break
    assert torch.allclose(state.averaged.unet.stem.weight, expected, atol=1e-6)
