"""Databases of MLflow: made whole or not at all, made again if they are of no use, moved with a study.

MLflow makes a database in many steps that take seconds. A kill or a full disk between two of them leaves one that
MLflow can neither use nor complete. The tables and columns named here are MLflow's own, so `pyproject.toml` limits
MLflow to versions for which this is tested.
"""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import mlflow
from alembic.script import ScriptDirectory
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from diffaug.errors import UsageError
from diffaug.files import locks, storage
from diffaug.files.temporaries import remove, remove_leftovers, temporary_name

ARTIFACTS = "mlartifacts"
BESIDE = ("-journal", "-wal", "-shm")
WAIT_SECONDS = 20
ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("datasets", "dataset_source"),
)
"""Columns with addresses of files, by table."""


def sqlite_file(uri: str) -> Path | None:
    """The file of a tracking URI that is plainly a SQLite database; None for anything else."""
    file = uri.removeprefix("sqlite:///")
    is_plain = file != uri and file not in ("", ":memory:") and not file.startswith("file:") and "?" not in file
    return Path(file).absolute() if is_plain else None


def make_database(path: Path) -> None:
    """Makes an empty database in one step, unless the file exists."""
    if path.exists():
        return
    with _turn(path):
        if not path.exists():
            _make(path)


def make_own_database(path: Path) -> Path | None:
    """Makes the database of a study, in place of one that was never completed or is damaged; the journal has all of it.

    Returns:
        Where a damaged one was moved to, if there was one.

    Raises:
        UsageError: In its place is something else than a file.
    """
    if path.exists() and not path.is_file():
        raise UsageError("this is not a file", where=path, fix="move it away")
    moved = None
    with _turn(path):
        is_readable = path.exists() and _is_readable(path)
        runs = _first(path, "SELECT count(*) FROM runs") if is_readable else None
        if runs or (runs == 0 and _version(path) == _newest_version()):
            return None
        if path.exists() and path.stat().st_size and not is_readable:
            moved = path.with_name(f"{path.name}.damaged")
            path.replace(moved)
        _make(path)
    return moved


def move_addresses(path: Path, root: Path) -> None:
    """Lets the database of a study that was moved or copied to the folder `root` refer to the files there."""
    artifacts = (root / ARTIFACTS).as_uri()
    with closing(sqlite3.connect(path, timeout=WAIT_SECONDS)) as database:
        locations = {location for (location,) in database.execute("SELECT artifact_location FROM experiments")}
        former = [
            location.removesuffix(ARTIFACTS)
            for location in locations
            if location and location.startswith("file://") and location.endswith(f"/{ARTIFACTS}")
        ]
        changes = [(before, artifacts.removesuffix(ARTIFACTS)) for before in former if before + ARTIFACTS != artifacts]
        if changes:
            _replace(database, changes)


def _replace(database: sqlite3.Connection, changes: list[tuple[str, str]]) -> None:
    with database:  # all or nothing
        for table, column in ADDRESSES:
            for before, after in changes:
                database.execute(
                    f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE instr({column}, ?)",  # noqa: S608
                    (before, after, before),
                )


def _make(path: Path) -> None:
    """Makes the database in a folder of its own, and writes it as one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent.glob(".*.tmp"))
    folder = temporary_name(path.with_name(f"{path.name}-new"))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        file = folder / "mlflow.db"
        store = SqlAlchemyStore(f"sqlite:///{file}", "./mlruns")  # type: ignore[no-untyped-call]  # as MLflow itself does
        store.engine.dispose()
        with closing(sqlite3.connect(file)) as database:
            content = database.serialize()
        for ending in BESIDE:  # what is left of an older database would be applied to this one
            remove(path.with_name(path.name + ending))
        storage.write_bytes(path, content)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Lets processes that make the same database do it one after another; leaves no lock behind."""
    lock = path.with_name(f".{path.name}.lock")
    with locks.waiting_lock(lock, optional=True):
        try:
            yield
        finally:
            with suppress(PermissionError):  # Windows keeps a file that another process has open
                lock.unlink(missing_ok=True)


def _is_readable(path: Path) -> bool:
    """Whether SQLite finds no damage; what an interrupted writer left is undone."""
    try:
        with closing(sqlite3.connect(path, timeout=WAIT_SECONDS)) as database:
            return bool(database.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return False
        raise


def _version(path: Path) -> object:
    return _first(path, "SELECT version_num FROM alembic_version")


def _first(path: Path, query: str) -> object:
    """The first value that a query finds; None if there is no such table, as in one that was never completed."""
    with closing(sqlite3.connect(path, timeout=WAIT_SECONDS)) as database:
        try:
            row = database.execute(query).fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                raise
            return None
    return None if row is None else row[0]


def _newest_version() -> str | None:
    """The version of the tables that this MLflow expects."""
    return ScriptDirectory(str(Path(mlflow.__path__[0]) / "store" / "db_migrations")).get_current_head()
