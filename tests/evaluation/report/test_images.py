import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from diffaug.data.images import LabeledImages
from diffaug.evaluation.report.images import choose_images, choose_pairs, choose_rejected, take_in_turns, tile_bytes
from diffaug.evaluation.report.pool import Pair, RejectedSample

PLENTY = 10**9


@given(st.dictionaries(st.integers(), st.lists(st.integers(1, 9), max_size=6), max_size=5), st.integers(0, 60))
def test_turns_keep_to_the_budget_and_treat_queues_alike(queues, budget):
    taken = take_in_turns(queues, lambda item: item, budget)
    assert sum(map(sum, taken.values())) <= budget
    assert all(taken[key] == queue[: len(taken[key])] for key, queue in queues.items())
    most = max(map(len, taken.values()), default=0)
    assert all(len(taken[key]) >= min(len(queue), most - 1) for key, queue in queues.items())
    left = [queue[len(taken[key])] for key, queue in queues.items() if len(taken[key]) < len(queue)]
    assert not left or any(sum(map(sum, taken.values())) + item > budget for item in left)


def test_the_choice_is_random_fixed_by_the_seed_and_of_the_class(make_images):
    real, synthetic = make_images([30, 20, 4]), make_images([0, 10, 26], seed=1)
    first = choose_images(real, synthetic, 3, PLENTY)
    assert first == choose_images(real, synthetic, 3, PLENTY)
    assert first != choose_images(real, synthetic, 4, PLENTY)
    assert first["class 0"][0] != sorted(first["class 0"][0])
    assert [(len(ours), len(theirs)) for ours, theirs in first.values()] == [(12, 0), (12, 10), (4, 12)]
    for index, sides in enumerate(first.values()):
        for images, chosen in zip((real, synthetic), sides, strict=True):
            assert len(chosen) == len(set(chosen)) and set(images.labels[chosen]) <= {index}


def test_classes_are_matched_by_name_where_the_pool_orders_them_otherwise(make_images):
    real, synthetic = make_images([3, 3, 3]), make_images([5, 5], seed=1)
    other = LabeledImages(synthetic.pixels, synthetic.labels, ("class 2", "class 0"), synthetic.ids)
    shown = choose_images(real, other, 0, PLENTY)
    assert set(other.labels[shown["class 0"][1]]) == {1} and set(other.labels[shown["class 2"][1]]) == {0}
    assert shown["class 1"][1] == []


def test_a_small_budget_is_shared_by_all_classes_the_rarest_first(make_images):
    real, synthetic = make_images([20, 19, 18, 17, 16, 15], size=16), make_images([20] * 6, size=16, seed=1)
    one = tile_bytes(real.pixels[0], real.ids[0])
    numbers = [tuple(map(len, sides)) for sides in choose_images(real, synthetic, 0, 15 * one).values()]
    assert max(map(max, numbers)) - min(map(min, numbers)) == 1
    assert numbers[5] == (2, 2) and numbers[0] == (1, 1)


def test_pairs_of_unknown_images_are_left_out(make_images):
    real, synthetic = make_images([3, 3]), make_images([3, 3], prefix="pool")
    known = Pair("pool 0", "image 4", "sampled", 0.1, 0.9)
    unknown = Pair("pool 1", "image 99", "sampled", 0.1, 0.9)
    chosen = choose_pairs({"class 0": [unknown, known], "class 1": []}, real, synthetic, PLENTY)
    assert chosen == {"class 0": [known], "class 1": []}


def test_rejected_samples_are_grouped_by_reason():
    pixels, reasons = np.zeros((4, 4, 1), np.uint8), ("copy", "wrong class", "copy")
    samples = [RejectedSample(f"{i}.png", "a", reason, pixels) for i, reason in enumerate(reasons)]
    assert choose_rejected(samples, PLENTY) == {"copy": [samples[0], samples[2]], "wrong class": [samples[1]]}
    one = tile_bytes(pixels, "0.pnga")
    assert choose_rejected(samples, 2 * one) == {"copy": samples[:1], "wrong class": samples[1:2]}
