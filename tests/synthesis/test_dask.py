import joblib
import numpy as np
import pytest

from diffaug.classifiers.encoders.trained import ClassifierEncoder
from diffaug.data.images import LabeledImages
from diffaug.data.splits import assign_folds
from diffaug.synthesis.filters.crossfit import fit_fold_models
from diffaug.synthesis.pool.chunks import ChunkStore

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("dask.distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as local,
        distributed.Client(local),
    ):
        yield


def test_a_cluster_trains_the_same_fold_models(cluster, digits, monkeypatch) -> None:
    pixels, labels = digits
    images = LabeledImages(pixels[:60], labels[:60], tuple("0123456789"), tuple(map(str, range(60))))
    folds = assign_folds(images.labels, np.arange(60), 0)
    here = fit_fold_models(images, folds, seed=0, device="cpu", max_steps=5).tensors
    monkeypatch.setattr(ClassifierEncoder, "fit", lambda *_, **__: pytest.fail("a fold was trained in this process"))
    with joblib.parallel_config("dask"):
        there = fit_fold_models(images, folds, seed=0, device="cpu", max_steps=5).tensors
    assert here.keys() == there.keys()
    assert all(here[name].equal(there[name]) for name in here)


def test_a_cluster_makes_the_same_pool(cluster, tmp_path, maker, complete, digests, monkeypatch) -> None:
    targets = {"a": 6, "b": 16, "c/d": 3}
    expected = digests(complete(tmp_path / "here", maker, targets))
    monkeypatch.setattr(ChunkStore, "claim", lambda *_: pytest.fail("a chunk was computed in this process"))
    with joblib.parallel_config("dask"):
        assert digests(complete(tmp_path / "there", maker, targets)) == expected
