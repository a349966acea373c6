import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import ablations
import choices
import gain
import more_real
import numpy as np
import pytest
import quality_per_minute
import sample_speed
import sets
import synthesis_speed
import torch
import train_speed
from PIL import Image
from scipy import linalg

import diffaug
from diffaug.configuration.settings import FILTER_NAMES, DiffusionSettings
from diffaug.configuration.sources import resolve
from diffaug.data.images import LabeledImages
from diffaug.diffusion.planning import defaults
from diffaug.errors import MissingExtraError

import contenders
import fidelity
import filters
import measuring
import ours
import peers

TINY = "--sizes 8 --batch 4 --rounds 1 --seconds 0 --device cpu"
BRIEF = "{data} --feature-updates 10 --per-class 4 --device cpu --work {work}"
RUNS = {
    ablations: f"{BRIEF} --quick --images 64 --variants 'no dropout' --seeds 0",
    filters: "{data} --quick --seeds 0 --work {work}",
    more_real: "{data} --updates 4 --seeds 0",
    quality_per_minute: f"{BRIEF} --minutes 0.002 0.004 --parameters 1100000 --systems 'lucidrains tuned' diffaug "
    "--set advanced.base_channels=16 synthesis.num_inference_steps=2",
    sample_speed: TINY,
    synthesis_speed: "--quick --sizes 8",
    train_speed: TINY,
}


@pytest.fixture
def needs_peers() -> None:
    pytest.importorskip("diffusers")
    pytest.importorskip("denoising_diffusion_pytorch")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time for what is not looked at here: diffaug's measured speed and its wrong class filter."""
    monkeypatch.setattr("diffaug.diffusion.training.measuring.MEASURED_SECONDS", 0.05)
    monkeypatch.setattr("diffaug.synthesis.filters.crossfit.default_updates", lambda count: 5)


@pytest.fixture
def data(tmp_path: Path, make_classes: Callable[..., Path]) -> Path:
    for split, counts in (("train", {"dark": 12, "bright": 6}), ("test", {"dark": 8, "bright": 8})):
        make_classes(tmp_path / "data" / split, counts)
    for file in (tmp_path / "data" / "test").rglob("*.png"):  # upside down, or they would be the training images
        Image.fromarray(np.asarray(Image.open(file))[::-1].copy()).save(file)
    return tmp_path / "data"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of `time.perf_counter`, in a list to be changed."""
    now = [0.0]
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: now[0])
    return now


@pytest.mark.slow
@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("script", RUNS, ids=lambda script: script.__name__)
def test_a_script_writes_its_report_and_trains_nothing_twice(script: Any, data, tmp_path, monkeypatch, request) -> None:
    if script in (quality_per_minute, sample_speed, train_speed):
        request.getfixturevalue("needs_peers")
    monkeypatch.setattr(synthesis_speed, "QUICK_TARGETS", {"0": 40, "3": 20})
    monkeypatch.setattr(sample_speed, "STEPS", 2)
    monkeypatch.setattr(quality_per_minute, "SAMPLING_STEPS", {"denoising-diffusion-pytorch": 2})
    arguments = shlex.split(RUNS[script].format(data=data, work=tmp_path / "work"))

    def run(*more: str) -> dict[str, Any]:
        script.main([*arguments, "--json", str(tmp_path / "report.json"), *more])
        content: dict[str, Any] = json.loads((tmp_path / "report.json").read_text())
        return content

    report = run()
    assert report.keys() == {"summary", "rows", "machine", "versions"}
    summary, rows = report["summary"], report["rows"]
    if script is ablations:
        assert [row["variant"] for row in rows] == ["default", "no dropout"]
        assert [row["kid change"] for row in rows] == pytest.approx([0, rows[1]["kid"] - rows[0]["kid"]])
        assert rows[0]["images seen"] == 64
    elif script is filters:
        copies = [("copies", kind) for kind in filters.KINDS]
        shown = [(row["shown"], row["kind"]) for row in rows]
        assert shown[:4] == copies and shown[-2:] == [("good", "dark (12)"), ("good", "bright (6)")]
        assert rows[0]["rejected"] == rows[1]["rejected"] == 1
        assert summary["gain_filtered_over_unfiltered"] is None
    elif script is more_real:
        assert [row["count"] for row in rows] == [18] * 2 + [18 + 2 * 4] * 2
        assert summary["more_real.balanced_accuracy"] == max(row["balanced accuracy"] for row in rows[2:])
    elif script is quality_per_minute:
        assert [row["system"] for row in rows] == ["real", *["diffaug"] * 2, *["lucidrains tuned"] * 2]
        assert summary["time_ratio_worst"] <= 1 and set(rows[1]["class_kid"]) == {"dark", "bright"}
        assert len(list((tmp_path / "work" / "sheets").iterdir())) == 4
    elif script is sample_speed:
        assert summary.keys() == {"sample_ratio_min", "evaluation_ratio_min"}
        assert all(row["images/s"] > 0 for row in rows)
    elif script is synthesis_speed:
        assert summary.keys() == {"network_share", "two_process_ratio"}
        (row,) = rows
        assert 0 < row["network_share"] < 1 and row["images"] == 60
        assert row["two_process_ratio"] == pytest.approx(row["images/s, two processes"] / row["images/s, one process"])
    else:
        ratios = {"train_ratio_min", "train_ratio_28px", "forward_ratio_min"}
        assert summary.keys() == ratios | {"peak_share_median"} and summary["train_ratio_28px"] is None
        assert [row["system"] for row in rows] == ["diffaug", *peers.PEERS]
        assert all(0.9 <= row["parameters"] / rows[0]["parameters"] <= 1.1 for row in rows)
        assert all(0 < row["peak share"] < 1 and row["train images/s"] > 0 for row in rows)
    if script in (ablations, quality_per_minute):
        forbidden = Mock(side_effect=AssertionError("trained again"))
        monkeypatch.setattr("diffaug.stages.fitting.running.train", forbidden)
        if script is quality_per_minute:
            monkeypatch.setattr(diffaug.DiffusionAugmenter, "fit", forbidden)
        monkeypatch.setattr(quality_per_minute, "make_peer", forbidden)
        assert run()["rows"] == rows
    if script is quality_per_minute:
        with pytest.raises(AssertionError, match="trained again"):
            run("--again", "diffaug")


@pytest.mark.parametrize("script", [*RUNS, gain, choices], ids=lambda script: script.__name__)
def test_every_script_explains_itself(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        script.main(["--help"])
    assert caught.value.code == 0
    assert {"--quick", "--json"} & set(capsys.readouterr().out.replace("]", " ").replace("[", " ").split())


class TestFidelity:
    def test_frechet_distance_agrees_with_the_matrix_square_root(self) -> None:
        random = np.random.default_rng(0)
        real, other = random.normal(size=(40, 5)), random.normal(0.5, 2, size=(40, 5)) @ random.normal(size=(5, 5))
        first, second = (np.cov(features, rowvar=False) for features in (real, other))
        trace = np.trace(first + second - 2 * linalg.sqrtm(first @ second).real)
        expected = np.square(real.mean(0) - other.mean(0)).sum() + trace
        assert fidelity.frechet_distance(real, other) == pytest.approx(expected)
        assert fidelity.frechet_distance(real, real + 2) == pytest.approx(20)  # the square of the shift

    @pytest.mark.slow
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
        labels = np.array([0, 1, 0, 0, 1, 0])
        images = LabeledImages(np.zeros((6, 1, 1, 1), np.uint8), labels, ("a", "b"), tuple("012345"))
        assert fidelity.equal_classes(images).ids == ("0", "2", "1", "4")


class TestMeasuring:
    def test_turns_alternate_repeat_until_their_time_is_over_and_medians_are_kept(self, clock: list[float]) -> None:
        order, lengths = [], {"slow": iter([9.0, 3.0, 5.0, 4.0]), "fast": iter([9.0, 1.0, 3.0, 2.0])}

        def work(name: str) -> None:
            order.append(name)
            clock[0] += next(lengths[name])

        actions = {name: lambda name=name: work(name) for name in lengths}
        assert measuring.alternate(actions, "cpu", rounds=3, seconds=0.0) == {"slow": 4.0, "fast": 2.0}
        assert order == ["slow", "fast"] * 4
        lengths["slow"] = iter([0.25] * 9)
        assert measuring.alternate({"slow": actions["slow"]}, "cpu", rounds=1, seconds=1.0) == {"slow": 0.25}
        assert len(order) > 8 + 2

    def test_operations_of_a_product_are_two_for_each_multiplication(self) -> None:
        left, right = torch.ones(3, 5), torch.ones(5, 7)
        assert measuring.count_operations(lambda: left @ right) == 2 * 3 * 5 * 7

    def test_ratios_are_to_the_best_peer(self) -> None:
        speeds = {8: {"diffaug": 10, "one": 4, "other": 5}, 28: {"diffaug": 9, "one": 6, "other": 3}}
        rows = [
            {"device": "cpu", "size": size, "system": system, "speed": speed}
            for size, of_system in speeds.items()
            for system, speed in of_system.items()
        ]
        assert contenders.ratios(rows, "speed") == [2.0, 1.5]


@pytest.mark.usefixtures("needs_peers")
class TestPeers:
    @pytest.mark.slow
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
    @pytest.mark.parametrize("name", ["lucidrains tuned", "diffusers tuned"])
    def test_peers_learn_two_plain_classes(self, name: str) -> None:
        pixels = np.repeat(np.array([40, 220], np.uint8), 8)[:, None, None, None] * np.ones((1, 6, 6, 1), np.uint8)
        images = LabeledImages(pixels, np.repeat([0, 1], 8), ("dark", "bright"), tuple(map(str, range(16))))
        peer = peers.make_peer(name, images, parameters=1_100_000, device="cpu")
        for step in range(150):
            peer.step(step / 150)
        if name == "lucidrains tuned":
            sampled = peer.sample(np.repeat([0, 1], 8), 25)
            assert [sampled[:8].mean(), sampled[8:].mean()] == pytest.approx([40, 220], abs=30)
        else:  # at high noise a predicted noise says next to nothing about a plain image's brightness
            with torch.no_grad():
                assert peer._loss(peer._pixels.float() / 255, peer._labels) < 0.2

    def test_stops_are_kept_and_time_between_them_is_not_counted(self, clock: list[float]) -> None:
        progress = []

        class Paced:
            device = "cpu"

            def step(self, share: float) -> None:
                progress.append(share)
                clock[0] += 1.0

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
    def test_summary_takes_the_best_peer_and_the_worst_budget(self) -> None:
        kids = {"diffaug": (0.2, 0.1, 0.05), "one": (0.8, 0.25, 0.2), "other": (0.5, 0.3, 0.4)}
        rows = [
            {"system": system, "minutes": minutes, "kid": kid, "seconds": 60 * minutes}
            for system, three in kids.items()
            for minutes, kid in zip((2.0, 5.0, 10.0), three, strict=True)
        ]
        summary = quality_per_minute.summarize(rows)
        assert summary == {"kid_ratio_worst": 0.4, "kid_ours_5_over_peer_10": 0.5, "time_ratio_worst": 1.0}
        rows = [{**row, "kid": -0.1} for row in rows]  # there is no ratio to a distance that is not positive
        assert quality_per_minute.summarize(rows)["kid_ratio_worst"] is None


class TestAblations:
    @pytest.mark.parametrize("variant", ablations.VARIANTS)
    def test_a_variant_changes_the_defaults(self, variant: str) -> None:
        overrides = ablations.VARIANTS[variant]
        settings = {key: value for key, value in overrides.items() if not key.isupper()}
        changed = resolve(settings, environment={}).config != resolve({}, environment={}).config
        changed |= any(getattr(defaults, key) != overrides[key] for key in overrides.keys() - settings.keys())
        assert changed == (variant != ablations.DEFAULT)

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


def line(seed: int, shown: str, kind: str, rejected: float, accuracy: float | None = None) -> dict[str, Any]:
    return {**filters.row(seed, shown, kind, rejected, 10), "accuracy": accuracy}


class TestFilters:
    def test_the_summary_is_of_means_over_seeds_and_of_the_worst_kind_of_copy(self) -> None:
        rows = []
        for seed, gained in ((0, 0.02), (1, 0.04)):
            rows += [line(seed, "copies", kind, 0.9 + 0.02 * number) for number, kind in enumerate(filters.KINDS)]
            rows += [line(seed, "good as copies", "", 0.01 * seed), line(seed, "wrong class", "", 0.8 + 0.1 * seed)]
            rows += [line(seed, "noise", "", 1.0), line(seed, "blurred", "", 0.5 * seed)]
            rows += [line(seed, "good", f"{kind} ({9 - kind})", 0.1 + 0.1 * kind) for kind in range(3)]
            rows += [line(seed, "samples", filters.NONE, 0, 0.7), line(seed, "samples", filters.ALL, 0.2, 0.7 + gained)]
            rows += [line(seed, "samples", f"without {name}", 0.1, 0.73) for name in FILTER_NAMES]
        rows[-1]["accuracy"] = 0.75
        summary = filters.summarize(rows)
        assert summary.pop("better_without") == "duplicate"
        rejected = {
            "copies": 0.9,
            "genuine": 0.005,
            "wrong_class": 0.85,
            "noise": 1,
            "blurred": 0.25,
            "rarest": 0.3,
            "commonest": 0.1,
        }
        expected = {f"{name}_rejected": share for name, share in rejected.items()}
        assert summary == pytest.approx({**expected, "gain_filtered_over_unfiltered": 0.03})

    def test_every_filter_is_tried_alone_and_left_out_with_as_many_images_per_class(self) -> None:
        variants = filters.variants()
        assert len(set(variants.values())) == len(variants) == 2 * len(FILTER_NAMES) + 2
        labels, kept = np.array([0, 0, 0, 1, 1, 1]), np.array([False, True, True, True, True, True])
        assert filters.first_of_each_class(labels, kept, np.array([1, 2.5])).tolist() == [1, 3, 4]
        assert filters.first_of_each_class(labels, kept, np.array([9, 0])).tolist() == [1, 2]


def test_half_of_each_class_is_moved_the_same_half_each_time() -> None:
    labels = np.array([0] * 6 + [1] * 5 + [2])
    moved = more_real.half_of_each_class(labels)
    assert np.bincount(labels[moved], minlength=3).tolist() == [3, 2, 0]
    assert np.array_equal(moved, more_real.half_of_each_class(labels))


@pytest.mark.slow
def test_our_size_is_the_nearest_that_a_width_gives(digits: Any) -> None:
    images = measuring.random_images(8)
    options = {"batch_size": 4, "device": "cpu"}
    made = [ours.Ours(images, parameters=wanted, **options) for wanted in (200_000, 4_000_000, None)]
    smaller, larger, planned = (one.parameters for one in made)
    assert smaller < 600_000 and 3_000_000 < larger < 5_000_000
    assert planned == ours.planned_parameters(images, DiffusionSettings(), "cpu")


def test_sets_are_split_the_same_each_time_and_no_image_is_on_two_sides(tmp_path: Path) -> None:
    for split, counts in {"train": {"a": 30, "b": 6}, "test": {"a": 5, "b": 4}}.items():
        for label, count in counts.items():
            (tmp_path / "given" / split / label).mkdir(parents=True)
            for number in range(count):
                file = tmp_path / "given" / split / label / f"{split}-{number}.png"
                file.write_bytes(f"{split} {label} {number}".encode())
    expected = {"fashion-lt": (5 + 3, 9, 28), "cifar10-lt": (5 + 3, 9, 28)}
    for name, counts in expected.items():
        folders = [
            sets.prepare(name, tmp_path / "given", tmp_path / f"work-{number}", unlabeled=True) for number in range(2)
        ]
        found = [{path.relative_to(one): path.read_bytes() for path in one.rglob("*.png")} for one in folders]
        assert found[0] == found[1]
        assert len(set(found[0].values())) == len(found[0])
        parts = [path.parts[0] for path in found[0]]
        assert tuple(parts.count(part) for part in ("train", "test", "unlabeled")) == counts
    plain = sets.prepare("fashion-lt", tmp_path / "given", tmp_path / "plain")
    assert len(list(plain.rglob("*.png"))) == 45 and not (plain / "unlabeled").exists()


@pytest.mark.slow
@pytest.mark.parametrize("script", [gain, choices], ids=["gain", "choices"])
def test_the_whole_job_is_measured(script: Any, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    script.main(
        [
            "digits",
            "--quick",
            "--work",
            str(tmp_path),
            "--json",
            str(report),
            *["--seeds", "0"][: 2 * (script is choices)],
        ]
    )
    summary = json.loads(report.read_text())["summary"]
    if script is gain:
        assert 0 < summary["digits.best_real"] <= 1 and summary["digits.ci_low"] <= summary["digits.gain"]
    else:
        assert summary["regret_mean"] >= 0 and abs(summary["optimism_mean"]) < 1
