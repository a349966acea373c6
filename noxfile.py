"""Sessions of nox: the tests on each version of Python, with the lowest dependencies, and the checks of a release.

`nox` runs all; `nox --session lowest -- -m fast` gives arguments to pytest.
"""

import re
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv"
nox.options.reuse_existing_virtualenvs = True
ENVIRONMENT = {"NO_ALBUMENTATIONS_UPDATE": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
EXTRAS = r"albumentations|dask|datasets|diffaug\.integrations|imblearn|mlflow|timm"
OF_EXTRAS = re.compile(rf"^(?:import|from) (?:{EXTRAS})\b", re.MULTILINE)
MLFLOW = ("mlflow<3.8", "sqlalchemy<2.1")  # uv would settle on a newer MLflow; 3.7 fails with SQLAlchemy 2.1
TOOLS = ("hypothesis>=6.100", "pytest>=8.2", "pytest-xdist>=3.6")


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """The default tests with the newest dependencies."""
    session.install("--upgrade", "-e", ".[dev]")
    _test(session)


@nox.session(python="3.11")
def lowest(session: nox.Session) -> None:
    """The fast tests with the lowest dependencies that pyproject.toml allows, with all extras."""
    session.install("--resolution", "lowest-direct", "-e", ".[dev]", *MLFLOW)
    _test(session, "-m", "fast")


@nox.session(python="3.11")
def lowest_core(session: nox.Session) -> None:
    """The fast tests of the package itself with its own lowest dependencies; extras would raise some of them."""
    session.install("--resolution", "lowest-direct", "-e", ".[dicom]", *TOOLS)
    others = [path for path in Path("tests").rglob("test_*.py") if OF_EXTRAS.search(path.read_text(encoding="utf-8"))]
    _test(session, "-m", "fast", *(f"--ignore={path}" for path in ("tests/integrations", *others)))


@nox.session(python="3.11")
def release(session: nox.Session) -> None:
    """The tests of packages and metadata, and the documentation."""
    session.install("-e", ".[dev]")
    session.run("pytest", "-m", "slow or not slow", "tests/test_packaging.py", env=ENVIRONMENT)
    session.run("mkdocs", "build", "--strict", "--site-dir", session.create_tmp())


def _test(session: nox.Session, *arguments: str) -> None:
    session.run("pytest", "-n", "auto", "--dist", "worksteal", *(session.posargs or arguments), env=ENVIRONMENT)
