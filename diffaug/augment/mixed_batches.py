"""Batches with a fixed fraction of synthetic images, as in the evaluation."""

from __future__ import annotations

import copy
import operator
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import ceil, floor
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray
from torch import distributed
from torch.utils.data import Sampler

from diffaug.augment.dataset import AugmentedDataset
from diffaug.data.labels import class_of
from diffaug.errors import UsageError
from diffaug.runtime.seeding import numpy_generator

ROUNDS = 256  # rounds over the classes that are shuffled at once
LARGEST_DENOMINATOR = 1_000_000  # makes 0.3 three tenths and not the nearest float

Indices = NDArray[np.int64]
_living: WeakSet[MixedBatchSampler] = WeakSet()  # Lightning makes one anew from its class, batch size and dataset alone


@dataclass(frozen=True)
class _EpochPlan:
    """Draws per epoch, a fraction if epochs differ by one; steps per epoch, and draws of all processes in each."""

    draws: Fraction
    steps: int
    together: int


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

    Processes that train together share the batches by themselves: those of `torch.distributed`, if its process group
    is initialized when an epoch begins. Where accelerate runs the training, `prepare` shares them out, and the sampler
    gives all processes the same batches, all of them full: the last ones are completed by further draws. Lightning
    makes a sampler anew for each process; it gets the arguments of the first one.

    Args:
        batch_size: Items per batch, on each replica.
        synthetic_fraction: Of each batch, in [0, 1); with `equal_classes`, of the draws of each class that has
            synthetic items.
        equal_classes: Whether all classes, instead of all real items, are equally likely.
        without: Classes that get no synthetic items, by name or by label of the dataset.
        drop_last: Omit the last batch if it is short; else it may hold a single item.
        seed: The same on all replicas.
        num_replicas: Processes that train together, if they are others than described above. All have equally many
            batches, and in each step theirs make up one batch of a single process with `num_replicas` times the batch
            size. In the last step they are short by the same number, or by one more.
        rank: Number of this process, from 0, if `num_replicas` is given.

    Raises:
        UsageError: An argument is out of range, or there are too few real or synthetic items for it.
    """

    def __init__(
        self,
        dataset: AugmentedDataset,
        batch_size: int,
        synthetic_fraction: float | None = None,
        *,
        equal_classes: bool = False,
        without: Collection[str] = (),
        drop_last: bool = False,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int = 0,
    ) -> None:
        self.drop_last, self.seed, self.epoch = drop_last, seed, 0
        self.batch_size = _whole_number("batch_size", batch_size, 1)
        if isinstance(dataset, Sampler):  # Lightning passes that of a process, in place of the dataset
            vars(self).update(vars(_sampler_before(dataset, self.batch_size, drop_last=drop_last)))
            return
        if not isinstance(dataset, AugmentedDataset):
            raise UsageError(f"the dataset must be an AugmentedDataset, not {type(dataset).__name__}")
        self._replicas = None if num_replicas is None else _whole_number("num_replicas", num_replicas, 1)
        self._rank = _whole_number("rank", rank, 0, (self._replicas or 1) - 1)
        if synthetic_fraction is None:
            raise UsageError("synthetic_fraction is missing", fix="pass that of the verdict, such as 0.3")
        self._fraction = _exact(synthetic_fraction)
        self._choose_items(dataset, without, equal_classes)
        if self.batch_size * (1 - self._fraction) < 1:
            what = f"a batch of {batch_size} has no room for a real image with synthetic_fraction={synthetic_fraction}"
            raise UsageError(what, fix=f"use a batch_size of at least {ceil(1 / (1 - self._fraction))}")
        self._plan()
        self._dataset = dataset
        _living.add(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        _living.add(self)

    def set_epoch(self, epoch: int) -> None:
        """Makes `epoch` the epoch of the next iteration, to resume a training."""
        self.epoch = _whole_number("epoch", epoch, 0)

    @property
    def sampler(self) -> MixedBatchSampler:
        """What Lightning and accelerate tell the epoch: the sampler itself."""
        return self

    @property
    def num_replicas(self) -> int:
        """Processes that share the batches."""
        return self._processes()[0]

    @property
    def rank(self) -> int:
        """Number of this process among them."""
        return self._processes()[1]

    def __len__(self) -> int:
        """Batches per epoch, on each replica; those of all processes where accelerate shares them out."""
        plan = self._plan()
        return plan.steps * (plan.together // self.batch_size if _accelerate_processes() > 1 else 1)

    def __iter__(self) -> Iterator[list[int]]:
        # Runs at the first batch: a DataLoader with workers creates one iterator that it never uses.
        epoch, self.epoch = self.epoch, self.epoch + 1
        plan, (replicas, rank) = self._plan(), self._processes()
        before = epoch * self._fraction * plan.draws  # synthetic draws of the epochs before
        start, phase = floor(before), before - floor(before)
        stops = self._batch_stops(plan, floor(plan.draws + phase))
        synthetic_stops = [floor(self._fraction * stop + phase) for stop in stops]
        real_stops = [stop - synthetic for stop, synthetic in zip(stops, synthetic_stops, strict=True)]
        draws = _part_of_endless(self._shuffled_rounds, ROUNDS * len(self._groups), start, synthetic_stops[-1])
        synthetic = np.split(draws, synthetic_stops[:-1])
        real = np.split(self._real_draws(epoch, real_stops[-1]), real_stops[:-1])
        random = numpy_generator(self.seed, "order in mixed batches", epoch)
        for number, parts in enumerate(zip(real, synthetic, strict=True)):
            batch = random.permutation(np.concatenate(parts))  # MixUp and CutMix pair neighbors
            if number % replicas == rank:
                yield batch.tolist()

    def _processes(self) -> tuple[int, int]:
        """How many processes share the batches, and the number of this one."""
        if _accelerate_processes() > 1:
            if (self._replicas or 1) > 1:
                what = "accelerate shares out the batches of a prepared loader, so num_replicas would do it twice"
                raise UsageError(what, fix="leave num_replicas and rank out")
            return 1, 0
        if self._replicas is None and distributed.is_available() and distributed.is_initialized():
            return distributed.get_world_size(), distributed.get_rank()
        return self._replicas or 1, self._rank

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

    def _plan(self) -> _EpochPlan:
        """The plan for the present number of processes."""
        of_accelerate = _accelerate_processes()
        together = self.batch_size * max(self.num_replicas, of_accelerate)
        draws = len(self._real_labels) / (1 - self._fraction)
        steps = floor(draws / together) if self.drop_last else -(-ceil(draws) // together)
        if self.drop_last or of_accelerate > 1:  # accelerate loses batches that are short
            draws = Fraction(steps * together)
        if not steps or floor(draws) < steps * self.num_replicas:
            batches = f"batches of {self.batch_size} on {together // self.batch_size} replicas"
            fix = f"use a smaller batch_size or fewer replicas, or drop_last={not self.drop_last}"
            raise UsageError(f"{len(self._real_labels)} real images are too few for {batches}", fix=fix)
        return _EpochPlan(draws, steps, together)

    def _batch_stops(self, plan: _EpochPlan, draws: int) -> list[int]:
        """Where, among the draws of an epoch, each batch of all replicas ends.

        No replica may lack a batch, so the replicas share the draws of the last step evenly; if there is less than one
        draw each, the step before leaves them some.
        """
        count, after = plan.together // self.batch_size, range(plan.steps - 1, -1, -1)
        ends = [min((plan.steps - more) * plan.together, draws - more * count) for more in after]
        return [
            begin + (end - begin) * (rank + 1) // count for begin, end in pairwise([0, *ends]) for rank in range(count)
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


def _accelerate_processes() -> int:
    """How many processes accelerate shares the batches of a prepared loader among; 0 if it does not run."""
    module = sys.modules.get("accelerate.state")
    return int(module.PartialState().num_processes) if module is not None and module.PartialState._shared_state else 0


def _sampler_before(of_process: Any, batch_size: int, *, drop_last: bool) -> MixedBatchSampler:
    """The sampler that is made anew for a process whose own sampler, of the same dataset, is given."""
    dataset, chosen = getattr(of_process, "dataset", None), (batch_size, drop_last)
    before = [one for one in _living if one._dataset is dataset and (one.batch_size, one.drop_last) == chosen]
    if len({(one._fraction, one.seed, *map(len, one._groups)) for one in before}) != 1:
        what = f"which MixedBatchSampler is to be made anew from a {type(of_process).__name__} is unknown"
        fix = "pass the dataset; or keep the sampler as it is: Trainer(use_distributed_sampler=False)"
        raise UsageError(what, fix=fix)
    made = copy.copy(before[0])
    if made._replicas is None and hasattr(of_process, "num_replicas"):
        made._replicas, made._rank = of_process.num_replicas, of_process.rank
    return made


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
