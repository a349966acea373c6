import pickle
from pathlib import Path

import pytest

from diffaug import errors
from diffaug.errors import DiffaugError, MissingExtraError


@pytest.mark.parametrize(
    ("name", "exit_code"),
    [
        ("DiffaugError", 1),
        ("UsageError", 2),
        ("DataError", 3),
        ("DamagedError", 3),
        ("MissingExtraError", 4),
        ("QualityGateError", 5),
        ("Interrupted", 130),
    ],
)
def test_every_error_has_its_exit_code_and_one_root(name, exit_code):
    kind = getattr(errors, name)
    assert issubclass(kind, DiffaugError)
    assert kind("x").exit_code == exit_code


def test_the_message_says_what_where_and_how_to_fix_it():
    error = DiffaugError("no images", where=Path("data") / "train", fix="add some")
    assert str(error) == "no images\n  where: data/train\n  fix:   add some"
    assert str(DiffaugError("no images")) == "no images"
    assert str(DiffaugError("no images", fix="add some")) == "no images\n  fix:   add some"


def test_an_error_survives_the_way_out_of_a_worker_process():
    error = pickle.loads(pickle.dumps(errors.DataError("cut short", where="a.png", fix="remove it")))
    assert type(error) is errors.DataError
    assert (error.what, error.where, error.fix) == ("cut short", "a.png", "remove it")


def test_a_missing_extra_names_the_command_that_installs_it():
    error = MissingExtraError.of("mlflow", "mlflow")
    assert error.what == "mlflow is not installed"
    assert error.fix == "pip install 'diffaug[mlflow]'"
