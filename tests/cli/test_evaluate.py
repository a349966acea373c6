"""`diffaug evaluate` as scripts and CI use it: foreign predictions, and a gate on the gain."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient

from diffaug.cli import main
from diffaug.cli.verdict import print_verdict
from diffaug.files import storage
from tests.evaluation.report import contents

pytestmark = pytest.mark.e2e


def predictions(file: Path, right: dict[str, float]) -> Path:
    """A CSV of two classes in which each arm is right on a share of the images, the same ones for every seed."""
    rng = np.random.default_rng(0)
    difficulty, labels = rng.random(400), rng.integers(0, 2, 400)
    images, tables = pd.DataFrame({"file_name": [f"{number}.png" for number in range(400)], "label": labels}), []
    for (arm, share), seed in itertools.product(right.items(), range(3)):
        role = "candidate" if "synthetic" in arm else "baseline"
        predicted = np.where(difficulty < share, labels, 1 - labels)
        tables.append(images.assign(arm=arm, role=role, seed=seed, predicted=predicted))
    pd.concat(tables).to_csv(file, index=False)
    return file


def test_foreign_predictions_need_no_study(answer, tmp_path) -> None:
    file = predictions(tmp_path / "mine.csv", {"plain": 0.7, "oversampled": 0.72, "with synthetic": 0.85})
    result = answer("evaluate", "--predictions", str(file))["results"]
    assert result["verdict"]["decision"] == "use"
    assert result["verdict"]["baseline"] == "oversampled"
    assert result["comparisons"][0]["difference"]["mean"] == pytest.approx(0.13, abs=0.03)


def test_the_gate_is_open_or_exits_with_5_and_says_what_was_reached(capsys, answer, tmp_path) -> None:
    file = predictions(tmp_path / "mine.csv", {"plain": 0.7, "with synthetic": 0.85})
    main(["evaluate", "--predictions", str(file), "--fail-under", "5"])
    out = capsys.readouterr().out
    assert out.startswith("Best without synthetic images: 'plain', 64.2 % balanced accuracy") and "verdict: use" in out
    assert "Classes that gain: " in out and "what would help:\n- " in out
    assert "next:" not in out  # a line that one command ends with
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "--predictions", str(file), "--fail-under", "20"])
    assert stop.value.code == 5
    captured = capsys.readouterr()
    assert "verdict: use" in captured.out
    assert "20" in captured.err
    content = answer("evaluate", "--predictions", str(file), "--fail-under", "20")
    assert (content["status"], content["exit_code"]) == ("error", 5)
    assert content["results"]["verdict"]["decision"] == "use"


@pytest.mark.parametrize("option", [["--num-seeds", "3"], ["--arms", "real only,real + synthetic"], ["--thorough"]])
def test_options_for_trainings_are_refused_beside_predictions(fails, option) -> None:
    code, message = fails("evaluate", "--predictions", "mine.csv", *option)
    assert code == 2
    assert option[0].removeprefix("--").replace("-", "_") in message


def test_predictions_of_a_studys_test_images_are_compared_with_its_labels(answer, tmp_path, study) -> None:
    table = pd.read_parquet(study / "catalog" / "table.parquet")
    test = table[table["split"] == "test"]
    arms = [
        pd.DataFrame({"file_name": test["path"], "arm": "plain", "role": "baseline", "predicted": "dark"}),
        pd.DataFrame({"file_name": test["path"], "arm": "mine", "role": "candidate", "predicted": test["label"]}),
    ]
    pd.concat(arms).to_csv(tmp_path / "mine.csv", index=False)
    result = answer("evaluate", str(study), "--predictions", str(tmp_path / "mine.csv"))["results"]
    assert result["comparisons"][0]["difference"]["mean"] == pytest.approx(2 / 3)
    name = f"mine-{storage.sha256_file(tmp_path / 'mine.csv')[:8]}.json"
    assert result["train_counts"] == {"bright": 5, "dark": 16, "middle": 10}
    assert json.loads((study / "predictions" / name).read_text())["verdict"] == result["verdict"]


def test_tracking_is_caught_up_with_and_turned_on_again(capsys, tmp_path, images, set_options, monkeypatch) -> None:
    def runs() -> set[str]:
        client = MlflowClient(tracking_uri=f"sqlite:///{study}/mlflow.db")
        experiment = client.get_experiment_by_name("diffaug/study")
        return {run.info.run_name for run in client.search_runs([experiment.experiment_id])}

    def is_tracked() -> bool:
        return yaml.safe_load((study / "config.yaml").read_text())["tracking"]["mlflow"]

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    mlflow.set_tracking_uri(None)  # what other tests of this process left
    study = tmp_path / "study"
    untracked = set_options[: set_options.index("tracking.mlflow=False") - 1]
    main(["fit", str(images), "--study", str(study), "--no-mlflow", "--quiet", *untracked])
    assert not (study / "mlflow.db").exists() and not is_tracked()
    main(["sync", str(study), "--quiet"])
    assert capsys.readouterr().err == ""
    assert runs() == {"study", "fit"} and not is_tracked()
    main(["generate", str(study), "--quiet"])
    assert runs() == {"study", "fit"}
    main(["generate", str(study), "--mlflow", "--quiet"])
    assert runs() == {"study", "fit", "generate"} and is_tracked()


def test_without_synthetic_images_no_verdict_about_them_is_printed(capsys) -> None:
    content = contents.result()
    print_verdict(content)
    assert f"verdict: {content.verdict.decision}" in (whole := capsys.readouterr().out) and contents.BEST in whole
    print_verdict(replace(content, synthetic_counts=dict.fromkeys(content.classes, 0)))
    printed = capsys.readouterr().out
    assert content.best_real in printed
    assert "verdict" not in printed and contents.BEST not in printed
