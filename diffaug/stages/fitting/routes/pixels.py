"""The route that trains a network on the pixels themselves."""

from __future__ import annotations

import numpy as np

from diffaug.data.images import LabeledImages
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.generator.network_files import for_inference, write_network
from diffaug.diffusion.generator.pixels import PixelGenerator
from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.planning.memory import training_bytes
from diffaug.diffusion.planning.planning import Plan, make_plan
from diffaug.diffusion.planning.reasons import expected_quality
from diffaug.diffusion.process.normalization import Normalization
from diffaug.diffusion.training.batches import TrainingData
from diffaug.diffusion.training.measuring import measure_images_per_second
from diffaug.runtime.distributed import current
from diffaug.stages.fitting.networks import pixel_preview, write_description
from diffaug.stages.fitting.training import train_network
from diffaug.stages.fitting.work import Work
from diffaug.stages.job import Job

MOST_MEASURED_IMAGES = 2048


def evenly_chosen(images: LabeledImages, count: int) -> LabeledImages:
    """At most `count` images at equal distances."""
    return images.select(np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(np.int64)))


class PixelRoute:
    """One UNet denoises the pixels; see `Route`."""

    name = "pixels"

    def possible(self, job: Job, images: LabeledImages) -> str:
        """Always."""
        return ""

    def plan(self, job: Job, images: LabeledImages) -> Plan:
        """See `make_plan`."""
        return make_plan(images, job.config.diffusion, job.device, base_channels=job.config.advanced.base_channels)

    def images_per_second(self, job: Job, images: LabeledImages, plan: Plan) -> float:
        """See `measure_images_per_second`."""
        data = TrainingData.of(evenly_chosen(images, MOST_MEASURED_IMAGES), job.device)
        return measure_images_per_second(data, plan, current())

    def seconds_besides(self, job: Job, images: LabeledImages, plan: Plan) -> float:
        """Nothing else is done."""
        return 0.0

    def untrained(self, job: Job, images: LabeledImages, plan: Plan) -> Generator:
        """A network with initial weights."""
        return PixelGenerator(
            classes=images.classes,
            weights_sha256="",
            denoiser=for_inference(Denoiser(plan.network), job.device),
            normalization=Normalization.of(evenly_chosen(images, 64).pixels),
        )

    def bytes_needed(self, plan: Plan) -> int:
        """See `training_bytes`."""
        return training_bytes(plan.network, plan.batch_size)

    def expectation(self, plan: Plan) -> str:
        """By the number of images seen."""
        return expected_quality(plan)

    def train(self, work: Work) -> None:
        """Trains the network and writes it."""
        data = TrainingData.of(work.holdout.trained, work.job.device, unlabeled=work.unlabeled)
        if not data.is_on_device:
            work.job.narrator.say("the images take more than half of the GPU's free memory; batches are copied to it")
        trained = train_network(work, data, pixel_preview(work, data))
        if trained is None:
            return
        write_network(work.folder, work.plan.network, data.normalization, trained.weights, trained.guide)
        write_description(work, data, self.name, trained)
