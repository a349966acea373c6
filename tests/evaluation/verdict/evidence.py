from dataclasses import replace

from diffaug.evaluation.statistics.comparison import Comparison, Control
from diffaug.evaluation.statistics.crossed import CrossedMean, Estimate
from diffaug.evaluation.statistics.multiplicity import holm, holm_tails, tail
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


def evidence_of(*differences, recall_gain=None, num_baselines=1, arm=None, **options):
    """Of one candidate per difference, each compared with "balanced softmax"."""
    by_arm = {arm or f"candidate {i}": d for i, d in enumerate(differences)}
    p_values = [d.p_value for d in differences]
    comparisons = []
    for (arm, d), low_tail, p_holm in zip(by_arm.items(), holm_tails(p_values), holm(p_values), strict=True):
        figures = (d.interval(low_tail, tail(num_baselines)), d.seeds_only_interval(), d.p_value, p_holm)
        comparisons.append(Comparison(arm, "balanced softmax", *figures, recall_gain or {}, {}, d.by_generator))
    content = {"controls": (), "seeds": differences[0].seeds, "synthetic_images": 412, "test_images": IMAGES}
    return Evidence(tuple(comparisons), by_arm, num_baselines=num_baselines, **content | options)


def control(question, mean, arm="real + synthetic", baseline="replay"):
    return Control(question, arm, baseline, Estimate(mean, mean - 0.01, mean + 0.01))
