"""Keeps a generator and its pilot until the training that replaces them is finished, or brings them back."""

from diffaug.files import storage
from diffaug.study import PILOT, Study

FORMER, RETURNING = ".former", ".former-returning"
"""Folders of a study: what is to be replaced, and what is on its way back."""


def set_former_aside(study: Study) -> None:
    """Moves a finished generator and its pilot out of the way of a training that begins."""
    if (study.generator / storage.DONE).is_file():
        former = study.path / FORMER
        storage.discard_directory(former)
        former.mkdir()
        for folder in (study.path / PILOT, study.generator):
            if folder.exists():
                folder.replace(former / folder.name)


def has_former(study: Study) -> bool:
    """Whether something is to be replaced."""
    return (study.path / FORMER).exists()


def discard_former(study: Study) -> None:
    """Removes what was replaced."""
    storage.discard_directory(study.path / FORMER)


def bring_back_former(study: Study) -> None:
    """Puts the former generator and pilot in place of the new ones; after a kill, `settle_former` goes on with it."""
    (study.path / FORMER).replace(study.path / RETURNING)
    _return(study)


def is_unsettled(study: Study) -> bool:
    """Whether there may be something for `settle_former` to do."""
    return has_former(study) or (study.path / RETURNING).exists()


def settle_former(study: Study) -> None:
    """Ends what a killed process began: to set a generator aside, to bring it back, or to remove it.

    It comes back, too, if the training that was to replace it has kept nothing.
    """
    former, is_finished = study.path / FORMER, (study.generator / storage.DONE).is_file()
    if (study.path / RETURNING).exists():
        _return(study)
    elif former.exists() and is_finished and (former / study.generator.name).exists():
        discard_former(study)
    elif former.exists() and (is_finished or not study.has_training):
        bring_back_former(study)


def _return(study: Study) -> None:
    """Brings back what is there, each in one step; a pilot without a former one goes before the generator comes."""
    returning = study.path / RETURNING
    generator, pilot = returning / study.generator.name, returning / PILOT
    if generator.exists():
        if not pilot.exists():
            storage.discard_directory(study.path / PILOT)
        storage.discard_directory(study.generator)
        generator.replace(study.generator)
    if pilot.exists():
        storage.discard_directory(study.path / PILOT)
        pilot.replace(study.path / PILOT)
    storage.discard_directory(returning)
