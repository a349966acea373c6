"""The plan of a training, chosen from the images and the device."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from pydantic import TypeAdapter

from diffaug.configuration.settings import DiffusionSettings
from diffaug.data.images import LabeledImages
from diffaug.diffusion.network.unet import NUM_CONDITIONS, NetworkConfig
from diffaug.diffusion.planning import defaults
from diffaug.diffusion.planning.costs import Costs, RouteOption
from diffaug.diffusion.planning.length import LEAST_IMAGES_SEEN, PILOT_SHARE, LengthChoice, PilotPlan
from diffaug.diffusion.planning.presets import FINE_IMAGES_SEEN, PRESETS, choose_preset, fold
from diffaug.diffusion.planning.sources import InitialWeights, PretrainedModel, UnlabeledPlan
from diffaug.diffusion.process.process import noise_scale_of
from diffaug.runtime.devices import computes_in_bfloat16


@dataclass(frozen=True)
class Plan:
    """A training that is decided down to the number of images, so that a resumed one ends where it would have.

    Attributes:
        image_size: Height and width of the images that the generator makes, in px.
        channels: Of these images.
        unet: The network that is trained, or the first of several; None if the route trains none of diffaug.
        route: Name of the way to the generator.
        share: Of the time, what the training of `unet` gets, in (0, 1]; the rest is for what the route trains besides.
        recommended_images: Images seen that are usual for these images; 0 if nothing is trained.
        images_seen: Length of the training in images seen, the most it may be until the pilot has chosen it. 0 until it
            is decided, see `set_length`.
        preset: Name of the size of `unet`.
        images_per_second: Speed measured on this device; 0 if it was not measured.
        seconds_besides: What else the route does in its longest training is expected to take, pilot included; 0 if
            there is nothing, or the speed was not measured.
        augmentation: Probability of each geometric augmentation.
        decays: Whether the learning rate falls to 0 at the end, which makes weights on the way useless as they are.
        seconds: Deadline of the fit, from the beginning of its pilot on. None: the length alone decides.
        pilot: What the pilot is trained on and for how long; None: there is none.
        length: What the pilot chose; None before.
        unlabeled: How unlabeled images take part; None: not at all.
        initial: The earlier generator that it continues from; None: random weights.
        pretrained: The model of others that it is built on; None: there is none.
        reasons: One sentence per choice.
        costs: What the whole job is expected to take, if that was measured. Two plans that differ in nothing but this,
            the reasons, the options and `seconds_besides` are equal.
        options: All routes compared, if that was asked for.
    """

    image_size: tuple[int, int]
    channels: int
    unet: NetworkConfig | None
    batch_size: int
    learning_rate: float
    recommended_images: int
    route: str = "pixels"
    share: float = 1.0
    images_seen: int = 0
    preset: str = "small"
    images_per_second: float = 0.0
    precision: str = "float32"
    compiled: bool = False
    device: str = "cpu"
    augmentation: float = 0.0
    horizontal_flip: bool = False
    decays: bool = True
    seconds: float | None = None
    pilot: PilotPlan | None = None
    length: LengthChoice | None = None
    unlabeled: UnlabeledPlan | None = None
    initial: InitialWeights | None = None
    pretrained: PretrainedModel | None = None
    reasons: tuple[str, ...] = field(default=(), compare=False)
    costs: Costs | None = field(default=None, compare=False)
    options: tuple[RouteOption, ...] = field(default=(), compare=False)
    seconds_besides: float = field(default=0.0, compare=False)

    @property
    def network(self) -> NetworkConfig:
        """The network that is trained; only for routes that have one."""
        assert self.unet is not None, f"the route {self.route} trains no network"
        return self.unet

    @property
    def unit(self) -> str:
        """What the network counts as a position: px, or latents if it sees other channels than the images have."""
        return "px" if self.unet is None or self.unet.channels == self.channels else "latents"

    @property
    def steps(self) -> int:
        """Length of the training in steps."""
        return max(1, round(self.images_seen / self.batch_size))

    @property
    def longest_images_seen(self) -> int:
        """The greatest length in images seen, from which the pilot may have chosen a smaller one."""
        if self.pilot is None:
            return self.images_seen
        return max(self.images_seen, round(self.pilot.images_seen * (1 - PILOT_SHARE) / PILOT_SHARE))

    @property
    def labeled_share(self) -> float:
        """Share of labeled images in a batch, in [1/2, 1]."""
        return 1 - self.unlabeled.share if self.unlabeled else 1.0

    @property
    def expected_seconds(self) -> float | None:
        """The longest duration that is expected, with the pilot; None if the speed was not measured."""
        if not self.images_per_second:
            return None
        images_seen = self.images_seen + (self.pilot.images_seen if self.pilot else 0)
        return images_seen / self.images_per_second + self.seconds_besides


PLAN = TypeAdapter(Plan)
"""Reads and writes plans."""


def make_plan(
    images: LabeledImages,
    settings: DiffusionSettings,
    device: str,
    *,
    base_channels: int | None = None,
    latent_shape: tuple[int, int, int] | None = None,
) -> Plan:
    """Decides everything except the length, which needs a measured speed.

    Args:
        images: The training images.
        settings: Those of the training.
        device: Where it is trained.
        base_channels: Width of the network, if it is set.
        latent_shape: Channels, height and width of what the network sees instead of pixels, without augmentation.
    """
    *image_size, image_channels = images.pixels.shape[1:]
    channels, height, width = latent_shape or (image_channels, *image_size)
    name = choose_preset(len(images), settings, device)
    preset = PRESETS[name]
    patch = fold(height * width, preset.grid)
    # The width is that of what images fold into, but at most twice the preset's; see `UNet.skip`.
    width_of_fold = min(channels * patch**2 // 16 * 16, 2 * preset.base_channels)
    network = NetworkConfig(
        image_size=(height, width),
        channels=channels,
        num_classes=len(images.classes),
        patch=patch,
        base_channels=base_channels or max(preset.base_channels, width_of_fold),
        channel_multipliers=preset.channel_multipliers,
        blocks=preset.blocks,
        dropout=settings.dropout,
        conditions=0 if latent_shape else NUM_CONDITIONS,
        objective=settings.objective,
        noise_scale=noise_scale_of((height, width)) if settings.objective == "edm" else 1.0,
    )
    # DDPM's mean is x - sigma eps, which would multiply the rounding of bfloat16 by up to 80.
    precision = "bfloat16" if settings.objective == "edm" and computes_in_bfloat16(device) else "float32"
    return Plan(
        (image_size[0], image_size[1]),
        image_channels,
        network,
        batch_size=settings.batch_size or preset.batch_size,
        learning_rate=settings.learning_rate or preset.learning_rate,
        recommended_images=enough_images(images),
        images_seen=settings.images_seen or 0,
        preset=name,
        precision=precision if settings.precision == "auto" else settings.precision,
        compiled=settings.compile is True,
        device=device,
        horizontal_flip=settings.horizontal_flip,
    )


def enough_images(images: LabeledImages) -> int:
    """The most images that a training usually sees: the commonest class 150 times each, small data sets more often."""
    counts = np.bincount(images.labels)
    shares = counts[counts > 0].astype(float) ** defaults.CLASS_TEMPERATURE
    share_of_commonest = float(shares.max() / shares.sum())
    rgb = images.pixels.shape[-1] >= 3
    least = defaults.MIN_IMAGES_SEEN_RGB if rgb else defaults.MIN_IMAGES_SEEN_GRAY
    return max(least, round(defaults.VIEWS_OF_COMMONEST_CLASS * int(counts.max()) / share_of_commonest))


def precision_candidates(plan: Plan, settings: DiffusionSettings) -> Iterator[Plan]:
    """The plan in each precision, compiled or not, that may be the fastest here. Measuring decides.

    Whether bfloat16 pays on a CPU depends on its instructions. Compiling is tried only on a GPU and for long trainings:
    on a CPU, where convolutions take most of the time, it was slower.
    """
    precisions: list[str] = [settings.precision]
    if settings.precision == "auto":
        undecided = plan.device == "cpu" and settings.images_seen is None and settings.objective == "edm"
        precisions = ["float32", "bfloat16"] if undecided else [plan.precision]
    plans = [replace(plan, precision=precision, compiled=settings.compile is True) for precision in precisions]
    yield from plans
    if len(plans) > 1 and not plan.compiled:  # again, so that a machine that is busy for a moment does not choose
        yield from plans
    long = (settings.minutes or defaults.ASSUMED_MINUTES) >= defaults.MIN_MINUTES_TO_COMPILE
    if settings.compile == "auto" and plan.device == "cuda" and long:
        yield replace(plans[-1], compiled=True)


def halve_batch_if_too_few_steps(plan: Plan, settings: DiffusionSettings, smallest: int = 1) -> Plan:
    """The plan with half the batch if its length would give fewer steps than a network needs.

    On a CPU an image costs nearly the same in any batch. On a GPU small batches leave it idle, so there the batch
    stays, and so does a batch size that was set. The learning rate is never changed.
    """
    half = plan.batch_size // 2
    fixed = settings.batch_size is not None or plan.device != "cpu" or half < max(defaults.MIN_BATCH_SIZE, smallest)
    expected = min(plan.recommended_images, _wanted_images(plan, settings))  # however much more is allowed
    if fixed or expected / plan.batch_size >= defaults.ENOUGH_STEPS:
        return plan
    return replace(plan, batch_size=half)


def set_length(plan: Plan, settings: DiffusionSettings, num_images: int, pilot: PilotPlan | None = None) -> Plan:
    """Decides the greatest length, in whole batches, the deadline, and whether images are augmented.

    Args:
        plan: The plan, with the measured speed unless the length is set in images.
        settings: Those of the training.
        num_images: Images to train on.
        pilot: What the pilot is trained on, if there may be one; its own length is decided here.

    Where nothing is trained, a pilot costs nothing, and it leaves images to choose on that it does not vary.
    """
    if not plan.recommended_images:
        return replace(plan, images_seen=0, unlabeled=None, pilot=pilot)
    images_seen = _in_batches(_wanted_images(plan, settings, with_pilot=pilot is not None), plan)
    if pilot is not None:
        half = _in_batches(images_seen * PILOT_SHARE / (1 - PILOT_SHARE), plan)
        pilot = replace(pilot, images_seen=half) if half >= LEAST_IMAGES_SEEN else None
    augmentation = settings.augmentation
    if augmentation is None:
        often = plan.unet is not None and plan.labeled_share * images_seen >= defaults.AUGMENTATION_VIEWS * num_images
        augmentation = defaults.AUGMENTATION_PROBABILITY if often else 0.0
    if plan.unet is None or not plan.unet.conditions:  # it could not be told how images were augmented
        augmentation = 0.0
    seconds = None if settings.images_seen is not None else 60 * longest_minutes(settings)
    return replace(plan, images_seen=images_seen, augmentation=augmentation, seconds=seconds, pilot=pilot)


def plan_of_pilot(plan: Plan) -> Plan:
    """The plan of the pilot; its learning rate stays, since any of its lengths may be chosen."""
    assert plan.pilot is not None
    seconds = None if plan.seconds is None else PILOT_SHARE * plan.seconds
    return replace(plan, images_seen=plan.pilot.images_seen, decays=False, seconds=seconds, pilot=None, reasons=())


def with_chosen_length(plan: Plan, length: LengthChoice, num_images: int) -> Plan:
    """The plan of the training on all images, as many views of each as the pilot chose, within its greatest length.

    Where the pilot was best at its end, nothing speaks against the greatest length.
    """
    wanted = plan.images_seen if length.is_longest else min(plan.images_seen, length.views * num_images)
    return replace(plan, images_seen=_in_batches(wanted, plan), length=length)


def longest_minutes(settings: DiffusionSettings) -> float:
    """The minutes that the fit may take."""
    return settings.minutes or defaults.MAX_MINUTES


def affordable_images(plan: Plan, settings: DiffusionSettings, *, with_pilot: bool) -> int:
    """Images that a training sees in its part of the time at the measured speed."""
    share = 1 - PILOT_SHARE if with_pilot else 1
    return round(plan.share * share * 60 * longest_minutes(settings) * plan.images_per_second)


def _wanted_images(plan: Plan, settings: DiffusionSettings, *, with_pilot: bool = False) -> int:
    """The greatest length. Minutes are a limit; only a pilot may find that more than usual helps."""
    if settings.images_seen is not None:
        return settings.images_seen
    affordable = affordable_images(plan, settings, with_pilot=with_pilot)
    return max(plan.batch_size, affordable if with_pilot else min(affordable, plan.recommended_images))


def sees_enough_for_fine(plan: Plan, settings: DiffusionSettings, *, with_pilot: bool) -> bool:
    """Whether a fine network may see enough images, at its measured speed, to be better than the small one."""
    return _wanted_images(plan, settings, with_pilot=with_pilot) >= FINE_IMAGES_SEEN


def _in_batches(images: float, plan: Plan) -> int:
    return plan.batch_size * max(1, round(images / plan.batch_size))
