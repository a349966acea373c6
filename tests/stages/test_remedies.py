import shlex
import shutil
from pathlib import Path

import pytest

from diffaug.errors import DamagedError, UsageError
from diffaug.files import storage
from diffaug.stages.arguments import opened
from diffaug.stages.job import save_settings, saved_settings, settings_text
from diffaug.stages.remedies import remedy, repair_record, telling_remedies
from diffaug.study import Study, open_study, plan_study


@pytest.fixture
def study(tmp_path) -> Study:
    """A study with a catalog and a pool, as far as their records go."""
    (tmp_path / "my images").mkdir()
    study = plan_study(tmp_path / "my study", tmp_path / "my images", {"cat": 3})
    study.begin()
    for folder, facts in (
        (study.catalog, {"inputs": {"root": str(tmp_path / "my images")}, "settings": {}}),
        (study.pool, {"dataset_class_to_idx": {"cat": 3}}),
    ):
        with storage.new_directory(folder, facts) as staging:
            storage.write_json(staging / "catalog.json", {"root": str(tmp_path / "my images")})
    return open_study(study.path)


def change(path: Path) -> None:
    path.write_text(path.read_text().replace("my images", "no images"))


def replace_by_folder(path: Path) -> None:
    path.unlink()
    (path / "inside").mkdir(parents=True)


@pytest.mark.parametrize("damage", [change, replace_by_folder, Path.unlink])
def test_a_damaged_record_of_a_study_is_told_with_the_command_that_writes_it_anew(study, tmp_path, damage):
    record = study.record
    damage(study.path / "study.json")
    for look in (lambda: opened(study.path, overwrite=False).record, lambda: plan_study(study.path, record.data)):
        with pytest.raises(DamagedError) as caught, telling_remedies(study):
            look()
    assert shlex.split(caught.value.fix)[-4:] == ["diffaug", "evaluate", str(study.path), "--overwrite"]
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match="belongs to other data"):
        repair_record(study.path, tmp_path / "other")
    assert opened(study.path, overwrite=True).record == record == plan_study(study.path, record.data).record


def test_a_folder_that_keeps_nothing_is_not_made_a_study(tmp_path):
    storage.write_text(tmp_path / "thesis" / "study.json", "of bees")
    repair_record(tmp_path / "thesis", tmp_path)
    repair_record(tmp_path / "absent", tmp_path)
    assert (tmp_path / "thesis" / "study.json").read_text() == "of bees" and not (tmp_path / "absent").exists()


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("catalog/table.parquet", "diffaug inspect DATA --study STUDY --overwrite"),
        ("pilot/generator/config.json", "diffaug fit DATA --study STUDY --overwrite"),
        ("pool/images/a/1.png", "diffaug generate STUDY --overwrite"),
        ("replicates/1/catalog/DONE.json", "diffaug evaluate STUDY --overwrite"),
        ("journal.jsonl", "rm -r STUDY/journal.jsonl"),
    ],
)
def test_each_part_has_a_remedy_that_can_be_typed(study, part, said):
    expected = said.replace("DATA", "'my images'").replace("STUDY/journal.jsonl", "'my study/journal.jsonl'")
    expected = expected.replace("STUDY", "'my study'")
    found = remedy(study, study.path / part).replace(f"{study.path.parent}/", "")
    assert found.endswith(expected)
    assert remedy(study, study.path.parent / "elsewhere") == storage.REPAIR_HINT


def test_settings_that_were_changed_by_hand_are_refused_or_left_out(tmp_path):
    file, text = tmp_path / "config.yaml", "seed: 3\nencoder: none\n"
    with pytest.raises(DamagedError):
        saved_settings(file, required=True)
    assert saved_settings(file, required=False) == {} and save_settings(file, text) and not save_settings(file, text)
    assert saved_settings(file, required=False) == {"seed": 3, "encoder": "none"} and settings_text(file) == text
    content = file.read_text()
    for changed in (content.replace("3", "4"), content[:-9], text, ""):
        file.write_text(changed)
        with pytest.raises(DamagedError):
            saved_settings(file, required=False)
        assert saved_settings(file, required=True, overwrite=True) == {}
    replace_by_folder(file)
    with pytest.raises(DamagedError):
        saved_settings(file, required=False)
    assert save_settings(file, text) and settings_text(file) == text
    shutil.copy(file, tmp_path / "copied.yaml")
    assert settings_text(tmp_path / "copied.yaml") == text
