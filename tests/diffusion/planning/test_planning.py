import dataclasses
import json
from functools import partial
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from diffaug.configuration.settings import DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.network.unet import UNet
from diffaug.diffusion.planning.planning import (
    Plan,
    choose_preset,
    enough_images,
    make_plan,
    set_length,
    with_more_steps,
)
from diffaug.diffusion.planning.presets import PRESETS
from diffaug.diffusion.training.batches import TrainingData
from diffaug.diffusion.training.measuring import measure_images_per_second, ways_of_computing


def images(size: int, channels: int = 1) -> LabeledImages:
    return LabeledImages(np.zeros((4, size, size, channels), np.uint8), np.zeros(4, np.int64), ("a", "b"), ("",) * 4)


@pytest.fixture(autouse=True)
def capability(monkeypatch) -> None:
    """A GPU with bfloat16 for those tests that plan for one."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))


def planned_at(images_per_second: float, settings: DiffusionSettings) -> Plan:
    plan = dataclasses.replace(make_plan(images(8), settings, "cpu"), images_per_second=images_per_second)
    return set_length(plan, settings, 100)


@pytest.mark.parametrize(("size", "patch"), [(8, 1), (16, 1), (17, 2), (28, 2), (32, 2), (64, 4), (127, 8)])
def test_a_larger_image_is_folded_to_a_grid_of_at_most_16(size: int, patch: int) -> None:
    assert make_plan(images(size), DiffusionSettings(), "cpu").network.patch == patch


def test_a_short_budget_on_a_cpu_is_spent_in_small_batches() -> None:
    settings = DiffusionSettings(images_seen=100_000)
    plan = make_plan(images(8), settings, "cpu")
    half = with_more_steps(plan, settings, "cpu")
    quarter = with_more_steps(half, settings, "cpu")
    assert (plan.batch_size, half.batch_size, quarter.batch_size) == (64, 32, 16)
    assert with_more_steps(quarter, settings, "cpu") == quarter
    long = DiffusionSettings(images_seen=256_000)
    assert with_more_steps(plan, long, "cpu") == plan
    assert with_more_steps(plan, settings, "cuda") == plan
    assert with_more_steps(half, settings, "cpu", smallest=20) == half
    assert with_more_steps(plan, settings.model_copy(update={"batch_size": 32}), "cpu") == plan


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
def test_the_network_grows_with_device_budget_and_images(
    device: str, minutes: float, count: int, expected: str
) -> None:
    assert choose_preset(count, DiffusionSettings(minutes=minutes), device) == expected


def test_settings_reach_the_network() -> None:
    settings = DiffusionSettings(preset="tiny", augmentation=0.1, objective="ddpm", precision="bfloat16", compile=True)
    plan = make_plan(images(28, 3), settings, "cpu")
    assert (plan.network.base_channels, plan.network.conditions, plan.network.objective) == (32, 9, "ddpm")
    assert (plan.precision, plan.compiled) == ("bfloat16", True)


def test_ddpm_is_computed_in_float32_unless_set() -> None:
    settings = DiffusionSettings(objective="ddpm")
    assert make_plan(images(8), settings, "cuda").precision == "float32"
    assert [way.precision for way in ways_of_computing(make_plan(images(8), settings, "cpu"), settings, "cpu")] == [
        "float32"
    ]


def test_only_what_is_left_open_is_measured() -> None:
    def ways(device: str, **settings: object) -> list[tuple[str, bool]]:
        chosen = DiffusionSettings().model_copy(update=settings)
        plan = make_plan(images(8), chosen, device)
        return [(way.precision, way.compiled) for way in ways_of_computing(plan, chosen, device)]

    assert ways("cpu") == ways("cpu", minutes=30.0) == 2 * [("float32", False), ("bfloat16", False)]
    assert ways("cuda") == [("bfloat16", False)]
    assert ways("cuda", minutes=30.0) == [("bfloat16", False), ("bfloat16", True)]
    assert ways("cpu", minutes=30.0, precision="float32", compile=True) == [("float32", True)]
    assert ways("cpu", minutes=30.0, precision="float32", compile=False) == [("float32", False)]
    assert ways("cpu", images=10**6) == [("float32", False)]


def test_minutes_become_images_at_the_measured_speed() -> None:
    settings = DiffusionSettings(minutes=2)
    plan = set_length(
        dataclasses.replace(make_plan(images(8), settings, "cpu"), images_per_second=250.0), settings, 100
    )
    assert plan.images == 469 * 64
    assert plan.expected_seconds == pytest.approx(120, rel=0.001)
    assert any("2 minutes (as set) at about 250 images/s" in reason for reason in plan.reasons)


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
    assert enough_images(many, class_temperature=0.5) == expected


@pytest.mark.parametrize(
    ("device", "speed", "minutes", "why"),
    [
        ("cpu", 102_400 / 300, 5, "enough for this many images"),
        ("cpu", 1e4, 1, "never less unless you set --minutes"),
        ("cuda", 1e4, 10, "never less unless you set --minutes"),
        ("cpu", 10.0, 30, "never more unless you set --minutes; 102400 images would be better"),
    ],
)
def test_without_a_budget_the_length_is_a_matter_of_minutes(device, speed, minutes, why) -> None:
    plan = dataclasses.replace(make_plan(images(8), DiffusionSettings(), device), images_per_second=speed)
    plan = set_length(plan, DiffusionSettings(), 100)
    assert plan.expected_seconds == pytest.approx(60 * minutes, rel=0.01)
    assert any(f"{minutes} minutes ({why}" in reason for reason in plan.reasons)


def test_images_as_set() -> None:
    settings = DiffusionSettings(images_seen=12_345, batch_size=50)
    plan = set_length(make_plan(images(8), settings, "cpu"), settings, 100)
    assert (plan.images, plan.steps, plan.expected_seconds) == (12_350, 247, None)
    assert "12350 images seen, as set, in whole batches" in plan.reasons


@pytest.mark.parametrize(("count", "chosen", "expected"), [(4_992, None, 0.0), (5_056, None, 0.12), (5_056, 0.0, 0.0)])
def test_images_seen_often_are_augmented(count: int, chosen: float | None, expected: float) -> None:
    settings = DiffusionSettings(images_seen=count, batch_size=64, augmentation=chosen)
    plan = set_length(make_plan(images(8), settings, "cpu"), settings, 100)
    assert plan.augmentation == expected
    assert any("augmented" in reason for reason in plan.reasons) == (expected > 0)


def test_survives_json() -> None:
    settings = DiffusionSettings(images_seen=100)
    plan = set_length(make_plan(images(30, 3), settings, "cuda"), settings, 100)
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_a_network_is_at_least_as_wide_as_what_it_folds() -> None:
    assert make_plan(images(64, 1), DiffusionSettings(), "cpu").network.base_channels == 32
    assert make_plan(images(64, 3), DiffusionSettings(), "cpu").network.base_channels == 48
    assert make_plan(images(64, 3), DiffusionSettings(base_channels=16), "cpu").network.base_channels == 16


@pytest.mark.parametrize("size", [8, 28, 64])
def test_the_cpu_network_has_about_a_million_parameters(size: int) -> None:
    network = UNet(make_plan(images(size), DiffusionSettings(), "cpu").network)
    assert 0.7e6 < sum(parameter.numel() for parameter in network.parameters()) < 2e6


@pytest.mark.parametrize("size", [128, 256])
@pytest.mark.parametrize("preset", PRESETS)
def test_large_colour_images_keep_the_network_within_its_size(preset: str, size: int) -> None:
    network = UNet(make_plan(images(size, 3), DiffusionSettings(preset=preset), "cpu").network)
    assert 0.5e6 < sum(parameter.numel() for parameter in network.parameters()) < 60e6


def test_an_image_of_256_px_costs_a_few_times_one_of_64() -> None:
    def operations(size: int) -> int:
        network = UNet(make_plan(images(size, 3), DiffusionSettings(), "cpu").network)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, 3, size, size), torch.zeros(1), torch.zeros(1, dtype=torch.int64))
        return int(counter.get_total_flops())

    assert operations(64) < operations(128) < 3 * operations(64)
    assert operations(256) < 5 * operations(64)


@pytest.mark.parametrize(
    ("capability", "precision"), [((7, 5), "float32"), ((8, 0), "bfloat16"), ((12, 0), "bfloat16")]
)
def test_bfloat16_is_for_gpus_that_have_convolutions_in_it(monkeypatch, capability, precision: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    settings = DiffusionSettings()
    plan = make_plan(images(8), settings, "cuda")
    assert plan.precision == precision
    assert [way.precision for way in ways_of_computing(plan, settings, "cuda")] == [precision]
    assert make_plan(images(8), DiffusionSettings(precision="bfloat16"), "cuda").precision == "bfloat16"


def test_of_the_speed_of_steps_85_percent_are_planned_with(blobs, plan, settings, monkeypatch) -> None:
    steps = (SimpleNamespace(step=step, loss=torch.zeros(())) for step in count(1))
    monkeypatch.setattr("diffaug.diffusion.training.measuring.train", lambda *_, **__: steps)
    monkeypatch.setattr("time.perf_counter", partial(next, count()))  # a second a step
    speed = measure_images_per_second(TrainingData.of(blobs, settings, "cpu"), plan, settings)
    assert speed == pytest.approx(0.85 * plan.batch_size)


def test_measured_speed_is_positive_and_leaves_no_trace(blobs, plan, settings, monkeypatch) -> None:
    monkeypatch.setattr("diffaug.diffusion.training.measuring.SECONDS", 0.05)
    assert measure_images_per_second(TrainingData.of(blobs, settings, "cpu"), plan, settings) > 0
