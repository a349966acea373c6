import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from diffaug.runtime.seeding import derive_seed, numpy_generator, seed_worker, torch_generator, torch_global_seed

seeds = st.integers(0, 2**64)
purposes = st.text(max_size=20).filter(lambda text: "\x1f" not in text)
indices = st.lists(st.integers(0, 10**9), max_size=3).map(tuple)


@pytest.mark.parametrize(
    ("arguments", "seed"),
    [
        ((0, "noise"), 3666265573707827580),
        ((0, "noise", 1), 1972555294716054106),
        ((1, "noise", 1), 2911684099924136670),
        ((0, "sample", 3, 12), 4079367743602066115),
        ((0, "split", "Größe"), 2011300894355188571),
    ],
)
def test_seeds_never_change_between_versions(arguments, seed):
    assert derive_seed(*arguments) == seed


def test_streams_never_change_between_versions():
    assert numpy_generator(0, "noise").integers(0, 1000, 4).tolist() == [250, 359, 533, 631]
    assert torch.randint(1000, (4,), generator=torch_generator(0, "noise")).tolist() == [250, 743, 443, 929]


@settings(deadline=None)
@given(st.tuples(seeds, purposes, indices), st.tuples(seeds, purposes, indices))
def test_another_seed_purpose_or_index_gives_another_seed(one, other):
    first, second = (derive_seed(seed, purpose, *index) for seed, purpose, index in (one, other))
    assert (first == second) == (one == other)
    assert 0 <= first < 2**63


def test_streams_of_neighboring_indices_and_purposes_are_uncorrelated():
    streams = [numpy_generator(0, "a", index).standard_normal(4000) for index in range(6)]
    streams += [numpy_generator(index, "b").standard_normal(4000) for index in range(6)]
    streams += [torch.randn(4000, generator=torch_generator(0, "c", index)).double().numpy() for index in range(6)]
    correlation = np.corrcoef(streams) - np.eye(len(streams))
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)


def test_the_global_seed_holds_inside_the_block_and_the_outer_state_returns():
    before, inside = torch.get_rng_state(), []
    for purpose in ("initial weights", "initial weights", "dropout"):
        with pytest.raises(ZeroDivisionError), torch_global_seed(0, purpose):
            inside.append(torch.rand(3).tolist())
            raise ZeroDivisionError
        assert torch.equal(torch.get_rng_state(), before)
    assert inside[0] == inside[1] != inside[2]


class Draws(Dataset):
    """What the legacy global generators of NumPy and Python draw in a worker."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return np.random.randint(2**31), random.getrandbits(31)  # noqa: NPY002


def drawn(seed: int, epochs: int = 2) -> list[list[tuple[int, int]]]:
    torch.manual_seed(seed)
    loader = DataLoader(Draws(), num_workers=2, batch_size=None, worker_init_fn=seed_worker)
    return [[tuple(map(int, item)) for item in loader] for _ in range(epochs)]


def test_a_worker_forgets_the_state_that_it_inherited():
    def draw(inherited: int) -> tuple[int, int]:
        random.seed(inherited)
        np.random.seed(inherited)  # noqa: NPY002
        torch.manual_seed(5)
        seed_worker(0)
        return np.random.randint(2**31), random.getrandbits(31)  # noqa: NPY002

    assert draw(1) == draw(2)


def test_workers_and_epochs_draw_differently_and_repeatably():
    first, second = drawn(0)
    for generator in zip(*first, *second, strict=True):
        assert len(set(generator)) == 8
    assert drawn(0) == [first, second]
    assert drawn(1)[0] != first


def test_other_gpus_than_this_process_s_are_never_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    with torch_global_seed(0, "test"):
        pass
    assert seeded == []


def test_a_block_draws_what_a_generator_of_its_purpose_draws() -> None:
    with torch_global_seed(3, "dropout", 7):
        drawn_inside = torch.rand(4)
    assert torch.equal(drawn_inside, torch.rand(4, generator=torch_generator(3, "dropout", 7)))


def test_a_worker_takes_the_lower_32_bits_of_torch_s_seed() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2**40 + 5_000_000_007)
        seed_worker(0)
    assert np.random.randint(2**31) == np.random.RandomState((2**40 + 5_000_000_007) % 2**32).randint(2**31)  # noqa: NPY002
