"""What transplants and crossed variations are made of: the background class, and the masks of the others."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from diffaug.data.catalog import Catalog
from diffaug.data.images import LabeledImages, ObjectMasks
from diffaug.data.labels import class_of
from diffaug.files import storage
from diffaug.files.records import find_signed_record, write_signed_record
from diffaug.stages.generating.describe_power import longer_training
from diffaug.stages.job import Job
from diffaug.synthesis.audit.power import counted
from diffaug.synthesis.filters.objects import FEWEST_GROUPS
from diffaug.synthesis.filters.scores import UNLIKE_OBJECTS
from diffaug.synthesis.pool.background import (
    ON_BACKGROUND,
    OnBackground,
    TriedOnBackground,
    try_on_background,
    with_background_choices,
)
from diffaug.synthesis.pool.drawn_masks import box_masks, difference_masks, some_of
from diffaug.synthesis.pool.making import ChunkMaker
from diffaug.synthesis.pool.origins import NEW
from diffaug.synthesis.pool.transplants import Backgrounds

SETTING = "advanced.background_class"


@dataclass(frozen=True)
class ChosenMasks:
    """The masks of training images, and the classes for which they were drawn, by name."""

    masks: ObjectMasks
    drawn: tuple[str, ...] = ()


def background_class(job: Job, images: LabeledImages) -> int:
    """The class that others are painted into: the one that is set, else the most frequent one, the first of equals."""
    named = job.config.advanced.background_class
    if named is None:
        return int(np.argmax(images.class_counts))
    return images.classes.index(class_of(named, images.classes, job.study.record.class_to_idx, where=SETTING))


def choose_masks(job: Job, catalog: Catalog) -> ChosenMasks:
    """The masks of the catalog, and drawn ones for classes without any, if they are asked for."""
    masks, how, images = catalog.masks(), job.config.synthesis.mask_from, catalog.images("train")
    if how is None:
        return ChosenMasks(masks)
    given = [(name, mask) for name, mask in zip(masks.ids, masks.pixels, strict=True) if mask.any()]
    background, has_mask = background_class(job, images), {name for name, _ in given}
    classes_with = {images.labels[number] for number, name in enumerate(images.ids) if name in has_mask}
    drawn = [n for n in np.unique(images.labels).tolist() if n != background and n not in classes_with]
    without = np.flatnonzero(np.isin(images.labels, drawn))
    others = np.flatnonzero(images.labels == background)
    others = others[some_of(len(others), job.config.seed)]
    ids = [name for name, _ in given] + [images.ids[position] for position in without.tolist()]
    pixels = np.empty((len(ids), *images.pixels.shape[1:3]), np.bool_)
    for number, (_, mask) in enumerate(given):
        pixels[number] = mask
    for label in drawn:
        own = np.flatnonzero(images.labels == label)
        made = difference_masks(images.pixels[own], np.asarray(images.pixels[others]), job.config.seed)
        places = len(given) + np.searchsorted(without, own)
        pixels[places] = box_masks(made) if how == "box" else made
    return ChosenMasks(ObjectMasks(tuple(ids), pixels), tuple(images.classes[label] for label in drawn))


def with_backgrounds(job: Job, catalog: Catalog, maker: ChunkMaker, kept: NDArray[np.bool_]) -> ChunkMaker:
    """The maker that paints into real images of the background class, where that is wanted, possible and seen.

    `kept`, bool (N,), says which images of train are the maker's sources.
    """
    settings = maker.settings
    if settings.transplant_fraction == 0 and settings.crossed_fraction == 0:
        return maker
    chosen, groups = choose_masks(job, catalog), catalog.groups("train")[kept]
    backgrounds = Backgrounds(background_class(job, maker.sources), chosen.masks, groups, chosen.drawn)
    maker = replace(maker, backgrounds=backgrounds)
    if not any(maker.material(number).masks for number in range(len(maker.positions))):
        _warn_of_no_masks(job, maker, backgrounds.class_index)
        if not settings.crossed_fraction:
            return replace(maker, backgrounds=None)
    tried = _tried(job, maker)
    _tell(job, maker, tried)
    return with_background_choices(maker, tried)


def fingerprint_of(maker: ChunkMaker) -> dict[str, object]:
    """What a pool depends on beside sources, generator, filters and settings; empty without backgrounds."""
    if maker.backgrounds is None:
        return {}
    masks = maker.backgrounds.masks
    hashes = [(name, storage.sha256_bytes(mask.tobytes())) for name, mask in zip(masks.ids, masks.pixels, strict=True)]
    chosen = [dict(sorted(maker.crossed.items())), dict(sorted(maker.transplanted.items()))]
    return {"backgrounds": [maker.backgrounds.class_index, storage.fingerprint(hashes), *chosen]}


def _tried(job: Job, maker: ChunkMaker) -> dict[str, OnBackground]:
    """What was tried, once for all processes that fill the pool, since on another machine it might fall otherwise."""
    about: list[object] = [
        maker.generator.weights_sha256,
        maker.filters.fingerprint,
        maker.settings.model_dump(mode="json"),
    ]
    about += [maker.seed, fingerprint_of(maker)]
    file = job.study.chunks / f"backgrounds-{storage.fingerprint(about)}.json"
    kept = find_signed_record(file, ON_BACKGROUND, overwrite=job.overwrite)
    if kept is not None:
        return kept
    tried = try_on_background(maker, partial(job.narrator.progress, "trying transplants"))
    write_signed_record(file, ON_BACKGROUND, tried)
    return tried


def _warn_of_no_masks(job: Job, maker: ChunkMaker, background: int) -> None:
    """Says why there are no transplants where the settings ask for them."""
    settings, name = maker.settings, maker.generator.classes[background]
    if settings.mask_from is not None:
        job.narrator.warn(f"no transplants: nothing stands out from '{name}', so no masks could be drawn")
    elif settings.transplant_fraction:
        fix = "give masks with --masks FOLDER, or have them drawn with --mask-from difference"
        job.narrator.warn(f"no transplants: no class but '{name}', the background class, has masks; {fix}")


def _tell(job: Job, maker: ChunkMaker, tried: dict[str, OnBackground]) -> None:
    """Says what is painted into which class, and for which classes the filters do not see it."""
    assert maker.backgrounds is not None
    background = maker.generator.classes[maker.backgrounds.class_index]
    tries = {name: one.transplants[-1] for name, one in tried.items() if one.transplants}
    good = {name: one for name, one in tries.items() if one.is_good}
    new = [_seen(name, one) for name, one in good.items() if one.strength == NEW]
    changed = [_seen(name, one) for name, one in good.items() if one.strength != NEW]
    if new:
        job.narrator.say(f"transplants into real images of '{background}': {', '.join(new)}")
    if changed:
        why = f"real images of '{background}', since new ones are not seen or are unlike real ones"
        job.narrator.say(f"transplants of real objects, moved and changed, into {why}: {', '.join(changed)}")
    for name, one in tries.items():
        if not one.is_good:
            job.narrator.say(f"no transplants of '{name}': {_why_not(job, one)}")
    crossed = [name for name, one in tried.items() if one.crossed_strength]
    lost = [name for name, one in tried.items() if one.crossed and not one.crossed_strength]
    if crossed:
        job.narrator.say(f"crossed variations of real images of '{background}': {', '.join(crossed)}")
    if lost:
        job.narrator.say(f"no crossed variations, since the filters do not see the class in them: {', '.join(lost)}")


def _seen(name: str, tried: TriedOnBackground) -> str:
    return f"{name} (seen in {tried.seen.count} of {tried.seen.total})"


def _why_not(job: Job, tried: TriedOnBackground) -> str:
    """Why a class gets no transplants, and what helps."""
    told = tried.objects_told
    if told is not None and tried.is_blind:
        found = (
            f"finds {counted(told)} real objects with shuffled pixels" if told.total else "knows too few real objects"
        )
        kept = ", ".join(name for name in job.config.synthesis.filters if name != UNLIKE_OBJECTS)
        command = f"diffaug generate {shlex.quote(str(job.study.path))} --set 'synthesis.filters=[{kept}]' --overwrite"
        fix = f"give masks of at least {FEWEST_GROUPS} images that differ, or paint without the check: {command}"
        return f"nothing tells its objects from noise: the filter '{UNLIKE_OBJECTS}' {found}; {fix}"
    if 2 * tried.unlike.count > tried.unlike.total:
        unlike = f"{counted(tried.unlike)} painted objects are unlike real ones"
        return f"{unlike}, probably because the generator was trained too briefly; train longer: {longer_training(job)}"
    return "the filters do not see the class in enough of them, or they are copies"
