"""Batches that hold a fixed share of synthetic images, whatever their number, as those of the evaluation do."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator
from fractions import Fraction
from itertools import pairwise
from math import ceil, floor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from diffaug.augment.dataset import AugmentedDataset
from diffaug.errors import UsageError
from diffaug.runtime.seeding import numpy_generator

ROUNDS = 256  # rounds over the classes that are shuffled at once
LARGEST_DENOMINATOR = 1_000_000  # so that 0.3 is three tenths and not the float next to it

Indices = NDArray[np.int64]


class MixedBatchSampler(Sampler[list[int]]):
    """Batches of an `AugmentedDataset`, a fixed share of each being synthetic.

        DataLoader(train_set, batch_sampler=MixedBatchSampler(train_set, batch_size=64, synthetic_share=0.3))

    What the verdict calls a dose, in a training loop of one's own. Shares are kept by rounding what has
    accumulated: each batch holds the share rounded down or up, and it is exact in the long run. An epoch is one
    pass over the real items, each of which it holds once (without `drop_last`). Synthetic items come back only
    when all of them have been used, which may take several epochs.

    With `equal_classes`, draws are those of the arm "oversampling": all classes that have real items are equally
    likely, synthetic draws of a class take the place of its real ones, and a class without synthetic items gets
    real ones only. An epoch then has as many real draws as there are real items, each occurring as often as
    its chance says, rounded down or up.

    What an epoch holds depends on (seed, epoch) alone; each iteration begins the next epoch.

    Args:
        dataset: Real items and synthetic ones.
        batch_size: Items a batch, on each replica.
        synthetic_share: Of each batch, in [0, 1); with `equal_classes`, of the draws of each class that has
            synthetic items.
        equal_classes: Whether all classes, instead of all real items, are equally likely.
        without: Names of classes that get no synthetic items.
        drop_last: Leave out the last batch where it would be short; else it may hold a single item.
        seed: Where the randomness begins; the same on all replicas.
        num_replicas: Processes that train together. All have equally many batches; step by step, theirs make up
            one of a single process with `num_replicas` times the batch size. The last step's are short by the
            same number, give or take one.
        rank: Number of this process among them, from 0.

    Attributes:
        epoch: Number of the epoch that the next iteration gives, from 0.

    Raises:
        UsageError: An argument is out of its range, there is no synthetic item for a share above 0, a batch is too
            small for a real one, or there are too few items.
    """

    def __init__(
        self,
        dataset: AugmentedDataset,
        batch_size: int,
        synthetic_share: float,
        *,
        equal_classes: bool = False,
        without: Collection[str] = (),
        drop_last: bool = False,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        if not isinstance(dataset, AugmentedDataset):
            raise UsageError(f"the dataset must be an AugmentedDataset, not {type(dataset).__name__}")
        self.batch_size = _whole_number("batch_size", batch_size, 1)
        self.num_replicas = _whole_number("num_replicas", num_replicas, 1)
        self.rank = _whole_number("rank", rank, 0, self.num_replicas - 1)
        self.drop_last, self.seed, self.epoch = drop_last, seed, 0
        self._share = _exact(synthetic_share)
        self._choose_items(dataset, without, equal_classes)
        if self.batch_size * (1 - self._share) < 1:
            raise UsageError(
                f"a batch of {batch_size} has no room for a real image at a synthetic share of {synthetic_share}",
                fix=f"take a batch_size of at least {ceil(1 / (1 - self._share))}",
            )
        self._count_batches()

    def set_epoch(self, epoch: int) -> None:
        """Lets the next iteration give epoch `epoch`, to resume a training.

        Raises:
            UsageError: It is no whole number of at least 0.
        """
        self.epoch = _whole_number("epoch", epoch, 0)

    def __len__(self) -> int:
        """Batches an epoch, on each replica."""
        return self._steps

    def __iter__(self) -> Iterator[list[int]]:
        # Runs when the first batch is asked for: a DataLoader with workers makes one iterator that it never uses.
        epoch, self.epoch = self.epoch, self.epoch + 1
        before = epoch * self._share * self._draws  # synthetic draws of the epochs before
        start, phase = floor(before), before - floor(before)
        stops = self._batch_stops(floor(self._draws + phase))
        synthetic_stops = [floor(self._share * stop + phase) for stop in stops]
        real_stops = [stop - synthetic for stop, synthetic in zip(stops, synthetic_stops, strict=True)]
        synthetic = np.split(self._synthetic_draws(start, synthetic_stops[-1]), synthetic_stops[:-1])
        real = np.split(self._real_draws(epoch, real_stops[-1]), real_stops[:-1])
        random = numpy_generator(self.seed, "order in mixed batches", epoch)
        for number, parts in enumerate(zip(real, synthetic, strict=True)):
            batch = random.permutation(np.concatenate(parts))  # MixUp and CutMix pair neighbours
            if number % self.num_replicas == self.rank:
                yield batch.tolist()

    def _choose_items(self, dataset: AugmentedDataset, without: Collection[str], equal_classes: bool) -> None:
        """Notes which items are drawn, and how often; from here on the share is that of all draws."""
        labels, is_synthetic = np.asarray(dataset.targets), dataset.is_synthetic
        allowed = is_synthetic & ~np.isin(labels, _class_indices(dataset, without))
        self._real_labels = labels[~is_synthetic]
        self._real_weights = np.ones(len(self._real_labels))
        self._groups = [np.flatnonzero(allowed)]  # each is drawn from equally often
        if equal_classes:
            classes, positions, counts = np.unique(self._real_labels, return_inverse=True, return_counts=True)
            groups = [np.flatnonzero(allowed & (labels == label)) for label in classes]
            replaced = np.array([float(self._share) if len(group) else 0.0 for group in groups])
            self._real_weights = ((1 - replaced) / counts)[positions]
            self._groups = [group for group in groups if len(group)]
        if self._share and not sum(map(len, self._groups)):
            raise UsageError(
                "there are no synthetic images that could be a share of each batch",
                fix="generate some, leave classes out of without=, or set synthetic_share=0",
            )
        if equal_classes:
            self._share *= Fraction(len(self._groups), len(classes))

    def _count_batches(self) -> None:
        """Notes draws an epoch, a fraction where epochs differ by one, and batches an epoch of each replica."""
        together = self.batch_size * self.num_replicas
        self._draws = len(self._real_labels) / (1 - self._share)
        self._steps = floor(self._draws / together) if self.drop_last else -(-ceil(self._draws) // together)
        if self.drop_last:
            self._draws = Fraction(self._steps * together)
        if not self._steps or floor(self._draws) < self._steps * self.num_replicas:
            raise UsageError(
                f"{len(self._real_labels)} real images are too few for batches of {self.batch_size} on "
                f"{self.num_replicas} replicas",
                fix=f"take a smaller batch_size or fewer replicas, or drop_last={not self.drop_last}",
            )

    def _batch_stops(self, draws: int) -> list[int]:
        """Where, among the draws of an epoch, each batch of all replicas ends.

        A replica must not be left without a batch, so the replicas share evenly what is left for the last step;
        if that is less than one draw each, the step before leaves them some.
        """
        together, after = self.batch_size * self.num_replicas, range(self._steps - 1, -1, -1)
        ends = [min((self._steps - more) * together, draws - more * self.num_replicas) for more in after]
        return [
            begin + (end - begin) * (rank + 1) // self.num_replicas
            for begin, end in pairwise([0, *ends])
            for rank in range(self.num_replicas)
        ]

    def _real_draws(self, epoch: int, count: int) -> Indices:
        """`count` real items in random order, each as often as its weight says, rounded down or up."""
        random = numpy_generator(self.seed, "real in mixed batches", epoch)
        order = random.permutation(len(self._real_labels))
        order = order[np.argsort(self._real_labels[order], kind="stable")]  # a class is then rounded as one, too
        expected = np.cumsum(self._real_weights[order])
        expected *= count / expected[-1]
        expected[-1] = count  # the product may be a little less
        # Systematic sampling: item k is drawn once for each whole number that the sum passes with it.
        times = np.diff(np.floor(expected + random.random(dtype=np.float32)), prepend=0).astype(np.int64)
        return random.permutation(np.repeat(order, times))

    def _synthetic_draws(self, start: int, count: int) -> Indices:
        """Draws `start` and following of an endless sequence in which each group has one turn a round."""
        return _part_of_endless(self._shuffled_rounds, ROUNDS * len(self._groups), start, count)

    def _shuffled_rounds(self, number: int) -> Indices:
        """Rounds `number` times `ROUNDS` and following, one after the other."""
        turns = [self._turns(group, number * ROUNDS, ROUNDS) for group in self._groups]
        random = numpy_generator(self.seed, "rounds of mixed batches", number)
        return random.permuted(np.stack(turns, axis=1), axis=1).ravel()

    def _turns(self, group: Indices, start: int, count: int) -> Indices:
        """Turns `start` and following of a group, in which no item comes back before all have been used."""

        def one_pass(number: int) -> Indices:
            return numpy_generator(self.seed, "pass of mixed batches", int(group[0]), number).permutation(group)

        return _part_of_endless(one_pass, len(group), start, count)


def _part_of_endless(block: Callable[[int], Indices], size: int, start: int, count: int) -> Indices:
    """`count` elements from `start` on of the sequence that blocks 0, 1, 2, ... of `size` elements make up."""
    if not count:
        return np.empty(0, np.int64)
    numbers = range(start // size, -(-(start + count) // size))
    return np.concatenate([block(number) for number in numbers])[start - numbers.start * size :][:count]


def _class_indices(dataset: AugmentedDataset, names: Collection[str]) -> list[int]:
    unknown = sorted(set(names) - set(dataset.class_to_idx))
    if unknown:
        raise UsageError(
            f"without= names {unknown}, which are no classes of the dataset", fix=f"its classes are {dataset.classes}"
        )
    return [dataset.class_to_idx[name] for name in names]


def _exact(share: float) -> Fraction:
    """The share as the fraction that is meant."""
    exact = Fraction(float(share)).limit_denominator(LARGEST_DENOMINATOR) if 0 <= share < 1 else Fraction(1)
    if exact == 1:
        raise UsageError(f"synthetic_share must be at least 0 and less than 1, not {share!r}")
    return exact


def _whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or (most is not None and number > most):
        upper = "" if most is None else f" and at most {most}"
        raise UsageError(f"{name} must be a whole number of at least {least}{upper}, not {value!r}")
    return number
