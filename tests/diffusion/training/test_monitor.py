import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffaug.configuration.settings import DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.planning import defaults
from diffaug.diffusion.planning.planning import make_plan
from diffaug.diffusion.process.normalization import Normalization
from diffaug.diffusion.process.process import SIGMA_DATA, Moments
from diffaug.diffusion.training.batches import Holdout, TrainingData
from diffaug.diffusion.training.monitor import MAX_CHECKS, MAX_PAIRS, NUM_SAMPLES, CheckSchedule, MemorizationMonitor
from diffaug.diffusion.training.training import new_state, train
from diffaug.similarity.intervals import Share

SHAPE = (8, 8, 1)


def labeled(pixels: np.ndarray, labels: np.ndarray) -> LabeledImages:
    names = tuple(f"class {label}" for label in range(labels.max() + 1))
    return LabeledImages(pixels, labels.astype(np.int64), names, tuple(map(str, range(len(pixels)))))


def monitor_of(trained: LabeledImages, held: LabeledImages, pairs=32, *, mirrored=False) -> MemorizationMonitor:
    holdout = Holdout(trained, held, np.arange(len(trained)))
    return MemorizationMonitor.of(TrainingData.of(trained, "cpu"), holdout, pairs, 0, mirrored=mirrored)


class Copier(nn.Module):
    """The exact denoiser of the training images themselves: the posterior mean over those of the class."""

    def __init__(self, data: TrainingData, copied: tuple[int, ...]) -> None:
        super().__init__()
        self.x0, self.labels = data.normalization.to_network(data.pixels), data.labels
        self.copied = copied

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Moments:
        distances = (x[:, None] - self.x0).square().sum(dim=(2, 3, 4))
        logits = -distances.double() / (2 * sigma[:, None].double() ** 2)
        logits = logits.masked_fill(labels[:, None] != self.labels, -torch.inf)
        copies = torch.einsum("nm,mchw->nchw", logits.softmax(dim=1).float(), self.x0)
        white = x * (SIGMA_DATA**2 / (SIGMA_DATA**2 + sigma**2))[:, None, None, None]
        copied = torch.isin(labels, torch.tensor(self.copied))[:, None, None, None]
        return Moments(torch.where(copied, copies, white), torch.zeros_like(x))


class Plane(nn.Module):
    """The exact denoiser of Gaussian images in the plane of two orthonormal patterns."""

    def __init__(self, basis: np.ndarray, deviation: float, normalization: Normalization) -> None:
        super().__init__()
        self.basis = torch.tensor(basis, dtype=torch.float32)
        self.variance = (deviation / 127.5 * SIGMA_DATA / normalization.std[0]) ** 2

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Moments:
        inside = x.flatten(1) @ self.basis.T @ self.basis
        mean = inside.view_as(x) * (self.variance / (self.variance + sigma**2))[:, None, None, None]
        return Moments(mean, torch.zeros_like(x))


@pytest.fixture(scope="module")
def noise_images() -> tuple[LabeledImages, LabeledImages]:
    """Random images: 60, 40 and 6 of three classes to train on, 30 and 20 held out."""
    rng = np.random.default_rng(0)

    def draw(*counts: int) -> LabeledImages:
        pixels = rng.normal(128, 40, (sum(counts), *SHAPE)).clip(0, 255).astype(np.uint8)
        return labeled(pixels, np.repeat(np.arange(3), counts))

    return draw(60, 40, 6), draw(30, 20, 1).select(np.arange(50))


def test_a_copier_is_flagged_at_once(noise_images) -> None:
    monitor = monitor_of(*noise_images)
    check = monitor.check(Copier(monitor.data, (0, 1, 2)), step=1)
    assert check.copying
    assert check.copies.count == check.copies.total
    assert check.copied_classes == (0, 1, 2)
    assert check.real.count == 0
    assert check.loss_gaps[0] > 100
    assert check.loss_gaps[-1] < 1


def test_only_the_copied_class_is_named_and_a_tiny_one_decides_nothing(noise_images) -> None:
    monitor = monitor_of(*noise_images)
    check = monitor.check(Copier(monitor.data, (2,)), step=1)
    assert (check.copied_classes, check.copying, check.copies.count) == ((2,), False, 0)
    assert sum(share.total for share in check.by_class) == NUM_SAMPLES
    assert check.copies.total == sum(share.total for share in check.by_class[:2])
    assert monitor.check(Copier(monitor.data, (1,)), step=1).copying
    tiny = noise_images[0].select(np.arange(50, 70))  # where all classes are tiny, all decide
    monitor = monitor_of(tiny, tiny.select(np.arange(0)))
    check = monitor.check(Copier(monitor.data, (0, 1)), step=1)
    assert (check.copying, check.loss_gaps, check.loss_gap) == (True, (), None)


def test_a_generator_of_the_true_distribution_is_not_flagged() -> None:
    """In a plane every ninth image is thrice as near to one neighbor as to the next: also every real one."""
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(64, 2))
    basis = np.linalg.qr(basis - basis.mean(axis=0))[0].T
    pixels = (128 + 120 * rng.normal(size=(400, 2)) @ basis).round().clip(0, 255).astype(np.uint8)
    everything = labeled(pixels.reshape(-1, *SHAPE), np.arange(400) % 2)
    monitor = monitor_of(everything.select(np.arange(100)), everything.select(np.arange(100, 400)), pairs=256)
    denoiser = Plane(basis, 120, monitor.data.normalization)
    checks = [monitor.check(denoiser, step) for step in range(4)]
    assert monitor.real.value == pytest.approx(1 / 9, abs=0.05)
    assert np.mean([check.copies.value for check in checks]) == pytest.approx(1 / 9, abs=0.05)
    assert not any(check.copying for check in checks)
    assert abs(checks[0].loss_gap) < 0.15


def test_duplicates_in_the_data_are_not_the_generators_fault(noise_images) -> None:
    trained, held = noise_images
    pixels = np.concatenate([trained.pixels, trained.pixels[:100]])
    doubled = labeled(pixels, np.concatenate([trained.labels, trained.labels[:100]]))
    assert monitor_of(doubled, held).real.value > 0.6
    assert monitor_of(trained, held).real == Share(0, 150)


def test_the_gap_of_a_blind_denoiser_is_that_of_the_images(noise_images) -> None:
    def blind(x: Tensor, sigma: Tensor, labels: Tensor) -> Moments:
        return Moments(torch.zeros_like(x), x)

    trained, held = noise_images
    monitor = monitor_of(trained, held)
    compared = monitor.held, monitor.matched
    assert np.array_equal(monitor.held.labels, monitor.matched.labels)
    assert {bytes(image) for image in monitor.matched.pixels} <= {bytes(image) for image in trained.pixels}
    to_network = monitor.data.normalization.to_network
    energies = [to_network(torch.from_numpy(images.pixels)).square().mean() for images in compared]
    expected = float(energies[0] / energies[1] - 1)
    assert monitor.check(blind, 1).loss_gaps == pytest.approx((expected,) * 8, abs=1e-5)


def test_mirrored_copies_are_copies_where_mirrored_images_are_trained_on(noise_images) -> None:
    trained, held = noise_images
    flipped = TrainingData.of(dataclasses.replace(trained, pixels=trained.pixels[:, :, ::-1]), "cpu")
    for mirrored in (False, True):
        monitor = monitor_of(trained, held, mirrored=mirrored)
        assert monitor.check(Copier(flipped, (0, 1, 2)), 1).copying is mirrored


def test_a_check_repeats_exactly_and_leaves_random_numbers_alone(noise_images) -> None:
    monitor = monitor_of(*noise_images)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first, second = (monitor.check(Copier(monitor.data, (0,)), step=7) for _ in range(2))
    assert torch.equal(torch.rand(2), expected)
    assert dataclasses.replace(first, seconds=0) == dataclasses.replace(second, seconds=0)


def schedule_of(images_seen: int, num_images: int = 10**6) -> CheckSchedule:
    few = labeled(np.zeros((4, *SHAPE), np.uint8), np.arange(4) % 2)
    plan = make_plan(few, DiffusionSettings(images_seen=images_seen, batch_size=16), "cpu", base_channels=16)
    return CheckSchedule.of(plan, num_images)


@pytest.mark.parametrize("images_seen", [100, 64_000, 200_000, 1_000_000, 50_000_000])
@pytest.mark.parametrize("fraction", [0.0, 0.02, 0.5])
def test_checks_cost_no_more_than_their_fraction(images_seen, fraction, monkeypatch) -> None:
    monkeypatch.setattr(defaults, "COPY_CHECK_FRACTION", fraction)
    schedule = schedule_of(images_seen)
    passes = len(schedule.steps) * (NUM_SAMPLES * 12 + 2 * 8 * schedule.pairs)
    assert passes <= 3 * fraction * images_seen
    assert len(schedule.steps) <= MAX_CHECKS
    if len(schedule.steps) > 1:
        steps = round(images_seen / 16)
        assert (schedule.steps[0], schedule.steps[-1]) == (round(0.2 * steps), steps)


def test_long_trainings_are_checked_every_twentieth_and_short_ones_less() -> None:
    schedule = schedule_of(50_000_000)
    assert (schedule.pairs, len(schedule.steps)) == (MAX_PAIRS, 17)
    assert np.ptp(np.diff(schedule.steps)) <= 1
    assert schedule_of(30_000).steps == (1875,)
    assert schedule_of(19_000) == CheckSchedule()
    assert len(schedule_of(2_000, num_images=20).steps) == 3


@pytest.mark.e2e
def test_a_real_training_widens_the_gap_copies_and_returns_to_the_safe_weights(monkeypatch) -> None:
    monkeypatch.setattr(defaults, "LABEL_DROPOUT", 0.0)
    rng = np.random.default_rng(0)
    pixels = ((rng.random((48, 6, 6, 1)) < 0.5) * 255).astype(np.uint8)
    everything = labeled(pixels, np.arange(48) % 4)
    trained, held = everything.select(np.arange(16)), everything.select(np.arange(16, 48))
    settings = DiffusionSettings(images_seen=32 * 240, batch_size=32, dropout=0.0, learning_rate=1e-2)
    plan = make_plan(trained, settings, "cpu", base_channels=16)
    monitor = monitor_of(trained, held)
    state = new_state(plan, "cpu", 0)
    checks = []
    for record in train(state, monitor.data, plan, seed=0):
        if record.step % 60 == 0:
            checks.append(monitor.check(state.averaged, record.step))
            if not checks[-1].copying:
                state.keep_safe()
    gaps, copying = [check.loss_gap for check in checks], [check.copying for check in checks]
    assert gaps == sorted(gaps)
    assert gaps[-1] > 3 * gaps[0]
    assert copying == sorted(copying)
    assert set(copying) == {False, True}
    state.return_to_safe()
    assert state.step == state.safe_step == 60 * copying.count(False)
    assert not monitor.check(state.averaged, state.step).copying
