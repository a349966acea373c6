import pytest
from click.shell_completion import BashComplete

from diffaug.cli import cli


def completed(*words: str) -> list[str]:
    """What the shell offers for the last word."""
    shell = BashComplete(cli, {}, "diffaug", "_DIFFAUG_COMPLETE")
    return [item.value for item in shell.get_completions(list(words[:-1]), words[-1])]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("ev",), ["evaluate"]),
        (("fit", "data", "--rou"), ["--route"]),
        (("fit", "data", "--device", "c"), ["cpu", "cuda"]),
        (("fit", "data", "--route", "c"), ["cascade"]),
        (("fit", "data", "--encoder", "n"), ["none"]),
        (("run", "data", "--recipe", "q"), ["quick-look"]),
        (("recipes", "show", "rare"), ["rare-defects"]),
        (("generate", "s", "--sampling-strategy", "mi"), ["minority"]),
        (("fit", "data", "--set", "evaluation.num_s"), ["evaluation.num_seeds="]),
        (("evaluate", "s", "--arms", "real only,pri"), ["real only,prior"]),
        (("evaluate", "s", "--arms", "prior,pri"), []),
    ],
)
def test_values_are_offered(words: tuple[str, ...], offered: list[str]) -> None:
    assert completed(*words) == offered


def test_studies_are_offered_where_there_are_some(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    shell = BashComplete(cli, {}, "diffaug", "_DIFFAUG_COMPLETE")
    assert [item.type for item in shell.get_completions(["verify"], "")] == ["file"]
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "study.json").touch()
    assert completed("verify", "") == ["runs/mine"]


def test_a_wrong_command_does_not_disturb_the_shell() -> None:
    assert isinstance(completed("wrong", ""), list)
