"""Batches with a fixed fraction of synthetic images, as in the evaluation."""

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
from diffaug.data.labels import class_of
from diffaug.errors import UsageError
from diffaug.runtime.seeding import numpy_generator

ROUNDS = 256  # rounds over the classes that are shuffled at once
LARGEST_DENOMINATOR = 1_000_000  # makes 0.3 three tenths and not the nearest float

Indices = NDArray[np.int64]


class MixedBatchSampler(Sampler[list[int]]):
    """Batches of an `AugmentedDataset` with a fixed fraction of synthetic items.

        DataLoader(train_set, batch_sampler=MixedBatchSampler(train_set, batch_size=64, synthetic_fraction=0.3))

    It applies the synthetic fraction of the verdict in your own training loop. The number of synthetic items per batch
    is rounded such that the fraction is exact in the long run. An epoch is one pass over the real items, each of which
    occurs once (without `drop_last`). Synthetic items repeat only when all of them have been used, which may take
    several epochs.

    With `equal_classes`, draws are those of the arm "oversampling": all classes with real items are equally likely,
    synthetic draws of a class replace its real ones, and a class without synthetic items gets only real ones. An epoch
    then has as many real draws as there are real items, each occurring as often as expected, rounded down or up.

    An epoch depends on (seed, epoch) alone; each iteration begins the next epoch.

    Args:
        batch_size: Items per batch, on each replica.
        synthetic_fraction: Of each batch, in [0, 1); with `equal_classes`, of the draws of each class that has
            synthetic items.
        equal_classes: Whether all classes, instead of all real items, are equally likely.
        without: Classes that get no synthetic items, by name or by label of the dataset.
        drop_last: Omit the last batch if it is short; else it may hold a single item.
        seed: The same on all replicas.
        num_replicas: Processes that train together. All have equally many batches, and in each step theirs make up
            one batch of a single process with `num_replicas` times the batch size. In the last step they are short
            by the same number, or by one more.
        rank: Number of this process, from 0.

    Raises:
        UsageError: An argument is out of range, or there are too few real or synthetic items for it.
    """

    def __init__(
        self,
        dataset: AugmentedDataset,
        batch_size: int,
        synthetic_fraction: float,
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
        self._fraction = _exact(synthetic_fraction)
        self._choose_items(dataset, without, equal_classes)
        if self.batch_size * (1 - self._fraction) < 1:
            what = f"a batch of {batch_size} has no room for a real image with synthetic_fraction={synthetic_fraction}"
            raise UsageError(what, fix=f"use a batch_size of at least {ceil(1 / (1 - self._fraction))}")
        self._count_batches()

    def set_epoch(self, epoch: int) -> None:
        """Makes `epoch` the epoch of the next iteration, to resume a training."""
        self.epoch = _whole_number("epoch", epoch, 0)

    def __len__(self) -> int:
        """Batches per epoch, on each replica."""
        return self._steps

    def __iter__(self) -> Iterator[list[int]]:
        # Runs at the first batch: a DataLoader with workers creates one iterator that it never uses.
        epoch, self.epoch = self.epoch, self.epoch + 1
        before = epoch * self._fraction * self._draws  # synthetic draws of the epochs before
        start, phase = floor(before), before - floor(before)
        stops = self._batch_stops(floor(self._draws + phase))
        synthetic_stops = [floor(self._fraction * stop + phase) for stop in stops]
        real_stops = [stop - synthetic for stop, synthetic in zip(stops, synthetic_stops, strict=True)]
        draws = _part_of_endless(self._shuffled_rounds, ROUNDS * len(self._groups), start, synthetic_stops[-1])
        synthetic = np.split(draws, synthetic_stops[:-1])
        real = np.split(self._real_draws(epoch, real_stops[-1]), real_stops[:-1])
        random = numpy_generator(self.seed, "order in mixed batches", epoch)
        for number, parts in enumerate(zip(real, synthetic, strict=True)):
            batch = random.permutation(np.concatenate(parts))  # MixUp and CutMix pair neighbors
            if number % self.num_replicas == self.rank:
                yield batch.tolist()

    def _choose_items(self, dataset: AugmentedDataset, without: Collection[Any], equal_classes: bool) -> None:
        """Which items are drawn and how often; from here on the fraction is that of all draws."""
        if isinstance(without, str):
            raise UsageError(f"without={without!r} is one text, not a list of classes", fix=f"without=[{without!r}]")
        names = [class_of(label, dataset.classes, dataset.class_to_idx, where="without=") for label in without]
        labels, is_synthetic = np.asarray(dataset.targets), dataset.is_synthetic
        allowed = is_synthetic & ~np.isin(labels, [dataset.class_to_idx[name] for name in names])
        self._real_labels = labels[~is_synthetic]
        self._real_weights = np.ones(len(self._real_labels))
        self._groups = [np.flatnonzero(allowed)]  # each is drawn from equally often
        if equal_classes:
            classes, positions, counts = np.unique(self._real_labels, return_inverse=True, return_counts=True)
            groups = [np.flatnonzero(allowed & (labels == label)) for label in classes]
            replaced = np.array([float(self._fraction) if len(group) else 0.0 for group in groups])
            self._real_weights = ((1 - replaced) / counts)[positions]
            self._groups = [group for group in groups if len(group)]
        if self._fraction and not sum(map(len, self._groups)):
            fix = "generate some, exclude fewer classes in without=, or set synthetic_fraction=0"
            if dataset.pool.left_out:
                fix += ", or take those of blind classes: AugmentedDataset(..., include_blind=True)"
            raise UsageError("there are no synthetic images for the batches", fix=fix)
        if equal_classes:
            self._fraction *= Fraction(len(self._groups), len(classes))

    def _count_batches(self) -> None:
        """Sets draws per epoch, a fraction if epochs differ by one, and batches per epoch of each replica."""
        together = self.batch_size * self.num_replicas
        self._draws = len(self._real_labels) / (1 - self._fraction)
        self._steps = floor(self._draws / together) if self.drop_last else -(-ceil(self._draws) // together)
        if self.drop_last:
            self._draws = Fraction(self._steps * together)
        if not self._steps or floor(self._draws) < self._steps * self.num_replicas:
            batches = f"batches of {self.batch_size} on {self.num_replicas} replicas"
            fix = f"use a smaller batch_size or fewer replicas, or drop_last={not self.drop_last}"
            raise UsageError(f"{len(self._real_labels)} real images are too few for {batches}", fix=fix)

    def _batch_stops(self, draws: int) -> list[int]:
        """Where, among the draws of an epoch, each batch of all replicas ends.

        No replica may lack a batch, so the replicas share the draws of the last step evenly; if there is less than one
        draw each, the step before leaves them some.
        """
        together, after = self.batch_size * self.num_replicas, range(self._steps - 1, -1, -1)
        ends = [min((self._steps - more) * together, draws - more * self.num_replicas) for more in after]
        return [
            begin + (end - begin) * (rank + 1) // self.num_replicas
            for begin, end in pairwise([0, *ends])
            for rank in range(self.num_replicas)
        ]

    def _real_draws(self, epoch: int, count: int) -> Indices:
        """`count` real items in random order, each as often as its weight requires, rounded down or up."""
        random = numpy_generator(self.seed, "real in mixed batches", epoch)
        order = random.permutation(len(self._real_labels))
        order = order[np.argsort(self._real_labels[order], kind="stable")]  # so that a class is rounded as a whole, too
        expected = np.cumsum(self._real_weights[order])
        expected *= count / expected[-1]
        expected[-1] = count  # the product may be a little less
        # Systematic sampling: item k is drawn once for each whole number that the sum passes with it.
        times = np.diff(np.floor(expected + random.random(dtype=np.float32)), prepend=0).astype(np.int64)
        return random.permutation(np.repeat(order, times))

    def _shuffled_rounds(self, number: int) -> Indices:
        """`ROUNDS` rounds from number `number * ROUNDS` on, in each of which each group has one turn."""
        turns = [self._turns(group, number * ROUNDS, ROUNDS) for group in self._groups]
        random = numpy_generator(self.seed, "rounds of mixed batches", number)
        return random.permuted(np.stack(turns, axis=1), axis=1).ravel()

    def _turns(self, group: Indices, start: int, count: int) -> Indices:
        """Turns from `start` on of a group, in which no item repeats before all have been used."""

        def one_pass(number: int) -> Indices:
            return numpy_generator(self.seed, "pass of mixed batches", int(group[0]), number).permutation(group)

        return _part_of_endless(one_pass, len(group), start, count)


def _part_of_endless(block: Callable[[int], Indices], size: int, start: int, count: int) -> Indices:
    """`count` elements from `start` on of the concatenation of blocks 0, 1, 2, ... of `size` elements."""
    if not count:
        return np.empty(0, np.int64)
    numbers = range(start // size, -(-(start + count) // size))
    return np.concatenate([block(number) for number in numbers])[start - numbers.start * size :][:count]


def _exact(fraction: float) -> Fraction:
    """The number as an exact fraction, such as 3/10 for 0.3."""
    exact = Fraction(float(fraction)).limit_denominator(LARGEST_DENOMINATOR) if 0 <= fraction < 1 else Fraction(1)
    if exact == 1:
        raise UsageError(f"synthetic_fraction must be at least 0 and less than 1, not {fraction!r}")
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
