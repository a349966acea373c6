import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from diffaug.configuration.settings import FILTER_NAMES, SynthesisSettings
from diffaug.data.images import NO_LABEL, LabeledImages, SeenImages
from diffaug.diffusion.process.normalization import Decoded
from diffaug.files import storage
from diffaug.synthesis.filters import preparing, scores
from diffaug.synthesis.filters.calibrated import CalibratedFilters, FilterResult
from diffaug.synthesis.filters.crossfit import ClassifierFolds
from diffaug.synthesis.filters.preparing import prepare_filters

pytestmark = pytest.mark.e2e

COUNTS = (60, 45, 30, 30, 8)
KEPT_BACK = 25
SETTINGS = SynthesisSettings()


class Brightness:
    name = "brightness"

    def features(self, pixels):
        return pixels.reshape(len(pixels), -1).astype(np.float32)


@pytest.fixture(scope="module")
def parts(digits) -> tuple[LabeledImages, LabeledImages]:
    """A long tail of five digits to train on, and 25 new images of each; the data set is ordered by writer."""
    pixels, labels = digits
    random = np.random.default_rng(0)
    own = [random.permutation(np.flatnonzero(labels == label)) for label in range(len(COUNTS))]
    rows = [np.concatenate([one[KEPT_BACK : KEPT_BACK + n] for one, n in zip(own, COUNTS, strict=True)])]
    rows.append(np.concatenate([one[:KEPT_BACK] for one in own]))
    return tuple(LabeledImages(pixels[i], labels[i], tuple("01234"), tuple(map(str, i))) for i in rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("filters") / "filters"


@pytest.fixture(scope="module")
def filters(parts, folder) -> CalibratedFilters:
    return prepare(folder, parts[0], updates=80)


def prepare(folder, images, updates=2, **changes) -> CalibratedFilters:
    arguments = {"settings": SETTINGS, "seed": 0, "device": "cpu", **changes}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffaug.synthesis.filters.crossfit.default_updates", lambda count: updates)
        return prepare_filters(folder, images, np.arange(len(images)), **arguments)


def shown(filters: CalibratedFilters, pixels, label: int) -> FilterResult:
    return filters(Decoded(np.array(pixels), np.ones(len(pixels), np.bool_)), label)


def class_of(images: LabeledImages, label: int) -> np.ndarray:
    return images.pixels[images.labels == label]


@pytest.mark.parametrize("encoder", [None, Brightness()], ids=["classifiers", "given encoder"])
def test_new_images_of_their_class_are_kept_and_others_are_not(filters, parts, tmp_path, encoder) -> None:
    tested = filters if encoder is None else prepare(tmp_path / "given", parts[0], encoder=encoder)
    new = [class_of(parts[1], label) for label in range(5)]
    reasons = np.array([[shown(tested, one, label).reasons for label in range(5)] for one in new])
    shares = (reasons != "").mean(axis=2)
    lost, found = np.diag(shares), shares[~np.eye(5, dtype=bool)]
    assert np.mean(lost) <= 0.2, lost
    assert encoder or lost[-1] <= 0.2
    assert np.mean(found) >= 0.9, (found, lost)


def test_the_reason_of_each_kind_of_bad_image_is_given(filters, parts) -> None:
    train, new = parts
    own, other = class_of(new, 0), class_of(new, 1)
    noise = np.random.default_rng(0).integers(0, 256, own.shape, dtype=np.uint8)
    assert scores.WRONG_CLASS in shown(filters, other, 0).reasons
    assert set(shown(filters, np.full_like(own, 9), 0).reasons) == {scores.CONSTANT}
    assert set(shown(filters, np.where(noise > 127, 255, 0).astype(np.uint8), 0).reasons) == {scores.SATURATED}
    only_distance = replace(filters, enabled=(scores.OUT_OF_DISTRIBUTION,))
    assert shown(only_distance, other, 0).reasons.count(scores.OUT_OF_DISTRIBUTION) >= 0.8 * len(other)
    assert shown(filters, class_of(train, 0), 0).reasons.count(scores.COPY) >= 0.95 * COUNTS[0]
    finite = np.arange(len(own)) % 2 == 0
    reasons = filters(Decoded(own, finite), 0).reasons
    assert all((reason == scores.NON_FINITE) != ok for reason, ok in zip(reasons, finite, strict=True))
    black, off = np.zeros((2, 8, 8, 1), np.uint8), replace(filters, enabled=())
    assert off(Decoded(black, finite[:2]), 0).reasons == ("", scores.NON_FINITE)  # a blank slide is a valid image


def test_mirrored_copies_are_found_and_the_training_image_is_named(filters, parts) -> None:
    train = parts[0]
    result = shown(filters, class_of(train, 2)[:, :, ::-1], 2)
    names = [filters.image_ids[position] for position in result.nearest]
    assert names == [name for name, label in zip(train.ids, train.labels, strict=True) if label == 2]
    assert np.mean(result.scores["copy_ratio"] < filters.copy_threshold) == 1


@pytest.mark.parametrize("name", [*FILTER_NAMES[:-1], None])
def test_a_filter_that_is_off_rejects_nothing_and_scores_stay(filters, parts, name) -> None:
    own, other = class_of(parts[0], 0)[:20], class_of(parts[1], 1)[:20]
    pixels = np.concatenate([own, other, np.zeros_like(own[:1])])
    without = () if name is None else tuple(one for one in FILTER_NAMES if one != name)
    partial = replace(filters, enabled=without)
    whole, less = shown(filters, pixels, 0), shown(partial, pixels, 0)
    assert name not in less.reasons
    assert set(less.reasons) <= {"", *without}
    assert tuple(less.scores) == filters.score_names
    assert filters.rejections(pixels, 0).keys() == set(FILTER_NAMES[:-1])
    for score in filters.score_names:
        np.testing.assert_array_equal(whole.scores[score], less.scores[score])


@pytest.mark.parametrize("count", [0, KEPT_BACK])
def test_scores_are_one_number_per_image_in_their_range(filters, parts, count) -> None:
    result = shown(filters, class_of(parts[1], 3)[:count], 3)
    assert len(result.reasons) == len(result.nearest) == len(filters.duplicates(result.descriptors, 3)) == count
    assert tuple(result.scores) == filters.score_names
    for name, found in result.scores.items():
        assert (found.shape, found.dtype) == ((count,), np.float32)
        assert ((found >= 0) & (found <= (2 if "distance" in name else 1))).all()


def test_duplicates_are_found_mirrored_too_and_can_be_switched_off(filters, parts) -> None:
    own = class_of(parts[1], 0)
    twice = shown(filters, np.concatenate([own, own[:5], own[5:10, :, ::-1]]), 0).descriptors
    found = filters.duplicates(twice, 0)
    assert found[KEPT_BACK:].all()
    assert found[:KEPT_BACK].mean() <= 0.1
    off = replace(filters, enabled=tuple(name for name in FILTER_NAMES if name != scores.DUPLICATE))
    assert not off.duplicates(twice, 0).any()


def test_loaded_filters_give_the_same_bits(filters, parts, folder, monkeypatch) -> None:
    monkeypatch.setattr("diffaug.synthesis.filters.crossfit.ClassifierEncoder.fit", None)
    again = prepare_filters(folder, parts[0], np.arange(len(parts[0])), settings=SETTINGS, seed=0, device="cpu")
    assert again.fingerprint == filters.fingerprint
    for label in range(5):
        one, other = (shown(which, parts[1].pixels, label) for which in (filters, again))
        np.testing.assert_equal(vars(one), vars(other))


def test_training_again_gives_the_same_file_on_any_number_of_threads(parts, tmp_path, request) -> None:
    few = parts[0].select(np.arange(40))
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    for name, number in (("one", 1), ("two", 2)):
        torch.set_num_threads(number)
        prepare(tmp_path / name, few, updates=8)
        assert torch.get_num_threads() == number
    assert storage.read_json(tmp_path / "one" / storage.DONE) == storage.read_json(tmp_path / "two" / storage.DONE)


@pytest.mark.parametrize("moment", ["while it is trained", "as it is put in its place"])
def test_who_trains_them_together_with_another_process_takes_those_of_the_first(parts, tmp_path, moment) -> None:
    few, folder = parts[0].select(np.arange(40)), tmp_path / "filters"
    slower = prepare(tmp_path / "other", few, updates=3)  # as a machine that computes otherwise would train it
    fit, replace_path = preparing._Preparation.fit, Path.replace

    def others_fit(*arguments):
        state = fit(*arguments)
        if moment == "while it is trained":
            shutil.copytree(tmp_path / "other", folder)
        return state

    def others_replace(path, target):
        if target == folder:
            shutil.copytree(tmp_path / "other", folder)
        return replace_path(path, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing._Preparation, "fit", others_fit)
        patch.setattr(Path, "replace", others_replace)
        filters = prepare(folder, few, updates=2)
    assert filters.fingerprint == slower.fingerprint == prepare(folder, few).fingerprint
    assert not list(tmp_path.glob(".*.tmp"))


def test_anything_that_matters_makes_other_filters_which_replace_the_first(parts, tmp_path) -> None:
    images = parts[0].select(np.arange(0, len(parts[0]), 6))
    changes = [
        (images, {}),
        (images, {"seed": 1}),
        (images, {"settings": SynthesisSettings(false_rejection_rate=0.1)}),
        (images, {"settings": SynthesisSettings(filters=("copy",))}),
        (images, {"encoder": Brightness()}),
        (replace(images, pixels=images.pixels ^ 1), {}),
        (replace(images, labels=np.roll(images.labels, 1)), {}),
    ]
    prints = [prepare(tmp_path / "filters", changed, **arguments).fingerprint for changed, arguments in changes]
    assert len(set(prints)) == len(changes)
    sampled_otherwise = SynthesisSettings(guidance_scale=3.0)  # this setting is of another part
    assert prepare(tmp_path / "filters", changes[-1][0], settings=sampled_otherwise).fingerprint == prints[-1]


@pytest.mark.parametrize("counts", [(5, 1), (1, 1), (2, 2), (6, 0)])
def test_classes_too_small_to_leave_any_out_lose_nothing_to_calibrated_filters(digits, tmp_path, counts) -> None:
    pixels, labels = digits
    rows = np.concatenate([np.flatnonzero(labels == label)[:count] for label, count in enumerate(counts)])
    images = LabeledImages(pixels[rows], labels[rows], ("0", "1"), tuple(map(str, rows)))
    filters = prepare(tmp_path / "tiny", images)
    for label in (0, 1):
        reasons = set(shown(filters, pixels[labels == label][10:20], label).reasons)
        assert not reasons & {scores.CONSTANT, scores.SATURATED, scores.WRONG_CLASS, scores.OUT_OF_DISTRIBUTION}


class Knowing:
    """Tells the classes of five digits by heart, since it was shown the images."""

    name = "knowing"

    def __init__(self, images: LabeledImages) -> None:
        self.known = {pixels.tobytes(): label for pixels, label in zip(images.pixels, images.labels, strict=True)}

    def features(self, pixels):
        return np.eye(5, dtype=np.float32)[[self.known[one.tobytes()] for one in pixels]]


def test_an_encoder_judges_where_it_recognizes_more_held_out_images(parts, tmp_path) -> None:
    few = parts[0].select(np.arange(0, len(parts[0]), 2))
    better = prepare(tmp_path / "better", few, encoder=Knowing(few), only_if_better=True)
    assert better.encoder_name == "knowing"
    assert better.recognition.encoder == better.held_out.balanced_accuracy == 1 > better.recognition.networks
    brightness = Brightness()
    brightness.features = lambda pixels: np.zeros((len(pixels), 2), np.float32)  # sees nothing
    worse = prepare(tmp_path / "worse", few, updates=40, encoder=brightness, only_if_better=True)
    assert worse.encoder_name.startswith("classifier of the training images")
    assert worse.recognition.networks == pytest.approx(worse.held_out.balanced_accuracy)
    assert isinstance(worse.models, ClassifierFolds)


def test_the_copy_filter_knows_unlabeled_images(parts, tmp_path) -> None:
    few, unlabeled = parts[0].select(np.arange(0, len(parts[0]), 2)), parts[1]
    ids = few.ids + tuple(f"unlabeled/{name}" for name in unlabeled.ids)
    labels = np.concatenate([few.labels, np.full(len(unlabeled), NO_LABEL)])
    seen = SeenImages(np.concatenate([few.pixels, unlabeled.pixels]), ids, labels, np.arange(len(ids)))
    knowing, unaware = prepare(tmp_path / "knowing", few, seen=seen), prepare(tmp_path / "unaware", few)
    assert knowing.fingerprint != unaware.fingerprint
    copies = class_of(unlabeled, 0)
    assert knowing.rejections(copies, 0)["copy"].mean() >= 0.95
    assert unaware.rejections(copies, 0)["copy"].mean() <= 0.2
    assert all(knowing.image_ids[i].startswith("unlabeled/") for i in shown(knowing, copies, 0).nearest)


def test_progress_is_reported_to_the_end(parts, tmp_path) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    few = parts[0].select(np.arange(30))
    prepare(tmp_path, few, progress=lambda what, done, total: seen.setdefault(what, []).append((done, total)))
    assert list(seen) == ["training the filters", "calibrating the filters"]
    for steps in seen.values():
        assert steps == sorted(steps)
        assert steps[-1][0] == steps[-1][1]


def test_noise_is_unlike_any_real_image_whatever_its_direction(filters, parts) -> None:
    """Of images of any class at most one in 25 is so far off; noise is rejected for its distance."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)
    for label in range(5):
        outputs = filters.models.predict(class_of(parts[1], label))
        assert filters._is_far_off(outputs, label).mean() <= 1 / KEPT_BACK
        assert filters.rejections(noise, label)[scores.OUT_OF_DISTRIBUTION].mean() >= 0.8
    longer = [replace(one, features=10 * one.features) for one in filters.models.predict(parts[1].pixels)]
    assert filters._is_far_off(longer, 0).all()
