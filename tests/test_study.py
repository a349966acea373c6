import os
from contextlib import suppress
from pathlib import Path

import pytest

import diffaug
from diffaug.errors import UsageError
from diffaug.files import storage
from diffaug.study import Study, StudyRecord, default_study_path, open_study, plan_study


@pytest.fixture
def data(tmp_path) -> Path:
    (tmp_path / "my images").mkdir()
    return tmp_path / "my images"


@pytest.fixture
def study(tmp_path, data) -> Study:
    """A study that has begun and keeps a pool."""
    study = plan_study(tmp_path / "a", data)
    study.begin()
    study.pool.mkdir()
    return open_study(study.path)


def test_a_study_that_begins_records_its_data_and_opens_again(tmp_path, data, study, monkeypatch):
    assert study.record == StudyRecord(data.resolve(), diffaug.__version__)
    assert plan_study(tmp_path / "a", data / ".." / "my images") == study == open_study(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    assert plan_study(Path("a"), Path("my images")).record == study.record
    monkeypatch.chdir(tmp_path / "a")
    assert open_study(Path()).name == study.name == "a"


def test_planning_a_study_writes_nothing_and_beginning_it_keeps_the_numbering(tmp_path, data):
    study = plan_study(tmp_path / "runs" / "a", data, {"owl": 0, "cat": 1})
    assert not study.has_begun and study.record.data == data
    assert not (tmp_path / "runs").exists()
    study.begin()
    assert study.has_begun and open_study(study.path).record.class_to_idx == {"owl": 0, "cat": 1}
    study.begin()
    assert [path.name for path in study.path.iterdir()] == ["study.json"]


def test_everything_of_a_study_lies_in_its_folder(study):
    names = [name for name, place in vars(Study).items() if hasattr(place, "__get__") and hasattr(place, "name")]
    places = [getattr(study, name) for name in names]
    assert {place.parent for place in places} == {study.path}
    assert len(set(places)) == len(places) == 12


def test_a_study_of_other_data_is_refused(tmp_path, data):
    study = plan_study(tmp_path / "my study", data)
    study.begin()
    study.pool.mkdir()
    with pytest.raises(UsageError, match="belongs to other data") as caught:
        plan_study(study.path, tmp_path / "other")
    assert str(data) in caught.value.what
    assert f"--study '{study.path}-2'" in caught.value.fix


@pytest.mark.parametrize(
    "kept", ["generator/DONE.json", "generator/checkpoints/7", "pool/a", "chunks/a", "evaluation/a", "predictions/a"]
)
def test_only_what_a_stage_has_kept_binds_a_study_to_its_data(tmp_path, data, kept):
    first, other = plan_study(tmp_path / "a", data), plan_study(tmp_path / "a", tmp_path / "other")
    first.begin()
    left = ["catalog/table.parquet", "catalog-parts/0", "generator/BEGUN.json", "journal.jsonl", "config.yaml"]
    for name in left:
        storage.write_text(first.path / name, "")
    assert plan_study(first.path, tmp_path / "other").record.data == tmp_path / "other"
    storage.write_text(first.path / kept, "")
    with pytest.raises(UsageError, match="belongs to other data"):
        other.begin()  # another process was faster
    assert first.record.data == data and all((first.path / name).exists() for name in [*left, kept])


def test_a_study_that_kept_nothing_begins_anew_with_other_data(tmp_path, data):
    first = plan_study(tmp_path / "a", data, {"old": 0})
    first.begin()
    for name in (
        "catalog/table.parquet",
        "generator/BEGUN.json",
        "journal.jsonl",
        "config.yaml",
        "tracking/mlflow.json",
    ):
        storage.write_text(first.path / name, "")
    other = plan_study(first.path, tmp_path / "other")
    assert not other.has_begun
    other.begin()
    assert open_study(first.path).record == StudyRecord(tmp_path / "other")
    assert {path.name for path in first.path.iterdir()} == {"study.json", "catalog"}


@pytest.mark.parametrize("point", range(12))
def test_a_kill_at_any_point_of_beginning_leaves_no_study_or_a_usable_one(tmp_path, data, monkeypatch, point):
    first, steps = plan_study(tmp_path / "a", data), iter(range(100))
    first.begin()
    for name in ("catalog/table.parquet", "generator/BEGUN.json", "journal.jsonl", "config.yaml"):
        storage.write_text(first.path / name, "")

    def killed(original):
        def step(*arguments, **options):
            if next(steps) >= point:
                raise KeyboardInterrupt
            return original(*arguments, **options)

        return step

    with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
        for name in ("unlink", "rename", "replace"):
            patched.setattr(os, name, killed(getattr(os, name)))
            patched.setattr(Path, name, killed(getattr(Path, name)))
        plan_study(first.path, tmp_path / "other").begin()
    for owner in (data, tmp_path / "other"):
        again = plan_study(first.path, owner)
        again.begin()
        assert open_study(first.path).record.data == owner


def test_a_lock_leaves_no_folder_behind_but_keeps_what_is_in_it(tmp_path, data):
    study = plan_study(tmp_path / "runs" / "a", data)
    with study.locked():
        assert study.path.is_dir()
        with pytest.raises(UsageError, match="another diffaug process"), study.locked():
            pytest.fail("two processes have the lock")
    assert not study.path.exists()
    with study.locked():
        study.catalog.mkdir()
    assert study.catalog.is_dir()
    with study.locked():
        study.begin()
    assert study.has_begun


def test_a_foreign_folder_file_or_record_is_refused_and_left_alone(tmp_path, data):
    thesis = tmp_path / "mine" / "thesis.tex"
    storage.write_text(thesis, "")
    for path in (thesis.parent, thesis):
        with pytest.raises(UsageError, match="not empty and not a study"):
            plan_study(path, data)
    assert list(thesis.parent.iterdir()) == [thesis]
    for content in ([], {"study": "of bees"}):
        storage.write_json(tmp_path / "a" / "study.json", content)
        with pytest.raises(UsageError, match="not the record of a study"):
            plan_study(tmp_path / "a", data)


def test_an_empty_folder_and_one_where_a_start_was_killed_become_a_study(tmp_path, data):
    (tmp_path / "empty").mkdir()
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / ".study.json.0123abcd.123.tmp").touch()
    for name in ("empty", "killed"):
        study = plan_study(tmp_path / name, data)
        study.begin()
        assert open_study(study.path).record.data == data


def test_opening_what_is_no_study_says_what_to_do(tmp_path, data):
    (tmp_path / "seen" / "catalog").mkdir(parents=True)
    seen = f"diffaug fit DATA --study {tmp_path / 'seen'}"
    for path, fix in ((tmp_path / "absent", "diffaug fit"), (data, f"diffaug run '{data}'"), (tmp_path / "seen", seen)):
        with pytest.raises(UsageError, match="not a study") as caught:
            open_study(path)
        assert fix in caught.value.fix


def test_the_default_study_is_named_after_the_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert default_study_path(Path("pets")) == Path("runs/pets")
    assert default_study_path(Path("pets/..")) == Path("runs") / tmp_path.name
    assert default_study_path(Path("/")) == Path("runs/study")


def test_a_study_given_as_images_is_refused_with_the_command_that_opens_it(data, tmp_path):
    study = plan_study(tmp_path / "pets", data)
    study.begin()
    for place in (study.path, tmp_path / "new"):
        with pytest.raises(UsageError, match="a study, not a folder of images") as caught:
            plan_study(place, study.path)
        assert f"diffaug run '{data}' --study {study.path}" in caught.value.fix
    (data / "study.json").write_text("{}")  # of something else
    assert not plan_study(tmp_path / "other", data).has_begun


@pytest.mark.parametrize("place", [".", "runs/a"])
def test_a_study_among_its_own_images_is_refused(data, place):
    with pytest.raises(UsageError, match="inside the data folder"):
        plan_study(data / place, data)
    assert list(data.iterdir()) == []


def test_a_notebook_shows_the_finished_stages_with_literal_names(tmp_path):
    study = Study(tmp_path / "<b>digits")
    (study.pool).mkdir(parents=True)
    (study.pool / storage.DONE).touch()
    shown = study._repr_html_()
    assert "study &lt;b&gt;digits" in shown and "<b>" not in shown
    assert shown.count("<td>not finished</td>") == 2 and shown.count("<td>finished</td>") == 1
