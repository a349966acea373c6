from collections import Counter
from functools import partial
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffaug.configuration.settings import SynthesisSettings
from diffaug.synthesis.pool.origins import (
    CROSSED,
    ORIGINS,
    SAMPLED,
    TRANSPLANT,
    VARIATION,
    Material,
    expected_origins,
    origin_counts,
    origin_fractions,
    plan_chunk,
)

SETTINGS = SynthesisSettings(variation_fraction=0.25, guidance_scale=(1.0, 2.0))
plan_eight = partial(plan_chunk, chunk_size=8)
fractions = st.floats(0, 1)


def of_class(images: int, **others: int) -> Material:
    return Material(images, images, **others)


@pytest.mark.parametrize(("count", "share"), [(1, 0.25), (50, 0.25), (125, 0.125), (200, 0), (5000, 0), (0, 0)])
def test_rare_classes_are_varied_and_transplanted_and_large_ones_are_not(count: int, share: float) -> None:
    found = origin_fractions(SynthesisSettings(), of_class(count, masks=count, backgrounds=9, crossed=9))
    assert found[VARIATION] == pytest.approx(share)
    assert found[TRANSPLANT] == pytest.approx(2 * share)
    assert found[CROSSED] == 0
    assert sum(found.values()) == pytest.approx(1)
    set_by_hand = origin_fractions(SynthesisSettings(variation_fraction=0.5), of_class(count))
    assert set_by_hand == {SAMPLED: 0.5 if count else 1, VARIATION: 0.5 if count else 0, TRANSPLANT: 0, CROSSED: 0}


def test_nothing_is_made_of_what_is_not_there() -> None:
    settings = SynthesisSettings(variation_fraction=0.25, transplant_fraction=0.5, crossed_fraction=0.25)
    everything = Material(20, 20, masks=3, backgrounds=9, crossed=9)
    assert origin_fractions(settings, everything)[SAMPLED] == 0
    for lacking in ("varied", "masks", "crossed"):
        found = origin_fractions(settings, Material(**{**vars(everything), lacking: 0}))
        origin = {"varied": VARIATION, "masks": TRANSPLANT, "crossed": CROSSED}[lacking]
        assert found[origin] == 0
        assert found[SAMPLED] == (0.5 if lacking == "masks" else 0.25)


def test_what_is_set_comes_first_and_defaults_share_the_rest() -> None:
    material = of_class(20, masks=3, backgrounds=9)
    only = origin_fractions(SynthesisSettings(variation_fraction=1), material)
    assert (only[VARIATION], only[TRANSPLANT]) == (1, 0)
    most = origin_fractions(SynthesisSettings(variation_fraction=0.9), material)
    assert most[TRANSPLANT] == pytest.approx(0.1)
    assert most[SAMPLED] == pytest.approx(0)
    with pytest.raises(ValueError, match="together are above 1"):
        SynthesisSettings(variation_fraction=0.6, transplant_fraction=0.5)


@given(parts=st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any), total=st.integers(0, 40))
def test_counts_are_whole_add_up_and_are_near_the_fractions(parts: list[int], total: int) -> None:
    wanted = {origin: part / sum(parts) for origin, part in zip(ORIGINS, parts, strict=True)}
    counts = origin_counts(wanted, total)
    assert sum(counts.values()) == total
    assert all(abs(counts[origin] - wanted[origin] * total) < 1 + 1e-6 for origin in ORIGINS)
    assert all(counts[origin] == 0 for origin in ORIGINS if not wanted[origin])


@given(number=st.integers(0, 50), images=st.integers(0, 9), masks=st.integers(0, 3), size=st.integers(1, 9))
def test_a_chunk_is_its_indices_and_origins_are_evenly_spread(number: int, images: int, masks: int, size: int) -> None:
    settings = SynthesisSettings(variation_fraction=0.3, transplant_fraction=0.3, crossed_fraction=0.2)
    material = of_class(images, masks=masks, backgrounds=7, crossed=5)
    make = partial(plan_chunk, settings, material, chunk_size=size, seed=1, class_index=2, number=number)
    plan = make()
    indices = range(number * size, (number + 1) * size)
    assert sorted(index for part in plan.parts for index in part.indices) == list(indices)
    for first, part in product(range(size + 1), plan.parts):
        among = sum(index in indices[:first] for index in part.indices)
        assert abs(among - len(part.indices) * first / size) <= 2.5
    assert [part.origin for part in plan.parts] == [origin for origin in ORIGINS if plan.part(origin).indices]
    limits = {SAMPLED: 0, VARIATION: images, TRANSPLANT: 7, CROSSED: 5}
    for part in plan.parts:
        assert len(part.sources) == (0 if part.origin == SAMPLED else len(part.indices))
        assert all(0 <= source < limits[part.origin] for source in part.sources)
        assert len(part.masks) == (len(part.indices) if part.origin == TRANSPLANT else 0)
        assert all(0 <= mask < masks for pair in part.masks for mask in pair)
        assert (part.strength > 0) == (part.origin != SAMPLED) and (part.strength == 1) == (part.origin == TRANSPLANT)
    assert plan == make()


@pytest.mark.parametrize("origin", [VARIATION, TRANSPLANT, CROSSED])
def test_sources_cycle_through_all_images_in_an_order_of_the_seed(origin) -> None:
    settings = SynthesisSettings(**{f"{one}_fraction": 0.25 * (one == origin) for one in ORIGINS[1:]})

    def order(seed: int) -> list[int]:
        material = Material(7, 7, masks=7, backgrounds=7, crossed=7)
        plans = [plan_eight(settings, material, seed=seed, class_index=0, number=j) for j in range(14)]
        return [source for plan in plans for source in plan.part(origin).sources]

    turns = order(0)
    assert set(Counter(turns).values()) == {4}
    assert turns[:7] == turns[7:14]
    assert sorted(turns[:7]) == list(range(7))
    assert turns != order(1)


def test_masks_and_places_are_drawn_apart_by_index_alone() -> None:
    settings, material = SynthesisSettings(transplant_fraction=1), Material(20, masks=5, backgrounds=9)
    plan = partial(plan_chunk, settings, material, seed=3, class_index=1)
    by_four = [pair for j in range(60) for pair in plan(chunk_size=4, number=j).part(TRANSPLANT).masks]
    by_eight = [pair for j in range(30) for pair in plan(chunk_size=8, number=j).part(TRANSPLANT).masks]
    assert by_four == by_eight
    assert len(set(by_four)) == 25


def test_strength_and_guidance_fill_their_ranges() -> None:
    plans = [plan_eight(SETTINGS, of_class(3), seed=0, class_index=1, number=j) for j in range(400)]
    strengths = [plan.part(VARIATION).strength for plan in plans]
    for values, low, high in ((strengths, 0.4, 0.7), ([plan.guidance_scale for plan in plans], 1, 2)):
        assert low <= min(values) < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < max(values) <= high
        assert sum(values) / 400 == pytest.approx((low + high) / 2, abs=0.05 * (high - low))
    plain = SETTINGS.model_copy(update={"guidance_scale": 1.5})  # is taken as it is and changes no strength
    ours = plan_eight(plain, of_class(3), seed=0, class_index=1, number=3)
    assert (ours.guidance_scale, ours.part(VARIATION).strength) == (1.5, strengths[3])


def test_expected_origins_add_up_to_the_targets() -> None:
    material = {"a": of_class(4), "b": Material(), "c": of_class(9), "d": of_class(4, masks=2, backgrounds=2)}
    expected = expected_origins(SETTINGS, 8, {"a": 10, "b": 3, "c": 0, "d": 8}, material)
    assert {name: tuple(row.values()) for name, row in expected.items()} == {
        "a": (7, 3, 0, 0),
        "b": (3, 0, 0, 0),
        "c": (0, 0, 0, 0),
        "d": (2, 2, 4, 0),
    }


@pytest.mark.parametrize("chosen", [{}, {"transplant_fraction": 0.5}, {"crossed_fraction": 0.25}])
def test_a_generator_that_only_varies_samples_nothing_from_noise(chosen) -> None:
    """Whether a class has masks or not: what it can't get of another origin are variations, too."""
    settings = SynthesisSettings(**chosen)
    for material in (of_class(20, only_varied=True), of_class(500, masks=3, backgrounds=9, only_varied=True)):
        found = origin_fractions(settings, material)
        assert found[SAMPLED] == 0
        assert found[TRANSPLANT] == (chosen.get("transplant_fraction", 0) if material.masks else 0)
    set_by_hand = origin_fractions(SynthesisSettings(variation_fraction=0.5), of_class(20, only_varied=True))
    assert (set_by_hand[SAMPLED], set_by_hand[VARIATION]) == (0.5, 0.5)


@pytest.mark.parametrize("fraction", [None, 1.0])
def test_a_class_without_variations_gets_nothing_from_noise_either(fraction) -> None:
    settings = SynthesisSettings(variation_fraction=fraction)
    without = Material(20, varied=0, only_varied=True)
    assert origin_fractions(settings, without) == dict.fromkeys(ORIGINS, 0)
    assert expected_origins(settings, 8, {"a": 10}, {"a": without})["a"] == dict.fromkeys(ORIGINS, 0)
    painted = SynthesisSettings(variation_fraction=fraction, transplant_fraction=0.4 if fraction is None else 0)
    found = origin_fractions(painted, Material(20, varied=0, masks=3, backgrounds=9, only_varied=True))
    assert found[SAMPLED] == 0
    assert found[TRANSPLANT] == (1 if fraction is None else 0)
    asked = origin_fractions(SynthesisSettings(variation_fraction=0.5), without)
    assert asked[SAMPLED] == 1  # half of them were to be samples; the other half can't be made
