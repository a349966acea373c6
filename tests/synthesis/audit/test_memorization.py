import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import Tensor

from diffaug.configuration.settings import DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.generator.denoising_errors import Denoise, denoising_errors
from diffaug.diffusion.planning import defaults
from diffaug.diffusion.planning.planning import make_plan
from diffaug.diffusion.process.normalization import Normalization
from diffaug.diffusion.process.process import Moments, karras_sigmas
from diffaug.diffusion.sampling.guidance import conditional
from diffaug.diffusion.sampling.samplers import integrate
from diffaug.diffusion.training.batches import TrainingData
from diffaug.diffusion.training.training import new_state, train
from diffaug.errors import DamagedError
from diffaug.files.records import read_record
from diffaug.similarity.copies import GENERATED
from diffaug.similarity.distances import Described, nearest_ratios, small_pictures
from diffaug.similarity.intervals import Estimate, Share
from diffaug.similarity.thresholds import COPY_RATIO
from diffaug.synthesis.audit.membership import MembershipErrors, pair
from diffaug.synthesis.audit.memorization import POOL_AUDIT, Audit, CheckedCandidates, PoolAudit, audit_pool


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
    return labeled(normalization.to_pixels(images).pixels, len(like.classes))


def audited(denoise: Denoise, trained: LabeledImages, held: LabeledImages, count: int = 160) -> PoolAudit:
    """Samples, drops copies by the ratio of Gu et al., and audits the rest."""
    normalization = Normalization.of(trained.pixels)
    made = sampled(denoise, normalization, trained, count)
    copied = nearest_ratios(described(made, made=True), described(trained)) < COPY_RATIO
    pool = made.select(np.flatnonzero(~copied))
    chosen = pair(held.labels, trained.labels, seed=0)
    columns = []
    for part in (held.select(chosen[0]), trained.select(chosen[1])):
        x0 = normalization.to_network(torch.from_numpy(part.pixels))
        columns += [denoising_errors(denoise, x0, torch.from_numpy(part.labels), seed=0), part.labels]
    origins, candidates = ["sampled"] * len(pool), CheckedCandidates(copied, made.labels, np.array(["sampled"] * count))
    parts = {"trained": described(trained), "held": described(held), "errors": MembershipErrors(*columns)}
    return audit_pool(described(pool, made=True), origins, candidates, **parts, classes=trained.classes, seed=0)


def noise_images(count: int, classes: int, seed: int) -> LabeledImages:
    pixels = np.random.default_rng(seed).normal(128, 30, (count, 6, 6, 1)).round().clip(0, 255).astype(np.uint8)
    return labeled(pixels, classes)


def halves(images: LabeledImages, trained: int) -> tuple[LabeledImages, LabeledImages]:
    return images.select(np.arange(trained)), images.select(np.arange(trained, len(images)))


@pytest.mark.e2e
def test_a_generator_trained_for_long_on_16_images_is_flagged(monkeypatch) -> None:
    """Its errors tell trained images from others before it makes copies."""
    pixels = ((np.random.default_rng(0).random((48, 6, 6, 1)) < 0.5) * 255).astype(np.uint8)
    trained, held = halves(labeled(pixels, 4), 16)
    monkeypatch.setattr(defaults, "LABEL_DROPOUT", 0.0)
    settings = DiffusionSettings(images_seen=16 * 160, batch_size=16, dropout=0.0, learning_rate=1e-2)
    plan = make_plan(trained, settings, "cpu", base_channels=16)
    state = new_state(plan, "cpu", 0)
    untrained = audited(state.averaged, trained, held, count=40)
    assert not untrained.unsafe_to_publish, untrained.reasons
    for _ in train(state, TrainingData.of(trained, "cpu"), plan, seed=0):
        pass
    audit = audited(state.averaged, trained, held, count=40)
    assert audit.unsafe_to_publish
    assert audit.overall.membership.low > 0.6
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
        centers = torch.einsum("nm,mchw->nchw", logits.softmax(dim=1).float(), self.x0)
        gain = (self.variance / spread).float()[..., None, None]
        return Moments(centers + gain * (x - centers), x)


def test_images_near_training_images_are_flagged_though_none_is_a_copy() -> None:
    trained, held = halves(noise_images(120, 2, seed=0), 90)
    audit = audited(NearlyCopying(trained, 0.25), trained, held)
    assert audit.overall.copies.value < 0.05
    assert audit.overall.distance_ratio.high < 0.8
    assert audit.overall.nearest_ratio < 0.8
    assert audit.classes["a"].distance_ratio.high < 0.8
    assert any(reason.startswith("all images: synthetic images are closer") for reason in audit.reasons)


def test_a_generator_that_only_copies_is_flagged_in_every_class_by_every_measure() -> None:
    trained, held = halves(noise_images(40, 2, seed=0), 16)
    audit = audited(NearlyCopying(trained, 0.01), trained, held)
    assert audit.overall.copies == Share(160, 160)
    assert {reason.split(":")[0] for reason in audit.reasons} == {"all images", "class 'a'", "class 'b'"}
    assert audit.overall.membership.value == 1
    assert (audit.overall.images, audit.overall.distance_ratio) == (0, None)


class TrueDistribution:
    """The exact denoiser of `noise_images`: a Gaussian of independent pixels."""

    def __init__(self, normalization: Normalization) -> None:
        white = normalization.to_network(torch.tensor([[[[128]]], [[[158]]]], dtype=torch.uint8))
        self.mean, self.variance = white[0], (white[1] - white[0]).square()

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Moments:
        gain = self.variance / (self.variance + sigma[:, None, None, None] ** 2)
        return Moments(self.mean + gain * (x - self.mean), x)


@pytest.mark.parametrize("seed", range(4))
def test_a_generator_of_the_true_distribution_is_not_flagged(seed) -> None:
    trained, held = halves(noise_images(120, 2, seed=seed), 100)
    audit = audited(TrueDistribution(Normalization.of(trained.pixels)), trained, held)
    assert not audit.unsafe_to_publish, audit.reasons
    assert audit.overall.distance_ratio.value == pytest.approx(1, abs=0.1)
    assert audit.overall.membership.low < 0.5 < audit.overall.membership.high
    assert audit.notes == ()


def test_each_measure_flags_by_itself_and_only_outside_its_interval() -> None:
    clean = Audit(100, Share(0, 100), 0.9, Estimate(1.0, 0.9, 1.1), Estimate(0.5, 0.4, 0.6))
    assert clean.findings == ()
    for name, beyond, uncertain, text in (
        ("copies", Share(12, 100), Share(8, 100), "12 of 100 candidates are copies of training images (12%, 95 %"),
        ("distance_ratio", Estimate(0.5, 0.4, 0.79), Estimate(0.7, 0.5, 0.81), "synthetic images are closer"),
        ("membership", Estimate(0.8, 0.61, 0.9), Estimate(0.7, 0.59, 0.8), "the denoising error separates"),
    ):
        [finding] = dataclasses.replace(clean, **{name: beyond}).findings
        assert finding.startswith(text)
        assert dataclasses.replace(clean, **{name: uncertain}).findings == ()


def mixed_pool() -> PoolAudit:
    """Class a sampled anew; class b half of it variations that are copies; only a has images held out."""
    rng = np.random.default_rng(0)

    def images(label: int, count: int) -> Described:
        groups = np.arange(count) + 1000 * label
        return Described(rng.normal(size=(count, 12)), np.full(count, label), groups)

    def joined(*parts: Described) -> Described:
        return Described(*(np.concatenate(columns) for columns in zip(*map(dataclasses.astuple, parts), strict=True)))

    trained, held = joined(images(0, 80), images(1, 10)), images(0, 20)
    near = trained.features[80 + np.arange(20) % 10] + rng.normal(0, 0.01, (20, 12))
    samples = joined(images(0, 60), images(1, 20), Described(near, np.ones(20, np.int64), np.full(20, GENERATED)))
    samples = dataclasses.replace(samples, groups=np.full(100, GENERATED))
    origins = ["sampled"] * 80 + ["variation"] * 20
    copied = np.concatenate([np.zeros(100, bool), np.ones(30, bool)])
    labels = np.concatenate([samples.labels, np.ones(30, np.int64)])
    candidates = CheckedCandidates(copied, labels, np.array([*origins, *["variation"] * 30]))
    parts = {"trained": trained, "held": held, "errors": None}
    return audit_pool(samples, origins, candidates, **parts, classes=("a", "b", "c"), seed=0)


def test_the_class_and_origin_that_repeat_images_are_named_and_what_could_not_be_measured_is_noted() -> None:
    audit = mixed_pool()
    copies = {name: part.copies for name, part in (audit.classes | audit.origins).items() if name != "c"}
    found = {"a": Share(0, 60), "b": Share(30, 70), "variation": Share(30, 50), "sampled": Share(0, 80)}
    assert (copies, audit.overall.copies) == (found, Share(30, 130))
    assert [audit.classes[name].images for name in "abc"] == [60, 40, 0]
    flagged = {reason.split(":")[0] for reason in audit.reasons}
    assert flagged == {"all images", "origin 'variation'", "class 'b'"}
    assert audit.origins["variation"].nearest_ratio < 0.1 < 0.7 < audit.origins["sampled"].nearest_ratio
    assert audit.classes["c"].nearest_ratio is None
    assert len(audit.notes) == 2
    assert audit.notes[0].endswith("b, c")
    assert audit.classes["b"].distance_ratio is None
    assert audit.classes["a"].distance_ratio.low < 1 < audit.classes["a"].distance_ratio.high
    assert "distance_ratio/b" not in audit.metrics
    assert "copy_share/c" not in audit.metrics
    assert audit.metrics["copy_share/origin variation"] == pytest.approx(0.6)
    assert audit.metrics["unsafe_to_publish"] == 1


def test_a_saved_audit_is_read_as_it_was_and_states_its_conclusion(tmp_path) -> None:
    audit = mixed_pool()
    audit.save(tmp_path / "audit.json")
    assert read_record(tmp_path / "audit.json", POOL_AUDIT) == audit == mixed_pool()
    record = json.loads((tmp_path / "audit.json").read_text())
    assert (record["unsafe_to_publish"], record["reasons"]) == (True, list(audit.reasons))
    assert record["classes"]["b"]["copies"] == {"count": 30, "total": 70}
    assert record["classes"]["a"]["distance_ratio"].keys() == {"value", "low", "high"}
    (tmp_path / "audit.json").write_text("{}")
    with pytest.raises(DamagedError):
        read_record(tmp_path / "audit.json", POOL_AUDIT)
