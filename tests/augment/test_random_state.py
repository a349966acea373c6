"""Making datasets, samplers and transforms leaves global random numbers as they are."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import diffaug
from diffaug.integrations import albumentations_transforms as on_arrays


def state() -> list[Any]:
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return [torch.get_rng_state().tolist(), random.getstate(), name, keys.tolist(), *rest]


@pytest.mark.parametrize("kind", [diffaug, on_arrays])
def test_transforms_draw_when_called_and_not_before(digits_pool, kind):
    before = state()
    kind.SyntheticReplace(digits_pool, p=0.5)
    kind.SyntheticMix(digits_pool, p=0.5)
    assert state() == before


def test_a_dataset_and_its_batches_draw_when_iterated_and_not_before(digits_pool):
    real = TensorDataset(torch.rand(20, 1, 8, 8), torch.arange(20) % 10)
    before = state()
    train_set = diffaug.AugmentedDataset(real, diffaug.Pool.open(digits_pool.root))
    diffaug.MixedBatchSampler(train_set, batch_size=4, synthetic_fraction=0.5)
    diffaug.get_targets(real)
    assert state() == before
