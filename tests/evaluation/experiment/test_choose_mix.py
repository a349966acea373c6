import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from diffaug.configuration.settings import AdvancedSettings, EvaluationSettings
from diffaug.data.images import LabeledImages
from diffaug.errors import DataError
from diffaug.evaluation.experiment.choose_mix import choose_base, choose_mix, choose_option
from diffaug.evaluation.experiment.experiment import Experiment
from diffaug.evaluation.experiment.mix import MeasuredMix, MixChoice, SyntheticMix
from diffaug.evaluation.experiment.synthetic_pools import SyntheticPool

GRID = AdvancedSettings().synthetic_fraction_grid
SETTINGS = EvaluationSettings(arms=("real only", "oversampling", "best real + synthetic"), num_seeds=3)
SIZE = 6


def flat(pixels):
    return pixels.reshape(len(pixels), -1) / 64 - 2


class Linear:
    name = "linear"

    def __init__(self):
        self.done = []

    def fit_predict(self, training, pixels, *, recipe, seed, device):
        self.done.append(training)
        images = training.images
        model = LogisticRegression(C=0.05, max_iter=500).fit(flat(images.pixels), images.labels, training.importances)
        return model.predict_proba(flat(pixels)).astype(np.float32)


class Erring(Linear):
    """Errs in so many of ten images as a function of (training, whether it has synthetic images) says."""

    def __init__(self, errors):
        super().__init__()
        self.errors = errors

    def fit_predict(self, training, pixels, **options):
        self.done.append(training)
        shown = flat(pixels).reshape(len(pixels), 3, -1).mean(axis=2).argmax(axis=1)
        is_wrong = np.arange(len(pixels)) % 10 < self.errors(training, training.is_synthetic.any())
        return np.eye(3, dtype=np.float32)[np.where(is_wrong, (shown + 1) % 3, shown)]


def by_draw(as_found, as_found_mixed, balanced, balanced_mixed):
    """Errors by whether real images are drawn as found or classes equally often, alone or mixed with synthetic ones."""

    def errors(training, is_mixed):
        draws = training.draw_probabilities
        if draws is None or np.ptp(draws[~training.is_synthetic]) < 1e-9:
            return as_found_mixed if is_mixed else as_found
        return balanced_mixed if is_mixed else balanced

    return Erring(errors)


def drawn(counts, seed, prefix, *, labels_are_noise=False):
    """Images of three classes that differ faintly in brightness of one third of the picture."""
    random = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2], counts).astype(np.int64)
    shown = random.permutation(labels) if labels_are_noise else labels
    pixels = random.normal(128, 40, (len(labels), SIZE, SIZE, 1))
    for image, label in zip(pixels, shown, strict=True):
        image[2 * label : 2 * label + 2] += 25
    ids = tuple(f"{prefix} {number}" for number in range(len(labels)))
    return LabeledImages(pixels.clip(0, 255).astype(np.uint8), labels, ("a", "b", "c"), ids)


def pool_of(images, nearest=None, source=None):
    unknown = ("",) * len(images)
    return SyntheticPool(images, nearest or unknown, source or unknown)


@pytest.fixture
def make(tmp_path):
    def make(pool, settings=SETTINGS, *, counts=(60, 12, 6), world=0, **options):
        train, test = drawn(counts, world, "train"), drawn((5, 5, 5), 1, "test")
        given = {"directory": tmp_path, "groups": np.arange(len(train)), "classifier": Linear(), **options}
        return Experiment(train, test, [pool], settings, seed=world, device="cpu", **given)

    return make


FRESH = pool_of(drawn((0, 60, 60), 2, "fresh"))


@pytest.mark.e2e
def test_new_and_true_images_are_used_and_wrong_ones_are_not(make, tmp_path):
    """Few validation images make single choices uncertain, so four worlds must agree by and large."""
    fresh, noise = [], []
    for seed in range(10, 14):
        true = pool_of(drawn((0, 60, 60), seed + 90, "fresh"))
        wrong = pool_of(drawn((60, 60, 60), seed + 50, "noise", labels_are_noise=True))
        for pool, fractions in [(true, fresh), (wrong, noise)]:
            choice = choose_mix(make(pool, counts=(60, 30, 15), world=seed, directory=tmp_path / str(seed)), GRID)
            assert (choice.mix.fraction == 0) == (max(choice.curve, key=lambda one: one.mean).mix.fraction == 0)
            fractions.append(choice.mix.fraction)
    assert sum(fraction > 0 for fraction in fresh) == 4
    assert sum(fraction == 0 for fraction in noise) >= 3


@pytest.mark.parametrize(
    ("errors", "base", "curve_base", "fraction"),
    [
        ((3, 4, 5, 1), "oversampling", "oversampling", 0.15),  # best alone is not best with synthetic images
        ((3, 1, 5, 4), "real only", "real only", 0.15),
        ((0, 4, 5, 3), "real only", "oversampling", 0.0),  # best alone is best of all
    ],
)
def test_the_baseline_that_mixes_best_is_measured_with_all_fractions(make, errors, base, curve_base, fraction):
    choice = choose_mix(make(FRESH, classifier=by_draw(*errors)), GRID)
    arms = ["real only", "oversampling"]
    assert [one.arm for one in choice.baselines] == [one.arm for one in choice.mixtures] == arms
    assert {one.arm for one in choice.curve} == {curve_base}
    assert [one.mix.fraction for one in choice.curve] == list(GRID)
    assert choice.curve[0].mean == choice.baselines[arms.index(curve_base)].mean
    assert (choice.base, choice.mix) == (base, SyntheticMix(fraction))
    assert (choice.num_folds, choice.was_set) == (3, False)


@pytest.mark.parametrize(
    ("alone", "means", "sd", "base"),
    [
        (0.8, [0.9, 0.89, 0.91], 0.04, "oversampling"),  # within one standard error of the best, 0.023
        (0.8, [0.9, 0.89, 0.91], 0.03, "balanced softmax"),
        (0.89, [0.9, 0.89, 0.91], 0.04, "balanced softmax"),  # oversampling with synthetic images is no gain here
        (0.95, [0.9, 0.89, 0.91], 0.04, "balanced softmax"),
        (0.8, [0.92, 0.93, 0.91], 0.0, "oversampling"),
        (0.8, [0.92, 0.92, 0.91], 0.0, "oversampling"),
        (0.8, [0.92, None, 0.91], 0.04, "real only"),
    ],
)
def test_of_arms_that_are_about_as_good_one_that_draws_classes_equally_often_is_built_on(alone, means, sd, base):
    arms = ("real only", "oversampling", "balanced softmax")
    measured = {arm: mean for arm, mean in zip(arms, means, strict=True) if mean is not None}
    mixed = [MeasuredMix(arm, SyntheticMix(0.3), mean, sd) for arm, mean in measured.items()]
    assert choose_base([MeasuredMix("balanced softmax", SyntheticMix(0.0), alone, sd)], mixed, 3).arm == base


@pytest.mark.parametrize(
    ("alone", "means", "sd", "fraction"),
    [
        (0.8, [0.8, 0.88, 0.89, 0.9], 0.04, 0.15),  # all within one standard error, 0.023
        (0.8, [0.8, 0.85, 0.89, 0.9], 0.04, 0.3),
        (0.8, [0.8, 0.85, 0.86, 0.9], 0.04, 0.5),
        (0.895, [0.8, 0.88, 0.89, 0.9], 0.04, 0.5),  # smaller fractions are no better than nothing
        (0.9, [0.8, 0.88, 0.89, 0.9], 0.04, 0.0),
        (0.8, [0.8, 0.9, 0.9, 0.9], 0.0, 0.15),
    ],
)
def test_of_fractions_that_are_about_as_good_the_smallest_is_taken(alone, means, sd, fraction):
    curve = [MeasuredMix("a", SyntheticMix(s), mean, sd) for s, mean in zip((0.0, 0.15, 0.3, 0.5), means, strict=True)]
    assert choose_option([MeasuredMix("b", SyntheticMix(0.0), alone, sd), curve[0]], curve, 3).mix.fraction == fraction


class Oracle(Linear):
    """Knows all images; misses half of "c" without synthetic images, a quarter of "b" with any, or with some of "b"."""

    def __init__(self, images, *, blames_b):
        super().__init__()
        self.labels = {pixels.tobytes(): label for pixels, label in zip(images.pixels, images.labels, strict=True)}
        self.blames_b = blames_b

    def fit_predict(self, training, pixels, **options):
        shown = set(training.images.labels[training.is_synthetic].tolist())
        misses_b = 1 in shown if self.blames_b else bool(shown)
        true = np.array([self.labels[image.tobytes()] for image in pixels])
        nth = np.arange(len(true))
        missed = (true == 2) & (nth % 2 == 0) & (not shown) | (true == 1) & (nth % 4 == 0) & misses_b
        return np.eye(3, dtype=np.float32)[np.where(missed, 0, true)]


@pytest.mark.parametrize("blames_b", [True, False])
def test_a_class_that_synthetic_images_made_worse_is_excluded_if_that_helps(make, blames_b):
    classifier = Oracle(drawn((60, 12, 6), 0, "train"), blames_b=blames_b)
    steps = []
    choice = choose_mix(make(FRESH, classifier=classifier), GRID, lambda *step: steps.append(step))
    (fewer,) = choice.refinements
    assert fewer.mix.excluded_classes == ("b",)
    assert choice.mix == SyntheticMix(0.15, excluded_classes=("b",) if blames_b else ())
    assert (fewer.mean == 1.0) == blames_b
    assert steps[-1] == (21, 21)


def has_half_weight(training):
    return training.loss_weights is not None and training.loss_weights.min() == 0.5


def has_few_of_c(training):
    of_c = training.is_synthetic[training.images.labels == 2]
    return 0 < of_c.sum() <= 3 * (~of_c).sum()


@pytest.mark.parametrize(
    ("is_liked", "loss_weight", "limit"),
    [(has_half_weight, 0.5, None), (has_few_of_c, 1.0, 3.0), (lambda training: False, 1.0, None)],
)
def test_a_thorough_choice_tries_half_the_weight_and_few_per_real_image(make, is_liked, loss_weight, limit):
    steps = []
    classifier = Erring(lambda training, is_mixed: 0 if is_liked(training) else 2 if is_mixed else 5)
    experiment = make(FRESH, SETTINGS.model_copy(update={"thorough": True}), classifier=classifier)
    choice = choose_mix(experiment, GRID, lambda *step: steps.append(step))
    assert (choice.mix.loss_weight, choice.mix.max_per_real) == (loss_weight, limit)
    fraction = choice.mix.fraction
    refined = [one.mix for one in choice.refinements if not one.mix.excluded_classes]
    assert refined == [SyntheticMix(fraction, 0.5), SyntheticMix(fraction, 1.0, 3.0)]
    assert steps[-1][0] == steps[-1][1] == 3 * (2 + 2 + 2 + len(choice.refinements))


def test_a_finished_choice_is_read_and_progress_counts_every_training_once(make):
    steps = []
    first = make(FRESH)
    choice = choose_mix(first, GRID, lambda done, total: steps.append((done, total)))
    assert len(first.classifier.done) == 3 * (2 + 2 + 2)
    assert steps[-1] == (18, 18) and {total for _, total in steps} == {18}
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    again = make(FRESH)
    assert choose_mix(again, GRID) == choice
    assert again.classifier.done == []


def test_each_image_is_left_out_once_with_its_group_and_the_synthetic_ones_like_it(make):
    groups = np.repeat(np.arange(39), 2)
    train = drawn((60, 12, 6), 0, "train")
    images = drawn((0, 30, 30), 2, "fresh")
    nearest = tuple(train.ids[i % 78] for i in range(60))
    source = tuple(train.ids[(7 * i) % 78] if i % 2 else "" for i in range(60))
    experiment = make(pool_of(images, nearest, source), groups=groups)
    choose_mix(experiment, GRID)
    group_of = dict(zip(train.ids, groups.tolist(), strict=True))
    related = dict(zip(images.ids, zip(nearest, source, strict=True), strict=True))
    left_out = []
    for training in experiment.classifier.done:
        real = {name for name, fake in zip(training.images.ids, training.is_synthetic, strict=True) if not fake}
        missing = set(train.ids) - real
        assert not {group_of[name] for name in missing} & {group_of[name] for name in real}
        assert set(training.images.labels[~training.is_synthetic]) == {0, 1, 2}
        used = set(training.images.ids) - real
        if used:
            assert used == {name for name, others in related.items() if not missing & set(others)}
        left_out.append(frozenset(missing))
    folds = set(left_out)
    assert len(folds) == 3 and sum(map(len, folds)) == 78 == len(frozenset.union(*folds))


def test_a_fraction_that_is_set_is_added_to_the_baseline_that_is_chosen(make):
    experiment = make(FRESH, SETTINGS.model_copy(update={"synthetic_fraction": 0.2}), classifier=by_draw(5, 1, 0, 4))
    choice = choose_mix(experiment, GRID)
    assert (choice.base, choice.mix, choice.curve, choice.was_set) == ("real only", SyntheticMix(0.2), (), True)
    assert len(experiment.classifier.done) == 6


@pytest.mark.parametrize("arms", [("real only", "real + synthetic"), ("replay", "best real + synthetic")])
def test_nothing_to_choose_is_nothing_trained(make, arms):
    experiment = make(FRESH, SETTINGS.model_copy(update={"synthetic_fraction": 0.2, "arms": arms}))
    assert choose_mix(experiment, GRID) == MixChoice("real only", SyntheticMix(0.2))
    assert experiment.classifier.done == []


def test_without_synthetic_images_the_mix_is_zero(make):
    experiment = make(pool_of(drawn((0, 0, 0), 0, "none")), classifier=by_draw(4, 0, 1, 0))
    choice = choose_mix(experiment, GRID)
    assert (choice.base, choice.mix, choice.curve) == ("oversampling", SyntheticMix(0.0), ())


def test_of_equal_fractions_the_smallest_wins(make):
    choice = choose_mix(make(FRESH, classifier=by_draw(5, 5, 5, 5)), (0.5, 0.3, 0.0, 0.3))
    assert (choice.base, choice.mix) == ("real only", SyntheticMix(0.0))
    assert [one.mix.fraction for one in choice.curve] == [0.0, 0.3, 0.5]
    assert len({one.mean for one in choice.curve}) == 1


def test_if_no_image_can_be_left_out_the_fraction_must_be_given(make):
    with pytest.raises(DataError, match="can't be chosen by cross-validation") as error:
        choose_mix(make(FRESH, counts=(1, 1, 1)), GRID)
    assert "evaluation.synthetic_fraction" in error.value.fix
