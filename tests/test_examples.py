import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
FEW = {
    "DIFFAUG_SYNTHESIS__MAX_SYNTHETIC_RATIO": "0.5",
    "DIFFAUG_EVALUATION__ARMS": "[real only, real + synthetic]",
    "DIFFAUG_EVALUATION__SYNTHETIC_FRACTION": "0.3",
}


@pytest.mark.e2e
def test_examples_run_one_after_the_other(tmp_path, monkeypatch, capsys, small_environment):
    for name, value in {**small_environment, **FEW}.items():
        monkeypatch.setenv(name, value)

    def run(script: str, *arguments: object) -> str:
        source = (EXAMPLES / script).read_text(encoding="utf-8").replace('time_budget="2m"', "time_budget=None")
        source = source.replace("Pool.open(study))", "Pool.open(study), include_blind=True)")  # it has learned nothing
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        exec(compile(source, script, "exec"), {"__name__": "__main__"})
        return capsys.readouterr().out

    assert "verdict:" in run("fit_and_evaluate.py", tmp_path)
    trained = run("train_with_pool.py", tmp_path / "digits" / "train", tmp_path / "study", 2)
    assert "epoch 2: loss" in trained
