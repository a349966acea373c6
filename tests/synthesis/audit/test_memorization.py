import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from diffaug.configuration.settings import DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.planning.planning import make_plan
from diffaug.diffusion.process.normalization import Normalization
from diffaug.diffusion.process.process import Moments, karras_sigmas
from diffaug.diffusion.sampling.guidance import conditional
from diffaug.diffusion.sampling.samplers import integrate
from diffaug.diffusion.training.batches import TrainingData
from diffaug.diffusion.training.training import new_state, train
from diffaug.similarity.copies import COPY_RATIO, GENERATED
from diffaug.similarity.distances import Described, nearest_ratios, small_pictures
from diffaug.similarity.intervals import Estimate
from diffaug.similarity.ratios import Share
from diffaug.synthesis.audit.membership import MembershipErrors, denoising_errors, pair
from diffaug.synthesis.audit.memorization import Audit, CheckedCandidates, PoolAudit, audit_pool

Denoise = Callable[[Tensor, Tensor, Tensor], Moments]
CLASSES = ("a", "b")


def labeled(pixels: np.ndarray, classes: int) -> LabeledImages:
    labels = np.arange(len(pixels)) % classes
    return LabeledImages(pixels, labels, tuple("abcd"[:classes]), tuple(map(str, range(len(pixels)))))


def described(images: LabeledImages, *, made: bool = False) -> Described:
    groups = np.full(len(images), GENERATED) if made else np.arange(len(images))
    return Described(small_pictures(images.pixels), images.labels, groups)


def sampled(denoise: Denoise, normalization: Normalization, like: LabeledImages, count: int) -> LabeledImages:
    labels = torch.arange(count) % len(like.classes)
    _, height, width, channels = like.pixels.shape
    noise = torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(1))
    sigmas = karras_sigmas(12)
    with torch.no_grad():
        images = integrate(conditional(denoise, labels), noise * float(sigmas[0]), sigmas)
    return labeled(normalization.to_pixels(images), len(like.classes))


def audited(denoise: Denoise, trained: LabeledImages, held: LabeledImages, count: int = 160) -> PoolAudit:
    """Samples, drops copies by the ratio of Gu et al., and audits what is left."""
    normalization = Normalization.of(trained.pixels)
    made = sampled(denoise, normalization, trained, count)
    copied = nearest_ratios(described(made, made=True), described(trained)) < COPY_RATIO
    pool = made.select(np.flatnonzero(~copied))
    chosen = pair(held.labels, trained.labels, seed=0)
    columns = []
    for part in (held.select(chosen.held), trained.select(chosen.trained)):
        x0 = normalization.to_network(torch.from_numpy(part.pixels))
        columns += [denoising_errors(denoise, x0, torch.from_numpy(part.labels), seed=0), part.labels]
    return audit_pool(
        described(pool, made=True),
        ("sampled",) * len(pool),
        CheckedCandidates(copied, made.labels, np.array(["sampled"] * count)),
        trained=described(trained),
        held=described(held),
        errors=MembershipErrors(*columns),
        classes=trained.classes,
        seed=0,
    )


def noise_images(count: int, classes: int, seed: int) -> LabeledImages:
    pixels = np.random.default_rng(seed).normal(128, 30, (count, 6, 6, 1)).round().clip(0, 255).astype(np.uint8)
    return labeled(pixels, classes)


def halves(images: LabeledImages, trained: int) -> tuple[LabeledImages, LabeledImages]:
    return images.select(np.arange(trained)), images.select(np.arange(trained, len(images)))


def test_a_generator_trained_for_long_on_16_images_is_flagged() -> None:
    """Its errors tell trained images from others before it makes copies."""
    pixels = ((np.random.default_rng(0).random((48, 6, 6, 1)) < 0.5) * 255).astype(np.uint8)
    trained, held = halves(labeled(pixels, 4), 16)
    settings = DiffusionSettings(
        images_seen=16 * 160, batch_size=16, base_channels=16, dropout=0.0, label_dropout=0.0, learning_rate=1e-2
    )
    plan = make_plan(trained, settings, "cpu")
    state = new_state(plan, settings, "cpu", 0)
    untrained = audited(state.averaged, trained, held, count=40)
    assert not untrained.unsafe_to_publish, untrained.reasons
    for _ in train(state, TrainingData.of(trained, settings, "cpu"), plan, settings, seed=0):
        pass
    audit = audited(state.averaged, trained, held, count=40)
    assert audit.unsafe_to_publish
    assert audit.whole.membership.low > 0.6
    assert any("denoising error" in reason for reason in audit.reasons)


class NearlyCopying:
    """The exact denoiser of Gaussians around the training images of a class."""

    def __init__(self, trained: LabeledImages, deviation: float) -> None:
        self.x0 = Normalization.of(trained.pixels).to_network(torch.from_numpy(trained.pixels))
        self.labels, self.variance = torch.from_numpy(trained.labels), deviation**2

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Moments:
        spread = self.variance + sigma[:, None].double() ** 2
        logits = -(x[:, None] - self.x0).square().sum(dim=(2, 3, 4)).double() / (2 * spread)
        logits = logits.masked_fill(labels[:, None] != self.labels, -torch.inf)
        centres = torch.einsum("nm,mchw->nchw", logits.softmax(dim=1).float(), self.x0)
        gain = (self.variance / spread).float()[..., None, None]
        return Moments(centres + gain * (x - centres), x)


def test_images_near_training_images_are_flagged_though_none_is_a_copy() -> None:
    trained, held = halves(noise_images(120, 2, seed=0), 90)
    audit = audited(NearlyCopying(trained, 0.25), trained, held)
    assert audit.whole.copies.value < 0.05
    assert audit.whole.distance_ratio.high < 0.8
    assert audit.whole.nearest_ratio < 0.8
    assert audit.classes["a"].distance_ratio.high < 0.8
    assert any(reason.startswith("all images: synthetic images lie nearer") for reason in audit.reasons)


def test_a_generator_that_only_copies_is_flagged_in_every_class_by_every_measure() -> None:
    trained, held = halves(noise_images(40, 2, seed=0), 16)
    audit = audited(NearlyCopying(trained, 0.01), trained, held)
    assert audit.whole.copies == Share(160, 160)
    assert {reason.split(":")[0] for reason in audit.reasons} == {"all images", "class 'a'", "class 'b'"}
    assert audit.whole.membership.value == 1
    assert (audit.whole.images, audit.whole.distance_ratio) == (0, None)


class TrueDistribution:
    """The exact denoiser of `noise_images`: a Gaussian of independent pixels."""

    def __init__(self, normalization: Normalization) -> None:
        white = normalization.to_network(torch.tensor([[[[128]]], [[[158]]]], dtype=torch.uint8))
        self.mean, self.variance = white[0], (white[1] - white[0]).square()

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Moments:
        gain = self.variance / (self.variance + sigma[:, None, None, None] ** 2)
        return Moments(self.mean + gain * (x - self.mean), x)


@pytest.mark.parametrize("seed", range(12))
def test_a_generator_of_the_true_distribution_is_not_flagged(seed) -> None:
    trained, held = halves(noise_images(120, 2, seed=seed), 100)
    audit = audited(TrueDistribution(Normalization.of(trained.pixels)), trained, held)
    assert not audit.unsafe_to_publish, audit.reasons
    assert audit.whole.distance_ratio.value == pytest.approx(1, abs=0.1)
    assert audit.whole.membership.low < 0.5 < audit.whole.membership.high
    assert audit.notes == ()


def test_each_measure_flags_by_itself_and_only_outside_its_interval() -> None:
    clean = Audit(100, Share(0, 100), 0.9, Estimate(1.0, 0.9, 1.1), Estimate(0.5, 0.4, 0.6))
    assert clean.findings == ()
    surely = {
        "copies": Share(12, 100),
        "distance_ratio": Estimate(0.5, 0.4, 0.79),
        "membership": Estimate(0.8, 0.61, 0.9),
    }
    perhaps = {
        "copies": Share(8, 100),
        "distance_ratio": Estimate(0.7, 0.5, 0.81),
        "membership": Estimate(0.7, 0.59, 0.8),
    }
    for name, estimate in surely.items():
        [text] = dataclasses.replace(clean, **{name: estimate}).findings
        assert "limit" in text
        assert dataclasses.replace(clean, **{name: perhaps[name]}).findings == ()
    [text] = dataclasses.replace(clean, copies=Share(12, 100)).findings
    assert text.startswith("12 of 100 candidates are copies of training images (12%, 95 % interval 7% to 20%")


def mixed_pool() -> PoolAudit:
    """Class a sampled anew; class b half of it variations that are copies; only a has images held out."""
    rng = np.random.default_rng(0)

    def images(label: int, count: int) -> Described:
        groups = np.arange(count) + 1000 * label
        return Described(rng.normal(size=(count, 12)), np.full(count, label), groups)

    def joined(*parts: Described) -> Described:
        return Described(*(np.concatenate(columns) for columns in zip(*map(dataclasses.astuple, parts), strict=True)))

    trained = joined(images(0, 80), images(1, 10))
    held = images(0, 20)
    near = trained.features[80 + np.arange(20) % 10] + rng.normal(0, 0.01, (20, 12))
    samples = joined(images(0, 60), images(1, 20), Described(near, np.ones(20, np.int64), np.full(20, GENERATED)))
    samples = dataclasses.replace(samples, groups=np.full(100, GENERATED))
    origins = ["sampled"] * 80 + ["variation"] * 20
    copied = np.concatenate([np.zeros(100, bool), np.ones(30, bool)])
    labels = np.concatenate([samples.labels, np.ones(30, np.int64)])
    candidates = CheckedCandidates(copied, labels, np.array([*origins, *["variation"] * 30]))
    return audit_pool(
        samples, origins, candidates, trained=trained, held=held, errors=None, classes=("a", "b", "c"), seed=0
    )


def test_the_class_and_the_origin_that_repeat_images_are_named() -> None:
    audit = mixed_pool()
    assert audit.classes["a"].copies == Share(0, 60)
    assert audit.classes["b"].copies == Share(30, 70)
    assert audit.origins["variation"].copies == Share(30, 50)
    assert audit.origins["sampled"].copies == Share(0, 80)
    assert audit.whole.copies == Share(30, 130)
    assert [audit.classes[name].images for name in "abc"] == [60, 40, 0]
    flagged = {reason.split(":")[0] for reason in audit.reasons}
    assert flagged == {"all images", "origin 'variation'", "class 'b'"}
    assert audit.origins["variation"].nearest_ratio < 0.1 < 0.7 < audit.origins["sampled"].nearest_ratio
    assert audit.classes["c"].nearest_ratio is None


def test_what_could_not_be_measured_is_said_and_blank() -> None:
    audit = mixed_pool()
    assert len(audit.notes) == 2
    assert audit.notes[0].endswith("b, c")
    assert audit.classes["b"].distance_ratio is None
    assert audit.classes["a"].distance_ratio.low < 1 < audit.classes["a"].distance_ratio.high
    assert "distance_ratio/b" not in audit.metrics
    assert "copy_share/c" not in audit.metrics
    assert audit.metrics["copy_share/origin variation"] == pytest.approx(0.6)
    assert audit.metrics["unsafe_to_publish"] == 1


def test_the_record_is_json_and_promises_nothing() -> None:
    audit = mixed_pool()
    record = json.loads(json.dumps(audit.to_dict(), allow_nan=False))
    assert record["unsafe_to_publish"] is True
    assert record["reasons"] == list(audit.reasons)
    assert record["classes"]["b"]["copies"]["count"] == 30
    assert record["classes"]["b"]["copies"]["interval"] == pytest.approx(Share(30, 70).interval)
    assert record["classes"]["a"]["distance_ratio"].keys() == {"value", "low", "high"}
    assert record["all"]["membership"] is None
    assert "private" not in json.dumps(record).lower()


def test_an_audit_repeats_exactly() -> None:
    assert mixed_pool().to_dict() == mixed_pool().to_dict()
