"""Measures what the filters can tell about the classes of a pool, and whether its images look like real ones at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import fisher_exact

from diffaug.classifiers.encoders.trained import ClassifierOutput
from diffaug.data.images import LabeledImages
from diffaug.data.splits import ALWAYS_TRAINED_ON
from diffaug.similarity.intervals import Share
from diffaug.synthesis.audit.realism import measure_realism
from diffaug.synthesis.filters.calibrated import CalibratedFilters
from diffaug.synthesis.filters.held_out import judged_by
from diffaug.synthesis.filters.power import FilterPower, PoolPower
from diffaug.synthesis.pool.origins import CROSSED, ORIGINS, SAMPLED, TRANSPLANT, VARIATION, Origin

LEAST_RANKING = 0.7
"""Area under the ROC curve below which a class counts as not told apart: half-way from 0.5, chance, to 0.9. By hand."""

LEAST_KEPT = 0.8
"""Share of variations that must keep the class, by the upper end of the interval: a convention."""

LEAST_PASSED = 0.25
"""Share of samples that must pass as real images of their class, by the upper end of the interval.

Of digits 2 to 5 % pass after 300 and 1,500 images seen, about a third after 4,000, and 70 % after 12,000.
"""

LEVEL_TOLD, LEVEL_CONFIRMED = 0.05, 0.01
"""Levels of the tests that a class is told apart, and that its samples are confirmed less often than real images."""


def measure_power(
    filters: CalibratedFilters,
    real: LabeledImages,
    synthetic: LabeledImages,
    origins: Sequence[str],
    sources: Sequence[str],
    *,
    passed: Sequence[Share],
    seed: int,
    only_varies: bool = False,
    objects_told: Sequence[Share] = (),
) -> PoolPower:
    """Measures the power of the filters of `real`, the training images, for the accepted images of a pool.

    Args:
        filters: Calibrated on `real`.
        real: All N training images.
        synthetic: The M images of the pool.
        origins: Of each, (M,).
        sources: Which real image each begins from, (M,); empty for samples.
        passed: Of each class, the sampled candidates that pass as real images of it.
        seed: Decides which images are compared where there are many.
        only_varies: Whether the generator was not trained on the images, see `Usual`.
        objects_told: Of each class, what the check of painted objects tells; none if no objects are painted.
    """
    outputs = filters.models.predict(synthetic.pixels) if len(synthetic) else []
    origin_of = np.array(origins, dtype=str)
    judges, from_recognized = _judges(filters, sources, len(outputs))
    confirmed = np.zeros(len(synthetic), bool)
    if outputs:
        confirmed = judged_by(outputs, judges).argmax(axis=1) == synthetic.labels
    distances = _own_distances(filters, outputs, judges, synthetic.labels)
    classes = {}
    for label, name in enumerate(real.classes):
        own = synthetic.labels == label
        sampled, varied = own & (origin_of == SAMPLED), own & (origin_of == VARIATION) & from_recognized
        painted = own & np.isin(origin_of, (TRANSPLANT, CROSSED))
        classes[name] = _class_power(
            filters,
            label,
            passed=passed[label],
            confirmed=Share(int(confirmed[sampled].sum()), int(sampled.sum())),
            kept_class=Share(int(confirmed[varied].sum()), int(varied.sum())),
            distances=distances[sampled],
            on_background=Share(int(confirmed[painted].sum()), int(painted.sum())),
            painted_as=TRANSPLANT if TRANSPLANT in origin_of[own] else CROSSED,
            only_varies=only_varies,
        )
        if objects_told:
            classes[name] = replace(classes[name], objects_told=objects_told[label])
    few = _few_passed(Share(sum(one.count for one in passed), sum(one.total for one in passed)))
    few_passed = (few,) if few else ()
    if not outputs:
        return PoolPower(filters.encoder_name, classes, few_passed)
    both = (filters.models.predict(real.pixels), outputs)
    figures, unlearned = measure_realism(filters.held_out, real, synthetic, both, origin_of == SAMPLED, seed=seed)
    return PoolPower(filters.encoder_name, classes, few_passed + unlearned, figures)


def _judges(
    filters: CalibratedFilters, sources: Sequence[str], num_folds: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The classifier that judges each synthetic image, and whether it recognizes the image's source, both (M,)."""
    folds, recognized = filters.held_out.of_sources(sources)
    in_turn = np.arange(len(folds)) % max(num_folds, 1)
    return np.where(folds == ALWAYS_TRAINED_ON, in_turn, folds), recognized


def _own_distances(
    filters: CalibratedFilters,
    outputs: Sequence[ClassifierOutput],
    judges: NDArray[np.int64],
    labels: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Distance of each synthetic image to its class by its judge, (M,)."""
    distances = np.zeros(len(labels), np.float32)
    for fold, one in enumerate(outputs):
        for label in np.unique(labels[judges == fold]):
            chosen = (judges == fold) & (labels == label)
            distances[chosen] = filters.references.distances(fold, one.features[chosen], int(label))
    return distances


def _class_power(
    filters: CalibratedFilters,
    label: int,
    *,
    passed: Share,
    confirmed: Share,
    kept_class: Share,
    distances: NDArray[np.float32],
    on_background: Share,
    painted_as: Origin,
    only_varies: bool,
) -> FilterPower:
    recognized, ranking = filters.held_out.recognized(label), filters.held_out.ranking(label)
    reasons = [
        _not_told(recognized, ranking[0].value if ranking else None, ranking[1] if ranking else 1.0),
        _or_paint(_less_confirmed(recognized, confirmed), on_background, painted_as),
        _lost_class(kept_class, only_varies=only_varies),
        _or_paint(_few_passed(passed), on_background, painted_as),
    ]
    of_real = filters.distance.scores[filters.distance.labels == label]
    return FilterPower(
        recognized,
        ranking[0] if ranking else None,
        confirmed,
        kept_class,
        _probability_above(distances, of_real),
        passed,
        tuple(reason for reason in reasons if reason),
        on_background,
    )


def _not_told(recognized: Share, ranking: float | None, p_value: float) -> str:
    if ranking is None:
        return (
            "none of its real images could be held out, so nothing shows whether the filters' classifiers know the "
            "class; add real images of it"
        )
    if p_value < LEVEL_TOLD and ranking >= LEAST_RANKING:
        return ""
    return (
        f"the filters' classifiers can't tell its real images from others: they recognize {counted(recognized)} "
        f"held-out ones (area under the ROC curve {ranking:.2f}; chance is 0.5); add real images of it, or check their "
        "labels"
    )


def _less_confirmed(recognized: Share, confirmed: Share) -> str:
    if not confirmed.total or not recognized.total:
        return ""
    table = [
        [confirmed.count, confirmed.total - confirmed.count],
        [recognized.count, recognized.total - recognized.count],
    ]
    if fisher_exact(table, alternative="less").pvalue >= LEVEL_CONFIRMED:
        return ""
    return (
        f"the filters' classifiers assign {counted(confirmed)} samples to it, but {counted(recognized)} held-out real "
        "images: the generator has not learned the class well; train it longer, or add real images of the class"
    )


def _lost_class(kept_class: Share, *, only_varies: bool) -> str:
    if not kept_class.total or kept_class.interval[1] >= LEAST_KEPT:
        return ""
    fix = (
        "fine-tune the generator: --route pipeline"
        if only_varies
        else "make none: --set synthesis.variation_fraction=0"
    )
    return f"of variations of recognized real images only {counted(kept_class)} still show the class; {fix}"


def _few_passed(passed: Share) -> str:
    if passed.interval[1] >= LEAST_PASSED:
        return ""
    return (
        f"of the samples drawn only {counted(passed)} pass as real images of their class, and these are chosen by the "
        "filters' own opinion"
    )


def _or_paint(reason: str, on_background: Share, painted_as: Origin) -> str:
    """A reason against samples, with advice where the class is seen in most images on real backgrounds."""
    if not reason or 2 * on_background.count <= on_background.total:
        return reason
    others = (origin for origin in ORIGINS if origin not in (SAMPLED, painted_as))  # together they must not exceed 1
    alone = [f"--set synthesis.{painted_as}_fraction=1", *(f"--set synthesis.{other}_fraction=0" for other in others)]
    seen = f"of its images on real backgrounds {counted(on_background)} show it, so make those alone"
    return f"{reason}; {seen}: {' '.join(alone)}"


def counted(share: Share) -> str:
    """Such as: 4 of 10 (40 %, 95 % interval 17 % to 69 %)."""
    low, high = share.interval
    percentages = f"{share.value:.0%}, 95 % interval {low:.0%} to {high:.0%}"
    return f"{share.count} of {share.total} ({percentages})"


def _probability_above(values: NDArray[np.float32], others: NDArray[np.float32]) -> float | None:
    """Probability that one of `values` is larger than one of `others`; None if one of them is empty."""
    if not len(values) or not len(others):
        return None
    ordered = np.sort(others)
    below = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return float(below.mean() / (2 * len(others)))
