import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffaug.configuration.settings import DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.planning.planning import make_plan
from diffaug.diffusion.process.normalization import Normalization
from diffaug.diffusion.process.process import SIGMA_DATA, Moments
from diffaug.diffusion.training.batches import TrainingData
from diffaug.diffusion.training.checkpoints import restore_latest, save_checkpoint
from diffaug.diffusion.training.holdout import Holdout
from diffaug.diffusion.training.monitor import MAX_PAIRS, MAX_POINTS, SAMPLES, Schedule, Watch, schedule_of
from diffaug.diffusion.training.training import guide_step, new_state, snapshot, train
from diffaug.similarity.ratios import Share

SHAPE = (8, 8, 1)


def labeled(pixels: np.ndarray, labels: np.ndarray) -> LabeledImages:
    names = tuple(f"class {label}" for label in range(labels.max() + 1))
    return LabeledImages(pixels, labels.astype(np.int64), names, tuple(map(str, range(len(pixels)))))


def watch_of(trained: LabeledImages, held: LabeledImages, pairs: int = 32) -> Watch:
    data = TrainingData.of(trained, DiffusionSettings(), "cpu")
    holdout = Holdout(trained, held, np.arange(len(trained)))
    return Watch.of(data, holdout, Schedule((1,), pairs), 0, mirrored=False)


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

    return draw(60, 40, 6), dataclasses.replace(draw(30, 20, 1).select(np.arange(50)))


def test_a_copier_is_flagged_at_once(noise_images) -> None:
    watch = watch_of(*noise_images)
    look = watch.look(Copier(watch.data, (0, 1, 2)), step=1)
    assert look.copying
    assert look.copies.count == look.copies.total
    assert look.copied_classes == (0, 1, 2)
    assert look.real.count == 0
    assert look.loss_gaps[0] > 100
    assert look.loss_gaps[-1] < 1


def test_only_the_copied_class_is_named_and_a_tiny_one_decides_nothing(noise_images) -> None:
    watch = watch_of(*noise_images)
    look = watch.look(Copier(watch.data, (2,)), step=1)
    assert (look.copied_classes, look.copying, look.copies.count) == ((2,), False, 0)
    assert sum(share.total for share in look.by_class) == SAMPLES
    assert look.copies.total == sum(share.total for share in look.by_class[:2])
    assert watch.look(Copier(watch.data, (1,)), step=1).copying


def test_where_all_classes_are_tiny_all_decide(noise_images) -> None:
    tiny = noise_images[0].select(np.arange(50, 70))
    watch = watch_of(tiny, tiny.select(np.arange(0)))
    look = watch.look(Copier(watch.data, (0, 1)), step=1)
    assert (look.copying, look.loss_gaps, look.loss_gap) == (True, (), None)


def test_a_generator_of_the_true_distribution_is_not_flagged() -> None:
    """In a plane every ninth image is thrice as near to one neighbour as to the next: also every real one."""
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(64, 2))
    basis = np.linalg.qr(basis - basis.mean(axis=0))[0].T
    pixels = (128 + 120 * rng.normal(size=(400, 2)) @ basis).round().clip(0, 255).astype(np.uint8)
    everything = labeled(pixels.reshape(-1, *SHAPE), np.arange(400) % 2)
    watch = watch_of(everything.select(np.arange(100)), everything.select(np.arange(100, 400)), pairs=256)
    denoiser = Plane(basis, 120, watch.data.normalization)
    looks = [watch.look(denoiser, step) for step in range(4)]
    assert watch.real.value == pytest.approx(1 / 9, abs=0.05)
    assert np.mean([look.copies.value for look in looks]) == pytest.approx(1 / 9, abs=0.05)
    assert not any(look.copying for look in looks)
    assert abs(looks[0].loss_gap) < 0.15


def test_duplicates_in_the_data_are_not_the_generators_fault(noise_images) -> None:
    trained, held = noise_images
    pixels = np.concatenate([trained.pixels, trained.pixels[:100]])
    doubled = labeled(pixels, np.concatenate([trained.labels, trained.labels[:100]]))
    assert watch_of(doubled, held).real.value > 0.6
    assert watch_of(trained, held).real == Share(0, 150)


def test_the_gap_of_a_blind_denoiser_is_that_of_the_images(noise_images) -> None:
    class Blind(nn.Module):
        def forward(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Moments:
            return Moments(torch.zeros_like(x), x)

    trained, held = noise_images
    watch = watch_of(trained, held)
    (held_pixels, held_labels), (matched, matched_labels) = watch.held, watch.matched
    assert torch.equal(held_labels, matched_labels)
    assert {bytes(image) for image in matched.numpy()} <= {bytes(image) for image in trained.pixels}
    energies = [watch.data.normalization.to_network(pixels).square().mean() for pixels in (held_pixels, matched)]
    expected = float(energies[0] / energies[1] - 1)
    assert watch.look(Blind(), 1).loss_gaps == pytest.approx((expected,) * 8, abs=1e-5)


def test_mirrored_copies_are_copies_where_mirrored_images_are_trained_on(noise_images) -> None:
    trained, held = noise_images
    data = TrainingData.of(trained, DiffusionSettings(), "cpu")
    flipped = TrainingData.of(
        dataclasses.replace(trained, pixels=trained.pixels[:, :, ::-1]), DiffusionSettings(), "cpu"
    )
    holdout = Holdout(trained, held, np.arange(len(trained)))
    for mirrored in (False, True):
        watch = Watch.of(data, holdout, Schedule((1,), 32), 0, mirrored=mirrored)
        assert watch.look(Copier(flipped, (0, 1, 2)), 1).copying is mirrored


def test_a_look_repeats_exactly_and_leaves_random_numbers_alone(noise_images) -> None:
    watch = watch_of(*noise_images)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first, second = (watch.look(Copier(watch.data, (0,)), step=7) for _ in range(2))
    assert torch.equal(torch.rand(2), expected)
    assert dataclasses.replace(first, seconds=0) == dataclasses.replace(second, seconds=0)


def plan_of(images: int, **settings: object) -> tuple[object, DiffusionSettings]:
    chosen = DiffusionSettings(images_seen=images, batch_size=16, base_channels=16, **settings)
    few = labeled(np.zeros((4, *SHAPE), np.uint8), np.arange(4) % 2)
    return make_plan(few, chosen, "cpu"), chosen


@pytest.mark.parametrize("images", [100, 64_000, 200_000, 1_000_000, 50_000_000])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5])
def test_looking_costs_no_more_than_its_share(images, share) -> None:
    plan, settings = plan_of(images, copy_check_fraction=share)
    schedule = schedule_of(plan, settings, 10**6)
    passes = len(schedule.steps) * (SAMPLES * 12 + 2 * 8 * schedule.pairs)
    assert passes <= 3 * share * images
    assert len(schedule.steps) <= MAX_POINTS
    if len(schedule.steps) > 1:
        assert (schedule.steps[0], schedule.steps[-1]) == (round(0.2 * plan.steps), plan.steps)


def test_a_long_training_is_looked_at_every_twentieth() -> None:
    schedule = schedule_of(*plan_of(50_000_000), 10**6)
    assert schedule.pairs == MAX_PAIRS
    assert len(schedule.steps) == 17
    assert np.ptp(np.diff(schedule.steps)) <= 1
    assert schedule_of(*plan_of(30_000), 10**6).steps == (1875,)
    assert schedule_of(*plan_of(19_000), 10**6) == Schedule()
    assert len(schedule_of(*plan_of(2_000), 20).steps) == 3


def test_a_real_training_widens_the_gap_copies_and_returns_to_the_safe_weights() -> None:
    rng = np.random.default_rng(0)
    pixels = ((rng.random((48, 6, 6, 1)) < 0.5) * 255).astype(np.uint8)
    everything = labeled(pixels, np.arange(48) % 4)
    trained, held = everything.select(np.arange(16)), everything.select(np.arange(16, 48))
    settings = DiffusionSettings(
        images_seen=32 * 240, batch_size=32, base_channels=16, dropout=0.0, label_dropout=0.0, learning_rate=1e-2
    )
    plan = make_plan(trained, settings, "cpu")
    watch = watch_of(trained, held)
    state = new_state(plan, settings, "cpu", 0)
    looks = []
    for record in train(state, watch.data, plan, settings, seed=0):
        if record.step % 60 == 0:
            looks.append(watch.look(state.averaged, record.step))
            if not looks[-1].copying:
                state.keep_safe()
    gaps = [look.loss_gap for look in looks]
    assert gaps == sorted(gaps)
    assert gaps[-1] > 3 * gaps[0]
    assert not looks[0].copying
    assert looks[-1].copying
    assert [look.copying for look in looks] == sorted(look.copying for look in looks)
    state.return_to_safe()
    assert state.step == state.safe_step == 60 * sum(not look.copying for look in looks)
    assert not watch.look(state.averaged, state.step).copying


def test_resumes_bit_for_bit_from_every_watch_point(tmp_path, blobs, plan, settings) -> None:
    watch = watch_of(blobs, blobs.select(np.arange(0)))

    def train_on(state, points=range(4, 25, 4)):
        for record in train(state, watch.data, plan, settings, seed=0):
            if record.step in points:
                yield watch.look(state.averaged, record.step)
                state.keep_safe()
                save_checkpoint(tmp_path / str(record.step), state)

    reference = new_state(plan, settings, "cpu", 0)
    looks = {look.step: dataclasses.replace(look, seconds=0) for look in train_on(reference)}
    early = snapshot(new_state(plan, settings, "cpu", 0).averaged)
    assert guide_step(plan) == 2
    assert not torch.equal(reference.guide["unet.stem.weight"], early["unet.stem.weight"])
    for step in (4, 8, 12, 16, 20, 24):
        resumed = new_state(plan, settings, "cpu", 99)
        assert restore_latest(tmp_path / str(step), resumed) == (step, [])
        for look in train_on(resumed):
            assert dataclasses.replace(look, seconds=0) == looks[look.step]
        assert (resumed.step, resumed.safe_step) == (24, 24)
        for name in ("guide", "safe"):
            mine, other = getattr(resumed, name), getattr(reference, name)
            assert mine.keys() == other.keys()
            assert all(torch.equal(tensor, other[key]) for key, tensor in mine.items())


def test_the_guide_is_the_average_after_a_sixteenth(blobs, plan, settings) -> None:
    state = new_state(plan, settings, "cpu", 0)
    data = TrainingData.of(blobs, settings, "cpu")
    for record in train(state, data, plan, settings, seed=0):
        assert (state.guide is None) == (record.step < 2)
        if record.step == 2:
            expected = snapshot(state.averaged)
        if record.step == 5:
            break
    assert all(torch.equal(tensor, state.guide[name]) for name, tensor in expected.items())
    assert not torch.equal(state.guide["unet.stem.weight"], state.averaged.unet.stem.weight)
