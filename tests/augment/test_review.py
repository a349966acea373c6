"""Images that a reviewer rejects are in no training, whichever way the pool gets there."""

import pickle

import numpy as np
import pytest

import diffaug
from diffaug.augment.lookup import PoolLookup
from diffaug.errors import DataError
from diffaug.synthesis.decisions import ReviewFile
from tests.augment.items import Items

CLASSES = ("cat", "dog")


def test_datasets_and_transforms_leave_them_out_and_undoing_brings_them_back(make_pool, tmp_path) -> None:
    made = [(label, np.full((4, 4, 3), 10 * number, np.uint8)) for number, label in enumerate([0, 0, 1, 1])]
    pool = make_pool(tmp_path / "study" / "pool", CLASSES, made)
    review = ReviewFile(pool.root)
    for number in (1, 2):
        review.add("anna", (pool.files[number], pool.manifest["sha256"][number]), "reject")
    real = Items(
        [(np.full((4, 4, 3), 255, np.uint8), label) for label in (0, 1)], targets=[0, 1], classes=list(CLASSES)
    )
    for path in (pool.root, pool.root.parent):
        augmented = pickle.loads(pickle.dumps(diffaug.AugmentedDataset(real, path)))
        assert [int(augmented[index][0].max()) for index in range(2, len(augmented))] == [0, 30]
        assert augmented.targets == [0, 1, 0, 1]
        lookup = PoolLookup(str(path))
        assert [int(lookup.read(int(lookup.candidates(name, "error")[0])).max()) for name in CLASSES] == [0, 30]
    review.withdraw("anna", (pool.files[1], pool.manifest["sha256"][1]))
    assert diffaug.AugmentedDataset(real, pool.root).targets == [0, 1, 0, 0, 1]
    review.path.write_text("broken\n")
    with pytest.raises(DataError, match="line 1"):
        diffaug.SyntheticReplace(pool.root)
