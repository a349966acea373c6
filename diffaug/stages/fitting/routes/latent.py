"""The route that trains a network on the latents of a frozen autoencoder."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import lru_cache

from pydantic import TypeAdapter

from diffaug.classifiers.encoders.by_name import encoder_by_name, typical_side
from diffaug.data.images import LabeledImages
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.generator.network_files import for_inference, write_network
from diffaug.diffusion.latent.autoencoder import Autoencoder, open_autoencoder, require_known
from diffaug.diffusion.latent.cache import LatentCache
from diffaug.diffusion.latent.codec import Codec
from diffaug.diffusion.latent.data import LatentData
from diffaug.diffusion.latent.files import write_autoencoder
from diffaug.diffusion.latent.folder import AutoencoderFolder
from diffaug.diffusion.latent.generator import LatentGenerator
from diffaug.diffusion.latent.reconstruction import Reconstruction, measure_reconstruction, require_classes_kept
from diffaug.diffusion.network.denoiser import Denoiser
from diffaug.diffusion.planning.memory import training_bytes
from diffaug.diffusion.planning.planning import Plan, make_plan
from diffaug.diffusion.planning.reasons import expected_quality
from diffaug.diffusion.training.measuring import measure_images_per_second
from diffaug.errors import UsageError
from diffaug.files import storage
from diffaug.files.records import read_signed_record, write_signed_record
from diffaug.files.stage_records import stage_record
from diffaug.runtime.distributed import current
from diffaug.stages.fitting.networks import Preview, write_description
from diffaug.stages.fitting.routes.pixels import evenly_chosen
from diffaug.stages.fitting.training import train_network
from diffaug.stages.fitting.work import Work
from diffaug.stages.job import FIT_RUN, Job

MEASURED_IMAGES, TIMED_IMAGES = 64, 4
LATENTS = "catalog-latents"
"""Folder of the study, beside the catalog, that keeps latents."""


class LatentRoute:
    """One UNet denoises the latents of an autoencoder that the user has on disk; see `Route`."""

    name = "latent"

    def possible(self, job: Job, images: LabeledImages) -> str:
        """If an autoencoder is given, and nothing is set that works on pixels alone."""
        settings = job.config.diffusion
        if settings.autoencoder is None:
            return "no autoencoder is given; name its folder with --autoencoder FOLDER"
        obstacles = {
            "it does not learn images in their own proportions; --set data.resize=squeeze": images.boxes is not None,
            "it has the objective edm alone; --set diffusion.objective=edm": settings.objective != "edm",
            "latents can't be augmented; leave diffusion.augmentation out": bool(settings.augmentation),
            "it can't continue from an earlier generator; leave --init out": settings.init is not None,
        }
        found = [reason for reason, is_there in obstacles.items() if is_there]
        try:
            require_known(AutoencoderFolder.find(settings.autoencoder))
        except UsageError as error:
            found.append(f"{error.what} ({error.where}); {error.fix}")
        return "; and ".join(found)

    def plan(self, job: Job, images: LabeledImages) -> Plan:
        """See `make_plan`; the network is one of latents."""
        settings, wide = job.config.diffusion, job.config.advanced.base_channels
        shape = _Latents(job, images).codec.latent_shape
        return make_plan(images, settings, job.device, base_channels=wide, latent_shape=shape)

    def images_per_second(self, job: Job, images: LabeledImages, plan: Plan) -> float:
        """See `measure_images_per_second`."""
        few = evenly_chosen(images, MEASURED_IMAGES)
        data = LatentData.encode(few, job.device, _Latents(job, images).cache)
        return measure_images_per_second(data, plan, current())

    def seconds_besides(self, job: Job, images: LabeledImages, plan: Plan) -> float:
        """Of encoding each image once, and once more mirrored if the plan does so."""
        few = images.pixels[:TIMED_IMAGES]
        began = time.perf_counter()
        _Latents(job, images).codec.encode(few).mean.cpu()
        seconds_per_image = (time.perf_counter() - began) / len(few)
        return (1 + plan.horizontal_flip) * len(images) * seconds_per_image

    def untrained(self, job: Job, images: LabeledImages, plan: Plan) -> Generator:
        """A network with initial weights."""
        latents = _Latents(job, images)
        data = LatentData.encode(evenly_chosen(images, MEASURED_IMAGES), job.device, latents.cache)
        denoiser = for_inference(Denoiser(plan.network), job.device)
        return latents.generator(denoiser, data, images.classes)

    def bytes_needed(self, plan: Plan) -> int:
        """See `training_bytes`."""
        return training_bytes(plan.network, plan.batch_size)

    def expectation(self, plan: Plan) -> str:
        """By the number of images seen."""
        return f"{expected_quality(plan)}, with details as fine as the autoencoder draws them"

    def train(self, work: Work) -> None:
        """Encodes the images, trains the network and writes it.

        Raises:
            DataError: The autoencoder loses the classes.
        """
        job, group, images = work.job, current(), work.holdout.trained
        latents, unlabeled = _Latents(job, images), work.unlabeled
        with group.main_first():
            found = kept_reconstruction(work, latents.cache)
            if found is not None:
                require_classes_kept(found, str(latents.folder.path))
            data = LatentData.encode(
                images,
                job.device,
                latents.cache,
                unlabeled=unlabeled,
                mirrored=work.plan.horizontal_flip,
                progress=lambda done, total: job.narrator.progress("encoding images", done, total),
            )
        trained = train_network(work, data, latents.preview(data, work.classes))
        if trained is None:
            return
        write_network(work.folder, work.plan.network, data.latent_normalization, trained.weights, trained.guide)
        write_autoencoder(work.folder, latents.folder, found)
        facts = {**trained.facts, **latents.facts(found)}
        write_description(work, data, self.name, replace(trained, facts=facts))


class _Latents:
    """The autoencoder that the settings name, for images of one shape."""

    def __init__(self, job: Job, images: LabeledImages) -> None:
        assert job.config.diffusion.autoencoder is not None
        self.folder = AutoencoderFolder.find(job.config.diffusion.autoencoder)
        height, width, channels = images.pixels.shape[1:]
        sha256 = self.folder.sha256
        self.codec = Codec(_opened(self.folder, sha256, job.device), (height, width), channels)
        self.cache = LatentCache.of(self.codec, sha256, job.study.path / LATENTS)

    def generator(self, denoiser: Denoiser, data: LatentData, classes: tuple[str, ...]) -> LatentGenerator:
        """A generator that is not on disk."""
        return LatentGenerator(
            classes=classes,
            weights_sha256="",
            codec=self.codec,
            denoiser=denoiser,
            normalization=data.latent_normalization,
        )

    def preview(self, data: LatentData, classes: tuple[str, ...]) -> Preview:
        """Generators of networks that are being trained."""

        def preview(denoiser: Denoiser) -> LatentGenerator:
            return self.generator(denoiser, data, classes)

        return preview

    def facts(self, found: Reconstruction | None) -> dict[str, str | int]:
        """For the model card."""
        said = "not measured" if found is None else str(found)
        named = f"{self.folder.class_name} of {self.folder.path}, sha256 {self.folder.sha256[:12]}"
        return {"autoencoder": named, "reconstruction": said}


@lru_cache(maxsize=1)
def _opened(folder: AutoencoderFolder, sha256: str, device: str) -> Autoencoder:
    """The autoencoder, which planning and training share; opened anew once its files have another hash."""
    del sha256
    return open_autoencoder(folder, device)


_RECONSTRUCTION: TypeAdapter[Reconstruction | None] = TypeAdapter(Reconstruction | None)


def kept_reconstruction(work: Work, cache: LatentCache) -> Reconstruction | None:
    """What the pilot has measured, or is measured now, on the images of the work; None if it can't be measured.

    It is printed and logged once. Processes call it one after another, the main one first.
    """
    job, images = work.job, work.holdout.trained
    begun = stage_record(job.study.generator)
    parts = [begun.inputs["catalog"] if begun else work.catalog.fingerprint, job.config.encoder, job.config.seed]
    file = cache.home / f"reconstruction-{storage.fingerprint(parts)[:16]}.json"
    if file.exists():
        return read_signed_record(file, _RECONSTRUCTION)
    job.narrator.say("measuring what the autoencoder keeps of the images ...")
    encoder = encoder_by_name(
        job.config.encoder, job.device, image_side=typical_side(images.pixels), say=job.narrator.say
    )
    found = measure_reconstruction(
        cache,
        images,
        work.holdout.groups[: len(images)],
        encoder,
        seed=job.config.seed,
        progress=lambda done, total: job.narrator.progress("reconstructing images", done, total),
    )
    if found is None:
        job.narrator.warn("whether the autoencoder keeps the classes can't be measured: no image can be left out")
    else:
        job.narrator.say(f"autoencoder: {found}")
        figures = {"psnr": found.psnr, "real": found.real, "reconstructed": found.reconstructed, "loss": found.loss}
        job.journal.log_metrics(FIT_RUN, {f"autoencoder/{name}": value for name, value in figures.items()}, step=0)
    write_signed_record(file, _RECONSTRUCTION, found)
    return found
