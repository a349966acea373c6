from dataclasses import replace

import numpy as np
import pytest

from diffaug.evaluation.experiment.arms import ARMS
from diffaug.evaluation.experiment.choice import MeasuredArm, MeasuredMix, Mix
from diffaug.evaluation.experiment.choosing.choose import choice_of
from diffaug.evaluation.experiment.choosing.gains import choose_option, smoothed_gains
from diffaug.evaluation.experiment.choosing.mixes import bases, choose_mix
from diffaug.evaluation.experiment.choosing.real_arms import RealArms
from diffaug.evaluation.experiment.choosing.validation import Option, cross_validation, on_judged_images
from diffaug.evaluation.experiment.trainings import Trainings
from tests.evaluation.experiment.choosing.worlds import Scripted, drawn, draws_classes_equally, synthetic_share

GRID = (0.0, 0.15, 0.3, 0.5)
REAL = RealArms((ARMS["real only"], ARMS["oversampling"]))
TRAIN = drawn((30, 12, 6), 0, "train")


def by_share(*errors, equal_draws=9):
    """Errs by the synthetic share of the draws, one number per fraction of the grid; in other draws as given."""

    def of(training):
        if draws_classes_equally(training):
            return equal_draws
        return errors[int(np.argmin([abs(synthetic_share(training) - fraction) for fraction in GRID]))]

    return Scripted(TRAIN, of)


@pytest.mark.parametrize(
    ("errors", "fraction"),
    [
        ((5, 2, 2, 2), 0.3),  # in the middle of equals
        ((5, 5, 2, 2), 0.5),  # the smallest is no gain
        ((5, 2, 4, 8), 0.15),
        ((5, 9, 4, 9), 0.0),  # a single one that is better by chance
        ((2, 5, 5, 5), 0.0),
        ((2, 2, 2, 2), 0.15),  # the test decides
        ((8, 7, 5, 1), 0.5),  # far better than any smaller one
    ],
)
def test_the_fraction_that_is_best_on_a_curve_through_the_gains_is_added(make, errors, fraction):
    chosen = choose_mix(make(by_share(*errors)), REAL, GRID)
    assert (chosen.arm.name, chosen.mix) == ("real only", Mix(fraction))
    assert chosen.judged_images == 16
    by_fraction = {one.mix.fraction: one for one in chosen.mixtures if one.how == "as found"}
    assert sorted(by_fraction) == list(GRID)
    for wrong, share in zip(errors, GRID, strict=True):
        one = by_fraction[share]
        assert one.gain == pytest.approx(one.mean - by_fraction[0.0].mean, abs=1e-9)
        assert (one.mean < by_fraction[0.0].mean) == (wrong > errors[0])


def test_synthetic_images_may_help_most_where_classes_are_drawn_equally_often(make):
    def errors(training):
        return {False: 4, True: 1}[bool(training.is_synthetic.any()) and draws_classes_equally(training)]

    chosen = choose_mix(make(Scripted(TRAIN, errors)), REAL, GRID)
    assert (chosen.arm.name, chosen.arm.draw, chosen.mix.fraction) == ("real only", "classes", 0.3)


def mixture(fraction, mean, gain, error=0.02, arm="real only"):
    return MeasuredMix(arm, Mix(fraction), mean, 0.01, "", gain, error, gain, error)


def test_the_curve_of_each_arm_begins_at_the_arm_alone_and_smooths_its_own_gains() -> None:
    gains = {0.0: -0.01, 0.15: 0.02, 0.3: 0.05, 0.5: 0.01}
    ours = [mixture(fraction, 0.8 + gain, gain) for fraction, gain in gains.items()]
    other = [mixture(0.0, 0.8, 0.0, arm="b"), mixture(0.3, 0.849, 0.049, arm="b")]
    curve = np.poly1d([*np.linalg.solve([[0.0225, 0.15], [0.09, 0.3]], [0.03, 0.06]), -0.01])
    exact = [mixture(one, 0.8, float(curve(one))) for one in gains]
    assert smoothed_gains(exact) == pytest.approx([one.score_gain for one in exact])  # a parabola stays as it is
    assert smoothed_gains([*ours, *other])[:4] == smoothed_gains(ours)
    assert smoothed_gains(other) == pytest.approx([0.0, 0.049])
    assert 0.02 < max(smoothed_gains(ours)) < 0.05
    assert choose_option([*ours, *other]) == 5


def test_the_choice_by_the_curve_costs_less_than_by_the_best_measured_gain() -> None:
    random, fractions = np.random.default_rng(0), np.array(GRID[1:])
    lost, noise = [], 0.02
    for _ in range(1500):
        height, peak = random.normal(0.003, 0.01), random.uniform(0.1, 0.9)
        truth = np.r_[0, height * (1 - (fractions / peak - 1) ** 2)]
        seen = np.r_[0, truth[1:] + random.normal(0, noise, 3) - random.normal(0, noise)]
        measured = [mixture(one, 0.8, gain, noise * 2**0.5) for one, gain in zip(GRID, seen, strict=True)]
        chosen = choose_option(measured)
        lost.append(truth.max() - truth[[chosen, int(seen.argmax())]])
    by_curve, by_best = np.mean(lost, axis=0)
    assert by_curve < 0.95 * by_best


@pytest.mark.parametrize(("gain", "tested"), [(-0.02, 0.0), (-0.011, 0.0), (-0.01, 0.15), (0.0, 0.15)])
def test_the_smallest_fraction_is_tested_unless_it_is_clearly_worse_than_none(gain, tested):
    measured = [mixture(one, 0.8, gain if one else 0.0) for one in GRID]
    assert measured[choose_option(measured)].mix.fraction == tested


def test_without_synthetic_images_the_best_real_arm_stays_though_another_base_alone_did_better(make):
    def errors(training):
        return 9 if training.is_synthetic.any() else 2 if draws_classes_equally(training) else 5

    trainings = make(Scripted(TRAIN, errors))
    chosen = choose_mix(trainings, REAL, GRID)
    assert chosen.mix.is_zero
    assert chosen.arm == REAL.best


def test_none_is_not_chosen_where_the_grid_leaves_it_out(make):
    assert choose_option([mixture(0.0, 0.9, 0.0), mixture(0.3, 0.8, -0.1)], allow_none=False) == 1
    chosen = choose_mix(make(by_share(0, 5, 5, 5)), REAL, (0.3, 0.5))
    assert chosen.mix.fraction in (0.3, 0.5)


@pytest.mark.parametrize(("blamed", "excluded"), [(True, ("b",)), (False, ())])
def test_a_class_that_became_worse_gets_none_if_that_helps(make, blamed, excluded):
    """Any synthetic image mends "c"; "b" suffers from those of "b", or from any."""

    def errors(training):
        shown = set(training.images.labels[training.is_synthetic].tolist())
        suffers = 1 in shown if blamed else bool(shown)
        return [0, 8 if suffers else 0, 0 if 2 in shown else 10]

    chosen = choose_mix(make(Scripted(TRAIN, errors)), REAL, GRID)
    (fewer,) = chosen.refinements
    assert fewer.mix.excluded_classes == ("b",)
    assert chosen.mix == Mix(0.3, excluded_classes=excluded)


@pytest.mark.parametrize("hurts", [True, False])
def test_images_on_real_backgrounds_are_left_out_if_that_helps(make, hurts):
    """Odd images of the pilot's pool are transplants; any synthetic image mends "b"."""
    trainings = make(Scripted(TRAIN, lambda t: 0))
    pilot = trainings.experiment.pilot
    origins = tuple("transplant" if number % 2 else "sampled" for number in range(len(pilot.images)))
    painted = {image.tobytes() for image in pilot.images.pixels[1::2]}

    def errors(training):
        shown = {image.tobytes() for image in training.images.pixels[training.is_synthetic]}
        suffers = hurts and bool(shown & painted)
        return [5 if suffers else 0, 0 if shown else 10, 0]

    experiment = replace(
        trainings.experiment,
        pilot=replace(pilot, images=replace(pilot.images, origins=origins)),
        classifier=Scripted(TRAIN, errors),
    )
    chosen = choose_mix(Trainings(experiment), REAL, GRID)
    tried = [one.mix.excluded_origins for one in chosen.refinements]
    assert ("transplant",) in tried
    assert chosen.mix.excluded_origins == (("transplant",) if hurts else ())


@pytest.mark.parametrize("origins", [None, ("transplant",) * 60, ("sampled", "variation") * 30])
def test_nothing_is_left_out_where_all_images_are_of_one_kind(make, origins):
    trainings = make(Scripted(TRAIN, lambda t: [0, 0 if t.is_synthetic.any() else 10, 0]))
    pilot = trainings.experiment.pilot
    images = replace(pilot.images, origins=origins)
    experiment = replace(trainings.experiment, pilot=replace(pilot, images=images))
    assert choose_mix(Trainings(experiment), REAL, GRID).refinements == ()


@pytest.mark.parametrize(
    ("liked", "loss_weight", "limit"),
    [
        (lambda t: t.loss_weights is not None and t.loss_weights.min() == 0.5, 0.5, None),
        (lambda t: 0 < (t.is_synthetic & (t.images.labels == 2)).sum() <= 12, 1.0, 3.0),
        (lambda t: False, 1.0, None),
    ],
)
def test_a_thorough_choice_tries_half_the_weight_and_few_per_real_image(make, liked, loss_weight, limit):
    classifier = Scripted(TRAIN, lambda t: 0 if liked(t) else 2 if t.is_synthetic.any() else 6)
    chosen = choose_mix(make(classifier, settings={"thorough": True, "num_generators": 1}), REAL, GRID)
    assert (chosen.mix.loss_weight, chosen.mix.max_per_real) == (loss_weight, limit)
    assert [one.mix for one in chosen.refinements] == [Mix(0.3, 0.5), Mix(0.3, 1.0, 3.0)]


UNMEASURED = {
    "no pilot": ({"pilot": False}, Mix(0.15), "No pilot"),
    "no pool": ({"pool": (0, 0, 0)}, Mix(0.0), "no synthetic image"),
    "set": ({"settings": {"synthetic_fraction": 0.2}}, Mix(0.2), "set by hand"),
    "set to zero": ({"settings": {"synthetic_fraction": 0.0}}, Mix(0.0), "set by hand"),
    "set, though all are blind": (
        {"settings": {"synthetic_fraction": 0.2}, "blind_classes": ("a", "b", "c")},
        Mix(0.2),
        "set by hand",
    ),
    "all are blind": ({"blind_classes": ("a", "b", "c")}, Mix(0.0), "Nothing shows"),
    "those with images are blind": ({"blind_classes": ("b", "c")}, Mix(0.0), "Nothing shows"),
    "real arms only": (
        {"settings": {"arms": ("real only", "synthetic only", "best real + synthetic"), "quick": True}},
        Mix(0.15),
        "first answer",
    ),
}


@pytest.mark.parametrize("case", UNMEASURED)
def test_what_is_not_measured_is_fixed_and_says_why(make, case):
    options, mix, reason = UNMEASURED[case]
    trainings = make(**options)
    chosen = choose_mix(trainings, REAL, GRID)
    assert (chosen.arm, chosen.mix, chosen.judged_images) == (ARMS["real only"], mix, 0)
    assert reason in chosen.reason
    assert trainings.experiment.classifier.done == []


def blind(trainings, in_pool=(), in_pilot=(), **changes):
    """The trainings, with classes that the filters of the pool and of the pilot's pool do not know."""
    pilot = replace(trainings.experiment.pilot, blind_classes=in_pilot, **changes)
    trainings.experiment = replace(trainings.experiment, blind_classes=in_pool, pilot=pilot)
    return trainings


@pytest.mark.parametrize(
    ("in_pool", "in_pilot", "mix", "reason"),
    [
        ((), ("a", "b", "c"), Mix(0.15), "that the pilot's images"),
        (("b",), ("c",), Mix(0.15, excluded_classes=("b",)), "that the pilot's images"),  # "a" has none
        (("b", "c"), ("a",), Mix(0.0), "that the synthetic images of any class"),
    ],
)
def test_the_smallest_fraction_is_tested_where_the_pool_alone_has_images_that_are_confirmed(
    make, in_pool, in_pilot, mix, reason
):
    chosen = choose_mix(blind(make(), in_pool, in_pilot), REAL, GRID)
    assert (chosen.mix, chosen.judged_images) == (mix, 0) and reason in chosen.reason


def test_a_fraction_that_is_not_measured_is_of_all_classes_that_the_pool_confirms(make):
    quick = blind(make(settings={"quick": True}), ("b",), ("a", "b"))
    assert choose_mix(quick, REAL, GRID).mix == Mix(0.15, excluded_classes=("b",))
    none_judged = np.zeros(len(TRAIN), np.bool_)
    useless = blind(make(), (), ("b",), judged=none_judged)
    assert choose_mix(useless, REAL, GRID).mix == Mix(0.15)


def test_nothing_is_measured_without_an_image_of_the_pilot_that_may_be_used(make):
    trainings = blind(make(pool=(30, 30, 30)), (), ("b", "c"), images=drawn((0, 30, 30), 3, "pilot"))
    chosen = choose_mix(trainings, REAL, GRID)
    assert (chosen.mix, chosen.judged_images, chosen.mixtures) == (Mix(0.15), 0, ())
    assert "The pilot has no image that can be used" in chosen.reason
    assert trainings.experiment.classifier.done == []


def test_a_class_without_synthetic_images_that_became_worse_is_not_left_out_once_more(make):
    """Synthetic images of "c" mend "c", and "b", which has none, pays for it."""
    scripted = Scripted(TRAIN, lambda t: [0, 8, 0] if t.is_synthetic.any() else [0, 0, 10])
    chosen = choose_mix(blind(make(scripted), (), ("b",)), REAL, GRID)
    assert chosen.refinements == ()
    assert sum(map(choice_of(REAL, chosen).is_of, chosen.mixtures)) == 1


def test_blind_classes_get_no_synthetic_image_in_any_training(make):
    trainings = make(by_share(5, 2, 2, 2), blind_classes=("b",))
    chosen = choose_mix(trainings, REAL, GRID)
    assert chosen.mix.excluded_classes == ("b",)
    done = trainings.experiment.classifier.done
    assert any(training.is_synthetic.any() for training in done)
    assert all(1 not in training.images.labels[training.is_synthetic] for training in done)


@pytest.mark.parametrize(("blind", "excluded"), [((), ()), (("b",), ("b",)), (("c",), ("c",))])
def test_a_class_that_is_blind_in_the_pilot_only_gets_the_images_that_the_pool_confirms(make, blind, excluded):
    trainings = make(by_share(5, 2, 2, 2), blind_classes=blind, pool=(30, 30, 30))
    trainings.experiment = replace(
        trainings.experiment, pilot=replace(trainings.experiment.pilot, blind_classes=("b",))
    )
    chosen = choose_mix(trainings, REAL, GRID)
    assert chosen.mix.excluded_classes == excluded
    assert chosen.measured_mix == replace(chosen.mix, excluded_classes=tuple(sorted({*blind, "b"})))
    assert ("without b" in chosen.reason) == ("b" not in blind)
    done = trainings.experiment.classifier.done
    assert all(1 not in training.images.labels[training.is_synthetic] for training in done)
    choice = choice_of(REAL, chosen)
    assert sum(map(choice.is_of, choice.mixtures)) == 1


def with_folds(in_folds, judged):
    """Errs by how classes are drawn, in cross-validation and, with and without synthetic images, on judged images."""

    def errors(training):
        equally = bool(draws_classes_equally(training))
        is_fold = any(classifier.ranks[image.tobytes()] % 3 == 0 for image in training.images.pixels[:30])
        return in_folds[equally] if is_fold else judged[equally][bool(training.is_synthetic.any())]

    return (classifier := Scripted(TRAIN, errors))


@pytest.mark.parametrize(("in_folds", "draw"), [((2, 6), "images"), ((6, 2), "classes")])
def test_bases_are_compared_by_cross_validation_and_what_is_added_on_judged_images(make, in_folds, draw):
    """On judged images alone equal draws look better, with and without synthetic images."""
    trainings = make(with_folds(in_folds, ((5, 3), (2, 1))))
    chosen = choose_mix(trainings, replace(REAL, num_folds=3), GRID)
    assert chosen.arm.draw == draw and not chosen.mix.is_zero
    (alone,) = [one for one in chosen.mixtures if one.mix.is_zero and "equally" in one.how]
    folds, judged = cross_validation(trainings)[0], on_judged_images(trainings, trainings.experiment.pilot)
    (plain, equal) = map(Option, bases(REAL))
    behind = folds.recall_differences(equal, plain).balanced()
    assert alone.gain == pytest.approx(min(behind.mean, 0.0))
    (mixed,) = [one for one in chosen.mixtures if "equally" in one.how and one.mix.fraction == 0.3]
    added = judged.recall_differences(Option(equal.arm, mixed.mix), equal).balanced()
    assert mixed.gain == pytest.approx(alone.gain + added.mean)
    assert mixed.standard_error**2 == pytest.approx(alone.standard_error**2 + added.variance)


FEATURES = replace(ARMS["pretrained features"], regularization=2.0)


def ranked(*arms):
    return RealArms(tuple(arm for arm, _ in arms), tuple(MeasuredArm(arm.name, "", mean, 0.0) for arm, mean in arms))


@pytest.mark.parametrize(
    ("real", "quick", "expected"),
    [
        (ranked((ARMS["real only"], 0.9)), False, [("real only", "images"), ("real only", "classes")]),
        (ranked((ARMS["oversampling"], 0.9), (ARMS["real only"], 0.8)), False, [("oversampling", "classes")]),
        (
            ranked((FEATURES, 0.9), (ARMS["oversampling"], 0.86), (ARMS["real only"], 0.85)),
            False,
            [("pretrained features", "classes"), ("oversampling", "classes")],
        ),
        (ranked((FEATURES, 0.9), (ARMS["real only"], 0.86)), True, [("pretrained features", "classes")]),
        (ranked((FEATURES, 0.9), (ARMS["real only"], 0.84)), False, [("pretrained features", "classes")]),
    ],
)
def test_what_may_be_built_on(real, quick, expected):
    assert [(arm.name, arm.draw) for arm in bases(real, quick=quick)] == expected


def test_balanced_softmax_is_left_out_where_classes_are_drawn_equally_often():
    first, second = bases(ranked((ARMS["balanced softmax"], 0.9)))
    assert (first.balanced_softmax, second.balanced_softmax, second.draw) == (True, False, "classes")


def test_the_pool_of_the_test_is_never_looked_at(make):
    trainings = make(by_share(5, 2, 2, 2))
    choose_mix(trainings, REAL, GRID)
    used = {name.split()[0] for training in trainings.experiment.classifier.done for name in training.images.ids}
    assert used == {"train", "pilot"}


def test_a_choice_is_read_from_disk_and_made_of_few_trainings(make):
    first = make(by_share(5, 2, 2, 2))
    chosen = choose_mix(first, REAL, GRID)
    assert len(first.experiment.classifier.done) == 3 * (2 + 2 + 2)
    again = make(by_share(5, 2, 2, 2))
    assert choose_mix(again, REAL, GRID) == chosen
    assert again.experiment.classifier.done == []
