import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from imblearn.pipeline import Pipeline
from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from torch.utils.data import TensorDataset

import diffaug
from diffaug.configuration.arms import Resources, default_arms
from diffaug.data.reading import sources
from diffaug.diffusion.generator.generator import Generator
from diffaug.errors import DataError, NotFittedError, UsageError
from diffaug.files.records import write_signed_record
from diffaug.study import STUDY_RECORD, Study, open_study

pytestmark = pytest.mark.e2e
COUNTS = {"dark": 20, "middle": 12, "bright": 6}


@dataclass
class Made:
    """Images and a study of them."""

    images: Path
    study: Path

    def copy(self, folder: Path) -> "Made":
        shutil.copytree(self.images, folder / "images")
        shutil.copytree(self.study, folder / "study")
        copied = Made(folder / "images", folder / "study")
        record = replace(open_study(copied.study).record, data=copied.images)
        write_signed_record(copied.study / "study.json", STUDY_RECORD, record)
        return copied

    def open(self, **arguments) -> diffaug.DiffusionAugmenter:
        return diffaug.DiffusionAugmenter.open(self.study, verbose=False, **arguments)


@pytest.fixture(scope="module")
def fitted_once(tmp_path_factory, make_classes, small) -> Made:
    folder = tmp_path_factory.mktemp("fitted")
    images = make_classes(folder / "images", COUNTS)
    diffaug.DiffusionAugmenter(study=folder / "study", settings=small, verbose=False).fit(images)
    return Made(images, folder / "study")


@pytest.fixture(scope="module")
def generated_once(tmp_path_factory, fitted_once) -> Made:
    made = fitted_once.copy(tmp_path_factory.mktemp("generated"))
    made.open().generate()
    return made


@pytest.fixture(scope="module")
def evaluated_once(tmp_path_factory, generated_once) -> Made:
    made = generated_once.copy(tmp_path_factory.mktemp("evaluated"))
    made.open().evaluate()
    return made


@pytest.fixture
def fitted(tmp_path, fitted_once) -> Made:
    return fitted_once.copy(tmp_path / "copy")


@pytest.fixture
def generated(tmp_path, generated_once) -> Made:
    return generated_once.copy(tmp_path / "copy")


@pytest.fixture
def evaluated(tmp_path, evaluated_once) -> Made:
    return evaluated_once.copy(tmp_path / "copy")


@pytest.fixture
def new(tmp_path, small):
    """Makes an augmenter of a new study with small settings."""
    return partial(diffaug.DiffusionAugmenter, study=tmp_path / "my study", settings=small, verbose=False)


def dataset(seed: int) -> TensorDataset:
    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(images, torch.tensor([0] * 28 + [1] * 12))


def times(folder: Path, pattern: str = "*") -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob(pattern) if path.suffix != ".lock"}


def fit(made: Made, **settings) -> diffaug.DiffusionAugmenter:
    return diffaug.DiffusionAugmenter(study=made.study, settings=settings, verbose=False).fit(made.images)


def test_the_whole_job(evaluated) -> None:
    augmenter = evaluated.open()
    assert augmenter.classes_ == ("bright", "dark", "middle")
    assert augmenter.class_counts_ == {"bright": 5, "dark": 16, "middle": 10}
    pool = diffaug.Pool.open(evaluated.study)
    assert pool.counts_by_name == {"bright": 11, "dark": 0, "middle": 6}
    result = augmenter.evaluate()  # kept, not computed again
    assert {arm.name for arm in result.arms} == set(default_arms(Resources()))
    assert json.loads((evaluated.study / "report.json").read_text())
    assert result.verdict.decision in (evaluated.study / "report.html").read_text(encoding="utf-8").lower()
    grids = sorted((evaluated.study / "generator" / "samples").glob("*.png"))
    assert [grid.name for grid in grids] == ["images-000000000.png", "images-000000512.png"]
    events = pd.read_json(evaluated.study / "journal.jsonl", lines=True)
    started = events.loc[events["kind"] == "start", "key"].tolist()
    assert started[:3] == ["study", "fit", "generate"]
    assert len([key for key in started if key.startswith("trial/")]) == 3 * len(default_arms(Resources()))
    logged = [data["metrics"] for data in events["data"] if "loss" in data.get("metrics", {})]
    assert logged and all(0 < metrics["images_per_second"] < 1e6 for metrics in logged)


def test_finished_stages_are_kept_and_other_settings_need_overwrite(generated) -> None:
    before = times(generated.study / "pool", "*.png")
    again = fit(generated)
    weights = again.generator_.weights_sha256
    again.generate()
    assert times(generated.study / "pool", "*.png") == before
    config = again.config
    for refused, words in (({"guidance_scale": 2.0}, "guidance_scale None -> 2.0"), ({"solver": "plms"}, "plms")):
        with pytest.raises(UsageError, match=words):
            again.generate(**refused)
        assert again.config == generated.open().config == config  # settings of a call hold for that call
    with pytest.raises(UsageError, match=r"images_seen 512 -> 1024"):
        fit(generated, **{"diffusion.images_seen": 1024})
    replaced = generated.open(overwrite=True)
    assert replaced.generator_.weights_sha256 == weights
    assert set(replaced.generate(guidance_scale=2.0).manifest["guidance_scale"]) == {2.0}


def test_settings_of_a_call_stay_with_the_stage_that_was_made(fitted) -> None:
    augmenter = fitted.open()
    augmenter.generate(guidance_scale=2.0)
    for later in (augmenter, fitted.open()):
        assert later.config.synthesis.guidance_scale == 2.0
        assert later.generate().manifest["guidance_scale"].eq(2).all()


def test_a_study_opened_again_remembers_its_settings(fitted, small) -> None:
    config = fitted.open().config
    assert config.diffusion.images_seen == small["diffusion.images_seen"]
    for refused in ({"diffusion.images_seen": 1024}, {"seed": 5}, {"data.image_size": 16}):
        with pytest.raises(UsageError, match="made with other settings"):
            fit(fitted, **refused)
        assert fit(fitted).config == config


def test_looking_at_images_first_binds_nobody_to_a_size(new, images, small) -> None:
    new(settings={}).attach(images).inspect()
    fitted = new(settings={**small, "data.image_size": 12, "seed": 3}).fit(images)
    assert fitted.generator_.image_size == (12, 12)


def test_a_new_generator_makes_the_pool_stale(generated) -> None:
    first = diffaug.Pool.open(generated.study).manifest["generator_sha256"].unique()
    augmenter = generated.open(settings={"diffusion.images_seen": 640}, overwrite=True)
    augmenter.fit(generated.images)
    second = generated.open().generate()
    assert set(second.manifest["generator_sha256"]).isdisjoint(first)


def test_attributes_are_there_after_fit_and_never_before(new, images, fitted) -> None:
    attached = new().attach(images)
    for name in ("classes_", "class_counts_", "generator_"):
        for augmenter in (new(), attached):
            assert not hasattr(augmenter, name)
            with pytest.raises(NotFittedError, match="fit"):
                getattr(augmenter, name)
    assert not attached.study.catalog.exists()
    assert fitted.open().generator_.classes == ("bright", "dark", "middle")


def test_attributes_are_read_once_and_neither_write_nor_look_at_the_data(fitted, monkeypatch) -> None:
    augmenter = fitted.open()
    (fitted.images / "dark" / "000.png").unlink()  # a rebuild would find this
    loaded, load = [], Generator.load
    monkeypatch.setattr(Generator, "load", lambda *given, **options: loaded.append(1) or load(*given, **options))
    monkeypatch.setattr(sources, "content_sha256", lambda path: pytest.fail("a file was hashed"))
    before = times(fitted.study)
    with Study(fitted.study).locked():  # another process works
        for _ in range(2):
            assert augmenter.class_counts_ == {"bright": 5, "dark": 16, "middle": 10}
            assert augmenter.classes_ == augmenter.generator_.classes
    assert times(fitted.study) == before and len(loaded) == 1


def test_a_strategy_is_totals_or_a_function_that_gets_the_counts_under_the_lock(fitted) -> None:
    asked = []

    def strategy(counts):
        with pytest.raises(UsageError, match="another diffaug process"), Study(fitted.study).locked():
            pytest.fail("the study was free")
        asked.append(counts)
        return {"middle": counts["dark"]}

    assert fitted.open().generate(strategy).counts_by_name["middle"] == 6
    assert asked == [{"bright": 5, "dark": 16, "middle": 10}]
    renewed = fitted.open(overwrite=True).generate({"bright": 9, 1: 18})
    assert renewed.counts_by_name == {"bright": 4, "dark": 2, "middle": 0}


def test_images_that_change_under_a_generator_are_refused(fitted) -> None:
    (fitted.images / "dark" / "000.png").unlink()
    with pytest.raises(UsageError, match="changed since this study's generator was trained"):
        fitted.open().generate()


def test_images_added_before_training_are_read_again(new, images, make_classes) -> None:
    augmenter = new().attach(images)
    assert augmenter.inspect().counts_by_name("train")["bright"] == 5
    make_classes(images, {"dark": 20, "middle": 12, "bright": 20})
    assert augmenter.class_counts_["bright"] == 5  # as it was read
    assert augmenter.inspect().counts_by_name("train")["bright"] == augmenter.class_counts_["bright"] > 10


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("synthesis.sampling_strategy", "minorty", "unknown sampling_strategy 'minorty'"),
        ("synthesis.sampling_strategy", {"brght": 40}, "synthesis.sampling_strategy, from flag"),
        ("evaluation.classifier", "timm/resnet81", "resnet81"),
        ("evaluation.checkpoint", "nope.pt", "nope.pt"),
    ],
)
def test_run_refuses_early_what_a_later_stage_cannot_use(new, tmp_path, images, small, setting, value, words) -> None:
    with pytest.raises(UsageError) as caught:
        new(settings={**small, setting: value}).run(images)
    assert words in str(caught.value)
    assert not new(settings={}).attach(images).study.has_begun
    assert not {"config.yaml", "generator"} & {path.name for path in (tmp_path / "my study").glob("*")}


def test_stages_in_the_wrong_order_say_what_comes_first(new, tmp_path, images) -> None:
    augmenter = new()
    with pytest.raises(UsageError, match="call fit"):
        augmenter.generate()
    augmenter.attach(images)
    with pytest.raises(UsageError, match="diffaug fit"):
        augmenter.generate()
    with pytest.raises(UsageError, match=rf"diffaug evaluate '{tmp_path}/my study'$"):
        augmenter.report()
    augmenter.fit(images).generate()
    with pytest.raises(UsageError, match=rf"diffaug evaluate '{tmp_path}/my study'$"):
        augmenter.report()


def test_a_report_trains_nothing_and_discards_nothing(evaluated) -> None:
    (evaluated.study / "report.html").unlink()
    assert evaluated.open().report().is_file()
    before = times(evaluated.study / "evaluation")
    evaluated.open(overwrite=True).generate(guidance_scale=2.0)
    with pytest.raises(UsageError, match="the pool or its review changed"):
        evaluated.open().report()
    assert times(evaluated.study / "evaluation") == before


def test_a_torch_dataset_is_fitted_and_another_one_refused_before_anything_is_written(new, tmp_path) -> None:
    first, (images, _) = dataset(0), dataset(0).tensors
    augmenter = new().fit(first)
    assert augmenter.class_counts_ == {"0": 22, "1": 10}
    catalog = augmenter.inspect()
    written = np.concatenate([catalog.images("train").pixels, catalog.images("test").pixels])
    expected = np.rint(images.numpy() * 255).astype(np.uint8).reshape(40, 8, 8, 1)
    assert sorted(map(bytes, written)) == sorted(map(bytes, expected))
    before = times(tmp_path)
    with pytest.raises(UsageError, match="belongs to other data"):
        new().fit(dataset(1))
    assert times(tmp_path) == before
    assert len(augmenter.generate())
    new().fit(dataset(0))


def test_images_of_the_user_beside_a_study_are_no_place_for_a_dataset(new, tmp_path, make_classes) -> None:
    own = make_classes(tmp_path / "my study-images", {"0": 9, "1": 9})
    before = times(own)
    new().attach(dataset(0))
    assert times(own) == before


def test_a_normalized_dataset_is_refused_with_the_remedy(new) -> None:
    with pytest.raises(DataError, match="remove the normalization"):
        new().fit(TensorDataset(torch.randn(8, 1, 8, 8), torch.tensor([0, 1] * 4)))


@pytest.mark.parametrize(("budget", "minutes"), [("10m", 10), ("90s", 1.5), ("1.5h", 90), (3, 3), ("7", 7)])
def test_time_budgets(new, images, budget, minutes) -> None:
    assert new(time_budget=budget, settings={}).attach(images).config.diffusion.minutes == minutes


def test_an_unreadable_budget_says_how_to_write_it(new) -> None:
    with pytest.raises(UsageError, match="like 10m"):
        new(time_budget="ten")


def test_works_outside_the_main_thread(new, images) -> None:
    with ThreadPoolExecutor() as threads:
        assert threads.submit(new().fit, images).result().generator_


def test_a_locked_out_process_writes_nothing(fitted) -> None:
    before = times(fitted.study)
    with Study(fitted.study).locked(), pytest.raises(UsageError, match="another diffaug process"):
        fitted.open(seed=9).generate()
    assert times(fitted.study) == before


def test_it_is_an_estimator_that_scikit_learn_clones_and_sets_up(new, tmp_path) -> None:
    augmenter = new(time_budget="10m", seed=4)
    copy = clone(augmenter)
    assert copy.get_params() == augmenter.get_params()
    assert copy.get_params()["time_budget"] == "10m"
    assert copy.set_params(seed=5, study=tmp_path / "other") is copy
    assert repr(copy).startswith("DiffusionAugmenter(time_budget='10m'") and "seed=5" in repr(copy)
    with pytest.raises(UsageError, match=r"(?s)no parameter 'sede'.*did you mean 'seed'"):
        copy.set_params(sede=1)
    with pytest.raises(UsageError, match="can't read the time budget"):
        copy.set_params(time_budget="ten")
    assert repr(pickle.loads(pickle.dumps(augmenter))) == repr(augmenter)


def test_arrays_are_for_resampling(new) -> None:
    for images in (np.zeros((4, 8, 8)), pd.DataFrame(np.zeros((4, 64)))):
        with pytest.raises(UsageError, match=r"(?s)not as (ndarray|DataFrame).*fit_resample\(X, y\)"):
            new().fit(images, [0, 1, 0, 1])


def test_an_augmenter_in_use_is_pickled_by_its_study(generated) -> None:
    copy = pickle.loads(pickle.dumps(generated.open()))
    assert copy.study.path == generated.study
    assert copy.class_counts_ == {"bright": 5, "dark": 16, "middle": 10}


def test_rows_of_an_array_are_balanced_in_a_pipeline_fold_by_fold(new, tmp_path) -> None:
    labels = np.repeat(["dark", "middle", "bright"], [20, 12, 6])
    noise = np.random.default_rng(0).integers(0, 60, (38, 64))
    rows = (noise + 60 * np.repeat([0, 1, 2], [20, 12, 6])[:, None]).astype(np.float64)
    augmenter = new(include_blind=True)
    extended, balanced = augmenter.fit_resample(rows, labels)
    np.testing.assert_array_equal(extended[:38], rows)
    assert extended.dtype == rows.dtype and rows.min() <= extended.min() and extended.max() <= rows.max()
    assert pd.Series(balanced).value_counts().to_dict() == {"dark": 20, "middle": 20, "bright": 20}
    first = augmenter.study.path
    again, _ = clone(augmenter).fit_resample(rows, labels)  # resumed, not made again
    np.testing.assert_array_equal(again, extended)
    pipeline = Pipeline([("augment", augmenter), ("classify", DummyClassifier())])
    pipeline.fit(rows[::2], labels[::2])
    assert pipeline["augment"].study.path.parent == first.parent and first.exists()
    assert len(list(first.parent.glob("my study-*/pool"))) == 2


def test_images_of_blind_classes_are_not_added_unless_wanted(new) -> None:
    labels = np.repeat([0, 1], [12, 6])
    rows = np.random.default_rng(0).integers(0, 255, (18, 8, 8), dtype=np.uint8)
    with pytest.warns(UserWarning, match="synthetic images are left out"):
        _, kept = new().fit_resample(rows, labels)
    assert len(kept) == 18
