from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffaug.configuration.settings import SynthesisSettings
from diffaug.synthesis.pool.origins import expected_origins, plan_chunk, variation_share

SETTINGS = SynthesisSettings(
    chunk_size=8, variation_fraction=0.25, guidance_scale=(1.0, 2.0), variation_strength=(0.4, 0.7)
)


@pytest.mark.parametrize(("count", "share"), [(1, 0.25), (50, 0.25), (125, 0.125), (200, 0), (5000, 0), (0, 0)])
def test_rare_classes_are_varied_and_large_ones_are_not(count: int, share: float) -> None:
    assert variation_share(count) == pytest.approx(share)


def test_a_share_that_is_set_counts_for_every_class_that_has_images() -> None:
    assert [variation_share(count, 0.5) for count in (0, 3, 9000)] == [0, 0.5, 0.5]


@given(number=st.integers(0, 50), num_sources=st.integers(0, 9), share=st.floats(0, 1), size=st.integers(1, 9))
def test_a_chunk_is_its_indices_sampled_first(number: int, num_sources: int, share: float, size: int) -> None:
    settings = SynthesisSettings(chunk_size=size, variation_fraction=share)
    plan = plan_chunk(settings, seed=1, class_index=2, number=number, num_sources=num_sources)
    assert [*plan.sampled, *plan.varied] == list(range(number * size, (number + 1) * size))
    assert len(plan.sources) == len(plan.varied) == (round(share * size) if num_sources else 0)
    assert all(0 <= source < num_sources for source in plan.sources)
    assert plan == plan_chunk(settings, seed=1, class_index=2, number=number, num_sources=num_sources)


def test_sources_cycle_through_all_images_in_an_order_of_the_seed() -> None:
    def order(seed: int) -> list[int]:
        plans = [plan_chunk(SETTINGS, seed=seed, class_index=0, number=j, num_sources=7) for j in range(14)]
        return [source for plan in plans for source in plan.sources]

    turns = order(0)
    assert set(Counter(turns).values()) == {4}
    assert turns[:7] == turns[7:14]
    assert sorted(turns[:7]) == list(range(7))
    assert turns != order(1)


def test_strength_and_guidance_fill_their_ranges() -> None:
    plans = [plan_chunk(SETTINGS, seed=0, class_index=1, number=j, num_sources=3) for j in range(400)]
    for values, low, high in (([p.strength for p in plans], 0.4, 0.7), ([p.guidance_scale for p in plans], 1, 2)):
        assert low <= min(values) < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < max(values) <= high
        assert sum(values) / 400 == pytest.approx((low + high) / 2, abs=0.05 * (high - low))


def test_a_single_guidance_scale_is_taken_as_it_is_and_changes_no_strength() -> None:
    plain = SETTINGS.model_copy(update={"guidance_scale": 1.5})
    ours = plan_chunk(plain, seed=0, class_index=1, number=3, num_sources=3)
    assert ours.guidance_scale == 1.5
    assert ours.strength == plan_chunk(SETTINGS, seed=0, class_index=1, number=3, num_sources=3).strength


def test_expected_origins_add_up_to_the_targets() -> None:
    expected = expected_origins(SETTINGS, {"a": 10, "b": 3, "c": 0}, {"a": 4, "b": 0, "c": 9})
    assert expected == {"a": (8, 2), "b": (3, 0), "c": (0, 0)}
