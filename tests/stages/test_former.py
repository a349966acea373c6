"""Killed between any two steps, a generator that is set aside or brought back is whole in the end, with its pilot."""

from pathlib import Path

import pytest

from diffaug.files import storage
from diffaug.files.stage_records import BEGUN
from diffaug.stages import former
from diffaug.study import PILOT, Study


class Killed(Exception):
    """Stands for the end of the process."""


def parts(study: Study) -> dict[str, str]:
    names = ("generator", PILOT)
    return {name: (study.path / name / "which").read_text() for name in names if (study.path / name).exists()}


def put(study: Study, name: str, which: str, *, done: bool) -> None:
    folder = study.path / name
    folder.mkdir(parents=True)
    (folder / "which").write_text(which)
    (folder / BEGUN).write_text("{}")
    if done:
        (folder / storage.DONE).write_text("{}")
    else:
        (folder / "checkpoints" / "1").mkdir(parents=True)


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends the process before the rename of this number, from 1."""
    left, rename = [step], Path.replace

    def replace(self: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", replace)


@pytest.fixture(params=[True, False], ids=["pilot", "no pilot"])
def study(request: pytest.FixtureRequest, tmp_path: Path) -> Study:
    study = Study(tmp_path / "study")
    put(study, "generator", "old", done=True)
    if request.param:
        put(study, PILOT, "old", done=True)
    return study


@pytest.mark.parametrize("step", range(1, 10))
def test_setting_aside_and_bringing_back_survive_a_kill_anywhere(study, monkeypatch, step) -> None:
    old = parts(study)
    with monkeypatch.context() as patch:
        killed_at(step, patch)
        try:
            former.set_former_aside(study)
            put(study, "generator", "new", done=False)
            if not (study.path / PILOT).exists():
                put(study, PILOT, "new", done=True)
            former.bring_back_former(study)
        except Killed:
            pass
    is_begun = former.has_former(study) and (study.generator / BEGUN).exists() and parts(study)["generator"] == "new"
    former.settle_former(study)
    if is_begun:  # the new training may go on
        assert former.has_former(study)
        former.bring_back_former(study)
    assert parts(study) == old
    assert not former.is_unsettled(study)


def test_what_was_replaced_is_removed_after_a_kill(study) -> None:
    former.set_former_aside(study)
    put(study, "generator", "new", done=True)
    former.settle_former(study)
    assert parts(study) == {"generator": "new"} and not former.is_unsettled(study)


def test_a_generator_comes_back_if_the_training_that_was_to_replace_it_kept_nothing(study) -> None:
    old = parts(study)
    former.set_former_aside(study)
    put(study, "generator", "new", done=False)
    (study.generator / "checkpoints" / "1").rmdir()
    former.settle_former(study)
    assert parts(study) == old and not former.is_unsettled(study)


def test_an_unfinished_training_is_not_set_aside_and_keeps_what_it_replaces(study) -> None:
    former.set_former_aside(study)
    put(study, "generator", "new", done=False)
    former.set_former_aside(study)
    former.settle_former(study)
    assert parts(study) == {"generator": "new"} and former.has_former(study)
