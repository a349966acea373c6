"""Which masks there are to transplant, and what is said where there are none; without a study."""

from types import SimpleNamespace

import numpy as np
import pytest

from diffaug.configuration.settings import SynthesisSettings
from diffaug.data.images import LabeledImages, ObjectMasks
from diffaug.diffusion.generator.usual import USUAL
from diffaug.stages.generating.backgrounds import choose_masks, with_backgrounds
from diffaug.synthesis.pool.making import ChunkMaker

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
    config = SimpleNamespace(synthesis=SynthesisSettings(**settings), seed=0)
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
