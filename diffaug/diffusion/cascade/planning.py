"""What the super-resolution network is, and how it is trained."""

from __future__ import annotations

import math
from dataclasses import replace

from diffaug.diffusion.network.unet import NetworkConfig
from diffaug.diffusion.planning.planning import Plan

WIDTH, BLOCKS = 64, 4
LEAST_WIDTH_OF_FOLD = 1.5
"""The network is wider than the values of a patch by this factor, since it has to carry their noise."""
LEAST_BATCH, BATCH_OF_BASE, LEARNING_RATE = 16, 1 / 4, 2e-3
LEAST_STEPS, ENOUGH_STEPS = 500, 3_000
"""All chosen by hand. A crop costs as much as several images of the base, so fewer are in a batch. The least: after 200
steps detail was better than none on unlabeled images of neu-lt, after 150 it was worse on training images of flowers.
"""


def upscaler_network(
    image_size: tuple[int, int],
    base_size: tuple[int, int],
    *,
    channels: int,
    num_classes: int,
    width: int,
    blocks: int,
) -> NetworkConfig:
    """The network that draws the detail of images of a size, given those of the base.

    Images are folded by about the factor between the sizes, so that convolutions run at the base's size.
    """
    patch = max(1, round(max(full / small for full, small in zip(image_size, base_size, strict=True))))
    least = 16 * math.ceil(LEAST_WIDTH_OF_FOLD * channels * patch**2 / 16)
    return NetworkConfig(
        image_size=image_size,
        channels=channels,
        num_classes=num_classes,
        patch=patch,
        base_channels=max(width, least),
        channel_multipliers=(1,),
        blocks=blocks,
        dropout=0.0,
        architecture="local",
    )


def plan_of_upscaler(plan: Plan, num_classes: int) -> Plan:
    """The plan of the super-resolution network that goes with a base's plan; it ends by the same deadline.

    It sees as many crops as the base may see images, but takes no more steps than are enough: what it learns is local,
    so that it is short of steps and not of images, and needs neither a pilot nor augmentation. A short length that a
    pilot has chosen, so that the base copies nothing, is none for it.
    """
    base_size = plan.network.image_size
    shape = {"channels": plan.channels, "num_classes": num_classes, "width": WIDTH, "blocks": BLOCKS}
    network = upscaler_network(plan.image_size, base_size, **shape)
    batch = max(LEAST_BATCH, round(BATCH_OF_BASE * plan.batch_size))
    return replace(
        plan,
        unet=network,
        batch_size=batch,
        learning_rate=LEARNING_RATE,
        images_seen=batch * max(1, min(plan.longest_images_seen // batch, ENOUGH_STEPS)),
        augmentation=0.0,
        decays=True,
        pilot=None,
        length=None,
        initial=None,
    )
