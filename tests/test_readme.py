"""README and docs are true: their Python runs, their commands parse, their links lead somewhere."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

import diffaug
from diffaug.cli import cli, main
from diffaug.errors import UsageError
from diffaug.files import storage
from diffaug.files.records import write_signed_record
from diffaug.study import STUDY_RECORD, open_study
from tests.conftest import with_blind

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCED = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
TRAIN_IMAGES = {"0": 24, "1": 12, "2": 8}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    return [code for found, code in FENCED.findall(page.read_text(encoding="utf-8")) if found == language]


def shell_lines(page: Path) -> list[str]:
    """Lines of shell blocks; continued ones are joined."""
    return [line.strip() for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]


def commands(page: Path) -> Iterator[list[str]]:
    """The arguments of every call of diffaug on a page."""
    return commands_of(shell_lines(page))


def commands_of(lines: Iterable[str]) -> Iterator[list[str]]:
    """The arguments of every call of diffaug, alone or in a chain, by `python -m` or torchrun."""
    for line in lines:
        words: list[str] = []
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for word in [*lexer, ";"]:
            if not set(word) <= set(";&|<>()"):
                words.append(word)
                continue
            names = [Path(word).name for word in words]
            if "diffaug" in names:
                yield words[names.index("diffaug") + 1 :]
            words = []


COMMANDS = [(name_of(page), arguments) for page in PAGES for arguments in commands(page)]


def require_parsable(command: click.Command, arguments: list[str]) -> None:
    """Parses a command line through groups, options and their values, without running anything."""
    if not isinstance(command, click.Group):
        with suppress(click.exceptions.Exit):  # --help
            command.make_context(command.name, list(arguments)).close()
        return
    context = click.Context(command, info_name=command.name)
    _, rest, _ = command.make_parser(context).parse_args(list(arguments))
    if rest:
        _, child, rest = command.resolve_command(context, rest)
        assert child is not None
        require_parsable(child, rest)


@pytest.mark.parametrize(("page", "arguments"), COMMANDS, ids=[f"{page}: {' '.join(rest)}" for page, rest in COMMANDS])
def test_a_command_parses(page: str, arguments: list[str]) -> None:
    require_parsable(cli, arguments)


@pytest.mark.parametrize(
    "line",
    ["fitt data", "fit data --minuets 3", "fit", "fit a b", "recipes lss", "generate s --more 500", "fit a --seed x"],
)
def test_a_wrong_command_would_be_noticed(line: str) -> None:
    with pytest.raises((click.UsageError, UsageError)):
        require_parsable(cli, line.split())


def anchors(page: Path) -> set[str]:
    """What a forge makes of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    return LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in links(page):
        target, _, anchor = link.partition("#")
        if target.startswith("https:"):
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), link
        assert not anchor or anchor in anchors(file), link


@pytest.mark.parametrize("page", [ROOT / "CONTRIBUTING.md", ROOT / "docs" / "architecture.md"], ids=name_of)
def test_every_module_and_folder_that_is_named_exists(page: Path) -> None:
    for name in re.findall(r"`([\w./]+(?:\.py|/))`", page.read_text(encoding="utf-8")):
        places = (ROOT, *(folder for folder in (ROOT / "diffaug").rglob("*") if folder.is_dir()), ROOT / "diffaug")
        assert any((place / name).exists() for place in places), name


def test_every_page_of_the_docs_can_be_reached() -> None:
    reached, todo = set(), [ROOT / "README.md", ROOT / "docs" / "README.md"]
    while todo:
        page = todo.pop()
        reached.add(page)
        found = {(page.parent / link.partition("#")[0]).resolve() for link in links(page) if ".md" in link}
        todo += found - reached
    assert set(PAGES) <= reached


def test_every_public_name_is_documented() -> None:
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    assert [name for name in diffaug.__all__ if f"`{name}`" not in page and not name.startswith("_")] == []


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    assert len(text.encode()) <= 7 * 1024


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["generate_benchmarks", "generate_reference"])
def test_generated_pages_are_current(name: str) -> None:
    script = ROOT / "docs" / f"{name}.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.e2e
def test_ci_runs_the_readmes_test_command() -> None:
    script = ROOT / ".ci" / "run"
    shown = subprocess.run([script, "--show"], capture_output=True, text=True, check=True).stdout.strip()
    assert os.access(script, os.X_OK)
    assert shown in shell_lines(ROOT / "README.md")
    assert "pip install" in shown
    assert shown.endswith("pytest -n auto --dist worksteal")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, digits: Any, small_environment: dict[str, str]) -> Path:
    """A folder with data/train and data/test, and a study of them in runs/data with a pool."""
    root = tmp_path_factory.mktemp("fitted")
    pixels, labels = digits
    for name, train in TRAIN_IMAGES.items():
        members = np.flatnonzero(labels == int(name))[: train + 10]
        for position, index in enumerate(members):
            split = "train" if position < train else "test"
            storage.write_bytes(root / "data" / split / name / f"{index}.png", storage.png_bytes(pixels[index]))
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in small_environment.items():
            patch.setenv(variable, value)
        patch.chdir(root)
        pool = diffaug.DiffusionAugmenter(verbose=False).fit("data").generate()
        with_blind(pool)  # no class is: the pages are about generators that have learned something
    return root


@pytest.fixture
def workplace(fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_environment: dict[str, str]) -> Path:
    """A copy of that folder to work in, and settings that keep the work short."""
    shutil.copytree(fitted, tmp_path, dirs_exist_ok=True)
    study = open_study(tmp_path / "runs" / "data")
    moved = replace(study.record, data=tmp_path / study.record.data.relative_to(fitted.resolve()))
    write_signed_record(study.path / "study.json", STUDY_RECORD, moved)
    for variable, value in small_environment.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.e2e
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
def test_the_python_of_a_page_runs_in_order(page: Path, workplace: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "page"}
    for number, block in enumerate(blocks(page, "python"), start=1):
        # A time budget in the code is stronger than the number of images in the environment.
        short = re.sub(r'time_budget="[^"]*"', "time_budget=None", block)
        exec(compile(short, f"{name_of(page)}, Python block {number}", "exec"), namespace)


def blocks_of_commands() -> Iterator[Any]:
    """Shell blocks of the first pages that a user types in order, each with data and nothing else."""
    for page in (ROOT / "README.md", ROOT / "docs" / "README.md", ROOT / "docs" / "getting-started.md"):
        for number, block in enumerate(blocks(page, "bash"), start=1):
            if typed := list(commands_of(block.splitlines())):
                yield pytest.param(typed, id=f"{name_of(page)}, block {number}")


@pytest.mark.slow
@pytest.mark.parametrize("typed", list(blocks_of_commands()))
def test_the_commands_of_a_block_run_in_order(typed: list[list[str]], workplace: Path) -> None:
    shutil.rmtree(workplace / "runs")
    for arguments in typed:
        main(arguments)  # a failure leaves with its exit code
