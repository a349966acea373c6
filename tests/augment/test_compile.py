from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from diffaug import AugmentedDataset, MixedBatchSampler, SyntheticReplace
from diffaug.synthesis.pool.pool import Pool

REAL, MADE, CLASSES = 10, 4, ["cat", "dog"]


@pytest.fixture(scope="module")
def pool(make_pool: Any, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    images = [(k % 2, np.full((2, 2, 1), 255, np.uint8)) for k in range(MADE)]
    return make_pool(tmp_path_factory.mktemp("study") / "pool", CLASSES, images)


@pytest.fixture(scope="module")
def real() -> TensorDataset:
    return TensorDataset(torch.zeros(REAL, 1, 2, 2), torch.arange(REAL) % 2)


@pytest.mark.slow
def test_a_compiled_model_meets_one_shape_of_batches(pool: Pool, real: TensorDataset) -> None:
    graphs: list[Any] = []

    def compiled(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    dataset = AugmentedDataset(real, pool, classes=CLASSES)
    loader = DataLoader(dataset, batch_sampler=MixedBatchSampler(dataset, 4, 0.25, drop_last=True))
    model = torch.compile(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)), backend=compiled)
    for _ in range(3):
        for images, labels in loader:
            torch.nn.functional.cross_entropy(model(images), labels).backward()
    assert len(graphs) == 1


@pytest.mark.slow
def test_a_transform_works_in_compiled_code(pool: Pool) -> None:
    replace = SyntheticReplace(pool, p=1, class_to_idx={"cat": 0, "dog": 1})

    @torch.compile(backend="eager")
    def step(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return replace(images * 0.5, labels)[0].mean()

    assert step(torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 0, 1])) == 1
