"""Which masks there are to transplant, and what is said where there are none; without a study."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from diffaug.configuration.advanced import AdvancedSettings
from diffaug.configuration.settings import SynthesisSettings
from diffaug.data.images import LabeledImages, ObjectMasks
from diffaug.diffusion.generator.usual import USUAL
from diffaug.stages.generating.backgrounds import choose_masks, fingerprint_of, with_backgrounds
from diffaug.synthesis.pool.making import ChunkMaker
from diffaug.synthesis.pool.transplants import Backgrounds

SIDE = 16


@pytest.fixture
def images() -> LabeledImages:
    """Eight plain images and three with a bright spot."""
    pixels = np.random.default_rng(0).normal(100, 4, (11, SIDE, SIDE, 1))
    pixels[8:, 5:8, 6:9] += 100
    return LabeledImages(
        pixels.astype(np.uint8), np.repeat([0, 1], (8, 3)), ("plain", "spot"), tuple(map(str, range(11)))
    )


def job(**settings) -> SimpleNamespace:
    said: list[str] = []
    config = SimpleNamespace(synthesis=SynthesisSettings(**settings), advanced=AdvancedSettings(), seed=0)
    return SimpleNamespace(config=config, narrator=SimpleNamespace(warn=said.append), said=said)


def catalog_of(images: LabeledImages, masks: ObjectMasks) -> SimpleNamespace:
    return SimpleNamespace(
        masks=lambda: masks, images=lambda split: images, groups=lambda split: np.arange(len(images))
    )


def empty(*ids: str) -> ObjectMasks:
    return ObjectMasks(ids, np.zeros((len(ids), SIDE, SIDE), bool))


def test_a_class_whose_masks_are_all_empty_has_some_drawn(images) -> None:
    chosen = choose_masks(job(mask_from="difference"), catalog_of(images, empty("8", "9")))
    assert chosen.drawn == ("spot",)
    assert chosen.masks.ids == ("8", "9", "10")
    assert chosen.masks.pixels[:, 5:8, 6:9].any(axis=(1, 2)).all()


def test_given_masks_stay_and_only_the_other_classes_get_drawn_ones(images) -> None:
    """The classes alternate, so that positions in the set and in the array of masks differ."""
    order = np.array([8, 0, 9, 1, 2, 10, 3, 4])
    labels = np.array([1, 0, 2, 0, 0, 2, 0, 0])
    mixed = LabeledImages(images.pixels[order], labels, ("plain", "given", "drawn"), tuple("abcdefgh"))
    mask = np.zeros((2, SIDE, SIDE), bool)
    mask[1, :2, :2] = True
    chosen = choose_masks(job(mask_from="difference"), catalog_of(mixed, ObjectMasks(("b", "a"), mask)))
    assert chosen.drawn == ("drawn",)
    assert chosen.masks.ids == ("a", "c", "f")
    np.testing.assert_array_equal(chosen.masks.pixels[0], mask[1])
    assert chosen.masks.pixels[1:, 5:8, 6:9].any(axis=(1, 2)).all()


def test_masks_are_not_copied_on_their_way_to_the_chunks() -> None:
    """Of many large masks, two copies and more were in memory."""
    masks = ObjectMasks(tuple(map(str, range(200))), np.ones((200, 64, 64), bool))
    images = LabeledImages(np.zeros((200, 8, 8, 1), np.uint8), np.repeat([0, 1], 100), ("x", "y"), masks.ids)
    catalog = catalog_of(images, masks)
    tracemalloc.start()
    backgrounds = Backgrounds(0, choose_masks(job(), catalog).masks, np.arange(200))
    objects = [backgrounds.objects(images, np.flatnonzero(images.labels == label)) for label in (0, 1)]
    fingerprint_of(SimpleNamespace(backgrounds=backgrounds, crossed={}, transplanted={}))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [len(one) for one in objects] == [100, 100]
    assert peak < masks.pixels.nbytes / 4


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, []),
        ({"transplant_fraction": 0.5}, ["no transplants: no class but 'plain', the background class, has masks; "]),
        ({"mask_from": "box"}, ["no transplants: nothing stands out from 'plain', so no masks could be drawn"]),
    ],
)
def test_transplants_that_were_asked_for_and_are_not_made_are_told(images, settings, said) -> None:
    asked = job(**settings)
    generator = SimpleNamespace(classes=images.classes, usual=USUAL)
    maker = ChunkMaker(generator, SimpleNamespace(device="cpu"), images, asked.config.synthesis, 4, 0)
    images.pixels[:] = 100
    found = with_backgrounds(asked, catalog_of(images, empty("8")), maker, np.ones(len(images), bool))
    assert found.backgrounds is None
    assert len(asked.said) == len(said)
    assert all(text.startswith(start) for text, start in zip(asked.said, said, strict=True))
