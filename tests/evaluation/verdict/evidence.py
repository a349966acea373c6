from dataclasses import replace

from diffaug.evaluation.experiment.choice import Choice, MeasuredMix, Mix
from diffaug.evaluation.statistics.comparison import Comparison, Control
from diffaug.evaluation.statistics.crossed import CrossedMean, Estimate, holm, holm_tails, tail
from diffaug.evaluation.verdict.decide import Evidence

IMAGES = 300


def difference(mean, standard_error=0.01, seed_share=0.2, noise_share=0.0):
    variance = standard_error**2
    return CrossedMean(
        mean,
        seed_variance=(seed_share + noise_share) * variance,
        image_variance=(1 - seed_share) * variance,
        noise_variance=noise_share * variance,
        seeds=5,
        degrees_of_freedom=50.0,
        seeds_degrees_of_freedom=4,
    )


def one_seed(mean, standard_error):
    return replace(difference(mean, standard_error, seed_share=0.0), seeds=1, seeds_degrees_of_freedom=0)


def choice(mix, judged_images=45, base="oversampling", **options):
    return Choice(base, mix, judged_images=judged_images, **options)


def choice_of_none(gain, standard_error=0.01, judged_images=45):
    """A choice of no synthetic images, though one mix had this gain on the judged images."""
    tried = MeasuredMix("oversampling", Mix(0.3), 0.8, 0.01, gain=gain, standard_error=standard_error)
    return choice(Mix(0.0), judged_images, mixtures=(tried,))


def evidence_of(*differences, recall_gain=None, num_baselines=1, arm=None, **options):
    """Of one candidate per difference, each compared with "balanced softmax", which has 0.8."""
    by_arm = {arm or f"candidate {i}": d for i, d in enumerate(differences)}
    p_values = [d.p_value for d in differences]
    comparisons = []
    for (arm, d), low_tail, p_holm in zip(by_arm.items(), holm_tails(p_values), holm(p_values), strict=True):
        comparison = Comparison(
            arm=arm,
            baseline="balanced softmax",
            difference=d.interval(low_tail, tail(num_baselines)),
            recall_gain=recall_gain or {},
            group_gain={},
            seeds_only=d.seeds_only_interval(),
            p_value=d.p_value,
            p_value_holm=p_holm,
            by_generator=d.by_generator,
        )
        comparisons.append(comparison)
    content = {
        "controls": (),
        "seeds": differences[0].seeds,
        "synthetic_images": 412,
        "used_images": 412,
        "test_images": IMAGES,
        "num_classes": 4,
        "accuracies": {"balanced softmax": Estimate(0.8, 0.7, 0.9)},
    }
    return Evidence(tuple(comparisons), by_arm, num_baselines=num_baselines, **content | options)


def control(question, mean, arm="real + synthetic", baseline="replay"):
    return Control(question, arm, baseline, Estimate(mean, mean - 0.01, mean + 0.01))
