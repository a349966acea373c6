"""The route that trains a small generator, and then a network that enlarges its images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from diffaug.data.images import LabeledImages
from diffaug.diffusion.cascade.crops import Crops
from diffaug.diffusion.cascade.detail import DetailScale
from diffaug.diffusion.cascade.generator import CascadeGenerator
from diffaug.diffusion.cascade.planning import plan_of_upscaler
from diffaug.diffusion.cascade.reducing import Reduction, base_size_of
from diffaug.diffusion.cascade.upscaler import Upscaler
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.generator.network_files import for_inference
from diffaug.diffusion.generator.pixels import PixelGenerator
from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.planning.memory import training_bytes
from diffaug.diffusion.planning.planning import Plan, make_plan, plan_of_pilot
from diffaug.diffusion.planning.reasons import expected_quality
from diffaug.diffusion.process.normalization import Normalization
from diffaug.diffusion.training.batches import TrainingData
from diffaug.diffusion.training.measuring import measure_images_per_second
from diffaug.runtime.distributed import current
from diffaug.stages.fitting.routes.cascading import train_cascade
from diffaug.stages.fitting.routes.pixels import MOST_MEASURED_IMAGES, evenly_chosen
from diffaug.stages.fitting.routes.view_levels import USUAL_LEVEL
from diffaug.stages.fitting.work import Work
from diffaug.stages.job import Job

BASE_SHARE = 0.5
"""Of the time, what the base gets. Chosen by hand: the base decides what is shown, the upscaler how sharp it is."""
MOST_MEASURED_CROPPED = 64
"""Images whose crops the speed of the upscaler is measured on; the number hardly matters to it."""
VIEWS_IN_BATCH = 4
"""Whole images kept per crop: the image, its noisy view and what becomes of them."""


class CascadeRoute:
    """A UNet denoises small images, a local network draws their detail; see `Route`."""

    name = "cascade"

    def possible(self, job: Job, images: LabeledImages) -> str:
        """Empty if the images are larger than what the base makes."""
        height, width = images.pixels.shape[1:3]
        if base_size_of((height, width)) != (height, width):
            return ""
        return f"images of {width} x {height} px are no larger than those that its base makes"

    def plan(self, job: Job, images: LabeledImages) -> Plan:
        """That of the base, see `make_plan`; that of the upscaler follows from it."""
        height, width, channels = images.pixels.shape[1:]
        shape = (len(images), *base_size_of((height, width)), channels)
        small = replace(images, pixels=np.broadcast_to(np.uint8(0), shape))
        plan = make_plan(small, job.config.diffusion, job.device, base_channels=job.config.advanced.base_channels)
        _, h, w, _ = shape
        said = f"cascade: a base makes images of {w} x {h} px, and a second network enlarges them to {width} x {height}"
        return replace(plan, image_size=(height, width), share=BASE_SHARE, reasons=(*plan.reasons, said))

    def images_per_second(self, job: Job, images: LabeledImages, plan: Plan) -> float:
        """The speed of the base."""
        reduction = Reduction(plan.image_size, plan.network.image_size)
        small = reduction.images(evenly_chosen(images, MOST_MEASURED_IMAGES))
        return measure_images_per_second(TrainingData.of(small, job.device), plan, current())

    def seconds_besides(self, job: Job, images: LabeledImages, plan: Plan) -> float:
        """Of training the upscaler, in the pilot too, at its own speed."""
        few = evenly_chosen(images, MOST_MEASURED_CROPPED)
        crops = Crops.of(few, plan.network.image_size, job.device)
        upscalers = [
            plan_of_upscaler(one, len(images.classes))
            for one in ([plan, plan_of_pilot(plan)] if plan.pilot else [plan])
        ]
        speed = measure_images_per_second(crops, upscalers[0], current())
        return sum(one.images_seen for one in upscalers) / speed

    def untrained(self, job: Job, images: LabeledImages, plan: Plan) -> Generator:
        """Both networks with initial weights."""
        few = evenly_chosen(images, 64)
        reduction, normalization = Reduction(plan.image_size, plan.network.image_size), Normalization.of(few.pixels)
        scale = DetailScale.of(few.pixels, reduction.reduced(few.pixels), reduction, normalization)
        network = plan_of_upscaler(plan, len(images.classes)).network
        return CascadeGenerator(
            classes=images.classes,
            weights_sha256="",
            base=PixelGenerator(
                classes=images.classes,
                weights_sha256="",
                denoiser=for_inference(Denoiser(plan.network), job.device),
                normalization=normalization,
            ),
            upscaler=Upscaler(for_inference(Denoiser(network), job.device), scale, USUAL_LEVEL),
        )

    def bytes_needed(self, plan: Plan) -> int:
        """Of the network that needs more; they are trained one after the other."""
        upscaler = plan_of_upscaler(plan, plan.network.num_classes)
        pixels = upscaler.batch_size * plan.channels * plan.image_size[0] * plan.image_size[1]
        of_upscaler = training_bytes(upscaler.network, upscaler.batch_size) + 4 * VIEWS_IN_BATCH * pixels
        return max(training_bytes(plan.network, plan.batch_size), of_upscaler)

    def expectation(self, plan: Plan) -> str:
        """That of the base, sharp."""
        height, width = plan.network.image_size
        return f"{expected_quality(plan)} at {width} x {height} px, enlarged with detail like that of the real images"

    def train(self, work: Work) -> None:
        """See `train_cascade`."""
        train_cascade(work)
