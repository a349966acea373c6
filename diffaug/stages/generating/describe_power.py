"""Measures what the filters can tell about the images of a pool, marks the manifest, and tells the user."""

from __future__ import annotations

import shlex

from diffaug.data.catalog import Catalog
from diffaug.diffusion.generator.files import read_record
from diffaug.files import storage
from diffaug.files.records import write_record
from diffaug.similarity.intervals import Share
from diffaug.stages.job import GENERATE_RUN, Job
from diffaug.synthesis.audit.power import measure_power
from diffaug.synthesis.filters.power import POOL_POWER, PoolPower
from diffaug.synthesis.filters.scores import OUT_OF_DISTRIBUTION, WRONG_CLASS
from diffaug.synthesis.pool.making import ChunkMaker
from diffaug.synthesis.pool.origins import SAMPLED
from diffaug.synthesis.pool.pool import BLIND, MANIFEST, POWER, Pool, blind_classes

WARNED = 10  # classes, whose reasons are printed in full
LEAST_VIEWS = 40  # of each training image, from which on generators of digits were good
LONGER = 4  # times as many images seen, where the generator has not learned the images


def record_power(job: Job, catalog: Catalog, maker: ChunkMaker, pool: Pool) -> PoolPower:
    """Measures the power of the filters for an uncommitted pool, and records it in the pool and in its manifest."""
    manifest = pool.manifest
    power = measure_power(
        maker.filters,
        catalog.images("train"),
        pool.images(),
        manifest["origin"].tolist(),
        manifest["source"].fillna("").tolist(),
        passed=passed_samples(pool),
        seed=job.config.seed,
        only_varies=maker.generator.usual.only_varies,
        objects_told=[check.told for check in maker.object_checks],
    )
    write_record(pool.root / POWER, POOL_POWER, power)
    marked = manifest.assign(**{BLIND: manifest["label"].isin(blind_classes(pool))})
    storage.write_parquet(pool.root / MANIFEST, marked)
    return power


def passed_samples(pool: Pool) -> list[Share]:
    """Of each class, the sampled candidates that pass as real images of it: neither of another class nor unlike any."""
    accepted, rejected = pool.manifest, pool.rejected
    counted = []
    for label in range(len(pool.classes)):
        good = int(((accepted["class_index"] == label) & (accepted["origin"] == SAMPLED)).sum())
        if rejected is None:
            counted.append(Share(good, good))
            continue
        own = rejected[(rejected["class_index"] == label) & (rejected["origin"] == SAMPLED)]
        bad = int(own["reason"].isin([WRONG_CLASS, OUT_OF_DISTRIBUTION]).sum())
        counted.append(Share(good + len(own) - bad, good + len(own)))
    return counted


def tell_power(job: Job, power: PoolPower) -> None:
    """Shows and logs what the filters can tell, with a warning for all that the evaluation leaves out by default."""
    of_samples = ["samples that pass", "confirmed", "variations that keep it", "farther"]
    on_background = any(one.on_background.total for one in power.classes.values())
    painted = ["seen on the background", "noise told from objects"] if on_background else []
    columns = ["class", "real images recognized", "ranking", *of_samples, *painted]
    rows = [
        [
            name,
            _counted(one.recognized),
            f"{one.ranking.value:.2f}" if one.ranking else "",
            _counted(one.passed),
            _counted(one.confirmed),
            _counted(one.kept_class),
            "" if one.farther is None else f"{one.farther:.2f}",
            *((_counted(one.on_background), _counted(one.objects_told)) if on_background else ()),
        ]
        for name, one in power.classes.items()
    ]
    job.narrator.table("What the filters can tell", columns, rows)
    job.narrator.say(
        "real images recognized: of those that a classifier was not trained on; ranking: how well they are told from "
        "other classes, 0.5 is chance; samples that pass: as real images of their class; confirmed: of these, what the "
        "classifiers assign to the class; farther: probability that a sample is farther from its class than a held-out "
        "real image, 0.5 if they lie alike"
        + (
            "; seen on the background: transplants and crossed variations assigned to the class; noise told from "
            "objects: real objects with shuffled pixels that the check of painted objects rejects"
            if on_background
            else ""
        )
    )
    if not power.unlearned:
        _warn_of_blind_classes(job, power)
    else:
        job.narrator.warn(
            f"the generator has not learned the images yet: {'; '.join(power.unlearned)}. The evaluation uses none of "
            f"its images. Train longer: {longer_training(job)}"
        )
    job.journal.log_metrics(GENERATE_RUN, {f"power/{name}": value for name, value in power.metrics.items()})


def tell_power_of_pilot(job: Job, power: PoolPower) -> None:
    """Warns of what the evaluation leaves out because of the pilot's pool, on which it chooses."""
    reasons = {name: one.blind for name, one in power.classes.items() if one.blind}
    if power.unlearned or len(reasons) == len(power.classes):
        why = f"the pilot has not learned the images yet: {'; '.join(power.unlearned)}"
        why = why if power.unlearned else "nothing shows that the pilot's images of any class belong to it"
        job.narrator.warn(
            f"{why}. So the amount of synthetic images can't be chosen, and the smallest is tested with those that are "
            f"confirmed in the pool. To have it chosen, train longer: {longer_training(job)}"
        )
    elif reasons:
        job.narrator.warn(
            f"nothing shows that the pilot's images of {', '.join(reasons)} belong to their class. So the amount of "
            "synthetic images is chosen without them. The pool's images of these classes are used if they are confirmed"
        )


def _warn_of_blind_classes(job: Job, power: PoolPower) -> None:
    blind = {name: one.blind for name, one in power.classes.items() if one.blind}
    for name, reasons in list(blind.items())[:WARNED]:
        job.narrator.warn(f"class '{name}': {'; '.join(reasons)}. The evaluation uses no synthetic images of it")
    if len(blind) > WARNED:
        others = ", ".join(list(blind)[WARNED:])
        job.narrator.warn(f"the same holds for: {others}. The report has the reasons")


def longer_training(job: Job) -> str:
    """The commands that train the generator of the study longer and fill the pool anew."""
    study, data = shlex.quote(str(job.study.path)), shlex.quote(str(job.study.record.data))
    record = read_record(job.study.generator)  # the pilot has one, too, but no plan
    seen = int(record.training.get("images seen", 0))
    images = max(LONGER * seen, LEAST_VIEWS * sum(record.train_counts.values()))
    fit = f"diffaug fit {data} --study {study} --images-seen {images} --overwrite"
    return f"{fit}, then diffaug generate {study} --overwrite"


def _counted(share: Share) -> str:
    return f"{share.count} of {share.total}" if share.total else ""
