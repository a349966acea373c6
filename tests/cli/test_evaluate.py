"""`diffaug evaluate` as scripts and CI use it: foreign predictions, and a gate on the gain."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient

from diffaug.cli import main
from diffaug.files import storage


def predictions(file: Path, right: dict[str, float], images: int = 400) -> Path:
    """A CSV of two classes in which each arm is right on a share of the images, the same ones for every seed."""
    rng = np.random.default_rng(0)
    difficulty, labels = rng.random(images), rng.integers(0, 2, images)
    rows = [
        {
            "file_name": f"{number}.png",
            "label": f"class {label}",
            "arm": arm,
            "seed": seed,
            "predicted": f"class {label if difficulty[number] < share else 1 - label}",
        }
        for arm, share in right.items()
        for seed in range(3)
        for number, label in enumerate(labels)
    ]
    pd.DataFrame(rows).to_csv(file, index=False)
    return file


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return int(caught.value.code or 0)


def test_foreign_predictions_need_no_study(capsys, tmp_path) -> None:
    file = predictions(tmp_path / "mine.csv", {"plain": 0.7, "oversampled": 0.72, "with synthetic": 0.85})
    main(["evaluate", "--predictions", str(file), "--json"])
    result = json.loads(capsys.readouterr().out)["results"]
    assert result["verdict"]["decision"] == "use"
    assert result["verdict"]["baseline"] == "oversampled"
    assert result["comparisons"][0]["difference"]["mean"] == pytest.approx(0.13, abs=0.03)


def test_the_gate_is_open_or_exits_with_5_and_says_what_was_reached(capsys, tmp_path) -> None:
    file = predictions(tmp_path / "mine.csv", {"plain": 0.7, "with synthetic": 0.85})
    main(["evaluate", "--predictions", str(file), "--fail-under", "5"])
    captured = capsys.readouterr()
    assert "verdict: use" in captured.out
    assert "real: plain; claim: with synthetic. The column role of the CSV changes this." in captured.err
    assert exit_code("evaluate", "--predictions", str(file), "--fail-under", "20") == 5
    captured = capsys.readouterr()
    assert "verdict: use" in captured.out
    assert "20" in captured.err


@pytest.mark.parametrize("points", ["nan", "101", "-101", "inf"])
def test_an_impossible_gate_is_refused_before_any_work(capsys, points) -> None:
    assert exit_code("evaluate", "no study", "--fail-under", points) == 2
    assert "--fail-under" in capsys.readouterr().err


def test_a_closed_gate_still_gives_programs_the_results(capsys, tmp_path) -> None:
    file = predictions(tmp_path / "mine.csv", {"plain": 0.7, "with synthetic": 0.85})
    assert exit_code("evaluate", "--predictions", str(file), "--fail-under", "20", "--json") == 5
    content = json.loads(capsys.readouterr().out)
    assert (content["status"], content["exit_code"]) == ("error", 5)
    assert content["results"]["verdict"]["decision"] == "use"


@pytest.mark.parametrize("option", [["--seeds", "3"], ["--arms", "real only,real + synthetic"], ["--thorough"]])
def test_options_for_trainings_are_refused_beside_predictions(capsys, tmp_path, option) -> None:
    file = predictions(tmp_path / "mine.csv", {"plain": 0.7, "with synthetic": 0.85}, images=20)
    assert exit_code("evaluate", "--predictions", str(file), *option) == 2
    assert f"{option[0]}: --predictions trains nothing" in capsys.readouterr().err


def test_a_csv_with_a_gap_names_it(capsys, tmp_path) -> None:
    file = predictions(tmp_path / "mine.csv", {"plain": 0.7, "with synthetic": 0.85}, images=20)
    pd.read_csv(file).iloc[:-1].to_csv(file, index=False)
    assert exit_code("evaluate", "--predictions", str(file)) == 3
    assert "19.png" in capsys.readouterr().err


def test_neither_study_nor_predictions_is_a_wrong_call(capsys) -> None:
    assert exit_code("evaluate") == 2
    assert "--predictions" in capsys.readouterr().err


def test_predictions_of_a_studys_test_images_are_judged_by_its_labels(capsys, tmp_path, images, set_options) -> None:
    study = tmp_path / "study"
    main(["inspect", str(images), "--study", str(study), "--quiet", *set_options])
    table = pd.read_parquet(study / "catalog" / "table.parquet")
    test = table[table["split"] == "test"]
    arms = [
        pd.DataFrame({"file_name": test["path"], "arm": "plain", "predicted": "dark"}),
        pd.DataFrame({"file_name": test["path"], "arm": "synthetic", "predicted": test["label"]}),
    ]
    pd.concat(arms).to_csv(tmp_path / "mine.csv", index=False)
    capsys.readouterr()
    main(["evaluate", str(study), "--predictions", str(tmp_path / "mine.csv"), "--json"])
    result = json.loads(capsys.readouterr().out)["results"]
    assert result["comparisons"][0]["difference"]["mean"] == pytest.approx(2 / 3)
    name = f"mine-{storage.sha256_file(tmp_path / 'mine.csv')[:8]}.json"
    assert result["train_counts"] == {"bright": 5, "dark": 16, "middle": 10}
    assert json.loads((study / "predictions" / name).read_text())["verdict"] == result["verdict"]


def test_what_was_recorded_untracked_is_sent_by_sync_and_tracking_turned_on_again(
    tmp_path, images, set_options, monkeypatch
) -> None:
    def runs() -> set[str]:
        client = MlflowClient(tracking_uri=f"sqlite:///{study}/mlflow.db")
        experiment = client.get_experiment_by_name("diffaug/study")
        return {run.info.run_name for run in client.search_runs([experiment.experiment_id])}

    def is_tracked() -> bool:
        return yaml.safe_load((study / "config.yaml").read_text())["tracking"]["mlflow"]

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    mlflow.set_tracking_uri(None)  # what other tests of this process left
    study = tmp_path / "study"
    untold = set_options[: set_options.index("tracking.mlflow=False") - 1]
    main(["fit", str(images), "--study", str(study), "--no-track", "--quiet", *untold])
    assert not (study / "mlflow.db").exists() and not is_tracked()
    main(["sync", str(study)])
    assert runs() == {"study", "fit"} and not is_tracked()
    main(["generate", str(study), "--quiet"])
    assert runs() == {"study", "fit"}
    main(["generate", str(study), "--track", "--quiet"])
    assert runs() == {"study", "fit", "generate"} and is_tracked()
