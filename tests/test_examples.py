import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
FEW = {
    "DIFFAUG_SYNTHESIS__MAX_SYNTHETIC_RATIO": "0.5",
    "DIFFAUG_EVALUATION__ARMS": "[real only, real + synthetic]",
    "DIFFAUG_EVALUATION__SYNTHETIC_FRACTION": "0.3",
}
SHORT = {
    'time_budget="1m"': "time_budget=None",
    'time_budget="2m"': "time_budget=None",
    "Pool.open(study))": "Pool.open(study), include_blind=True)",  # the generator has learned nothing
    "AugmentedDataset(train_set, pool)": "AugmentedDataset(train_set, pool, include_blind=True)",
    "EPOCHS = 40": "EPOCHS = 1",
}


def shortened(source: str) -> str:
    for text, short in SHORT.items():
        source = source.replace(text, short)
    return source


@pytest.mark.e2e
def test_examples_run_one_after_the_other(tmp_path, monkeypatch, capsys, small_environment):
    for name, value in {**small_environment, **FEW}.items():
        monkeypatch.setenv(name, value)

    def run(script: str, *arguments: object) -> str:
        source = shortened((EXAMPLES / script).read_text(encoding="utf-8"))
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        exec(compile(source, script, "exec"), {"__name__": "__main__"})
        return capsys.readouterr().out

    assert "verdict:" in run("fit_and_evaluate.py", tmp_path)
    trained = run("train_with_pool.py", tmp_path / "digits" / "train", tmp_path / "study", 2)
    assert "epoch 2: loss" in trained


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    nbformat = pytest.importorskip("nbformat")
    cells = nbformat.read(path, 4).cells
    assert any(cell.cell_type == "code" for cell in cells)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch, small_environment):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("lightning")
    for name, value in {**small_environment, **FEW}.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        cell["source"] = shortened(cell["source"])
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": tmp_path}}).execute()
    shown = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "compared with the best baseline" in shown or "Not decidable" in shown
