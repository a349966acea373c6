from pathlib import Path

import pytest

import diffaug
from diffaug.errors import UsageError
from diffaug.files import storage
from diffaug.study import Study, StudyRecord, default_study_path, open_or_create_study, open_study


@pytest.fixture
def data(tmp_path) -> Path:
    (tmp_path / "my images").mkdir()
    return tmp_path / "my images"


@pytest.fixture
def study(tmp_path, data) -> Study:
    return open_or_create_study(tmp_path / "a", data)


def test_a_new_study_records_its_data_and_opens_again(tmp_path, data, study, monkeypatch):
    assert study.record == StudyRecord(data.resolve(), diffaug.__version__)
    assert open_or_create_study(tmp_path / "a", data / ".." / "my images") == study == open_study(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    assert open_or_create_study(Path("a"), Path("my images")).record == study.record
    monkeypatch.chdir(tmp_path / "a")
    assert open_study(Path()).name == study.name == "a"


def test_everything_of_a_study_lies_in_its_folder(study):
    names = [name for name, place in vars(Study).items() if hasattr(place, "__get__") and hasattr(place, "name")]
    places = [getattr(study, name) for name in names]
    assert {place.parent for place in places} == {study.path}
    assert len(set(places)) == len(places) == 12


def test_a_study_of_other_data_is_refused(tmp_path, data):
    study = open_or_create_study(tmp_path / "my study", data)
    with pytest.raises(UsageError, match="belongs to other data") as caught:
        open_or_create_study(study.path, tmp_path / "other")
    assert str(data) in caught.value.what
    assert f"--study '{study.path}-2'" in caught.value.fix


def test_a_foreign_folder_file_or_record_is_refused_and_left_alone(tmp_path, data):
    thesis = tmp_path / "mine" / "thesis.tex"
    storage.write_text(thesis, "")
    for path in (thesis.parent, thesis):
        with pytest.raises(UsageError, match="not empty and not a study"):
            open_or_create_study(path, data)
    assert list(thesis.parent.iterdir()) == [thesis]
    for content in ([], {"study": "of bees"}):
        storage.write_json(tmp_path / "a" / "study.json", content)
        with pytest.raises(UsageError, match="not the record of a study"):
            open_or_create_study(tmp_path / "a", data)


def test_an_empty_folder_and_one_where_a_start_was_killed_become_a_study(tmp_path, data):
    (tmp_path / "empty").mkdir()
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / ".study.json.0123abcd.123.tmp").touch()
    for name in ("empty", "killed"):
        assert open_or_create_study(tmp_path / name, data).record.data == data


def test_opening_what_is_no_study_says_what_to_do(tmp_path, data):
    for path, fix in ((tmp_path / "absent", "diffaug fit"), (data, f"diffaug run '{data}'")):
        with pytest.raises(UsageError, match="not a study") as caught:
            open_study(path)
        assert fix in caught.value.fix


def test_the_default_study_is_named_after_the_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert default_study_path(Path("pets")) == Path("runs/pets")
    assert default_study_path(Path("pets/..")) == Path("runs") / tmp_path.name
    assert default_study_path(Path("/")) == Path("runs/study")


@pytest.mark.parametrize("place", [".", "runs/a"])
def test_a_study_among_its_own_images_is_refused(data, place):
    with pytest.raises(UsageError, match="inside the data folder"):
        open_or_create_study(data / place, data)
    assert list(data.iterdir()) == []
