"""What an autoencoder keeps of the training images, measured once per study."""

from __future__ import annotations

from pydantic import TypeAdapter

from diffaug.classifiers.encoders.by_name import encoder_by_name, typical_side
from diffaug.diffusion.latent.cache import LatentCache
from diffaug.diffusion.latent.reconstruction import Reconstruction, measure_reconstruction
from diffaug.files import storage
from diffaug.files.records import read_signed_record, write_signed_record
from diffaug.files.stage_records import stage_record
from diffaug.stages.fitting.work import Work
from diffaug.stages.job import FIT_RUN

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
