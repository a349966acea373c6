from dataclasses import replace

import pytest

from diffaug.diffusion.cascade.planning import ENOUGH_STEPS, plan_of_upscaler
from diffaug.diffusion.cascade.reducing import base_size_of
from diffaug.diffusion.network.unet import NetworkConfig
from diffaug.diffusion.planning.length import PilotPlan
from diffaug.diffusion.planning.planning import Plan


def plan(image_size: tuple[int, int], base: tuple[int, int], channels: int = 1) -> Plan:
    network = NetworkConfig(base, channels, 3, 4, 32, (1, 2), 1, 0.1)
    return Plan(image_size, channels, network, 64, 1e-3, 0, images_seen=6400)


@pytest.mark.parametrize(
    ("image_size", "base", "channels", "patch", "width"),
    [
        ((192, 192), (64, 64), 1, 3, 64),
        ((200, 200), (64, 64), 1, 3, 64),
        ((128, 192), (64, 96), 3, 2, 64),
        ((256, 256), (64, 64), 3, 4, 80),  # 48 values per patch
        ((1024, 1024), base_size_of((1024, 1024)), 3, 4, 80),  # no larger network, whatever the size
    ],
)
def test_convolutions_run_at_about_the_base_size_and_carry_the_noise(image_size, base, channels, patch, width) -> None:
    network = plan_of_upscaler(plan(image_size, base, channels), 3).network
    assert (network.image_size, network.patch, network.base_channels) == (image_size, patch, width)
    assert (network.channels, network.num_classes, network.architecture) == (channels, 3, "local")


def test_the_upscaler_follows_the_base_but_has_no_pilot() -> None:
    base = replace(plan((128, 128), (64, 64)), seconds=60.0, pilot=PilotPlan(64, 5, 5), augmentation=0.1)
    own = plan_of_upscaler(base, 3)
    assert (own.seconds, own.pilot, own.augmentation, own.decays) == (60.0, None, 0.0, True)
    assert (own.batch_size, own.images_seen) == (16, 6400)
    assert plan_of_upscaler(replace(base, images_seen=10**6), 3).steps == ENOUGH_STEPS
    assert plan_of_upscaler(replace(base, images_seen=64, pilot=PilotPlan(640, 5, 5)), 3).images_seen == 1280
    assert plan_of_upscaler(replace(base, images_seen=640, pilot=None), 3).images_seen == 640
    assert plan_of_upscaler(replace(base, images_seen=1, pilot=None), 3).steps == 1
    assert plan_of_upscaler(replace(base, batch_size=256), 3).batch_size == 64
