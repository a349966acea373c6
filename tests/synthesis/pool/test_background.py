"""How strongly objects are painted, or backgrounds varied, so that the filters still see the class."""

from dataclasses import replace

import numpy as np
import pytest

from diffaug.configuration.settings import SynthesisSettings
from diffaug.data.images import LabeledImages, ObjectMasks
from diffaug.diffusion.generator.usual import USUAL as OF_NETWORKS
from diffaug.diffusion.generator.usual import Usual
from diffaug.diffusion.process.normalization import Decoded
from diffaug.similarity.intervals import Share
from diffaug.synthesis.filters.objects import FEWEST_GROUPS
from diffaug.synthesis.pool.background import (
    OnBackground,
    TriedOnBackground,
    crossed_strengths,
    transplant_strengths,
    try_on_background,
    with_background_choices,
)
from diffaug.synthesis.pool.making import ChunkMaker, Made
from diffaug.synthesis.pool.origins import NEW
from diffaug.synthesis.pool.strengths import TRIED_IMAGES
from diffaug.synthesis.pool.transplants import Backgrounds, with_margin
from tests.synthesis.pool.conftest import rectangle

from marks import CLEAN, SCRATCH, marked_surface

ALONE = SynthesisSettings(num_inference_steps=2, transplant_fraction=1.0)


class SeesAt:
    """Filters that see the class in shares given by the strength of what was last drawn."""

    device = "cpu"

    def __init__(self, seen: dict[float, float]) -> None:
        self.seen, self.strength = seen, 0.0
        self.held_out = type("HeldOut", (), {"recognized": staticmethod(lambda label: Share(8, 10))})

    def assigned(self, pixels, sources):
        assert set(sources) <= {f"real/{number}.png" for number in range(3, 8)}
        return np.where(np.arange(len(pixels)) < round(len(pixels) * self.seen[self.strength]), 0, 1)

    def rejections(self, pixels, class_index, *, painted=None):
        none = np.zeros(len(pixels), bool)
        return {"copy": none, "unlike real objects": painted.unlike if painted else none}


def tried(painting, monkeypatch, seen, **settings) -> tuple[dict[str, OnBackground], object]:
    filters = SeesAt(seen)
    made = painting.settings.model_copy(update={"transplant_fraction": 0.0, "filters": ("wrong class",), **settings})
    maker = replace(painting, filters=filters, settings=made)
    draw = type(maker.generator).draw

    def watched(self, drawing):
        filters.strength = round(drawing.strength, 4)
        return draw(self, drawing)

    monkeypatch.setattr(type(maker.generator), "draw", watched)
    return try_on_background(maker), maker


CROSSED_STRENGTHS = crossed_strengths(OF_NETWORKS)
USUAL, STRONG, FORGETFUL = (sum(strength) / 2 for strength in CROSSED_STRENGTHS)


@pytest.mark.parametrize(
    ("seen", "chosen"),
    [
        ({USUAL: 0.5, STRONG: 1, FORGETFUL: 1}, CROSSED_STRENGTHS[0]),  # as often as half of the real images
        ({USUAL: 0.3, STRONG: 0.5, FORGETFUL: 1}, CROSSED_STRENGTHS[1]),
        ({USUAL: 0, STRONG: 0.3, FORGETFUL: 0.9}, CROSSED_STRENGTHS[2]),
        ({USUAL: 0, STRONG: 0.1, FORGETFUL: 0.3}, None),
    ],
)
def test_crossed_variations_are_as_weak_as_shows_the_class(painting, monkeypatch, seen, chosen) -> None:
    found, maker = tried(painting, monkeypatch, seen, crossed_fraction=0.5)
    assert found.keys() == {"a", "c/d"}  # each but the background
    assert found["a"].crossed_strength == chosen
    assert found["a"].transplants == ()
    maker = with_background_choices(maker, {"a": found["a"]})
    assert maker.crossed == ({"a": chosen} if chosen else {})
    assert maker.counts(0)["crossed"] == (2 if chosen else 0)
    assert maker.counts(2)["crossed"] == 0


LADDER = (NEW, (0.6, 0.85), (0.5, 0.775), (0.4, 0.7), (0.3, 0.55), (0.2, 0.4))
PAINTED = [round(sum(strength) / 2, 4) for strength in LADDER]


@pytest.mark.parametrize(
    ("seen", "chosen"),
    [
        ((0.5, 1, 1, 1, 1, 1), LADDER[0]),
        ((0.3, 0.5, 1, 1, 1, 1), LADDER[1]),
        ((0, 0, 0, 0.3, 0.5, 0.3), LADDER[4]),
        ((0, 0.3, 0.3, 0.3, 0.3, 0.3), None),
    ],
)
def test_transplants_are_as_new_as_the_filters_still_see_the_class(painting, monkeypatch, seen, chosen) -> None:
    found, maker = tried(painting, monkeypatch, dict(zip(PAINTED, seen, strict=True)), transplant_fraction=0.5)
    assert found.keys() == {"a"} and found["a"].transplant_strength == chosen
    tries = found["a"].transplants
    assert [one.strength for one in tries] == list(LADDER[: len(tries)])
    assert [one.seen.count for one in tries] == [round(TRIED_IMAGES * share) for share in seen[: len(tries)]]
    chosen_maker = with_background_choices(maker, found)
    assert chosen_maker.transplanted == {"a": chosen}
    assert chosen_maker.counts(0)["transplant"] == (2 if chosen else 0)


def test_only_new_objects_are_painted_over_what_the_background_itself_shows(painting, monkeypatch, sources) -> None:
    own = ObjectMasks(sources.ids, np.stack([*painting.backgrounds.masks.pixels, *[rectangle(2, 2, 4, 3, (5, 6))] * 5]))
    maker = replace(painting, backgrounds=replace(painting.backgrounds, masks=own))
    assert transplant_strengths(maker) == (NEW,)


def test_transplants_are_not_judged_where_no_filter_asks_for_the_class(painting, monkeypatch) -> None:
    found, maker = tried(painting, monkeypatch, {}, transplant_fraction=0.5, filters=("copy",))
    assert found == {}
    assert with_background_choices(maker, found).counts(0)["transplant"] == 2


@pytest.mark.parametrize(
    ("paints", "seen", "unlike"),
    [("scratches", TRIED_IMAGES, 0), ("noise", 0, TRIED_IMAGES), ("shuffled pixels", 0, TRIED_IMAGES)],
)
def test_a_class_gets_transplants_only_if_what_is_painted_looks_like_its_objects(
    monkeypatch, paints, seen, unlike
) -> None:
    """The filters see the class in all of them, as they do in noise of the shape of a scratch."""
    found, maker = tried_on_marks(monkeypatch, paints, num_objects=12)
    transplants = found[SCRATCH].transplants[-1]
    assert abs(transplants.seen.count - seen) <= 2 and abs(transplants.unlike.count - unlike) <= 2
    assert transplants.objects_told.value > 0.9
    assert (maker.counts(1)["transplant"] > 0) == (paints == "scratches")


def test_a_class_with_too_few_objects_to_tell_them_from_noise_gets_no_transplants(monkeypatch) -> None:
    found, maker = tried_on_marks(monkeypatch, "scratches", num_objects=FEWEST_GROUPS - 1)
    (blind,) = found[SCRATCH].transplants  # no strength would help
    assert blind.is_blind and blind.unlike.count == 0
    assert maker.counts(1)["transplant"] == 0
    unasked, maker = tried_on_marks(monkeypatch, "noise", num_objects=FEWEST_GROUPS - 1, filters=("wrong class",))
    assert unasked[SCRATCH].transplants[0].is_good and maker.counts(1)["transplant"] > 0


class Judged:
    """What a trial needs of a generator."""

    classes, image_size, usual = (CLEAN, SCRATCH), (32, 32), OF_NETWORKS


def scratch(number: int, split: str = "train"):
    return marked_surface(SCRATCH, split, number)


def tried_on_marks(monkeypatch, paints: str, num_objects: int, filters=("wrong class", "unlike real objects")):
    """Tries transplants that show scratches of test images, their pixels in another order, or noise in their place."""

    def draw(self, class_index, part, sampling) -> Made:
        random, shown = np.random.default_rng(0), [scratch(number, "test") for number in part.indices]
        images, outlines = np.stack([one.pixels[..., None] for one in shown]), np.stack([one.mask for one in shown])
        for image, painted in zip(images, map(with_margin, outlines), strict=True):
            noise = random.normal(128, 40, image[painted].shape).clip(0, 255)
            made = {"noise": noise, "shuffled pixels": random.permutation(image[painted])}
            image[painted] = made.get(paints, image[painted])
        return Made(Decoded(images, np.ones(len(images), bool)), outlines)

    monkeypatch.setattr(ChunkMaker, "draw", draw)
    real = [*(marked_surface(CLEAN, "train", number) for number in range(8)), *map(scratch, range(num_objects))]
    ids = tuple(f"real/{number + 3}.png" for number in range(len(real)))
    labels = np.repeat([0, 1], (8, num_objects))
    images = LabeledImages(np.stack([one.pixels[..., None] for one in real]), labels, (CLEAN, SCRATCH), ids)
    backgrounds = Backgrounds(0, ObjectMasks(ids[8:], np.stack([one.mask for one in real[8:]])), np.arange(len(real)))
    judges = SeesAt({})
    judges.assigned = lambda pixels, sources: np.ones(len(pixels), int)
    settings = ALONE.model_copy(update={"filters": filters})
    maker = ChunkMaker(Judged(), judges, images, settings, 4, 0, backgrounds=backgrounds)
    found = try_on_background(maker)
    return found, with_background_choices(maker, found)


def test_copies_and_unrecognized_classes_speak_against_real_backgrounds() -> None:
    good = TriedOnBackground(Share(8, 16), Share(9, 10), Share(0, 16), NEW)
    assert good.is_good
    assert not replace(good, copies=Share(9, 16)).is_good
    assert not replace(good, recognized=Share(0, 10)).is_good
    assert not replace(good, recognized=Share(0, 0)).is_good


def test_crossed_variations_are_tried_from_weak_to_strong_for_every_kind_of_generator() -> None:
    of_pipelines = Usual(((0.25, 0.35), (0.45, 0.55), (0.65, 0.75), (0.85, 0.95)), 3)
    assert crossed_strengths(of_pipelines) == ((0.65, 0.75), (0.8, 0.95), (0.85, 0.95))
    assert crossed_strengths(OF_NETWORKS) == ((0.4, 0.7), (0.6, 0.85), (0.8, 0.95))
