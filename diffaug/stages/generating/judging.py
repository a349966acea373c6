"""Who judges the images of a pool: the encoder that the filters may use, and their training with its progress."""

from __future__ import annotations

from dataclasses import dataclass

from diffaug.classifiers.encoders.by_name import encoder_by_name, typical_side
from diffaug.classifiers.encoders.encoder import Encoder
from diffaug.data.catalog import Catalog
from diffaug.data.images import SeenImages
from diffaug.stages.job import Job
from diffaug.synthesis.filters.calibrated import CalibratedFilters
from diffaug.synthesis.filters.preparing import prepare_filters


@dataclass(frozen=True)
class Judge:
    """The encoder for the filters, and whether it is used only where it recognizes more real images; None: without."""

    encoder: Encoder | None
    only_if_better: bool = False

    @property
    def stored(self) -> dict[str, str]:
        """The settings that a pool depends on: the encoder given in Python, or the named one."""
        if self.encoder is None:
            return {}
        return {"named_encoder" if self.only_if_better else "encoder": self.encoder.name}


def choose_judge(job: Job, catalog: Catalog, encoder: Encoder | None) -> Judge:
    """The encoder given in Python, or the one that the settings name, which has to be better than own classifiers."""
    if encoder is not None:
        return Judge(encoder)
    side = typical_side(catalog.images("train").pixels)
    named = encoder_by_name(job.config.encoder, job.device, image_side=side, say=job.narrator.say)
    return Judge(named, only_if_better=named is not None)


def train_filters(job: Job, catalog: Catalog, judge: Judge) -> CalibratedFilters:
    """The filters of the study, trained and calibrated on the real images unless they are there."""
    folder, config = job.study.filters, job.config
    job.narrator.say("training and calibrating the filters on the real images ...")
    filters = prepare_filters(
        folder,
        catalog.images("train"),
        catalog.groups("train"),
        settings=config.synthesis,
        seed=config.seed,
        device=job.device,
        encoder=judge.encoder,
        only_if_better=judge.only_if_better,
        seen=seen_images(job, catalog),
        max_steps=config.advanced.filter_max_steps,
        progress=job.narrator.progress,
    )
    _tell_choice(job, filters)
    return filters


def seen_images(job: Job, catalog: Catalog) -> SeenImages:
    """All images that a copy may show: those of train, and unlabeled ones unless they are ignored."""
    return catalog.seen_images(unlabeled=job.config.diffusion.unlabeled != "ignore")


def _tell_choice(job: Job, filters: CalibratedFilters) -> None:
    """Says how well the classifiers of the filters know the real images, and why these were taken."""
    found = filters.recognition
    kinds = {"networks trained on the images": found.networks, "features of a pretrained encoder": found.encoder}
    known = {kind: value for kind, value in kinds.items() if value is not None}
    (best, value), *others = sorted(known.items(), key=lambda item: -item[1])
    instead = "".join(f"; {kind}: {other:.0%}" for kind, other in others)
    job.narrator.say(
        f"the filters judge by {best}, which recognize {value:.0%} of the held-out real images of a class on average"
        f"{instead}"
    )
