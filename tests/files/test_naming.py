"""An error of the operating system names its file, the one that it knows itself before any other."""

import errno
import os
from pathlib import Path

import pytest

from diffaug.files.naming import naming, naming_its_file

FILE = Path("folder") / "file"


@pytest.mark.parametrize(
    ("raised", "named"),
    [
        (OSError(errno.EIO, "broken"), str(FILE)),
        (OSError(errno.ENOSPC, "full", None), str(FILE)),
        (OSError(errno.EIO, "broken", 7), str(FILE)),  # a descriptor is no name
        (OSError(errno.ENOENT, "gone", "other"), "other"),
        (OSError(errno.ENOENT, "gone", b"other"), b"other"),
        (OSError("without a number"), None),  # one that a library made, whose text is all there is
    ],
)
def test_an_error_without_a_name_gets_one(raised, named) -> None:
    with pytest.raises(OSError) as caught, naming(FILE):
        raise raised
    assert caught.value is raised
    assert caught.value.filename == named


def test_other_errors_and_values_pass() -> None:
    @naming_its_file
    def half(path: Path, number: int, *, by: int = 2) -> float:
        """Divides."""
        return number / by

    assert half(FILE, 3) == 1.5 and half(FILE, 3, by=3) == 1
    assert (half.__name__, half.__doc__) == ("half", "Divides.")
    with pytest.raises(ZeroDivisionError):
        half(FILE, 1, by=0)


def test_a_function_names_the_file_that_it_is_called_with_first(tmp_path) -> None:
    @naming_its_file
    def sync(path: Path, descriptor: int) -> None:
        os.fsync(descriptor)

    reading, writing = os.pipe()
    try:
        with pytest.raises(OSError) as caught:
            sync(tmp_path / "a", reading)
    finally:
        os.close(reading)
        os.close(writing)
    assert caught.value.filename == str(tmp_path / "a")
