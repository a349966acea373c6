"""Objects painted into real images of another class: where, around what, and what is told of them."""

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diffaug.configuration.settings import SynthesisSettings
from diffaug.data.images import LabeledImages, ObjectMasks
from diffaug.diffusion.generator.usual import USUAL as OF_NETWORKS
from diffaug.diffusion.generator.usual import Usual
from diffaug.diffusion.process.normalization import Decoded
from diffaug.diffusion.sampling.drawing import Drawing
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
from diffaug.synthesis.pool.origins import NEW, Part
from diffaug.synthesis.pool.strengths import TRIED_IMAGES
from diffaug.synthesis.pool.transplants import Backgrounds, bounding_box, cut_outs, moved, with_margin

from marks import CLEAN, PIT, SCRATCH, marked_surface

ALONE = SynthesisSettings(num_inference_steps=2, transplant_fraction=1.0)
HEIGHT, WIDTH = 9, 7


def rectangle(top: int, left: int, bottom: int, right: int, shape=(HEIGHT, WIDTH)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.fixture
def backgrounds(sources: LabeledImages) -> Backgrounds:
    """Masks of the three images of "a", one of them empty; "b" is the background."""
    masks = np.stack([rectangle(0, 0, 1, 1, (5, 6)), rectangle(0, 0, 0, 0, (5, 6)), rectangle(4, 4, 5, 6, (5, 6))])
    return Backgrounds(1, ObjectMasks(sources.ids[:3], masks), np.arange(len(sources)))


@pytest.fixture
def painting(maker, backgrounds):
    """A maker of which half of each chunk of "a" are transplants."""
    settings = SynthesisSettings(num_inference_steps=2, transplant_fraction=0.5, variation_fraction=0.0)
    return replace(maker, settings=settings, backgrounds=backgrounds)


def pixels_of(chunk) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(content)))[..., None] for content in chunk["png"]])


@given(
    own=st.tuples(st.integers(0, 6), st.integers(0, 4), st.integers(1, 3), st.integers(1, 3)),
    other=st.tuples(st.integers(0, 6), st.integers(0, 4), st.integers(1, 3), st.integers(1, 3)),
)
def test_a_moved_mask_keeps_its_shape_and_lies_where_the_other_one_does(own, other) -> None:
    mask, target = (rectangle(y, x, min(y + h, HEIGHT), min(x + w, WIDTH)) for y, x, h, w in (own, other))
    found = moved(mask, target)
    assert found.sum() == mask.sum()
    np.testing.assert_array_equal(found[bounding_box(found)], mask[bounding_box(mask)])
    for of_found, of_target, length in zip(bounding_box(found), bounding_box(target), (HEIGHT, WIDTH), strict=True):
        off = abs((of_found.start + of_found.stop) - (of_target.start + of_target.stop)) / 2
        assert off < 1 or of_found.start == 0 or of_found.stop == length
    np.testing.assert_array_equal(moved(mask, mask), mask)


def test_a_margin_is_what_lies_around_a_mask() -> None:
    np.testing.assert_array_equal(with_margin(rectangle(3, 3, 4, 4)), rectangle(2, 2, 5, 5))
    np.testing.assert_array_equal(with_margin(rectangle(0, 0, 2, 2)), rectangle(0, 0, 3, 3))


def test_half_of_a_chunk_is_painted_into_real_images_and_nothing_changes_around(painting, sources, backgrounds) -> None:
    chunk = painting.make(0, 0)
    assert chunk["origin"].tolist() == ["sampled", "transplant"] * 2
    assert chunk["index"].tolist() == [0, 1, 2, 3]
    assert (chunk["label"] == "a").all() and chunk["strength"].tolist() == [0, 1] * 2
    painted = chunk[1::2]
    assert set(painted["source"]) <= set(sources.ids[3:])
    assert set(painted["mask_source"]) | set(painted["mask_place"]) <= {sources.ids[0], sources.ids[2]}  # one is empty
    assert set(painted["nearest"]) <= {sources.ids[0], sources.ids[2]}
    assert chunk[::2][["source", "mask_source", "mask_place"]].eq("").all(axis=None)
    objects = backgrounds.objects(sources, painting.positions[0])
    for row, made in zip(painted.itertuples(), pixels_of(painted), strict=True):
        pair = [objects.ids.index(name) for name in (row.mask_source, row.mask_place)]
        (mask,) = objects.placed([tuple(pair)])
        real = sources.pixels[sources.ids.index(row.source)]
        np.testing.assert_array_equal(made[~mask], real[~mask])
        assert mask.any() and not mask.all()
        assert (made[mask] != real[mask]).any()


def test_a_chunk_with_transplants_is_the_same_each_time(painting) -> None:
    first = painting.make(0, 3)
    painting.make(0, 1)
    assert painting.make(0, 3).equals(first)


def test_the_background_class_and_classes_without_masks_get_none(painting, backgrounds) -> None:
    assert painting.make(1, 0)["origin"].eq("sampled").all()
    assert painting.make(2, 0)["origin"].eq("sampled").all()
    refused = replace(painting, transplanted={"a": None})
    assert refused.make(0, 0)["origin"].eq("sampled").all()


def test_what_the_background_itself_shows_is_painted_over(painting, backgrounds, sources) -> None:
    own = rectangle(2, 2, 4, 3, (5, 6))
    masks = ObjectMasks(sources.ids, np.stack([*backgrounds.masks.pixels, *[own] * 5]))
    painting = replace(painting, backgrounds=replace(backgrounds, masks=masks))
    chunk = painting.make(0, 0)[1::2]
    real = sources.pixels[[sources.ids.index(name) for name in chunk["source"]]]
    assert (pixels_of(chunk) != real)[:, own].any(axis=1).all()


def test_an_object_is_compared_with_real_ones_and_not_the_surface_around_it() -> None:
    """The same patch on another surface is a copy, a new patch on a real surface is none, nor is one of one color."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (6, 40, 40, 1), dtype=np.uint8)
    places = [rectangle(4 + 3 * n, 5 + 2 * n, 14 + 3 * n, 17 + 2 * n, (40, 40)) for n in range(6)]
    labeled = LabeledImages(images, np.zeros(6, np.int64), ("x", "y"), tuple(map(str, range(6))))
    masks = ObjectMasks(labeled.ids, np.stack(places))
    objects = Backgrounds(1, masks, np.arange(6)).objects(labeled, np.arange(6))
    surface = random.integers(0, 256, (40, 40, 1), dtype=np.uint8)
    copied, new, on_own, flat = surface.copy(), surface.copy(), images[2].copy(), surface.copy()
    mask = rectangle(4, 4, 14, 16, (40, 40))
    copied[mask] = images[2][places[2]]
    flat[mask] = 70
    on_own[places[2]] = random.integers(0, 256, (places[2].sum(), 1))
    matches, threshold = objects.copied(np.stack([copied, new, on_own, flat]), np.stack([mask, mask, places[2], mask]))
    assert matches.nearest[0] == 2
    assert (matches.ratios < threshold).tolist() == [True, False, False, False]


def test_a_copy_of_a_made_mark_is_found_on_any_surface_and_new_marks_are_none() -> None:
    real, new = ([marked_surface(PIT, split, number) for number in range(12)] for split in ("train", "test"))
    labeled = LabeledImages(
        np.stack([one.pixels[..., None] for one in real]),
        np.zeros(12, np.int64),
        ("x", "y"),
        tuple(map(str, range(12))),
    )
    masks = ObjectMasks(labeled.ids, np.stack([one.mask for one in real]))
    objects = Backgrounds(1, masks, np.arange(12)).objects(labeled, np.arange(12))
    outlines = objects.outlines([(number, (number + 5) % 12) for number in range(12)])
    surfaces = np.random.default_rng(0).integers(0, 256, labeled.pixels.shape, dtype=np.uint8)
    surfaces[::2] = labeled.pixels[1::2]
    for surface, outline, one in zip(surfaces, outlines, real, strict=True):
        surface[outline, 0] = one.pixels[one.mask]
    matches, threshold = objects.copied(surfaces, outlines)
    assert matches.nearest.tolist() == list(range(12))
    assert (matches.ratios < threshold).all()
    fresh, threshold = objects.copied(
        np.stack([one.pixels[..., None] for one in new]), np.stack([one.mask for one in new])
    )
    assert (fresh.ratios < threshold).sum() <= 1


def test_a_cut_out_is_the_object_alone_wherever_it_lies() -> None:
    random = np.random.default_rng(0)
    pattern = random.integers(0, 256, (6, 5, 3), dtype=np.uint8)
    cut = []
    for top, left in ((0, 0), (24, 25), (10, 3)):
        mask = rectangle(top, left, top + 6, left + 5, (30, 30))
        mask[top, left] = False
        image = random.integers(0, 256, (30, 30, 3), dtype=np.uint8)
        image[top + 1 : top + 6, left : left + 5] = pattern[1:]
        image[top, left + 1 : left + 5] = pattern[0, 1:]
        cut.append(cut_outs(image[None], mask[None])[0])
    assert cut[0].shape == (16, 16, 3)
    assert all(np.array_equal(one, cut[0]) for one in cut)
    assert cut[0].std() > 20


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


def test_a_transplant_below_full_strength_begins_from_a_real_object(painting, sources, backgrounds, generator) -> None:
    maker = replace(painting, transplanted={"a": (0.4, 0.4)})
    painted = maker.make(0, 0)[1::2]
    assert painted["strength"].tolist() == [0.4, 0.4]
    objects = backgrounds.objects(sources, painting.positions[0])
    pairs = [
        tuple(map(objects.ids.index, pair)) for pair in zip(painted["mask_source"], painted["mask_place"], strict=True)
    ]
    real = sources.pixels[[sources.ids.index(name) for name in painted["source"]]]
    begun, masks = objects.moved_onto(real, pairs), objects.placed(pairs)
    plan = Drawing(0, painted["index"].tolist(), maker.sampling(float(painted["guidance_scale"].iloc[0])), maker.seed)
    expected = generator.draw(replace(plan.painting(begun, masks, 0), strength=0.4)).pixels
    np.testing.assert_array_equal(pixels_of(painted), np.where(masks[..., None], expected, real))


def test_a_moved_object_keeps_its_pixels_above_the_ground() -> None:
    random = np.random.default_rng(0)
    image = np.full((20, 20, 2), 50, np.uint8)
    mask = rectangle(4, 5, 8, 11, (20, 20))
    image[mask] = random.integers(60, 120, (mask.sum(), 2))
    labeled = LabeledImages(np.stack([image, image]), np.zeros(2, np.int64), ("x", "y"), ("0", "1"))
    place = rectangle(16, 0, 20, 6, (20, 20))  # in the corner, so that nothing is around it on two sides
    objects = Backgrounds(1, ObjectMasks(labeled.ids, np.stack([mask, place])), np.arange(2)).objects(
        labeled, np.arange(2)
    )
    ground = np.full((1, 20, 20, 2), (90, 30), np.uint8)
    (made,) = objects.moved_onto(ground, [(0, 1)])
    np.testing.assert_array_equal(made[place].astype(int) - (90, 30), image[mask].astype(int) - 50)
    np.testing.assert_array_equal(made[~place], ground[0][~place])
    (bright,) = objects.moved_onto(np.full((1, 20, 20, 2), 250, np.uint8), [(0, 1)])
    assert bright[place].max() == 255 and bright[place].min() >= 250


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


def test_crossed_variations_begin_from_the_background_class(painting, sources, generator) -> None:
    settings = SynthesisSettings(num_inference_steps=2, crossed_fraction=1.0, variation_fraction=0.0)
    maker = replace(painting, settings=settings, crossed={"a": OF_NETWORKS.strength}, transplanted={"a": None})
    chunk = maker.make(0, 2)
    assert chunk["origin"].eq("crossed").all() and chunk["label"].eq("a").all()
    assert set(chunk["source"]) <= set(sources.ids[3:]) and chunk["mask_source"].eq("").all()
    real = sources.pixels[[sources.ids.index(name) for name in chunk["source"]]]
    options = {"num_inference_steps": 2, "strength": chunk["strength"][0]}
    varied = generator.variations(real, "a", range(8, 12), seed=7, **options)
    np.testing.assert_array_equal(pixels_of(chunk), varied)


class Copier:
    """Paints the object of one real image, with the pixels around it, at its own place."""

    classes, image_size, usual = ("x", "y"), (40, 40), OF_NETWORKS

    def __init__(self, real: np.ndarray) -> None:
        self.real = real

    def draw(self, drawing) -> Decoded:
        painted = np.where(drawing.masks[..., None], self.real, drawing.images)
        return Decoded(painted, np.ones(len(painted), bool))


@pytest.mark.parametrize("is_masked", [False, True], ids=["clean background", "background with an object"])
def test_a_painted_object_that_repeats_a_real_one_is_a_copy(settings, is_masked) -> None:
    random = np.random.default_rng(0)
    images = random.normal(110, 3, (8, 40, 40, 1)).astype(np.uint8)
    places = [rectangle(5 + 3 * n, 6 + 2 * n, 10 + 3 * n, 11 + 2 * n, (40, 40)) for n in range(6)]
    for image, place in zip(images, places, strict=False):
        image[place] = random.integers(0, 256, (place.sum(), 1))
    places += [rectangle(36, 0, 40, 4, (40, 40))] * 2
    labeled = LabeledImages(images, np.repeat([0, 1], (6, 2)), ("x", "y"), tuple(map(str, range(8))))
    masks = (
        ObjectMasks(labeled.ids, np.stack(places)) if is_masked else ObjectMasks(labeled.ids[:6], np.stack(places[:6]))
    )
    backgrounds = Backgrounds(1, masks, np.arange(8))

    class Filters:
        device = "cpu"

        def rejections(self, pixels, class_index, *, painted):
            return {"copy": painted.matches.ratios < painted.copy_threshold, "nearest": painted.matches.nearest}

    maker = ChunkMaker(Copier(images[2]), Filters(), labeled, settings, 2, 0, backgrounds=backgrounds)
    part = Part("transplant", (0, 1), (0, 1), ((2, 2), (2, 2)))
    found = maker.rejections(0, maker.draw(0, part, maker.sampling(1.0)))
    assert found["nearest"].tolist() == [2, 2]
    assert found["copy"].all()


def test_crossed_variations_are_tried_from_weak_to_strong_for_every_kind_of_generator() -> None:
    of_pipelines = Usual(((0.25, 0.35), (0.45, 0.55), (0.65, 0.75), (0.85, 0.95)), 3)
    assert crossed_strengths(of_pipelines) == ((0.65, 0.75), (0.8, 0.95), (0.85, 0.95))
    assert crossed_strengths(OF_NETWORKS) == ((0.4, 0.7), (0.6, 0.85), (0.8, 0.95))
