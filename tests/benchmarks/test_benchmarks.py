from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ablations
import gain
import more_real
import numpy as np
import pytest
import quality_per_minute
import sample_speed
import synthesis_speed
import torch
import train_speed
from scipy import linalg

import diffaug
from diffaug.configuration.settings import DiffusionSettings
from diffaug.configuration.sources import resolve
from diffaug.data.images import LabeledImages
from diffaug.errors import MissingExtraError

import contenders
import fidelity
import measuring
import ours
import peers

Data = Callable[[], Path]
TINY = ["--sizes", "8", "--batch", "4", "--rounds", "1", "--seconds", "0", "--device", "cpu"]
SMALL_SETTINGS = ["diffusion.base_channels=16", "synthesis.num_inference_steps=2"]


@pytest.fixture
def needs_peers() -> None:
    pytest.importorskip("diffusers")
    pytest.importorskip("denoising_diffusion_pytorch")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time for what is not looked at here: diffaug's measured speed and its off-class filter."""
    monkeypatch.setattr("diffaug.diffusion.training.measuring.SECONDS", 0.05)
    monkeypatch.setattr("diffaug.classifiers.encoders.default_updates", lambda count: 5)


@pytest.fixture
def data(tmp_path: Path, make_classes: Callable[..., Path]) -> Path:
    for split, counts in (("train", {"dark": 12, "bright": 6}), ("test", {"dark": 8, "bright": 8})):
        make_classes(tmp_path / "data" / split, counts)
    for file in (tmp_path / "data" / "test").rglob("*.png"):
        _turn_upside_down(file)  # or they would be the training images
    return tmp_path / "data"


def _turn_upside_down(file: Path) -> None:
    from PIL import Image

    Image.fromarray(np.asarray(Image.open(file))[::-1].copy()).save(file)


def two_plain_classes() -> LabeledImages:
    """Sixteen images of 6 px: eight of brightness 40, eight of 220."""
    pixels = np.repeat(np.array([40, 220], np.uint8), 8)[:, None, None, None] * np.ones((1, 6, 6, 1), np.uint8)
    return LabeledImages(pixels, np.repeat([0, 1], 8), ("dark", "bright"), tuple(map(str, range(16))))


def written(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    assert content.keys() == {"summary", "rows", "machine", "versions"}
    return content


def test_synthesis_speed_reports_the_network_s_share_and_two_processes(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(synthesis_speed, "QUICK_TARGETS", {"0": 40, "3": 20})
    synthesis_speed.main(["--quick", "--sizes", "8", "--json", str(tmp_path / "speed.json")])
    report = json.loads((tmp_path / "speed.json").read_text())
    assert report["summary"].keys() == {"network_share", "two_process_ratio"}
    (row,) = report["rows"]
    assert 0 < row["network_share"] < 1
    assert row["two_process_ratio"] == pytest.approx(row["images/s, two processes"] / row["images/s, one process"])
    assert row["images"] == 60


class TestFidelity:
    def test_kernel_distance_is_the_mean_over_all_pairs(self) -> None:
        random = np.random.default_rng(0)
        real, other = random.normal(size=(5, 3)), random.normal(1, 1, size=(4, 3))

        def mean(left: Any, right: Any, same: bool) -> float:
            pairs = [(i, j) for i in range(len(left)) for j in range(len(right)) if not (same and i == j)]
            return float(np.mean([(left[i] @ right[j] / 3 + 1) ** 3 for i, j in pairs]))

        expected = mean(real, real, True) + mean(other, other, True) - 2 * mean(real, other, False)
        assert fidelity.kernel_distance(real, other) == pytest.approx(expected)

    def test_kernel_distance_has_no_bias(self) -> None:
        random = np.random.default_rng(0)
        distances = [fidelity.kernel_distance(*random.normal(size=(2, 20, 4))) for _ in range(400)]
        assert abs(np.mean(distances)) < 4 * np.std(distances) / 20

    def test_frechet_distance_agrees_with_the_matrix_square_root(self) -> None:
        random = np.random.default_rng(0)
        real, other = random.normal(size=(40, 5)), random.normal(0.5, 2, size=(40, 5)) @ random.normal(size=(5, 5))
        first, second = (np.cov(features, rowvar=False) for features in (real, other))
        trace = np.trace(first + second - 2 * linalg.sqrtm(first @ second).real)
        expected = np.square(real.mean(0) - other.mean(0)).sum() + trace
        assert fidelity.frechet_distance(real, other) == pytest.approx(expected)

    def test_frechet_distance_of_a_shift_is_its_square(self) -> None:
        features = np.random.default_rng(0).normal(size=(50, 3))
        assert fidelity.frechet_distance(features, features + 2) == pytest.approx(12)

    def test_distances_grow_with_the_damage_and_name_the_damaged_class(self, digits: Any) -> None:
        pixels, labels = digits
        images = LabeledImages(pixels, labels, tuple("0123456789"), tuple(map(str, range(len(labels)))))
        half = np.arange(0, len(images), 2)
        extractor = fidelity.Extractor.fit(images.select(half), "cpu", updates=40)
        real, other = quality_per_minute.halves(images)
        hurt = LabeledImages(other.pixels.copy(), other.labels, other.classes, other.ids)
        hurt.pixels[hurt.labels == 3] = 255 - hurt.pixels[hurt.labels == 3]
        whole, damaged = (fidelity.measure_distances(extractor, real, one) for one in (other, hurt))
        assert abs(whole.kid) < damaged.kid and whole.frechet < damaged.frechet
        assert max(damaged.class_kid, key=damaged.class_kid.__getitem__) == "3"
        assert damaged.class_kid["5"] == pytest.approx(whole.class_kid["5"])

    def test_classes_weigh_the_same(self) -> None:
        images = LabeledImages(
            np.zeros((6, 1, 1, 1), np.uint8), np.array([0, 1, 0, 0, 1, 0]), ("a", "b"), tuple("012345")
        )
        assert fidelity.equal_classes(images).ids == ("0", "2", "1", "4")


class TestMeasuring:
    def test_turns_alternate_and_medians_are_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock, order = [0.0], []
        lengths = {"slow": iter([9.0, 3.0, 5.0, 4.0]), "fast": iter([9.0, 1.0, 3.0, 2.0])}

        def work(name: str) -> None:
            order.append(name)
            clock[0] += next(lengths[name])

        monkeypatch.setattr(measuring.time, "perf_counter", lambda: clock[0])
        actions = {name: lambda name=name: work(name) for name in lengths}
        assert measuring.alternate(actions, "cpu", rounds=3, seconds=0.0) == {"slow": 4.0, "fast": 2.0}
        assert order == ["slow", "fast"] * 4

    def test_a_turn_repeats_an_action_until_its_time_is_over(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = [0.0]
        monkeypatch.setattr(measuring.time, "perf_counter", lambda: clock[0])

        def work() -> None:
            clock[0] += 0.25

        assert measuring.alternate({"work": work}, "cpu", rounds=1, seconds=1.0) == {"work": 0.25}

    def test_operations_of_a_product_are_two_for_each_multiplication(self) -> None:
        left, right = torch.ones(3, 5), torch.ones(5, 7)
        assert measuring.count_operations(lambda: left @ right) == 2 * 3 * 5 * 7

    def test_ratios_are_to_the_best_peer(self) -> None:
        speeds = {("cpu", 8): (10, 4, 5), ("cpu", 28): (9, 6, 3)}
        rows = [
            {"device": device, "size": size, "system": system, "speed": speed}
            for (device, size), three in speeds.items()
            for system, speed in zip(("diffaug", "one", "other"), three, strict=True)
        ]
        assert contenders.ratios(rows, "speed") == [2.0, 1.5]


@pytest.mark.usefixtures("needs_peers")
class TestSpeed:
    def test_training_of_every_system_is_timed(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        train_speed.main([*TINY, "--json", str(tmp_path / "speed.json")])
        content = written(tmp_path / "speed.json")
        assert content["summary"].keys() == {
            "train_ratio_min", "train_ratio_28px", "forward_ratio_min", "peak_share_median",
        }  # fmt: skip
        assert content["summary"]["train_ratio_28px"] is None
        assert [row["system"] for row in content["rows"]] == ["diffaug", *peers.PEERS]
        sizes = [row["parameters"] for row in content["rows"]]
        assert max(sizes) <= 1.1 * sizes[0] and min(sizes) >= 0.9 * sizes[0]
        assert all(0 < row["peak share"] < 1 and row["train images/s"] > 0 for row in content["rows"])
        assert "lucidrains tuned" in capsys.readouterr().out

    def test_sampling_of_every_system_is_timed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sample_speed, "STEPS", 2)
        sample_speed.main([*TINY, "--json", str(tmp_path / "speed.json")])
        content = written(tmp_path / "speed.json")
        assert content["summary"].keys() == {"sample_ratio_min", "evaluation_ratio_min"}
        assert all(row["images/s"] > 0 for row in content["rows"])


@pytest.mark.usefixtures("needs_peers")
class TestPeers:
    @pytest.mark.parametrize("name", ["diffusers", "lucidrains"])
    def test_sizes_that_the_levels_do_not_divide_are_padded_and_cropped(self, name: str) -> None:
        images = measuring.random_images(8)
        odd = LabeledImages(images.pixels[:, :6, :6], images.labels, images.classes, images.ids)
        peer = peers.make_peer(name, odd, parameters=1_100_000, device="cpu", batch_size=2)
        assert peer.padded_size == 8
        peer.step()
        sampled = peer.sample(np.arange(3), 2)
        assert sampled.shape == (3, 6, 6, 1) and sampled.dtype == np.uint8

    @pytest.mark.slow
    def test_lucidrains_samples_the_image_of_the_label(self) -> None:
        peer = peers.make_peer("lucidrains tuned", two_plain_classes(), parameters=1_100_000, device="cpu")
        for step in range(150):
            peer.step(step / 150)
        sampled = peer.sample(np.repeat([0, 1], 8), 25)
        assert [sampled[:8].mean(), sampled[8:].mean()] == pytest.approx([40, 220], abs=30)

    @pytest.mark.slow
    def test_diffusers_learns_to_tell_the_noise(self) -> None:
        # Not its samples: at high noise a predicted noise says next to nothing about a plain image's brightness.
        peer = peers.make_peer("diffusers tuned", two_plain_classes(), parameters=1_100_000, device="cpu")
        for step in range(150):
            peer.step(step / 150)
        with torch.no_grad():
            assert peer._loss(peer._pixels.float() / 255, peer._labels) < 0.2

    def test_stops_are_kept_and_time_between_them_is_not_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock, progress = [0.0], []

        class Paced:
            device = "cpu"

            def step(self, share: float) -> None:
                progress.append(share)
                clock[0] += 1.0

        monkeypatch.setattr(peers.time, "perf_counter", lambda: clock[0])
        stops = []
        for spent in peers.train_until(Paced(), [2.0, 5.0]):  # type: ignore[arg-type]
            stops.append(spent)
            clock[0] += 100.0
        assert stops == [2.0, 5.0]
        assert progress == [0.0, 0.0, 0.2, 0.4, 0.6, 0.8]


def test_a_missing_peer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"diffusers is not installed[\s\S]*diffaug\[benchmarks\]"):
        peers.make_peer("diffusers", measuring.random_images(8), parameters=1_000_000, device="cpu")


class TestQualityPerMinute:
    def arguments(self, data: Path, tmp_path: Path, *systems: str) -> list[str]:
        return [
            str(data), "--minutes", "0.002", "0.004", "--per-class", "4", "--feature-updates", "10",
            "--work", str(tmp_path / "work"), "--json", str(tmp_path / "quality.json"), "--device", "cpu",
            "--set", *SMALL_SETTINGS, "--systems", *systems, "--parameters", "1100000",
        ]  # fmt: skip

    @pytest.mark.usefixtures("needs_peers", "hasty")
    def test_results_are_compared_and_kept(self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(quality_per_minute, "SAMPLING_STEPS", {"denoising-diffusion-pytorch": 2})
        arguments = self.arguments(data, tmp_path, "lucidrains tuned", "diffaug")
        quality_per_minute.main(arguments)
        first = written(tmp_path / "quality.json")
        assert [row["system"] for row in first["rows"]] == ["real", *["diffaug"] * 2, *["lucidrains tuned"] * 2]
        assert first["summary"]["time_ratio_worst"] <= 1
        assert set(first["rows"][1]["class_kid"]) == {"dark", "bright"}
        assert len(list((tmp_path / "work" / "sheets").iterdir())) == 4

        def forbidden(*_: Any, **__: Any) -> Any:
            raise AssertionError("trained again")

        monkeypatch.setattr(quality_per_minute, "make_peer", forbidden)
        monkeypatch.setattr(diffaug.DiffusionAugmenter, "fit", forbidden)
        quality_per_minute.main(arguments)
        assert written(tmp_path / "quality.json")["rows"] == first["rows"]
        with pytest.raises(AssertionError, match="trained again"):
            quality_per_minute.main([*arguments, "--again", "diffaug"])

    def test_summary_takes_the_best_peer_and_the_worst_budget(self) -> None:
        kids = {"diffaug": (0.2, 0.1, 0.05), "one": (0.8, 0.25, 0.2), "other": (0.5, 0.3, 0.4)}
        rows = [
            {"system": system, "minutes": minutes, "kid": kid, "seconds": 60 * minutes}
            for system, three in kids.items()
            for minutes, kid in zip((2.0, 5.0, 10.0), three, strict=True)
        ]
        summary = quality_per_minute.summarize(rows)
        assert summary == {"kid_ratio_worst": 0.4, "kid_ours_5_over_peer_10": 0.5, "time_ratio_worst": 1.0}

    def test_no_ratio_to_a_distance_that_is_not_positive(self) -> None:
        rows = [{"system": system, "minutes": 2.0, "kid": -0.1, "seconds": 1.0} for system in ("diffaug", "one")]
        assert quality_per_minute.summarize(rows)["kid_ratio_worst"] is None


class TestAblations:
    @pytest.mark.parametrize("variant", ablations.VARIANTS)
    def test_a_variant_changes_the_defaults(self, variant: str) -> None:
        overrides = ablations.VARIANTS[variant]
        changed = resolve(overrides, environment={}).config != resolve({}, environment={}).config
        assert changed == (variant != ablations.DEFAULT)

    @pytest.mark.usefixtures("hasty")
    def test_variants_are_trained_once_and_compared_by_seed(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        arguments = [
            str(data), "--quick", "--images", "64", "--variants", "no dropout", "--seeds", "0",
            "--feature-updates", "10", "--per-class", "4", "--device", "cpu",
            "--work", str(tmp_path / "work"), "--json", str(tmp_path / "table.json"),
        ]  # fmt: skip
        ablations.main(arguments)
        first = written(tmp_path / "table.json")
        default, other = first["rows"]
        assert (default["variant"], other["variant"]) == ("default", "no dropout")
        assert default["kid change"] == 0 and other["kid change"] == pytest.approx(other["kid"] - default["kid"])
        assert default["images seen"] == 64
        monkeypatch.setattr("diffaug.stages.fitting.fit.train", lambda *_: pytest.fail("trained again"))
        ablations.main(arguments)
        assert written(tmp_path / "table.json")["rows"] == first["rows"]

    def test_a_variant_is_better_only_if_it_is_in_every_seed(self) -> None:
        kids = {"default": (0.3, 0.5), "always": (0.2, 0.4), "once": (0.1, 0.6)}
        shared = {"images seen": 1, "frechet": 1.0, "gain": 0.0, "balanced accuracy": 0.5}
        rows = [
            {"variant": variant, "seed": seed, "kid": kid, **shared}
            for variant, pair in kids.items()
            for seed, kid in enumerate(pair)
        ]
        table = ablations.compare(rows)
        assert [line["kid change"] for line in table] == pytest.approx([0, -0.1, -0.05])
        summary = ablations.summarize(table)
        assert (summary["better_by_kid"], summary["better_by_accuracy"]) == ("always", "")


def test_real_arms_are_trained_with_the_default_updates_too(images, small, tmp_path, monkeypatch) -> None:
    settings = {**small, "evaluation.arms": ["real only", "oversampling", "real + synthetic"]}
    augmenter = diffaug.DiffusionAugmenter(study=tmp_path / "study", settings=settings, verbose=False).fit(images)
    augmenter.generate()
    result = augmenter.evaluate(synthetic_fraction=0.3)
    trained = []

    def learn(self: Any, training: Any, pixels: Any, *, recipe: Any, seed: int, device: str) -> Any:
        trained.append((recipe.updates, training.draw_probabilities is not None, seed))
        return np.eye(3)[np.arange(len(pixels)) % 3]

    monkeypatch.setattr("diffaug.classifiers.training.NetworkClassifier.fit_predict", learn)
    accuracies = gain.accuracies_at_default_updates(augmenter, result)
    assert trained == [(400, classes, seed) for classes in (False, True) for seed in range(3)]
    assert accuracies.keys() == {"real only", "oversampling"}


def test_more_real_images_are_added_and_the_others_tested(make_classes, tmp_path) -> None:
    train = make_classes(tmp_path / "data" / "train", {"dark": 21, "middle": 17, "bright": 12})
    for folder in train.iterdir():
        (tmp_path / "data" / "test" / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:9]:
            file.rename(tmp_path / "data" / "test" / folder.name / file.name)
    more_real.main([str(tmp_path / "data"), "--updates", "4", "--seeds", "0", "--json", str(tmp_path / "more.json")])
    report = written(tmp_path / "more.json")
    assert [row["count"] for row in report["rows"]] == [23] * 2 + [23 + 3 * 4] * 2
    assert report["summary"]["more_real.balanced_accuracy"] == max(r["balanced accuracy"] for r in report["rows"][2:])


def test_half_of_each_class_is_moved_the_same_half_each_time() -> None:
    labels = np.array([0] * 6 + [1] * 5 + [2])
    moved = more_real.half_of_each_class(labels)
    assert np.bincount(labels[moved], minlength=3).tolist() == [3, 2, 0]
    assert np.array_equal(moved, more_real.half_of_each_class(labels))


def test_our_size_is_the_nearest_that_a_width_gives(digits: Any) -> None:
    images = measuring.random_images(8)
    smaller, larger, planned = (
        ours.Ours(images, parameters=parameters, batch_size=4, device="cpu").parameters
        for parameters in (200_000, 4_000_000, None)
    )
    assert smaller < 600_000 and 3_000_000 < larger < 5_000_000
    assert planned == ours.planned_parameters(images, DiffusionSettings(), "cpu")
