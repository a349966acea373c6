"""Objects painted into real images of another class: where, around what, and which of them are copies."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffaug.configuration.settings import SynthesisSettings
from diffaug.data.images import LabeledImages, ObjectMasks
from diffaug.diffusion.generator.usual import USUAL as OF_NETWORKS
from diffaug.diffusion.process.normalization import Decoded
from diffaug.diffusion.sampling.drawing import Drawing
from diffaug.synthesis.pool.making import ChunkMaker
from diffaug.synthesis.pool.origins import Part
from diffaug.synthesis.pool.transplants import Backgrounds, bounding_box, cut_outs, moved, with_margin
from tests.synthesis.pool.conftest import HEIGHT, WIDTH, labeled, pixels_of, rectangle

from marks import PIT, marked_surface


def objects_of(images: LabeledImages, masks):
    """The objects of the images, each with a mask."""
    every = np.arange(len(images))
    return Backgrounds(1, ObjectMasks(images.ids, np.stack(masks)), every).objects(images, every)


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
    objects = objects_of(labeled(images), places)
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
    images = labeled([one.pixels[..., None] for one in real])
    objects = objects_of(images, [one.mask for one in real])
    outlines = objects.outlines([(number, (number + 5) % 12) for number in range(12)])
    surfaces = np.random.default_rng(0).integers(0, 256, images.pixels.shape, dtype=np.uint8)
    surfaces[::2] = images.pixels[1::2]
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
    place = rectangle(16, 0, 20, 6, (20, 20))  # in the corner, so that nothing is around it on two sides
    objects = objects_of(labeled([image, image]), [mask, place])
    ground = np.full((1, 20, 20, 2), (90, 30), np.uint8)
    (made,) = objects.moved_onto(ground, [(0, 1)])
    np.testing.assert_array_equal(made[place].astype(int) - (90, 30), image[mask].astype(int) - 50)
    np.testing.assert_array_equal(made[~place], ground[0][~place])
    (bright,) = objects.moved_onto(np.full((1, 20, 20, 2), 250, np.uint8), [(0, 1)])
    assert bright[place].max() == 255 and bright[place].min() >= 250


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
    real, masked = labeled(images, np.repeat([0, 1], (6, 2))), 8 if is_masked else 6
    backgrounds = Backgrounds(1, ObjectMasks(real.ids[:masked], np.stack(places[:masked])), np.arange(8))

    class Filters:
        device = "cpu"

        def rejections(self, pixels, class_index, *, painted):
            return {"copy": painted.matches.ratios < painted.copy_threshold, "nearest": painted.matches.nearest}

    maker = ChunkMaker(Copier(images[2]), Filters(), real, settings, 2, 0, backgrounds=backgrounds)
    part = Part("transplant", (0, 1), (0, 1), ((2, 2), (2, 2)))
    found = maker.rejections(0, maker.draw(0, part, maker.sampling(1.0)))
    assert found["nearest"].tolist() == [2, 2]
    assert found["copy"].all()
