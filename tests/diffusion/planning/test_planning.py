import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from diffaug.configuration.settings import DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.network.unet import UNet
from diffaug.diffusion.planning import planning, presets
from diffaug.diffusion.planning.length import LengthChoice, PilotPlan
from diffaug.diffusion.planning.reasons import expected_quality, explain
from diffaug.diffusion.training import measuring
from diffaug.diffusion.training.measuring import measure_images_per_second


def images(size: int, channels: int = 1) -> LabeledImages:
    return LabeledImages(np.zeros((4, size, size, channels), np.uint8), np.zeros(4, np.int64), ("a", "b"), ("",) * 4)


@pytest.fixture(autouse=True)
def capability(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))


def planned(settings: DiffusionSettings, device: str = "cpu", images_per_second: float = 0.0) -> planning.Plan:
    """A plan whose length is set for 100 images."""
    plan = dataclasses.replace(planning.make_plan(images(8), settings, device), images_per_second=images_per_second)
    return planning.set_length(plan, settings, 100)


@pytest.mark.parametrize(
    ("size", "channels", "patch", "width"),
    [(8, 1, 1, 32), (16, 1, 1, 32), (17, 1, 2, 32), (28, 1, 2, 32), (64, 1, 4, 32), (64, 3, 4, 48), (127, 1, 8, 64)],
)
def test_a_larger_image_is_folded_to_a_grid_of_at_most_16(size: int, channels: int, patch: int, width: int) -> None:
    network = planning.make_plan(images(size, channels), DiffusionSettings(), "cpu").network
    assert (network.patch, network.base_channels) == (patch, width)
    parameters = sum(parameter.numel() for parameter in UNet(network).parameters())
    assert 0.7e6 < parameters < (2e6 if width == 32 else 8e6)
    assert planning.make_plan(images(size), DiffusionSettings(), "cpu", base_channels=16).network.base_channels == 16


def test_a_short_training_on_a_cpu_takes_small_batches() -> None:
    settings = DiffusionSettings(images_seen=100_000)
    plan = planning.make_plan(images(8), settings, "cpu")
    half = planning.halve_batch_if_too_few_steps(plan, settings)
    quarter = planning.halve_batch_if_too_few_steps(half, settings)
    assert (plan.batch_size, half.batch_size, quarter.batch_size) == (64, 32, 16)
    assert planning.halve_batch_if_too_few_steps(quarter, settings) == quarter
    longer, settings_of_it = dataclasses.replace(plan, recommended_images=256_000), DiffusionSettings(images_seen=10**6)
    assert planning.halve_batch_if_too_few_steps(longer, settings_of_it) == longer
    assert planning.halve_batch_if_too_few_steps(plan, settings_of_it) == half  # the pilot will choose less
    assert planning.halve_batch_if_too_few_steps(half, settings, smallest=20) == half
    assert planning.halve_batch_if_too_few_steps(plan, settings.model_copy(update={"batch_size": 32})) == plan
    on_gpu = planning.make_plan(images(8), settings, "cuda")
    assert planning.halve_batch_if_too_few_steps(on_gpu, settings) == on_gpu


@pytest.mark.parametrize(
    ("device", "minutes", "count", "expected"),
    [
        ("cpu", 10, 1_000, "small"),
        ("cpu", 240, 5_000, "medium"),
        ("cpu", 240, 500, "small"),
        ("cuda", 2, 5_000, "medium"),
        ("cuda", 30, 500, "medium"),
        ("cuda", 30, 50_000, "large"),
        ("cuda", 240, 50_000, "huge"),
    ],
)
def test_the_network_grows_with_device_budget_and_images(device, minutes, count, expected) -> None:
    assert presets.choose_preset(count, DiffusionSettings(minutes=minutes), device) == expected


def test_settings_decide_and_only_what_is_left_open_is_measured(monkeypatch) -> None:
    def ways(device: str, **settings: object) -> list[tuple[str, bool]]:
        chosen = DiffusionSettings().model_copy(update=settings)
        plan = planning.make_plan(images(8), chosen, device)
        return [(way.precision, way.compiled) for way in planning.precision_candidates(plan, chosen)]

    assert ways("cpu") == ways("cpu", minutes=30.0) == 2 * [("float32", False), ("bfloat16", False)]
    assert ways("cuda") == ways("cpu", precision="bfloat16") == [("bfloat16", False)]
    assert ways("cuda", minutes=30.0) == [("bfloat16", False), ("bfloat16", True)]
    assert ways("cpu", minutes=30.0, precision="float32", compile=True) == [("float32", True)]
    assert ways("cpu", minutes=30.0, precision="float32", compile=False) == [("float32", False)]
    assert ways("cpu", images_seen=10**6) == [("float32", False)]
    assert ways("cpu", objective="ddpm") == ways("cuda", objective="ddpm") == [("float32", False)]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))  # no convolutions in bfloat16
    assert ways("cuda") == [("float32", False)]


@pytest.mark.parametrize(
    ("counts", "channels", "expected"),
    [
        ((5, 5), 1, 102_400),
        ((5, 5), 3, 204_800),
        ((4000, 4000), 1, 150 * 8000),
        ((4000, 1000), 1, 150 * 6000),  # drawn 2 to 1, so that 6000 draws show the commonest 4000 once
        ((4000, 0, 1000), 1, 150 * 6000),
    ],
)
def test_the_length_follows_number_and_imbalance_of_the_images(counts, channels, expected) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    pixels = np.zeros((len(labels), 8, 8, channels), np.uint8)
    many = LabeledImages(pixels, labels, tuple(map(str, range(len(counts)))), ("",) * len(labels))
    assert planning.enough_images(many) == expected


@pytest.mark.parametrize(
    ("speed", "chosen", "minutes"),
    [(341, None, 5.0), (10, None, 30), (1e4, None, 0.171), (250, 2, 2), (1e4, 60, 0.171)],
)
def test_time_is_a_limit_and_never_a_reason_to_train_longer(speed: float, chosen, minutes: float) -> None:
    for device in ("cpu", "cuda"):
        plan = planned(DiffusionSettings(minutes=chosen), device, speed)
        assert plan.recommended_images == 102_400
        assert plan.images_seen == plan.batch_size * plan.steps
        assert plan.expected_seconds == pytest.approx(60 * minutes, rel=0.01)
        assert plan.seconds == 60 * (chosen or 30)


@pytest.mark.parametrize(
    ("settings", "speed", "images_seen", "pilot", "seconds"),
    [
        ({}, 1e4, 12_000_000, 6_000_000, 1800),  # the pilot may find that more helps
        ({}, 10, 12_000, 6_000, 1800),
        ({"minutes": 3}, 10, 1_200, None, 180),  # too short for a pilot
        ({"minutes": 60}, 1e3, 2_400_000, 1_200_000, 3600),
        ({"images_seen": 40_000}, 0, 40_000, 20_000, None),
        ({"images_seen": 400_000}, 0, 400_000, 200_000, None),
    ],
)
def test_the_pilot_takes_a_third_of_the_whole(settings, speed, images_seen, pilot, seconds) -> None:
    chosen = DiffusionSettings(**settings)
    plan = dataclasses.replace(planning.make_plan(images(8), chosen, "cpu"), images_per_second=float(speed))
    plan = planning.set_length(plan, chosen, 341, PilotPlan(0, 230, 111))
    assert (plan.images_seen, plan.seconds) == (pytest.approx(images_seen, abs=64), seconds)
    if pilot is None:
        assert plan.pilot is None
        return
    assert plan.pilot == PilotPlan(plan.pilot.images_seen, 230, 111)
    assert plan.pilot.images_seen == pytest.approx(pilot, abs=64)
    own = planning.plan_of_pilot(plan)
    assert (own.images_seen, own.decays, own.pilot) == (plan.pilot.images_seen, False, None)
    assert own.seconds == (None if seconds is None else seconds / 3)


@pytest.mark.parametrize(
    ("views", "is_longest", "expected"), [(100, False, 34_112), (100, True, 40_000), (200, False, 40_000)]
)
def test_the_chosen_length_counts_views_and_stays_within_the_limit(views, is_longest, expected) -> None:
    plan = planned(DiffusionSettings(images_seen=40_000))
    length = LengthChoice(views, (), 0, is_longest, "", 1.0)
    assert planning.with_chosen_length(plan, length, 341).images_seen == expected


def test_a_length_in_images_is_rounded_to_whole_batches() -> None:
    plan = planned(DiffusionSettings(images_seen=12_345, batch_size=50))
    assert (plan.images_seen, plan.steps, plan.expected_seconds) == (12_350, 247, None)


@pytest.mark.parametrize(("count", "chosen", "expected"), [(4_992, None, 0.0), (5_056, None, 0.12), (5_056, 0.0, 0.0)])
def test_images_seen_often_are_augmented(count, chosen, expected) -> None:
    assert planned(DiffusionSettings(images_seen=count, augmentation=chosen)).augmentation == expected


def test_a_plan_survives_json_and_its_reasons_are_no_part_of_its_identity() -> None:
    settings = DiffusionSettings(images_seen=100)
    plan = planned(settings, "cuda")
    stored = dataclasses.replace(plan, reasons=explain(plan, settings, images(8), expected_quality(plan)))
    read = planning.PLAN.validate_python(json.loads(planning.PLAN.dump_json(stored)))
    assert (read, read.reasons) == (stored, stored.reasons)
    assert read == plan
    assert hash(read) == hash(plan)


def test_the_reasons_read_as_in_the_snapshot() -> None:
    cases: dict[str, tuple[DiffusionSettings, str, float, LabeledImages]] = {
        "chosen": (DiffusionSettings(), "cpu", 102_400 / 300, images(28)),
        "shortest": (DiffusionSettings(), "cpu", 1e4, images(8)),
        "longest": (DiffusionSettings(), "cuda", 10.0, images(64, 3)),
        "minutes set": (DiffusionSettings(minutes=2, horizontal_flip=True), "cpu", 250.0, images(8)),
        "longest with minutes": (DiffusionSettings(minutes=60), "cuda", 1e4, images(8)),
        "images set": (DiffusionSettings(images_seen=100, objective="ddpm", preset="tiny"), "cpu", 0.0, images(8)),
        "all set": (DiffusionSettings(images_seen=6_400, augmentation=0.3, compile=True), "cuda", 64.0, images(8)),
    }
    lines = []
    for name, (settings, device, speed, shown) in cases.items():
        plan = dataclasses.replace(planning.make_plan(shown, settings, device), images_per_second=speed)
        pilot = None if name == "minutes set" else PilotPlan(0, 70, 30)
        final = planning.set_length(plan, settings, len(shown), pilot)
        lines += [f"{name}:", *explain(final, settings, shown, expected_quality(final)), ""]
    assert "\n".join(lines) == (Path(__file__).parent / "snapshots" / "reasons.txt").read_text()


@pytest.mark.parametrize("size", [128, 256])
@pytest.mark.parametrize("preset", presets.PRESETS)
def test_large_color_images_keep_the_network_within_its_size(preset: str, size: int) -> None:
    with torch.device("meta"):
        network = UNet(planning.make_plan(images(size, 3), DiffusionSettings(preset=preset), "cpu").network)
    assert 0.5e6 < sum(parameter.numel() for parameter in network.parameters()) < 60e6


def test_an_image_of_256_px_costs_a_few_times_one_of_64() -> None:
    def operations(size: int) -> int:
        with FakeTensorMode(), FlopCounterMode(display=False) as counter, torch.no_grad():
            network = UNet(planning.make_plan(images(size, 3), DiffusionSettings(), "cpu").network)
            network(torch.zeros(1, 3, size, size), torch.zeros(1), torch.zeros(1, dtype=torch.int64))
        return int(counter.get_total_flops())

    assert operations(64) < operations(128) < 3 * operations(64)
    assert operations(256) < 5 * operations(64)


def test_85_percent_of_the_median_speed_count_and_the_first_steps_do_not(data, plan, monkeypatch) -> None:
    durations = [50, 50, 50, 1, 1, 9, 1, 1]  # seconds; the first three steps warm up
    clock = itertools.accumulate([0, *durations])
    taken = []

    def steps(*_: object, **__: object) -> Iterator[SimpleNamespace]:
        for step in itertools.count(1):
            taken.append(step)
            yield SimpleNamespace(step=step, loss=torch.zeros(()))

    monkeypatch.setattr(measuring, "train", steps)
    monkeypatch.setattr(measuring, "MEASURED_SECONDS", 12.5)
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(clock))
    assert measure_images_per_second(data, plan) == pytest.approx(0.85 * plan.batch_size)
    assert taken == list(range(1, len(durations) + 1))


def test_measuring_trains_a_network_of_its_own_and_leaves_random_numbers_alone(data, plan, monkeypatch) -> None:
    monkeypatch.setattr(measuring, "MEASURED_SECONDS", 0.0)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert measure_images_per_second(data, plan) > 0
    assert torch.equal(torch.rand(3), expected)
