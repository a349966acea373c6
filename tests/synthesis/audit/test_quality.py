import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.metrics import recall_score
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors

from diffaug.synthesis.audit import quality
from diffaug.synthesis.audit.quality import density_coverage, kernel_distance, measure_quality, precision_recall

sizes = st.integers(7, 25)


def two_sets(seed: int, n: int, m: int, shift: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)), rng.normal(shift, 1.5, size=(m, 3))


def balls_around(centers: np.ndarray, points: np.ndarray, k: int) -> list[list[int]]:
    """For each center the points in the ball that reaches to its k-th neighbor."""
    search = NearestNeighbors().fit(points)
    reach = NearestNeighbors(n_neighbors=k).fit(centers).kneighbors()[0][:, -1]
    return [
        list(search.radius_neighbors(center[None], radius, return_distance=False)[0])
        for center, radius in zip(centers, reach, strict=True)
    ]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), sizes, sizes, st.integers(1, 6))
def test_all_four_agree_with_balls_counted_by_scikit_learn(seed, n, m, k) -> None:
    real, synthetic = two_sets(seed, n, m)
    around_real = balls_around(real, synthetic, k)
    around_synthetic = balls_around(synthetic, real, k)
    precision, recall = len(set().union(*around_real)) / m, len(set().union(*around_synthetic)) / n
    assert precision_recall(real, synthetic, k) == pytest.approx((precision, recall))
    density, coverage = sum(map(len, around_real)) / (k * m), np.mean([len(ball) > 0 for ball in around_real])
    assert density_coverage(real, synthetic, k) == pytest.approx((density, coverage))


def test_the_same_set_is_perfect_and_a_far_one_worthless() -> None:
    real = np.random.default_rng(0).normal(size=(30, 4))
    assert precision_recall(real, real) == (1, 1)
    density, coverage = density_coverage(real, real)
    assert (density, coverage) == (pytest.approx(6 / 5), 1)  # each lies in its own ball besides those of others
    assert precision_recall(real, real + 100) == (0, 0)
    assert density_coverage(real, real + 100) == (0, 0)


def test_an_outlier_in_the_real_set_raises_precision_and_hardly_density() -> None:
    """The failure of precision that density was made for (Naeem et al., figure 1): a far real point has a wide ball."""
    rng = np.random.default_rng(0)
    real = np.concatenate([rng.normal(size=(100, 2)), [[12.0, 12.0]]])
    wrong = rng.uniform(4, 8, size=(100, 2))
    assert precision_recall(real, wrong)[0] > 0.9
    assert density_coverage(real, wrong)[0] < 0.3


def test_kernel_distance_agrees_with_scikit_learn_and_has_no_bias() -> None:
    real, other = two_sets(0, 9, 7)
    within = [polynomial_kernel(points, degree=3) for points in (real, other)]  # gamma is 1 / D, coef0 is 1
    means = [kernel[~np.eye(len(kernel), dtype=bool)].mean() for kernel in within]
    assert kernel_distance(real, other) == pytest.approx(sum(means) - 2 * polynomial_kernel(real, other, 3).mean())
    rng = np.random.default_rng(1)
    nulls = [kernel_distance(*rng.normal(size=(2, 15, 4))) for _ in range(300)]
    assert abs(np.mean(nulls)) < 4 * np.std(nulls) / 300**0.5
    assert kernel_distance(*two_sets(2, 200, 200, shift=2)) > 1


def encoded(*counts: int, seed: int = 0) -> quality.LabeledFeatures:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    return quality.LabeledFeatures(rng.normal(size=(len(labels), 3)).astype(np.float32) + 5 * labels[:, None], labels)


def test_every_class_is_measured_with_its_own_images_and_blank_where_too_few_or_none() -> None:
    real, synthetic = encoded(40, 5, 1, 30), encoded(20, 9, 8, 0, seed=1)
    sure = np.log(np.full((37, 4), 0.1))
    predicted = synthetic.labels.copy()
    predicted[[0, 1, 20]] = 3
    sure[np.arange(37), predicted] = np.log(0.7)
    measured = measure_quality(real, synthetic, sure, ("a", "b", "c", "d"), encoder="test encoder")
    of_a, of_b, of_c, of_d = measured.classes.values()
    own = real.features[:40].astype(float), synthetic.features[:20].astype(float)
    assert (of_a.real, of_a.synthetic, of_a.missing) == (40, 20, "")
    assert of_a.kid == pytest.approx(kernel_distance(*own))
    assert (of_a.precision, of_a.recall) == precision_recall(*own)
    assert (of_a.density, of_a.coverage) == density_coverage(*own)
    assert (of_b.density, of_b.coverage) == (None, None)
    assert of_b.precision is not None
    assert of_b.missing == "density and coverage: at least 6 real and 1 synthetic images"
    assert (of_c.kid, of_c.precision, of_c.label_agreement) == (None, None, 1)
    assert of_c.missing.count("at least") == 3
    assert (of_d.label_agreement, of_d.kid, of_d.synthetic) == (None, None, 0)
    expected = recall_score(synthetic.labels, predicted, labels=[0, 1, 2], average=None)
    assert [of_a.label_agreement, of_b.label_agreement, of_c.label_agreement] == pytest.approx(expected)
    assert measured.label_agreement == pytest.approx(expected.mean())
    assert measured.metrics["label_agreement/b"] == pytest.approx(8 / 9)
    assert "density/b" not in measured.metrics
    assert "density/a" in measured.metrics
    measured = measure_quality(encoded(8, 8), encoded(0, 0), np.empty((0, 2)), ("a", "b"), encoder="e")
    assert (measured.label_agreement, measured.metrics) == (None, {})


def test_large_classes_are_compared_by_a_random_part_that_the_seed_decides() -> None:
    many = encoded(quality.MAX_IMAGES + 500, 3)
    first, again, other = (many.of_class(0, seed) for seed in (0, 0, 1))
    assert len(first) == quality.MAX_IMAGES
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(np.unique(first, axis=0)) == quality.MAX_IMAGES
    assert (cdist(first[:50], many.features[: quality.MAX_IMAGES + 500]).min(axis=1) == 0).all()
    assert len(many.of_class(1, 0)) == 3
