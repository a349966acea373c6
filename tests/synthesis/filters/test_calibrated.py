import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diffaug.configuration.settings import FILTER_NAMES, SynthesisSettings
from diffaug.data.images import LabeledImages
from diffaug.errors import DamagedError
from diffaug.files import storage
from diffaug.synthesis.filters import calibrated as judge_module
from diffaug.synthesis.filters.calibrated import CalibratedJudge, prepare_judge
from diffaug.synthesis.filters.protocol import Candidates, Judge, Judgement
from diffaug.synthesis.filters.scores import (
    CONSTANT,
    COPY,
    DUPLICATE,
    NON_FINITE,
    OFF_CLASS,
    OUT_OF_DISTRIBUTION,
    SATURATED,
)

COUNTS = (60, 45, 30, 30, 8)
KEPT_BACK = 25
SETTINGS = SynthesisSettings()


@pytest.fixture(scope="module")
def parts(digits) -> tuple[LabeledImages, LabeledImages]:
    """A long tail of five digits to train on, and 25 new images of each; the data set is ordered by writer."""
    pixels, labels = digits
    random = np.random.default_rng(0)
    own = [random.permutation(np.flatnonzero(labels == label)) for label in range(len(COUNTS))]
    rows = [np.concatenate([one[KEPT_BACK : KEPT_BACK + n] for one, n in zip(own, COUNTS, strict=True)])]
    rows.append(np.concatenate([one[:KEPT_BACK] for one in own]))
    train, new = (LabeledImages(pixels[i], labels[i], tuple("01234"), tuple(map(str, i))) for i in rows)
    return train, new


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("judge") / "judge"


@pytest.fixture(scope="module")
def judge(parts, folder) -> CalibratedJudge:
    return prepare(folder, parts[0], updates=80)


def prepare(folder, images, updates=2, **changes) -> CalibratedJudge:
    arguments = {"settings": SETTINGS, "seed": 0, "device": "cpu", **changes}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffaug.classifiers.encoders.default_updates", lambda count: updates)
        return prepare_judge(folder, images, np.arange(len(images)), **arguments)


def shown(judge: Judge, pixels, label: int) -> Judgement:
    return judge(Candidates(np.array(pixels), np.ones(len(pixels), np.bool_), label))


def rejected(judgement: Judgement) -> np.ndarray:
    return np.array([bool(reason) for reason in judgement.reasons])


def class_of(images: LabeledImages, label: int) -> np.ndarray:
    return images.pixels[images.labels == label]


def test_new_images_are_kept_in_every_class_and_those_of_other_classes_are_not(judge, parts) -> None:
    lost = [rejected(shown(judge, class_of(parts[1], label), label)).mean() for label in range(5)]
    assert np.mean(lost) < 0.2, lost
    assert lost[-1] <= 0.2
    pairs = [(one, label) for one in range(5) for label in range(5) if one != label]
    found = [rejected(shown(judge, class_of(parts[1], one), label)).mean() for one, label in pairs]
    assert np.mean(found) >= 0.9, (found, lost)


def test_the_reason_of_each_kind_of_bad_image_is_given(judge, parts) -> None:
    train, new = parts
    own, other = class_of(new, 0), class_of(new, 1)
    noise = np.random.default_rng(0).integers(0, 256, own.shape, dtype=np.uint8)
    assert OFF_CLASS in shown(judge, other, 0).reasons
    assert set(shown(judge, np.full_like(own, 9), 0).reasons) == {CONSTANT}
    assert set(shown(judge, np.where(noise > 127, 255, 0).astype(np.uint8), 0).reasons) == {SATURATED}
    only_distance = replace(judge, settings=SETTINGS.model_copy(update={"filters": (OUT_OF_DISTRIBUTION,)}))
    assert shown(only_distance, other, 0).reasons.count(OUT_OF_DISTRIBUTION) >= 0.8 * len(other)
    assert shown(judge, class_of(train, 0), 0).reasons.count(COPY) >= 0.95 * COUNTS[0]
    finite = np.arange(len(own)) % 2 == 0
    reasons = judge(Candidates(own, finite, 0)).reasons
    assert all((reason == NON_FINITE) != ok for reason, ok in zip(reasons, finite, strict=True))


def test_mirrored_copies_are_found_and_the_training_image_is_named(judge, parts) -> None:
    train = parts[0]
    judgement = shown(judge, class_of(train, 2)[:, :, ::-1], 2)
    names = [judge.image_ids[position] for position in judgement.nearest]
    assert names == [name for name, label in zip(train.ids, train.labels, strict=True) if label == 2]
    assert np.mean(judgement.scores["copy_ratio"] < judge.copy_threshold) == 1


@pytest.mark.parametrize("name", [*FILTER_NAMES[:-1], None])
def test_a_filter_that_is_off_rejects_nothing_and_scores_stay(judge, parts, name) -> None:
    own, other = class_of(parts[0], 0)[:20], class_of(parts[1], 1)[:20]
    pixels = np.concatenate([own, other, np.zeros_like(own[:1])])
    without = () if name is None else tuple(one for one in FILTER_NAMES if one != name)
    partial = replace(judge, settings=SETTINGS.model_copy(update={"filters": without}))
    whole, less = shown(judge, pixels, 0), shown(partial, pixels, 0)
    assert name not in less.reasons
    assert set(less.reasons) <= {"", *without}
    assert tuple(less.scores) == judge.score_names
    assert judge.verdicts(Candidates(pixels, np.ones(len(pixels), np.bool_), 0)).keys() == set(FILTER_NAMES[:-1])
    for score in judge.score_names:
        np.testing.assert_array_equal(whole.scores[score], less.scores[score])


def test_scores_are_one_number_an_image_and_in_their_range(judge, parts) -> None:
    judgement = shown(judge, class_of(parts[1], 3), 3)
    assert tuple(judgement.scores) == judge.score_names
    for name, scores in judgement.scores.items():
        assert scores.shape == (KEPT_BACK,)
        assert scores.dtype == np.float32
        assert scores.min() >= 0 and scores.max() <= (2 if "distance" in name else 1)


def test_duplicates_are_found_mirrored_too_and_can_be_switched_off(judge, parts) -> None:
    own = class_of(parts[1], 0)
    twice = shown(judge, np.concatenate([own, own[:5], own[5:10, :, ::-1]]), 0).descriptors
    found = judge.duplicates(twice, 0)
    assert found[KEPT_BACK:].all()
    assert found[:KEPT_BACK].mean() <= 0.1
    without = tuple(name for name in FILTER_NAMES if name != DUPLICATE)
    off = replace(judge, settings=SETTINGS.model_copy(update={"filters": without}))
    assert not off.duplicates(twice, 0).any()


def test_a_loaded_judge_gives_the_same_judgement_bit_for_bit(judge, parts, folder, monkeypatch) -> None:
    monkeypatch.setattr("diffaug.synthesis.filters.crossfit.ClassifierEncoder.fit", None)
    again = prepare_judge(folder, parts[0], np.arange(len(parts[0])), settings=SETTINGS, seed=0, device="cpu")
    assert again.fingerprint == judge.fingerprint
    for label in range(5):
        one, other = (shown(which, parts[1].pixels, label) for which in (judge, again))
        assert one.reasons == other.reasons
        np.testing.assert_array_equal(one.nearest, other.nearest)
        np.testing.assert_array_equal(one.descriptors, other.descriptors)
        for name in judge.score_names:
            np.testing.assert_array_equal(one.scores[name], other.scores[name])


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of torch's threads during a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_training_it_again_gives_the_same_file_on_any_number_of_threads(parts, tmp_path, threads) -> None:
    few = parts[0].select(np.arange(40))
    for name, number in (("one", 1), ("two", 2)):
        threads(number)
        prepare(tmp_path / name, few, updates=8)
        assert torch.get_num_threads() == number
    assert storage.read_json(tmp_path / "one" / storage.DONE) == storage.read_json(tmp_path / "two" / storage.DONE)


@pytest.mark.parametrize("moment", ["while it is trained", "as it is put in its place"])
def test_who_trains_it_together_with_another_process_takes_the_judge_of_the_first(parts, tmp_path, moment) -> None:
    few, folder = parts[0].select(np.arange(40)), tmp_path / "judge"
    slower = prepare(tmp_path / "other", few, updates=3)  # as a machine that computes otherwise would train it
    fit, replace_path = judge_module._Preparation.fit, Path.replace

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
        patch.setattr(judge_module._Preparation, "fit", others_fit)
        patch.setattr(Path, "replace", others_replace)
        judge = prepare(folder, few, updates=2)
    assert judge.fingerprint == slower.fingerprint == prepare(folder, few).fingerprint
    assert not list(tmp_path.glob(".*.tmp"))


class Brightness:
    name = "brightness"

    def features(self, pixels):
        return pixels.reshape(len(pixels), -1).astype(np.float32)


CHANGES = {
    "seed": {"seed": 1},
    "share": {"settings": SynthesisSettings(false_rejection_rate=0.1)},
    "filters": {"settings": SynthesisSettings(filters=("copy",))},
    "encoder": {"encoder": Brightness()},
    "pixels": {},
    "labels": {},
}


@pytest.mark.parametrize("change", CHANGES)
def test_anything_else_is_another_judge_which_replaces_the_first(parts, tmp_path, change) -> None:
    images = parts[0].select(np.arange(0, len(parts[0]), 6))
    first = prepare(tmp_path / "judge", images)
    if change == "pixels":
        images = replace(images, pixels=images.pixels ^ 1)
    if change == "labels":
        images = replace(images, labels=np.roll(images.labels, 1))
    other = prepare(tmp_path / "judge", images, **CHANGES[change])
    assert other.fingerprint != first.fingerprint
    assert prepare(tmp_path / "judge", images, **CHANGES[change]).fingerprint == other.fingerprint


def test_settings_of_other_parts_are_not_the_judges_business(judge, parts, folder) -> None:
    assert prepare(folder, parts[0], settings=SynthesisSettings(guidance_scale=3.0)).fingerprint == judge.fingerprint


def test_a_given_encoder_finds_off_class_images_too(parts, tmp_path) -> None:
    judge = prepare(tmp_path / "given", parts[0], encoder=Brightness())
    found = [rejected(shown(judge, class_of(parts[1], one), (one + 1) % 5)).mean() for one in range(5)]
    lost = [rejected(shown(judge, class_of(parts[1], one), one)).mean() for one in range(5)]
    assert np.mean(found) >= 0.9, (found, lost)
    assert np.mean(lost) <= 0.2


def test_a_changed_file_is_noticed(parts, tmp_path) -> None:
    few = parts[0].select(np.arange(20))
    prepare(tmp_path / "judge", few)
    file = tmp_path / "judge" / "judge.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedError):
        prepare(tmp_path / "judge", few)


def test_no_candidates_no_judgement(judge) -> None:
    judgement = shown(judge, np.empty((0, 8, 8, 1), np.uint8), 1)
    assert judgement.reasons == ()
    assert judgement.nearest.shape == (0,)
    assert judge.duplicates(judgement.descriptors, 1).tolist() == []


@pytest.mark.parametrize("counts", [(5, 1), (1, 1), (2, 2), (6, 0)])
def test_classes_too_small_to_leave_any_out_lose_nothing_to_calibrated_filters(digits, tmp_path, counts) -> None:
    pixels, labels = digits
    rows = np.concatenate([np.flatnonzero(labels == label)[:count] for label, count in enumerate(counts)])
    images = LabeledImages(pixels[rows], labels[rows], ("0", "1"), tuple(map(str, rows)))
    judge = prepare(tmp_path / "tiny", images)
    for label in (0, 1):
        reasons = set(shown(judge, pixels[labels == label][10:20], label).reasons)
        assert not reasons & {CONSTANT, SATURATED, OFF_CLASS, OUT_OF_DISTRIBUTION}
