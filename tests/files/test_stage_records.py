from functools import partial
from pathlib import Path

import pytest

from diffaug.errors import DamagedError, UsageError
from diffaug.files import stage_records as records
from diffaug.files import storage

SETTINGS = {"seed": 0, "steps": 12, "strategy": {"cat": 5}, "size": [28, 28], "cap": None}
INPUTS = {"catalog": "abc"}


@pytest.fixture
def stage(tmp_path) -> Path:
    return tmp_path / "study" / "pool"


def begun(stage: Path, settings=SETTINGS, inputs=INPUTS, **options) -> records.StageState:
    return records.begin_stage(stage, settings, inputs, **options)


def left_by_a_run(stage: Path, *, finished: bool) -> None:
    assert begun(stage) == "new"
    storage.write_text(stage / "work", "x")
    if finished:
        records.finish_stage(stage, {"classes": ["cat"]})


def files(stage: Path) -> list[str]:
    return sorted(path.name for path in stage.iterdir())


def test_a_stage_is_begun_resumed_and_kept_with_its_metadata(stage):
    left_by_a_run(stage, finished=False)
    assert begun(stage) == "resumed"
    assert files(stage) == [records.BEGUN, "work"]
    records.finish_stage(stage, {"classes": ["cat"]})
    assert begun(stage) == "finished"
    assert files(stage) == [records.BEGUN, storage.DONE, "work"]
    metadata = {"settings": SETTINGS, "inputs": INPUTS, "classes": ["cat"]}
    assert storage.committed_metadata(stage, verify=True) == metadata
    assert begun(stage, dict(reversed(SETTINGS.items()))) == "finished"


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
    assert files(stage) == [records.BEGUN]
    records.finish_stage(stage)
    assert begun(stage, settings, inputs) == "finished"


@pytest.mark.parametrize("finished", [False, True])
def test_overwrite_replaces_what_was_made_with_other_settings_and_nothing_else(stage, finished):
    left_by_a_run(stage, finished=finished)
    assert begun(stage, overwrite=True) == ("finished" if finished else "resumed")
    assert "work" in files(stage)
    assert begun(stage, {"seed": 9}, overwrite=True) == "new"
    assert files(stage) == [records.BEGUN]
    assert begun(stage, {"seed": 9}) == "resumed"


@pytest.mark.parametrize(("damage", "finished"), [("work", True), (storage.DONE, True), (records.BEGUN, False)])
def test_a_damaged_stage_is_refused_and_can_be_overwritten(stage, damage, finished):
    left_by_a_run(stage, finished=finished)
    (stage / damage).write_bytes(b"")
    with pytest.raises(DamagedError):
        begun(stage)
    assert begun(stage, overwrite=True) == "new"
    assert files(stage) == [records.BEGUN]


def test_what_a_stage_would_be_is_told_without_a_change(stage):
    assert records.stage_state(stage, SETTINGS, INPUTS) == "new" and not stage.exists()
    left_by_a_run(stage, finished=True)
    before = {path: path.read_bytes() for path in stage.iterdir()}
    assert records.stage_state(stage, SETTINGS, INPUTS) == "finished"
    assert records.stage_state(stage, SETTINGS, {}) == records.stage_state(stage, {}, INPUTS, overwrite=True) == "new"
    with pytest.raises(UsageError, match="made with other settings"):
        records.stage_state(stage, {}, INPUTS)
    assert {path: path.read_bytes() for path in stage.iterdir()} == before


def test_every_byte_is_looked_at_only_to_overwrite(stage, monkeypatch):
    left_by_a_run(stage, finished=True)
    asked, look = [], storage.committed_metadata
    monkeypatch.setattr(storage, "committed_metadata", lambda path, verify: asked.append(verify) or look(path))
    for overwrite in (False, True):
        records.stage_state(stage, SETTINGS, INPUTS, overwrite=overwrite)
        records.is_finished(stage, overwrite=overwrite)
        extended(stage, SETTINGS, overwrite=overwrite)
    assert asked == [False] * 3 + [True] * 3


def test_folders_that_are_no_part_of_a_stage_are_not_recorded(stage):
    left_by_a_run(stage, finished=False)
    storage.write_text(stage / "checkpoints" / "1", "x")
    records.finish_stage(stage, without=["checkpoints"])
    assert set(storage.recorded_files(stage)) == {records.BEGUN, "work"}


def test_what_a_finished_stage_was_begun_with_is_required_without_a_look_at_its_files(stage):
    left_by_a_run(stage, finished=True)
    (stage / "work").unlink()
    assert records.required_record(stage) == records.StageRecord(SETTINGS, INPUTS)
    (stage / records.BEGUN).unlink()
    storage.commit_directory(stage, {"settings": {}})
    for read in (records.required_record, lambda folder: records.stage_state(folder, {}, {})):
        with pytest.raises(DamagedError) as caught:
            read(stage)
        assert caught.value.where == str(stage / storage.DONE)


def test_opening_a_stage_looks_at_no_file_but_its_record(stage, monkeypatch):
    assert records.stage_record(stage) is None
    left_by_a_run(stage, finished=True)
    (stage / "work").unlink()
    monkeypatch.setattr(storage, "sha256_file", lambda path: pytest.fail(f"{path} was hashed"))
    assert records.stage_record(stage) == records.StageRecord(SETTINGS, INPUTS)
    assert records.is_stage_of(stage, SETTINGS, INPUTS) and not records.is_stage_of(stage, {"seed": 9}, INPUTS)
    assert records.stage_settings(stage) == SETTINGS
    (stage / storage.DONE).write_bytes(b"{}")
    assert (records.stage_record(stage), records.stage_settings(stage)) == (None, {})


def test_a_damaged_stage_is_unfinished_where_it_may_be_overwritten(stage):
    assert not records.is_finished(stage)
    left_by_a_run(stage, finished=False)
    assert not records.is_finished(stage)
    records.finish_stage(stage)
    assert records.is_finished(stage) and records.is_finished(stage, overwrite=True)
    (stage / "work").write_text("y")  # of the same size
    assert not records.is_finished(stage, overwrite=True)
    for look in (records.is_finished, begun):
        with pytest.raises(DamagedError):
            look(stage)
    (stage / "work").unlink()
    assert not records.is_finished(stage, overwrite=True)
    with pytest.raises(DamagedError):
        records.is_finished(stage)
    assert begun(stage, overwrite=True) == "new"


@pytest.mark.parametrize("is_committed", [True, False])
def test_a_folder_that_was_never_begun_is_cleared(stage, is_committed):
    storage.write_text(stage / "work", "x")
    if is_committed:
        storage.commit_directory(stage, {})
    assert begun(stage) == "new"
    assert files(stage) == [records.BEGUN]


def extended(stage: Path, settings, inputs=INPUTS, *, overwrite=False) -> list[str]:
    records.begin_extendable_stage(stage, settings, inputs, extendable=("steps",), keep=("parts",), overwrite=overwrite)
    return files(stage)


@pytest.fixture
def with_parts(stage) -> Path:
    extended(stage, SETTINGS)
    storage.write_text(stage / "parts" / "1", "x")
    storage.write_text(stage / "result", "x")
    records.finish_stage(stage)
    return stage


@pytest.mark.parametrize(
    ("settings", "inputs", "overwrite"),
    [
        ({**SETTINGS, "steps": 50}, INPUTS, False),
        ({**SETTINGS, "seed": 1}, INPUTS, True),
        (SETTINGS, {"catalog": "other"}, False),
    ],
)
def test_an_extended_stage_keeps_its_parts_and_nothing_else(with_parts, settings, inputs, overwrite):
    assert extended(with_parts, settings, inputs, overwrite=overwrite) == [records.BEGUN, "parts"]
    assert storage.committed_metadata(with_parts) is None
    assert extended(with_parts, settings, inputs) == [records.BEGUN, "parts"]
    records.finish_stage(with_parts)
    assert begun(with_parts, settings, inputs) == "finished"


def test_other_settings_of_an_extendable_stage_are_refused_before_and_when_it_is_begun(with_parts):
    other = {**SETTINGS, "seed": 1, "steps": 50}
    for refuse in (extended, partial(records.require_extension, inputs=INPUTS, extendable=["steps"])):
        with pytest.raises(UsageError, match="made with other settings: seed 0 -> 1\n"):
            refuse(with_parts, other)
    records.require_extension(with_parts, other, {"catalog": "other"}, ["steps"])
    assert storage.committed_metadata(with_parts, verify=True) is not None


def test_parts_of_a_damaged_stage_are_kept_since_they_hold_their_own_hash(with_parts):
    (with_parts / "parts" / "1").write_text("y")
    with pytest.raises(DamagedError, match="parts/1"):
        extended(with_parts, {**SETTINGS, "steps": 50})
    assert extended(with_parts, {**SETTINGS, "steps": 50}, overwrite=True) == [records.BEGUN, "parts"]


def test_a_stage_that_failed_before_it_kept_anything_begins_again_with_any_settings(stage):
    begun(stage)
    other = {**SETTINGS, "cap": 7}
    extended(stage, other)
    assert records.stage_settings(stage) == other
    storage.write_text(stage / "parts" / "1", "x")
    with pytest.raises(UsageError, match="cap 7 -> 8"):
        extended(stage, {**SETTINGS, "cap": 8})


@pytest.mark.parametrize(
    "metadata", [{"settings": "x", "inputs": {}}, {"settings": {}}, {"settings": {}, "inputs": {"root": 5}}, {}]
)
def test_a_finished_stage_whose_record_has_another_shape_is_damaged(tmp_path, metadata):
    with storage.new_directory(tmp_path / "stage", metadata):
        pass
    with pytest.raises(DamagedError, match=storage.DONE):
        records.finished_record(tmp_path / "stage")


def test_what_a_finished_stage_was_begun_with_is_read_if_its_files_are_whole(tmp_path):
    assert records.finished_record(tmp_path / "stage") is None
    with storage.new_directory(tmp_path / "stage", {"settings": {"a": 1}, "inputs": {"root": "/x"}}) as staging:
        storage.write_text(staging / "file", "text")
    assert records.finished_record(tmp_path / "stage") == records.StageRecord({"a": 1}, {"root": "/x"})
    (tmp_path / "stage" / "file").write_text("next")
    with pytest.raises(DamagedError):
        records.finished_record(tmp_path / "stage")
