"""A result, images and a pool's overview with every entry, of classes with hostile names."""

from dataclasses import replace

import numpy as np

from diffaug.data.images import LabeledImages
from diffaug.evaluation.experiment.arms import ARMS
from diffaug.evaluation.experiment.choice import Choice, MeasuredArm, MeasuredMix, Mix
from diffaug.evaluation.report.pool import Pair, PoolOverview, RejectedSample
from diffaug.evaluation.statistics.comparison import Change, Comparison, Control
from diffaug.evaluation.statistics.crossed import Estimate
from diffaug.evaluation.statistics.metrics import GROUPS, METRICS
from diffaug.evaluation.verdict.advice import ClassAdvice, ClassRecall, NextStep
from diffaug.evaluation.verdict.arm_summary import ArmSummary, Spread
from diffaug.evaluation.verdict.result import EvaluationResult, TrainingSummary
from diffaug.evaluation.verdict.wording import Verdict
from diffaug.similarity.intervals import Estimate as Interval
from diffaug.similarity.intervals import Share
from diffaug.synthesis.audit.memorization import Audit, PoolAudit
from diffaug.synthesis.audit.quality import ClassQuality, PoolQuality
from diffaug.synthesis.filters.power import FilterPower, PoolPower
from diffaug.synthesis.pool.pool import ClassSummary, PublicationCheck

HOSTILE = '<script>alert("x")</script>'
CLASSES = ("cat", HOSTILE, "rare & <b>bold</b>")
BEST, BASE = "best real + synthetic", "oversampling"


def images(counts, size=8, channels=3, seed=0, prefix="train", classes=CLASSES):
    labels = np.repeat(np.arange(len(counts)), counts)
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), size, size, channels), dtype=np.uint8)
    names = classes if len(counts) == len(classes) else tuple(f"class {number}" for number in range(len(counts)))
    return LabeledImages(pixels, labels, names, tuple(f"{prefix}/{number}.png" for number in range(len(labels))))


def estimate(mean, half):
    return Estimate(mean, mean - half, mean + half)


def arm(name, role, mean, sd=0.01, classes=CLASSES, metrics=METRICS):
    figure = Spread(mean, sd)
    shares = mean * np.eye(len(classes)) + (1 - mean) * np.roll(np.eye(len(classes)), 1, axis=1)
    recall = dict.fromkeys(classes, estimate(mean, 0.05))
    group_recall = dict.fromkeys(("many", "medium", "few"), figure)
    confusion = tuple(map(tuple, (15 * shares).tolist()))
    return ArmSummary(
        name, role, 3, dict.fromkeys(metrics, figure), recall, group_recall, confusion, estimate(mean, 0.04)
    )


def lead(classes=CLASSES):
    by_class, by_group = (dict.fromkeys(names, estimate(0.1, 0.06)) for names in (classes, GROUPS))
    return Change(BASE, "real only", estimate(0.1, 0.03), by_class, by_group)


def comparison(name, mean, classes=CLASSES):
    gains = [estimate(-0.02, 0.05), estimate(0.123, 0.05), estimate(0.0, 0.1)]
    return Comparison(
        arm=name,
        baseline=BASE,
        difference=estimate(mean, 0.02),
        seeds_only=estimate(mean, 0.01),
        p_value=0.00004,
        p_value_holm=0.0123,
        recall_gain={name: gains[number % 3] for number, name in enumerate(classes)},
        group_gain={"many": estimate(0.01, 0.02), "medium": estimate(0.02, 0.01), "few": estimate(0.05, 0.01)},
    )


HOW = ARMS[BASE].how
ZERO = Mix(0.0)


def measured(arm, mix, mean, how=HOW, **figures):
    return MeasuredMix(arm, mix, mean, 0.01, how, **figures)


def choice(fraction=0.3, **changes):
    """The choice of a mix on "oversampling", with plain training measured beside it."""
    curve = [ZERO, Mix(0.3), Mix(0.6)]
    everything = Choice(
        BASE,
        Mix(fraction),
        real=(MeasuredArm(BASE, HOW, 0.72, 0.01), MeasuredArm("real only", "as found", 0.66, 0.02)),
        mixtures=(
            *(measured(BASE, one, 0.7 + 0.02 * one.fraction, gain=0.02 * one.fraction) for one in curve),
            *(measured("real only", one, 0.66, "as found", gain=-0.04, standard_error=0.01) for one in curve[:2]),
        ),
        refinements=(
            measured(BASE, Mix(0.3, 0.5, 10.0), 0.71),
            measured(BASE, Mix(0.3, excluded_classes=(HOSTILE,)), 0.72),
        ),
        num_folds=3,
        judged_images=18,
        reason="The smallest & best.",
    )
    return replace(everything, **changes)


def result(classes=CLASSES, candidate=BEST, **changes):
    """A result with every entry."""
    everything = EvaluationResult(
        classes=tuple(classes),
        train_counts=dict(zip(classes, (30, 20, 4), strict=False)),
        synthetic_counts=dict(zip(classes, (0, 10, 26), strict=False)),
        used_counts=dict(zip(classes, (0, 10, 12), strict=False)),
        test_counts=dict.fromkeys(classes, 15),
        groups=dict(zip(classes, ("many", "medium", "few"), strict=False)),
        training=TrainingSummary("small-cnn", 1900, 64, 2, "cpu", "torch 2"),
        encoder="efficientnet-lite0 57934424",
        arms=(
            arm("real only", "baseline", 0.60, classes=classes),
            arm(BASE, "baseline", 0.70, classes=classes),
            arm("real + unfiltered synthetic", "ablation", 0.69, classes=classes),
            arm("real + synthetic", "candidate", 0.71, 0.02, classes),
            arm(candidate, "candidate", 0.734, 0.02, classes),
        ),
        lead=lead(classes),
        best_real="Best without synthetic images: 'oversampling' & co.",
        comparisons=(comparison("real + synthetic", 0.01, classes), comparison(candidate, 0.034, classes)),
        controls=(
            Control("new content", "real + synthetic", "replay", estimate(0.021, 0.01)),
            Control("filters", "real + synthetic", "real + unfiltered synthetic", estimate(-0.013, 0.01)),
        ),
        choice=choice(),
        class_advice=tuple(
            ClassAdvice(name, advice, estimate(0.01, 0.05), used)
            for name, advice, used in zip(classes, ("none used", "use", "open"), (0, 10, 12), strict=False)
        ),
        more_images=None,
        next_steps=(NextStep("encoder"), NextStep("lowest recall", BASE, classes=(ClassRecall(classes[0], 0.42, 30),))),
        verdict=Verdict("use", "Use them & more.", ("The <first>.", "The second."), candidate, BASE),
    )
    return replace(everything, **changes)


def bare_result(classes=CLASSES):
    """A result of predictions: no mix, no controls, no probabilities, no groups, one seed."""
    metrics = METRICS[:4]
    arms = (arm(BASE, "baseline", 0.7, None, classes, metrics), arm("mine", "candidate", 0.72, None, classes, metrics))
    compared = replace(comparison("mine", 0.02, classes), seeds_only=None, group_gain={})
    unknown = {
        "training": None,
        "groups": {},
        "train_counts": {},
        "synthetic_counts": {},
        "controls": (),
        "choice": None,
    }
    unknown |= {"used_counts": {}, "encoder": None, "lead": None, "next_steps": (), "class_advice": ()}
    arms = tuple(replace(one, group_recall={}) for one in arms)
    return result(classes, "mine", arms=arms, comparisons=(compared,), **unknown)


def overview(classes=CLASSES, **changes):
    part = Audit(10, Share(1, 36), 0.9, Interval(0.95, 0.9, 1.0), None)
    rejected = np.random.default_rng(5).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    everything = PoolOverview(
        pairs={
            classes[1]: [Pair("pool/0.png", "train/3.png", "sampled", 0.14, 0.83)],
            classes[2]: [Pair("pool/12.png", "train/40.png", "variation", 0.4, 0.97)],
        },
        rejected=(
            RejectedSample("rejected/0.png", classes[1], "wrong class", rejected[0]),
            RejectedSample("rejected/1.png", classes[2], "copy", rejected[1]),
        ),
        summaries={name: ClassSummary(26, 20, 1040, {"wrong class": 3, "copy": 1}) for name in classes},
        publication=PublicationCheck(
            True,
            (f"class '{classes[1]}': 9 of 36 candidates are copies",),
            ("copies among candidates",),
            ("membership",),
        ),
        audit=PoolAudit(part, dict.fromkeys(classes, part), {"sampled": part}, (f"not compared: {classes[0]}",)),
        power=PoolPower(
            "a classifier",
            {
                name: FilterPower(
                    recognized=Share(9, 10),
                    ranking=Interval(0.9, 0.8, 1.0),
                    confirmed=Share(12 - number, 12),
                    kept_class=Share(0, 0),
                    farther=0.6,
                    passed=Share(13, 26),
                    blind=blind,
                )
                for number, (name, blind) in enumerate(zip(classes, ((), ("Two <in> three.",), ()), strict=False))
            },
        ),
        quality=PoolQuality("a classifier", {name: ClassQuality(9, 10, *[0.5] * 6) for name in classes}),
    )
    return replace(everything, **changes)
