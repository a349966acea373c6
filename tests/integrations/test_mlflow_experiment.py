"""Where a study is logged and how its pages show it."""

import json
import shutil

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.store.artifact.utils.models import _parse_model_uri
from mlflow.utils.validation import _validate_experiment_name, _validate_model_name

from diffaug.configuration.settings import TrackingSettings
from diffaug.integrations.mlflow_limits import experiment_name, model_name
from diffaug.tracking.sender import Sender
from tests.integrations.conftest import runs_of

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("_saved_once")]


@pytest.fixture
def team(tmp_path, empty_store, monkeypatch, study) -> MlflowClient:
    """A store of the user's own, which MLflow uses by its environment variable."""
    shutil.copy(empty_store, tmp_path / "team.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/team.db")
    return MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/team.db")


@pytest.fixture
def sync(study, narrator):
    """Ends a stage; what could not be sent is in the warnings."""
    return lambda **settings: Sender(study, TrackingSettings(**settings), narrator).flush()


def test_a_new_experiment_opens_on_model_training_and_offers_a_view_of_verdicts(study, journal, sync):
    sync()
    client = MlflowClient(tracking_uri=f"sqlite:///{study.path}/mlflow.db")
    tags = client.get_experiment_by_name("diffaug/my study").tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    view = json.loads(tags["mlflow.sharedViewState.diffaug"])
    assert {"metrics.`gain/points`", "tags.`diffaug.verdict`"} <= set(json.loads(view["state"])["selectedColumns"])


def test_the_users_own_kind_of_an_experiment_stays(team, journal, sync, narrator):
    team.create_experiment("mine", tags={"mlflow.experimentKind": "finetuning"})
    sync(experiment="mine")
    assert team.get_experiment_by_name("mine").tags["mlflow.experimentKind"] == "finetuning"
    assert narrator.warned == []


def test_the_environment_names_the_experiment_unless_the_settings_do(team, journal, sync, narrator, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "by name")
    sync()
    assert set(runs_of(team, "by name")) == {"digits", "fit"}
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    journal.log_metrics("study", {"late": 1.0})
    sync()
    assert runs_of(team, "by name")["digits"].data.metrics["late"] == 1.0
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", team.create_experiment("by number"))
    sync()
    assert set(runs_of(team, "by number")) == {"digits", "fit"}
    sync(experiment="by settings")
    assert set(runs_of(team, "by settings")) == {"digits", "fit"}
    assert narrator.warned == []


def test_the_experiment_that_was_set_in_the_users_code_is_taken(team, journal, sync, tmp_path):
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/team.db")
    mlflow.set_experiment("set by code")
    sync()
    assert set(runs_of(team, "set by code")) == {"digits", "fit"}


def test_the_run_of_the_environment_becomes_that_of_the_study(team, journal, sync, narrator, monkeypatch):
    given = team.create_run(team.create_experiment("jobs"), run_name="job 7")
    monkeypatch.setenv("MLFLOW_RUN_ID", given.info.run_id)
    for _ in range(2):
        sync()
    runs = runs_of(team)
    assert set(runs) == {"job 7", "fit"} and runs["job 7"].info.run_id == given.info.run_id
    assert runs["job 7"].data.params == {"seed": "0"} and runs["job 7"].data.tags["diffaug.kind"] == "study"
    assert runs["fit"].data.tags["mlflow.parentRunId"] == given.info.run_id
    assert narrator.warned == []


@pytest.mark.parametrize("state", ["missing", "deleted", "of another study"])
def test_a_run_that_can_not_be_taken_is_named_and_nothing_is_lost(team, journal, sync, narrator, monkeypatch, state):
    run_id = "0" * 32
    if state != "missing":
        run_id = team.create_run("0", tags={"diffaug.event": "another"}).info.run_id
    if state == "deleted":
        team.delete_run(run_id)
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    assert sync() == []
    said = {"missing": "the store has no run", "deleted": "was deleted", "of another study": "belongs to another study"}
    assert said[state] in narrator.warned[0] and "unset MLFLOW_RUN_ID" in narrator.warned[0]
    monkeypatch.delenv("MLFLOW_RUN_ID")
    sync()
    assert set(runs_of(team, "diffaug/my study")) == {"digits", "fit"}


NAMES = ["plain", "a/b", "a:b", "what?", "a@b", "..", " ", "x" * 400, "tab\t", "bad\udcff", "Käse 猫", "50 %", "it's"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_accepted_and_found_again(name):
    accepted = model_name(name)
    _validate_model_name(accepted)
    parsed = _parse_model_uri(f"models:/{accepted}@newest")
    assert (parsed.name, parsed.alias) == (accepted, "newest")
    assert (accepted == name) == (name in ("plain", "Käse 猫", "50 %", "it's"))
    _validate_experiment_name(experiment_name(name))
    experiment_name(name).encode()


def test_names_that_differ_stay_different():
    assert len({model_name(name) for name in ("a/b", "a:b", "a_b", "a?b")}) == 4


def test_a_model_under_another_name_is_told(study, journal, sync, narrator):
    journal.log_model("fit", study.generator, "generator", registered_name="a:b", alias="champion")
    (sentence,) = sync()
    name = model_name("a:b")
    assert f"MLflow refuses 'a:b' as the name of a model; it is registered as '{name}'" in sentence
    client = MlflowClient(tracking_uri=f"sqlite:///{study.path}/mlflow.db")
    assert client.get_model_version_by_alias(name, "champion").version
    assert narrator.warned == []


def test_models_have_a_card_with_samples_and_are_linked_where_they_were_made(study, journal, sync):
    shutil.copytree(study.generator, study.path / "second")
    (study.path / "second" / "samples").mkdir()
    shutil.copy(study.path / "grid.png", study.path / "second" / "samples" / "images-000000001.png")
    journal.log_model("fit", study.path / "second", "generator", registered_name="shown", alias="champion")
    sync()
    client = MlflowClient(tracking_uri=f"sqlite:///{study.path}/mlflow.db")
    version = client.get_model_version_by_alias("shown", "champion")
    models = client.search_logged_models([runs_of(client)["fit"].info.experiment_id])
    (model,) = [one for one in models if "shown" in one.tags["mlflow.modelVersions"]]
    address = f"logged-models/{model.model_id}/artifacts/files?artifact_file_path=samples.png"
    for text in (version.description, client.get_registered_model("shown").description):
        assert address in text and "Class-conditional image generator" in text
    assert model.tags["mlflow.note.content"] == version.description
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "shown", "version": "1"}]
    plain = client.get_model_version_by_alias("digits' model", "champion")
    assert "samples.png" not in plain.description


def test_a_dataset_of_some_rows_has_their_number(study, journal, sync):
    journal.log_dataset("study", study.path / "pool.parquet", "train", "training", digest="part", rows=7)
    sync()
    client = MlflowClient(tracking_uri=f"sqlite:///{study.path}/mlflow.db")
    used = runs_of(client)["digits"].inputs.dataset_inputs
    rows = {one.dataset.name: json.loads(one.dataset.profile)["num_rows"] for one in used}
    assert rows == {"pool": 1, "train": 7}
