import dataclasses

import numpy as np
import pytest
import torch

from diffaug.config import DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.checkpoints import restore_latest, save_checkpoint
from diffaug.diffusion.planning import Plan
from diffaug.diffusion.training import (
    TrainingData,
    TrainingState,
    draw_batch,
    draw_probabilities,
    ema_decay_at,
    learning_rate_at,
    new_state,
    train,
)
from diffaug.errors import DamagedError, DiffaugError


def tensors_of(state: TrainingState) -> dict[str, torch.Tensor]:
    moments = {
        f"{name}.{key}": value
        for name, parameter in state.denoiser.named_parameters()
        for key, value in state.optimizer.state[parameter].items()
    }
    averaged = {f"averaged.{name}": value for name, value in state.averaged.state_dict().items()}
    return {**state.denoiser.state_dict(), **averaged, **moments}


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
    reference = new_state(plan, "cpu", 3)
    for record in train(reference, data, plan, settings, seed=3):
        if record.step < plan.steps:
            save_checkpoint(tmp_path / str(record.step), reference)
    assert plan.steps == 24
    for step in range(1, plan.steps):
        resumed = new_state(plan, "cpu", 99)
        assert restore_latest(tmp_path / str(step), resumed) == (step, [])
        run(resumed, data, plan, settings)
        assert_identical(reference, resumed)


def test_another_seed_trains_other_weights(data, plan, settings) -> None:
    first, second = new_state(plan, "cpu", 3), new_state(plan, "cpu", 3)
    run(first, data, plan, settings)
    for _ in train(second, data, plan, settings, seed=4):
        pass
    assert any(not torch.equal(v, tensors_of(second)[k]) for k, v in tensors_of(first).items())


def test_training_does_not_touch_the_callers_random_numbers(data, plan, settings) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(new_state(plan, "cpu", 3), data, plan, settings, until=3)
    assert torch.equal(torch.rand(3), expected)


def test_overfits_eight_images(blobs, settings, plan) -> None:
    images = blobs.select(np.arange(8, dtype=np.int64))
    settings = settings.model_copy(update={"dropout": 0.0, "learning_rate": 2e-3})
    plan = dataclasses.replace(
        plan, images=8 * 300, learning_rate=2e-3, network=dataclasses.replace(plan.network, dropout=0.0)
    )
    losses = [
        r.loss.item()
        for r in train(new_state(plan, "cpu", 0), TrainingData.of(images, settings, "cpu"), plan, settings, 0)
    ]
    assert losses[0] == pytest.approx(1.0, abs=0.35)
    assert np.mean(losses[-30:]) < 0.35


def test_a_damaged_checkpoint_is_passed_over_and_said(tmp_path, data, plan, settings) -> None:
    state = new_state(plan, "cpu", 3)
    for record in train(state, data, plan, settings, seed=3):
        save_checkpoint(tmp_path, state)
        if record.step == 4:
            break
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


def test_non_finite_steps_are_skipped_and_then_fail(blobs, plan, settings) -> None:
    state = new_state(plan, "cpu", 0)
    before = {name: tensor.clone() for name, tensor in state.denoiser.state_dict().items()}
    with torch.no_grad():
        state.denoiser.unet.head.bias.fill_(float("nan"))
    data = TrainingData.of(blobs, settings, "cpu")
    with pytest.raises(DiffaugError, match="diverged: the gradients of steps 1 to 20"):
        run(state, data, plan, settings)
    assert state.skipped == 20
    for name, tensor in state.denoiser.state_dict().items():
        assert name == "unet.head.bias" or torch.equal(tensor, before[name])


def test_learning_rate_warms_up_and_ends_at_zero(plan) -> None:
    long = dataclasses.replace(plan, images=plan.batch_size * 10_000)
    rates = [learning_rate_at(step, long) for step in range(long.steps)]
    assert rates[0] == pytest.approx(long.learning_rate / 200)
    assert max(rates) == pytest.approx(long.learning_rate)
    assert rates.index(max(rates)) in (199, 200)
    assert rates[-1] < 1e-4 * long.learning_rate
    assert rates[5100] == pytest.approx(long.learning_rate / 2, rel=0.01)


def test_ema_half_life_is_a_share_of_the_images_seen() -> None:
    decay = ema_decay_at(step=999, batch_size=64)
    assert decay ** (0.05 * 64_000 / 64) == pytest.approx(0.5)
    assert ema_decay_at(step=10**7, batch_size=64) ** (500_000 / 64) == pytest.approx(0.5)
    assert ema_decay_at(step=0, batch_size=64) < 1e-5


def test_averaged_weights_follow_the_decay(data, plan, settings) -> None:
    state = new_state(plan, "cpu", 3)
    expected = state.averaged.unet.stem.weight.clone()
    for record in train(state, data, plan, settings, seed=3):
        decay = ema_decay_at(record.step - 1, plan.batch_size)
        expected = decay * expected + (1 - decay) * state.denoiser.unet.stem.weight.detach()
        if record.step == 6:
            break
    assert torch.allclose(state.averaged.unet.stem.weight, expected, atol=1e-6)


@pytest.mark.parametrize(("temperature", "share"), [(1.0, 0.9), (0.5, 0.75), (0.0, 0.5)])
def test_classes_are_drawn_by_their_tempered_size(temperature: float, share: float) -> None:
    labels = np.array([0] * 90 + [1] * 10, dtype=np.int64)
    probabilities = draw_probabilities(labels, temperature, limit=1.0)
    assert probabilities.sum() == pytest.approx(1)
    assert probabilities[:90].sum() == pytest.approx(share)


def test_no_image_is_drawn_more_often_than_the_limit_and_the_rest_goes_to_other_classes() -> None:
    labels = np.array([0] * 60 + [1] * 30 + [2] * 6 + [3] * 4, dtype=np.int64)
    free = draw_probabilities(labels, 0.0, limit=1.0)
    assert free[[0, 60, 90, 96]] == pytest.approx([0.25 / 60, 0.25 / 30, 0.25 / 6, 0.25 / 4])
    capped = draw_probabilities(labels, 0.0, limit=0.02)
    assert capped.sum() == pytest.approx(1)
    assert capped[[90, 96]] == pytest.approx([0.02, 0.02])
    assert capped[0] / capped[60] == pytest.approx(30 / 60)
    assert capped[:60].sum() == pytest.approx(0.4)


def test_a_long_training_draws_every_image_equally_often(blobs, settings) -> None:
    long = TrainingData.of(blobs, settings, "cpu", length=16 * settings.max_repeats + 1)
    assert long.draw_probabilities == pytest.approx(np.full(16, 1 / 16))
    short = TrainingData.of(blobs, settings, "cpu", length=16)
    assert short.draw_probabilities[12:].sum() == pytest.approx(2 / (2 + 12**0.5))


def test_labels_are_hidden_at_the_set_rate_and_images_match_their_labels(data, plan, settings) -> None:
    big = dataclasses.replace(plan, batch_size=4000)
    x0, labels, sigma, noise = draw_batch(data, big, settings, seed=0, step=0)
    hidden = (labels == 2).float().mean().item()
    assert hidden == pytest.approx(0.1, abs=4 * (0.09 / 4000) ** 0.5)
    lit_on_top = (x0[:, 0, :3].mean((1, 2)) > x0[:, 0, 3:].mean((1, 2))).long()
    shown = labels != 2
    assert torch.equal(labels[shown], 1 - lit_on_top[shown])
    assert sigma.shape == (4000,)
    assert noise.std().item() == pytest.approx(1, abs=0.01)


def test_flips_only_when_asked(blobs, plan, settings) -> None:
    pixels = blobs.pixels.copy()
    pixels[:, :, 0] = 255
    marked = dataclasses.replace(blobs, pixels=pixels)
    data = TrainingData.of(marked, settings, "cpu")
    plain, *_ = draw_batch(data, plan, settings, 0, 0)
    flipped, *_ = draw_batch(data, plan, settings.model_copy(update={"horizontal_flip": True}), 0, 0)

    def left(x: torch.Tensor) -> float:
        return (x[..., 0].mean((1, 2)) > x[..., -1].mean((1, 2))).float().mean().item()

    assert left(plain) == 1.0
    assert 0 < left(flipped) < 1
