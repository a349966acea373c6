import json
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import TensorDataset

import diffaug
from diffaug.errors import DataError, UsageError


@pytest.fixture
def augmenter(tmp_path, images, small):
    return diffaug.DiffusionAugmenter(study=tmp_path / "study", settings=small, verbose=False).fit(images)


def test_the_whole_job(augmenter, images, tmp_path) -> None:
    assert augmenter.classes_ == ("bright", "dark", "middle")
    assert augmenter.class_counts_ == {"bright": 5, "dark": 16, "middle": 10}
    pool = augmenter.generate()
    assert pool.manifest["label"].value_counts().to_dict() == {"bright": 11, "middle": 6}
    result = augmenter.evaluate()
    assert {arm.name for arm in result.arms} == set(diffaug.Config().evaluation.compared_arms)
    assert result.verdict.decision in ("use", "do not use", "not decidable")
    assert len(result.table()) == 6
    study = augmenter.study.path
    html = (study / "report.html").read_text(encoding="utf-8")
    assert result.verdict.text.split(".")[0] in html.replace("&#39;", "'").replace("&#34;", '"')
    assert json.loads((study / "report.json").read_text())
    grids = sorted((study / "generator" / "samples").glob("*.png"))
    assert [grid.name for grid in grids] == ["images-000000000.png", "images-000000512.png"]


def test_finished_stages_are_kept_and_other_settings_need_overwrite(augmenter, images, small, tmp_path) -> None:
    pool = augmenter.generate()
    before = {path: path.stat().st_mtime_ns for path in pool.root.rglob("*.png")}
    weights = augmenter.generator_.weights_sha256
    again = diffaug.DiffusionAugmenter(study=tmp_path / "study", settings=small, verbose=False).fit(images)
    again.generate()
    assert {path: path.stat().st_mtime_ns for path in pool.root.rglob("*.png")} == before
    with pytest.raises(UsageError, match=r"guidance_scale 1.0 -> 2.0"):
        again.generate(guidance_scale=2.0)
    with pytest.raises(UsageError, match=r"images 512 -> 1024"):
        changed = {**small, "diffusion.images_seen": 1024}
        diffaug.DiffusionAugmenter(study=tmp_path / "study", settings=changed, verbose=False).fit(images)
    replaced = diffaug.DiffusionAugmenter.open(tmp_path / "study", overwrite=True, verbose=False)
    assert replaced.generator_.weights_sha256 == weights
    assert set(replaced.generate(guidance_scale=2.0).manifest["guidance_scale"]) == {2.0}


def test_a_study_opened_again_remembers_its_settings(augmenter, tmp_path) -> None:
    reopened = diffaug.DiffusionAugmenter.open(tmp_path / "study", verbose=False)
    assert reopened.config == augmenter.config


def test_a_refused_request_leaves_the_settings_as_they_were(augmenter, images, tmp_path) -> None:
    augmenter.generate()
    study = tmp_path / "study"
    for refused in ({"diffusion.images_seen": 1024}, {"seed": 5}, {"data.image_size": 16}):
        with pytest.raises(UsageError, match="made with other settings"):
            diffaug.DiffusionAugmenter(study=study, settings=refused, verbose=False).fit(images)
        again = diffaug.DiffusionAugmenter(study=study, verbose=False).fit(images)
        assert again.config == augmenter.config
    with pytest.raises(UsageError, match="guidance_scale"):
        again.generate(guidance_scale=2.0)
    assert diffaug.DiffusionAugmenter.open(study, verbose=False).generate().manifest["guidance_scale"].eq(1).all()


def test_looking_at_images_first_binds_nobody_to_a_size(tmp_path, images, small) -> None:
    study = tmp_path / "study"
    diffaug.DiffusionAugmenter(study=study, verbose=False).attach(images).inspect()
    settings = {**small, "data.image_size": 12, "seed": 3}
    fitted = diffaug.DiffusionAugmenter(study=study, settings=settings, verbose=False).fit(images)
    assert fitted.generator_.image_size == (12, 12)


def test_a_new_generator_makes_the_pool_stale(augmenter, images, small, tmp_path) -> None:
    first = augmenter.generate().manifest["generator_sha256"].unique()
    changed = {**small, "diffusion.images_seen": 640}
    retrained = diffaug.DiffusionAugmenter(study=tmp_path / "study", settings=changed, overwrite=True, verbose=False)
    retrained.fit(images)
    second = diffaug.DiffusionAugmenter.open(tmp_path / "study", verbose=False).generate()
    assert set(second.manifest["generator_sha256"]).isdisjoint(first)


def test_sampling_strategies(augmenter) -> None:
    pool = augmenter.generate({"bright": 9, 1: 18})
    assert pool.manifest["label"].value_counts().to_dict() == {"bright": 4, "dark": 2}


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("synthesis.sampling_strategy", "minorty", "unknown sampling_strategy 'minorty'"),
        ("synthesis.sampling_strategy", {"brght": 40}, "synthesis.sampling_strategy, from flag"),
        ("evaluation.classifier", "torchvision/resnet81", "resnet81"),
        ("evaluation.checkpoint", "nope.pt", "nope.pt"),
    ],
)
def test_run_refuses_before_training_what_a_later_stage_could_not_use(
    tmp_path, images, small, setting, value, told
) -> None:
    study = tmp_path / "study"
    augmenter = diffaug.DiffusionAugmenter(study=study, settings={**small, setting: value}, verbose=False)
    with pytest.raises(UsageError) as caught:
        augmenter.run(images)
    assert told in str(caught.value)
    assert not (study / "generator").exists()


def test_a_wrong_strategy_that_the_study_holds_is_said_to_be_from_there(tmp_path, images, small) -> None:
    study, wrong = tmp_path / "study", {**small, "synthesis.sampling_strategy": {"brght": 40}}
    with pytest.raises(UsageError, match="from flag"):
        diffaug.DiffusionAugmenter(study=study, settings=wrong, verbose=False).fit(images)
    with pytest.raises(UsageError, match="from study"):
        diffaug.DiffusionAugmenter(study=study, verbose=False).fit(images)
    assert not (study / "generator").exists()


def test_a_callable_strategy_gets_the_counts(augmenter) -> None:
    pool = augmenter.generate(lambda counts: {name: counts["dark"] for name in counts if name == "middle"})
    assert pool.manifest["label"].value_counts().to_dict() == {"middle": 6}


def test_images_that_change_under_a_generator_are_refused(augmenter, images) -> None:
    (images / "dark" / "000.png").unlink()
    with pytest.raises(UsageError, match="changed since this study's generator was trained"):
        augmenter.generate()


def test_images_added_before_training_are_read_again(tmp_path, images, small, make_classes) -> None:
    augmenter = diffaug.DiffusionAugmenter(study=tmp_path / "study", settings=small, verbose=False).attach(images)
    assert augmenter.class_counts_["bright"] == 5
    make_classes(images, {"dark": 20, "middle": 12, "bright": 20})
    assert augmenter.class_counts_["bright"] > 10


def test_a_study_of_other_data_is_refused(augmenter, tmp_path, make_classes, small) -> None:
    other = make_classes(tmp_path / "other", {"a": 9, "b": 9})
    with pytest.raises(UsageError, match="belongs to other data"):
        diffaug.DiffusionAugmenter(study=tmp_path / "study", settings=small, verbose=False).fit(other)


def test_stages_in_the_wrong_order_say_what_comes_first(tmp_path, images, small) -> None:
    augmenter = diffaug.DiffusionAugmenter(study=tmp_path / "study", settings=small, verbose=False)
    with pytest.raises(UsageError, match="call fit"):
        augmenter.generate()
    augmenter.attach(images)
    with pytest.raises(UsageError, match="diffaug fit"):
        augmenter.generate()
    with pytest.raises(UsageError, match=rf"diffaug generate {tmp_path}/study$"):
        augmenter.evaluate()
    with pytest.raises(UsageError, match="diffaug generate"):
        augmenter.report()
    augmenter.fit(images).generate()
    with pytest.raises(UsageError, match="diffaug evaluate"):
        augmenter.report()


def test_a_report_trains_nothing_and_discards_nothing(augmenter, tmp_path) -> None:
    augmenter.generate()
    augmenter.evaluate()
    study = augmenter.study
    study.report.unlink()
    assert diffaug.DiffusionAugmenter.open(study.path, verbose=False).report().is_file()
    before = {path: path.stat().st_mtime_ns for path in study.evaluation.rglob("*")}
    diffaug.DiffusionAugmenter.open(study.path, overwrite=True, verbose=False).generate(guidance_scale=2.0)
    with pytest.raises(UsageError, match="pool changed"):
        diffaug.DiffusionAugmenter.open(study.path, verbose=False).report()
    assert {path: path.stat().st_mtime_ns for path in study.evaluation.rglob("*")} == before


def test_a_torch_dataset_is_fitted_too(tmp_path, small) -> None:
    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    dataset = TensorDataset(images, torch.tensor([0] * 28 + [1] * 12))
    augmenter = diffaug.DiffusionAugmenter(study=tmp_path / "study", settings=small, verbose=False).fit(dataset)
    assert augmenter.class_counts_ == {"0": 22, "1": 10}
    catalog = augmenter.inspect()
    written = np.concatenate([catalog.images("train").pixels, catalog.images("test").pixels])
    expected = np.rint(images.numpy() * 255).astype(np.uint8).reshape(40, 8, 8, 1)
    assert sorted(map(bytes, written)) == sorted(map(bytes, expected))


def test_another_dataset_is_refused_before_anything_is_written_and_the_first_study_goes_on(tmp_path, small) -> None:
    def dataset(seed: int) -> TensorDataset:
        images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
        return TensorDataset(images, torch.tensor([0] * 28 + [1] * 12))

    study = tmp_path / "study"
    first = diffaug.DiffusionAugmenter(study=study, settings=small, verbose=False).fit(dataset(0))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.suffix != ".lock"}
    with pytest.raises(UsageError, match="belongs to other data"):
        diffaug.DiffusionAugmenter(study=study, settings=small, verbose=False).fit(dataset(1))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.suffix != ".lock"} == before
    assert len(first.generate())
    diffaug.DiffusionAugmenter(study=study, settings=small, verbose=False).fit(dataset(0))


def test_images_of_the_user_beside_a_study_are_no_place_for_a_dataset(tmp_path, small, make_classes) -> None:
    own = make_classes(tmp_path / "study-images", {"0": 9, "1": 9})
    before = {path: path.stat().st_mtime_ns for path in own.rglob("*")}
    dataset = TensorDataset(torch.rand(6, 1, 8, 8), torch.tensor([0, 1] * 3))
    diffaug.DiffusionAugmenter(study=tmp_path / "study", settings=small, verbose=False).attach(dataset)
    assert {path: path.stat().st_mtime_ns for path in own.rglob("*")} == before


def test_a_normalised_dataset_is_refused_with_the_remedy(tmp_path, small) -> None:
    dataset = TensorDataset(torch.randn(8, 1, 8, 8), torch.tensor([0, 1] * 4))
    with pytest.raises(DataError, match="without normalisation"):
        diffaug.DiffusionAugmenter(study=tmp_path / "study", settings=small, verbose=False).fit(dataset)


@pytest.mark.parametrize(("budget", "minutes"), [("10m", 10), ("90s", 1.5), ("1.5h", 90), (3, 3), ("7", 7)])
def test_time_budgets(tmp_path, images, budget, minutes) -> None:
    augmenter = diffaug.DiffusionAugmenter(time_budget=budget, study=tmp_path / "s", verbose=False).attach(images)
    assert augmenter.config.diffusion.minutes == minutes


def test_an_unreadable_budget_says_how_to_write_it() -> None:
    with pytest.raises(UsageError, match="like 10m"):
        diffaug.DiffusionAugmenter(time_budget="ten")


def test_works_outside_the_main_thread(tmp_path, images, small) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            diffaug.DiffusionAugmenter(study=tmp_path / "study", settings=small, verbose=False).fit(images)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failures


def test_the_journal_holds_fit_generate_and_every_trial(augmenter) -> None:
    augmenter.generate()
    augmenter.evaluate()
    events = pd.read_json(augmenter.study.journal, lines=True)
    started = events.loc[events["kind"] == "start", "key"].tolist()
    assert started[:3] == ["study", "fit", "generate"]
    assert len([key for key in started if key.startswith("trial/")]) == 18


def test_a_locked_out_process_writes_nothing(tmp_path, images, small) -> None:
    study = diffaug.DiffusionAugmenter(study=tmp_path / "study", settings=small, verbose=False).attach(images).study
    before = study.journal.read_bytes(), study.config_file.read_bytes()
    with study.locked(), pytest.raises(UsageError, match="another diffaug process"):
        diffaug.DiffusionAugmenter.open(study.path, seed=9, verbose=False)
    assert (study.journal.read_bytes(), study.config_file.read_bytes()) == before
