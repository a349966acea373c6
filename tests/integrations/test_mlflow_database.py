"""The database of a study: whole after any kill, made again if it is of no use, and moved with the study."""

import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient

from diffaug.configuration.settings import TrackingSettings
from diffaug.errors import UsageError
from diffaug.files import storage
from diffaug.integrations import mlflow_database, mlflow_tracking
from diffaug.integrations.mlflow_database import make_database, make_own_database, sqlite_file
from diffaug.study import Study
from diffaug.tracking.delivery import logged_links
from diffaug.tracking.journal import Journal
from diffaug.tracking.sender import Sender
from tests.conftest import eventually
from tests.integrations.conftest import content

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("_saved_once")]
KILLS = 40


def database_of(study: Study) -> Path:
    return study.path / "mlflow.db"


def client_of(study: Study) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{database_of(study)}")


def execute(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file)) as database, database:
        for statement in statements:
            database.execute(statement)


def tree(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): storage.sha256_file(file) for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def migrations(monkeypatch, empty_store) -> list[str]:
    """The databases that MLflow is asked to make, each a copy of a finished one, since making one takes seconds."""
    asked = []

    def copy(uri, artifacts):
        asked.append(uri)
        shutil.copy(empty_store, uri.removeprefix("sqlite:///"))
        return SimpleNamespace(engine=SimpleNamespace(dispose=lambda: None))

    monkeypatch.setattr(mlflow_database, "SqlAlchemyStore", copy)
    return asked


@pytest.fixture
def send(narrator):
    def send_from(study: Study, **settings) -> list[str]:
        sentences = Sender(study, TrackingSettings(**settings), narrator).flush()
        assert narrator.warned == []
        return sentences

    return send_from


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


HALF_MADE = {
    "missing": Path.unlink,
    "empty": lambda file: file.write_bytes(b""),
    "no database": lambda file: file.write_bytes(b"what a power cut left" * 99),
    "cut short": cut,
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "first tables": lambda file: execute(file, "drop table alembic_version", "drop table logged_models"),
    "between two steps": lambda file: execute(file, "update alembic_version set version_num = '451aebb31d03'"),
    "no table of runs": lambda file: execute(file, "pragma foreign_keys = off", "drop table runs"),
    "foreign journal": lambda file: (file.with_name("mlflow.db-journal").write_bytes(b"x" * 5000), file.unlink()),
}


@pytest.mark.parametrize("kind", HALF_MADE)
def test_a_half_made_database_is_made_again(study, migrations, empty_store, kind):
    HALF_MADE[kind](database_of(study))
    moved = make_own_database(database_of(study))
    assert len(migrations) == 1
    assert make_own_database(database_of(study)) is None  # now it is of use
    assert len(migrations) == 1
    damaged = {"mlflow.db.damaged"} if kind in ("no database", "cut short", "zeros") else set()
    assert {path.name for path in study.path.iterdir()} == {"mlflow.db", *damaged}
    assert (moved is None) == (not damaged)
    with closing(sqlite3.connect(database_of(study))) as made, closing(sqlite3.connect(empty_store)) as expected:
        assert list(made.iterdump()) == list(expected.iterdump())


def test_a_damaged_database_is_set_aside_and_filled_from_the_journal(study, journal, send, migrations):
    cut(database_of(study))
    cut_short = database_of(study).read_bytes()
    (sentence,) = send(study)
    assert set(content(client_of(study))) == {"digits", "fit"}
    assert database_of(study).with_name("mlflow.db.damaged").read_bytes() == cut_short
    assert "mlflow.db.damaged" in sentence


def test_a_database_with_runs_is_never_replaced(study, migrations):
    execute(
        database_of(study),
        "insert into runs (run_uuid, experiment_id) values ('r', 0)",
        "update alembic_version set version_num = '451aebb31d03'",
    )
    before = database_of(study).read_bytes()
    assert make_own_database(database_of(study)) is None
    assert database_of(study).read_bytes() == before and migrations == []


def test_a_locked_database_is_not_taken_for_a_damaged_one(study, migrations, monkeypatch):
    monkeypatch.setattr(mlflow_database, "WAIT_SECONDS", 0)
    with closing(sqlite3.connect(database_of(study), isolation_level=None)) as other:
        other.execute("begin exclusive")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            make_own_database(database_of(study))
    assert migrations == []


def test_a_full_disk_leaves_nothing(study, migrations, monkeypatch):
    database_of(study).unlink()
    monkeypatch.setattr(storage, "write_bytes", lambda path, content: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        make_own_database(database_of(study))
    assert list(study.path.iterdir()) == []


def test_a_database_that_the_user_names_is_made_in_one_step_and_never_replaced(study, tmp_path, migrations):
    named = tmp_path / "team" / "runs.db"
    make_database(named)
    assert (len(migrations), [path.name for path in named.parent.iterdir()]) == (1, ["runs.db"])
    named.write_bytes(b"")
    make_database(named)
    assert named.read_bytes() == b""
    database_of(study).unlink()
    database_of(study).mkdir()
    with pytest.raises(UsageError, match="not a file"):
        make_own_database(database_of(study))


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:////a/b c.db", Path("/a/b c.db")),
        ("sqlite:///b.db", Path("b.db").absolute()),
        *(
            (uri, None)
            for uri in ("sqlite://", "sqlite:///:memory:", "sqlite:////a.db?mode=ro", "http://a", "./mlruns")
        ),
        ("sqlite:///file:a.db", None),
    ],
)
def test_the_file_of_an_address(uri, file):
    assert sqlite_file(uri) == file


def test_a_moved_study_logs_on_to_the_same_runs(study, tmp_path, journal, send):
    send(study)
    before, runs = content(client_of(study)), logged_links(study)["mlflow"]["run_id"]
    moved = Study(study.path.rename(tmp_path / "moved ü"))
    storage.write_text(moved.path / "late.txt", "late")
    Journal(moved.journal).log_artifact("study", moved.path / "late.txt")
    send(moved)
    after = content(client_of(moved))
    assert after["digits"]["files"] == sorted([*before["digits"]["files"], "late.txt"])
    assert {**after, "digits": {**after["digits"], "files": before["digits"]["files"]}} == before
    links = logged_links(moved)["mlflow"]
    assert (links["run_id"], links["tracking_uri"]) == (runs, f"sqlite:///{moved.path}/mlflow.db")
    assert not study.path.exists()
    with closing(sqlite3.connect(database_of(moved))) as database:
        assert study.path.as_uri() + "/" not in "\n".join(database.iterdump())
    assert client_of(moved).get_run(runs).info.artifact_uri.startswith(moved.path.as_uri() + "/")


def test_a_copy_beside_the_original_leaves_it_alone(study, tmp_path, journal, send):
    send(study)
    copy = Study(Path(shutil.copytree(study.path, tmp_path / "my study 2")))
    original = tree(study.path)
    storage.write_text(copy.path / "late.txt", "late")
    Journal(copy.journal).log_artifact("study", copy.path / "late.txt")
    send(copy)
    assert tree(study.path) == original
    assert "late.txt" in content(client_of(copy))["digits"]["files"]
    assert set(content(client_of(copy))) == {"digits", "fit"}


def test_a_copy_has_runs_of_its_own_in_a_shared_store(study, tmp_path, empty_store, monkeypatch, journal, send):
    shutil.copy(empty_store, tmp_path / "team.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/team.db")
    send(study, experiment="team")
    copy = Study(Path(shutil.copytree(study.path, tmp_path / "copy" / "my study")))
    for _ in range(2):
        Journal(copy.journal).log_metrics("study", {"gain": 0.5})
        send(copy, experiment="team")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/team.db")
    runs = client.search_runs([client.get_experiment_by_name("team").experiment_id], "attributes.run_name = 'digits'")
    assert sorted(run.data.metrics.get("gain", 0.0) for run in runs) == [0.0, 0.5]
    assert [len(run.outputs.model_outputs) for run in runs] == [1, 1]
    links = [logged_links(one)["mlflow"]["run_id"] for one in (study, copy)]
    assert sorted(links) == sorted(run.info.run_id for run in runs)
    moved = Study(copy.path.rename(tmp_path / "moved"))  # the copy is no original of itself
    Journal(moved.journal).log_metrics("study", {"gain": 0.7})
    send(moved, experiment="team")
    assert logged_links(moved)["mlflow"]["run_id"] == links[1]


@pytest.mark.parametrize("how", ["copied", "shared"])
def test_a_study_on_another_machine_has_runs_of_its_own_if_it_is_another_folder(
    study, tmp_path, empty_store, monkeypatch, journal, send, how
):
    """The original is out of sight, at the same path; a folder that two machines share is one study."""
    shutil.copy(empty_store, tmp_path / "team.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/team.db")
    send(study, experiment="team")
    original = logged_links(study)["mlflow"]["run_id"]
    if how == "copied":
        aside = study.path.rename(tmp_path / "original")
        shutil.copytree(aside, study.path)
    monkeypatch.setattr(mlflow_tracking, "host", lambda: "another")
    for _ in range(2):
        Journal(study.journal).log_metrics("study", {"gain": 0.5})
        send(study, experiment="team")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/team.db")
    runs = client.search_runs([client.get_experiment_by_name("team").experiment_id], "attributes.run_name = 'digits'")
    gains = {run.info.run_id: run.data.metrics.get("gain") for run in runs}
    assert gains.pop(original) == (None if how == "copied" else 0.5)
    assert list(gains.values()) == ([0.5] if how == "copied" else [])


@pytest.mark.slow
def test_kills_at_any_moment_of_making_the_database(study, journal, send):
    """Each child is killed somewhat later than the one before, until one is done before it is killed."""
    file, context = database_of(study), multiprocessing.get_context("fork")
    file.unlink()
    began = time.monotonic()
    child = context.Process(target=make_own_database, args=(file,))
    child.start()
    child.join()
    whole = time.monotonic() - began
    kills = 0
    for moment in range(KILLS):
        file.unlink(missing_ok=True)
        child = context.Process(target=make_own_database, args=(file,))
        child.start()
        child.join(whole * (moment + 0.5) / KILLS)
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
        child.join()
        assert not file.exists() or make_own_database(file) is None
    assert kills > KILLS / 2
    send(study)
    assert set(content(client_of(study))) == {"digits", "fit"}
    assert [path.name for path in study.path.glob(".*")] == []


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_command_that_ends_while_the_database_is_made_leaves_none_and_the_next_one_logs_all(
    tmp_path, make_classes, set_options, number, code
):
    images, folder = make_classes(tmp_path / "images", {"dark": 20, "bright": 9}), tmp_path / "study"
    options = [*set_options, "--set", "tracking.mlflow=true", "--set", "diffusion.images_seen=100000"]
    command = [sys.executable, "-m", "diffaug", "fit", str(images), "--study", str(folder), *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_TRACKING")}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert eventually(lambda: any(folder.glob(".mlflow.db-new.*")) and any(folder.glob("generator/plan.json")), 200)
    process.send_signal(number)
    _, narration = process.communicate(timeout=100)
    assert process.returncode == code and "Traceback" not in narration
    assert not (folder / "mlflow.db").exists()
    subprocess.run([*command, "--set", "diffusion.images_seen=512", "--overwrite"], check=True, env=environment)
    study = Study(folder)
    assert "fit" in content(client_of(study))
    assert [path.name for path in folder.glob(".*") if path.suffix == ".tmp"] == []
