import pickle
from pathlib import Path

import pytest

import diffaug
from diffaug import errors
from diffaug.errors import DiffaugError

EXIT_CODES = {"DiffaugError": 1, "UsageError": 2, "DataError": 3, "DamagedError": 3, "MissingExtraError": 4}


@pytest.mark.parametrize(("name", "code"), [*EXIT_CODES.items(), ("QualityGateError", 5), ("Interrupted", 130)])
def test_every_error_has_its_exit_code_and_one_root(name, code):
    kind = getattr(errors, name)
    assert issubclass(kind, DiffaugError)
    assert kind("x").exit_code == code


def test_the_message_says_what_where_and_how_to_fix_it():
    error = DiffaugError("no images", where=Path("data") / "train", fix="add some")
    assert str(error) == "no images\n  where: data/train\n  fix:   add some"
    assert str(DiffaugError("no images")) == "no images"
    assert str(DiffaugError("no images", fix="add some")) == "no images\n  fix:   add some"


def test_an_error_survives_the_way_out_of_a_worker_process():
    error = pickle.loads(pickle.dumps(errors.DataError("cut short", where="a.png", fix="remove it")))
    assert type(error) is errors.DataError
    assert (error.what, error.where, error.fix) == ("cut short", "a.png", "remove it")


def test_a_wrong_name_gets_the_nearest_or_all_as_remedy():
    assert errors.did_you_mean("bride", ["bright", "dark"]) == "did you mean 'bright'?"
    assert errors.did_you_mean("zzz", ["bright", "dark"]) == "choose from: bright, dark"


def test_every_error_is_a_public_name():
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, DiffaugError)}
    assert len(kinds) > 6
    assert {name for name in kinds if getattr(diffaug, name, None) is not getattr(errors, name)} == set()
    assert kinds <= set(diffaug.__all__)
