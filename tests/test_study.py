from pathlib import Path

import pytest

import diffaug
from diffaug.errors import DamagedError, UsageError
from diffaug.files import storage
from diffaug.study import (
    BEGUN,
    StageState,
    begin_stage,
    default_study_path,
    finish_stage,
    open_or_create_study,
    open_study,
    require_same_settings,
)

SETTINGS = {"seed": 0, "steps": 12, "strategy": {"cat": 5}, "size": [28, 28], "cap": None}
INPUTS = {"catalog": "abc"}


@pytest.fixture
def stage(tmp_path) -> Path:
    return tmp_path / "study" / "pool"


def begun(stage: Path, settings=SETTINGS, inputs=INPUTS, **options) -> StageState:
    return begin_stage(stage, settings, inputs, **options)


def left_by_a_run(stage: Path, *, finished: bool) -> None:
    assert begun(stage) == "new"
    storage.write_text(stage / "work", "x")
    if finished:
        finish_stage(stage, {"classes": ["cat"]})


def files(stage: Path) -> list[str]:
    return sorted(path.name for path in stage.iterdir())


def test_an_absent_stage_is_begun(stage):
    assert begun(stage) == "new"
    assert files(stage) == [BEGUN]


def test_an_interrupted_stage_goes_on_with_what_is_there(stage):
    left_by_a_run(stage, finished=False)
    assert begun(stage) == "resumed"
    assert files(stage) == [BEGUN, "work"]


def test_a_finished_stage_is_kept_with_its_facts(stage):
    left_by_a_run(stage, finished=True)
    assert begun(stage) == "finished"
    assert files(stage) == [BEGUN, storage.DONE, "work"]
    facts = {"settings": SETTINGS, "inputs": INPUTS, "classes": ["cat"]}
    assert storage.committed_facts(stage, verify=True) == facts


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({**SETTINGS, "steps": 20}, "steps 12 -> 20"),
        ({**SETTINGS, "new": 1}, "new None -> 1"),
        ({key: value for key, value in SETTINGS.items() if key != "seed"}, "seed 0 -> None"),
        ({**SETTINGS, "strategy": {"cat": 6}, "seed": 1}, "seed 0 -> 1; strategy {'cat': 5} -> {'cat': 6}"),
    ],
)
def test_other_settings_are_the_users_decision(stage, finished, changed, difference):
    left_by_a_run(stage, finished=finished)
    before = files(stage)
    with pytest.raises(UsageError) as caught:
        begun(stage, changed)
    assert difference in caught.value.what
    assert caught.value.where == str(stage)
    assert "--overwrite" in caught.value.fix
    assert files(stage) == before
    assert begun(stage) == ("finished" if finished else "resumed")


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("settings", [SETTINGS, {"seed": 9}])
@pytest.mark.parametrize("inputs", [{"catalog": "xyz"}, {}, {"catalog": "abc", "generator": "def"}])
def test_changed_inputs_clear_the_stage_whatever_the_settings(stage, finished, settings, inputs):
    left_by_a_run(stage, finished=finished)
    assert begun(stage, settings, inputs) == "new"
    assert files(stage) == [BEGUN]
    finish_stage(stage)
    assert begun(stage, settings, inputs) == "finished"


@pytest.mark.parametrize("finished", [False, True])
def test_overwrite_replaces_what_was_made_with_other_settings_and_nothing_else(stage, finished):
    left_by_a_run(stage, finished=finished)
    assert begun(stage, overwrite=True) == ("finished" if finished else "resumed")
    assert "work" in files(stage)
    assert begun(stage, {"seed": 9}, overwrite=True) == "new"
    assert files(stage) == [BEGUN]
    assert begun(stage, {"seed": 9}) == "resumed"


@pytest.mark.parametrize("damage", ["work", storage.DONE])
def test_a_damaged_stage_is_refused_and_can_be_overwritten(stage, damage):
    left_by_a_run(stage, finished=True)
    (stage / damage).write_bytes(b"")
    with pytest.raises(DamagedError):
        begun(stage)
    assert begun(stage, overwrite=True) == "new"
    assert files(stage) == [BEGUN]


def test_a_damaged_beginning_is_refused_and_can_be_overwritten(stage):
    left_by_a_run(stage, finished=False)
    (stage / BEGUN).write_bytes(b"")
    with pytest.raises(DamagedError):
        begun(stage)
    assert begun(stage, overwrite=True) == "new"
    assert files(stage) == [BEGUN]


def test_a_committed_folder_that_was_never_begun_is_begun_anew(stage):
    storage.write_text(stage / "work", "x")
    storage.commit_directory(stage, {})
    assert begun(stage) == "new"
    assert files(stage) == [BEGUN]


def test_remains_of_no_stage_are_cleared(stage):
    storage.write_text(stage / "work", "x")
    assert begun(stage) == "new"
    assert files(stage) == [BEGUN]


def test_the_same_settings_pass():
    require_same_settings(Path("pool"), SETTINGS, dict(reversed(SETTINGS.items())))


@pytest.fixture
def data(tmp_path) -> Path:
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


def test_a_new_study_records_its_data_and_opens_again(tmp_path, data):
    study = open_or_create_study(tmp_path / "runs" / "a", data)
    assert study.facts == {"data": str(data.resolve()), "diffaug": diffaug.__version__}
    assert study.name == "a"
    assert open_or_create_study(tmp_path / "runs" / "a", data / ".." / "images") == study
    assert open_study(tmp_path / "runs" / "a") == study


def test_everything_of_a_study_lies_in_its_folder(tmp_path, data):
    study = open_or_create_study(tmp_path / "a", data)
    places = [
        *(study.catalog, study.generator, study.pool, study.evaluation),
        *(study.report, study.journal, study.config_file),
    ]
    assert {place.parent for place in places} == {study.path}
    assert len(set(places)) == len(places)


def test_a_study_of_other_data_is_refused(tmp_path, data):
    open_or_create_study(tmp_path / "a", data)
    with pytest.raises(UsageError, match="belongs to other data") as caught:
        open_or_create_study(tmp_path / "a", tmp_path / "other")
    assert str(data) in caught.value.what
    assert "--study" in caught.value.fix


def test_data_and_study_may_be_given_relatively(tmp_path, data, monkeypatch):
    study = open_or_create_study(tmp_path / "a", data)
    monkeypatch.chdir(tmp_path)
    assert open_or_create_study(Path("a"), Path("images")).facts == study.facts
    monkeypatch.chdir(tmp_path / "a")
    assert open_study(Path()).name == "a"


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path, data):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UsageError, match="not empty and not a study"):
        open_or_create_study(tmp_path / "mine", data)
    assert files(tmp_path / "mine") == ["thesis.tex"]
    with pytest.raises(UsageError, match="not empty and not a study"):
        open_or_create_study(tmp_path / "mine" / "thesis.tex", data)


@pytest.mark.parametrize("content", [[], {"study": "of bees"}])
def test_a_foreign_study_record_is_refused(tmp_path, data, content):
    storage.write_json(tmp_path / "a" / "study.json", content)
    with pytest.raises(UsageError, match="not a study's record"):
        open_or_create_study(tmp_path / "a", data)


def test_an_empty_folder_and_one_where_a_start_was_killed_become_a_study(tmp_path, data):
    (tmp_path / "empty").mkdir()
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / ".study.json.0123abcd.123.tmp").touch()
    for name in ("empty", "killed"):
        assert open_or_create_study(tmp_path / name, data).facts["data"] == str(data)


def test_opening_what_is_no_study_says_what_to_do(tmp_path, data):
    with pytest.raises(UsageError, match="not a study") as caught:
        open_study(tmp_path / "absent")
    assert "diffaug fit" in caught.value.fix
    with pytest.raises(UsageError, match="not a study") as caught:
        open_study(data)
    assert f"diffaug run {data}" in caught.value.fix


def test_the_default_study_is_named_after_the_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert default_study_path(Path("pets")) == Path("runs/pets")
    assert default_study_path(Path("pets/..")) == Path("runs") / tmp_path.name
    assert default_study_path(Path("/")) == Path("runs/study")


def test_a_study_is_locked_for_one_at_a_time(tmp_path, data):
    study = open_or_create_study(tmp_path / "a", data)
    with study.locked(), pytest.raises(UsageError, match="another diffaug process"), study.locked():
        pytest.fail("the lock was given twice")
    with study.locked():
        pass


@pytest.mark.parametrize("place", [".", "runs/a"])
def test_a_study_among_its_own_images_is_refused(data, place):
    with pytest.raises(UsageError, match="among the images"):
        open_or_create_study(data / place, data)
    assert list(data.iterdir()) == []
