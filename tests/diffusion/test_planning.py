import dataclasses
import json

import numpy as np
import pytest

from diffaug.config import DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.batches import TrainingData
from diffaug.diffusion.measuring import measure_images_per_second
from diffaug.diffusion.planning import Plan, make_plan, set_length
from diffaug.diffusion.unet import UNet


def images(size: int, channels: int = 1) -> LabeledImages:
    return LabeledImages(np.zeros((4, size, size, channels), np.uint8), np.zeros(4, np.int64), ("a", "b"), ("",) * 4)


def planned_at(images_per_second: float, settings: DiffusionSettings) -> Plan:
    plan = dataclasses.replace(make_plan(images(8), settings, "cpu"), images_per_second=images_per_second)
    return set_length(plan, settings, 100)


@pytest.mark.parametrize(("size", "patch"), [(8, 1), (16, 1), (17, 2), (28, 2), (32, 2), (64, 4), (127, 8)])
def test_a_larger_image_is_folded_to_a_grid_of_at_most_16(size: int, patch: int) -> None:
    assert make_plan(images(size), DiffusionSettings(), "cpu").network.patch == patch


def test_minutes_become_images_at_the_measured_speed() -> None:
    settings = DiffusionSettings(minutes=2)
    plan = set_length(
        dataclasses.replace(make_plan(images(8), settings, "cpu"), images_per_second=250.0), settings, 100
    )
    assert plan.images == 30_000
    assert plan.expected_seconds == pytest.approx(120)
    assert "2 minutes (as set) at 250 images/s" in plan.reasons[-2]


def test_without_a_budget_ten_minutes() -> None:
    plan = planned_at(100.0, DiffusionSettings())
    assert plan.images == 60_000
    assert "the default" in plan.reasons[-2]


def test_images_as_set() -> None:
    settings = DiffusionSettings(images=12_345, batch_size=50)
    plan = set_length(make_plan(images(8), settings, "cpu"), settings, 100)
    assert (plan.images, plan.steps, plan.expected_seconds) == (12_345, 247, None)


def test_survives_json() -> None:
    settings = DiffusionSettings(images=100)
    plan = set_length(make_plan(images(30, 3), settings, "cuda"), settings, 100)
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@pytest.mark.parametrize("size", [8, 28, 64])
def test_the_cpu_network_has_about_a_million_parameters(size: int) -> None:
    network = UNet(make_plan(images(size), DiffusionSettings(), "cpu").network)
    assert 0.7e6 < sum(parameter.numel() for parameter in network.parameters()) < 2e6


def test_measured_speed_is_positive_and_leaves_no_trace(blobs, plan, settings, monkeypatch) -> None:
    monkeypatch.setattr("diffaug.diffusion.measuring.SECONDS", 0.05)
    assert measure_images_per_second(TrainingData.of(blobs, settings, "cpu"), plan, settings) > 0
