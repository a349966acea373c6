import subprocess
import sys
from contextlib import closing
from types import SimpleNamespace

import pytest

from diffaug.runtime import console
from diffaug.runtime.console import ConsoleNarrator, ProgressOnly, duration, narrator_of

TRICKY = ["[red]stop[/red]", "[/]", "\\[bold]", ":smile:", "a[1]", "back\\"]


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=3.0, monotonic=lambda: clock.now)  # a machine that was started a moment ago
    monkeypatch.setattr(console, "time", clock)
    return clock


def lines(capsys) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_without_a_terminal_progress_is_a_line_every_fifteen_seconds(capsys, clock):
    printed_at = []
    with closing(ConsoleNarrator()) as narrator:
        for second in range(61):
            clock.now = 3.0 + second
            narrator.progress("train", second, 100)
            printed_at += [second] * len(lines(capsys))
    assert printed_at == [0, 15, 30, 45, 60]


@pytest.mark.parametrize(
    ("reports", "shown"),
    [
        (
            [(0, "train", 0, 100), (20, "train", 10, 100, "loss 0.30"), (180, "train", 100, 100, "loss 0.10")],
            ["train: 0%  0 s", "train: 10%  20 s  3 min 00 s left  loss 0.30", "train: 100%  3 min 20 s  loss 0.10"],
        ),
        (
            [(0, "resumed", 800, 1000), (30, "resumed", 900, 1000)],  # the time left counts only what this run did
            ["resumed: 80%  0 s", "resumed: 90%  30 s  30 s left"],
        ),
        (
            [(0, "a", 0, 2), (0, "a", 1, 2), (1, "a", 2, 2), (0, "b", 0, 2), (1, "b", 2, 2)],  # the end comes at once
            ["a: 0%  0 s", "a: 100%  1 s", "b: 0%  0 s", "b: 100%  1 s"],
        ),
        ([(100, "again", 2, 2)] * 2, ["again: 100%  0 s"] * 2),
        ([(0, "nothing to do", 0, 0)], ["nothing to do: 100%  0 s"]),
    ],
)
def test_a_line_shows_fraction_elapsed_and_left(capsys, clock, reports, shown):
    narrator = ConsoleNarrator()
    for wait, *report in reports:
        clock.now += wait
        narrator.progress(*report)
    assert lines(capsys) == shown


def test_sentences_are_printed_literally_on_one_line(capsys):
    narrator = ConsoleNarrator()
    for text in [*TRICKY, "long " * 60 + "end"]:
        narrator.say(text)
        narrator.warn(text)
        assert lines(capsys) == [text, f"warning: {text}"]


def test_a_narrow_table_cuts_no_option(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    option = "--set diffusion.autoencoder=FOLDER"
    ConsoleNarrator().table("", ["route", "trained at", "why not"], [["latent", "64 x 64 px", option]])
    cells = [line.split("│")[3].strip() for line in capsys.readouterr().err.splitlines() if line.count("│") == 4]
    assert "".join(cells) == option.replace(" ", "")


def test_tables_print_markup_literally(capsys):
    ConsoleNarrator().table("[b]counts[/b]", ["class [x]", "images"], [[name, "7"] for name in TRICKY])
    title, *rest = lines(capsys)
    assert title.strip() == "[b]counts[/b]"
    assert "class [x]" in "\n".join(rest)
    for name in TRICKY:
        (cells,) = [line.strip("│").split("│") for line in rest if f" {name} " in line]
        assert [cell.strip() for cell in cells] == [name, "7"]


def test_long_cells_are_wrapped_and_numbers_right_aligned(capsys):
    long_name = "Amphiprion ocellaris juvenile, frontal view, " * 3 + "last"
    ConsoleNarrator().table("", ["class", "images"], [[long_name, "7"], ["b", "1234"]])
    cells = [line.strip("│").split("│") for line in lines(capsys) if line.startswith("│")]
    assert " ".join(name.strip() for name, _ in cells) == f"{long_name} b"
    assert [number.strip() for _, number in cells if number.strip()] == ["7", "1234"]
    assert {len(number.rstrip()) for _, number in cells if number.strip()} == {len(cells[0][1]) - 1}


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("name", TRICKY)
def test_a_terminal_gets_a_bar_with_literal_names(capsys, name):
    with closing(ConsoleNarrator()) as narrator:
        narrator.progress(name, 1, 2, f"detail {name}")
        narrator.progress(name, 2, 2, f"detail {name}")
    shown = capsys.readouterr().err
    assert "100%" in shown
    assert shown.count(name) >= 2


@pytest.mark.usefixtures("terminal")
def test_the_bar_is_taken_down_after_an_error(capsys):
    hide, show = "\x1b[?25l", "\x1b[?25h"
    with pytest.raises(ZeroDivisionError), closing(ConsoleNarrator()) as narrator:
        narrator.progress("train", 1, 2)
        raise ZeroDivisionError
    shown = capsys.readouterr().err
    assert shown.count(hide) == shown.count(show) == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    {
        "0 s": (0, 0.4),
        "42 s": (42,),
        "59 s": (59.4,),
        "1 min 00 s": (59.6,),
        "3 min 20 s": (200,),
        "59 min 59 s": (3599.4,),
        "1 h 00 min": (3599.6,),
        "100 h 00 min": (360000,),
    }.items(),
)
def test_durations(text, seconds):
    assert {duration(one) for one in seconds} == {text}


def test_progress_alone_is_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    with closing(ProgressOnly(ConsoleNarrator())) as narrator:
        narrator.say("a sentence")
        narrator.warn("a warning")
        narrator.table("a table", ["column"], [["cell"]])
        narrator.progress("generating", 1, 2)
    said = capsys.readouterr().err
    assert "generating" in said and not any(word in said for word in ("sentence", "warning", "table", "cell"))


def test_all_is_logged_also_where_nothing_is_printed(caplog, capsys):
    caplog.set_level("INFO", logger="diffaug")
    for narrator, printed in ((narrator_of(verbose=False), False), (narrator_of(verbose=True), True)):
        with closing(narrator):
            narrator.say("a sentence")
            narrator.warn("a\nwarning")
            narrator.table("a table", ["class", "images"], [["cat", "7"]])
            narrator.progress("generating", 1, 2)
        logged = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
        assert logged[:2] == [("diffaug", "INFO", "a sentence"), ("diffaug", "WARNING", r"a\nwarning")]
        assert "class | images\ncat | 7" in logged[2][2] and "generating: 50%" in logged[3][2]
        assert bool(lines(capsys)) == printed
        caplog.clear()


def test_nothing_is_printed_by_a_logger_that_nobody_set_up():
    probe = "from diffaug.runtime.console import narrator_of; narrator_of(verbose=False).warn('a warning')"
    ended = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert ended.stdout == ended.stderr == ""


@pytest.fixture
def notebook(monkeypatch) -> list[list[str]]:
    """Pretends to be a notebook; holds the HTML that each display has shown."""
    shown: list[list[str]] = []

    def display(html: str, display_id: bool) -> SimpleNamespace:
        shown.append([html])
        return SimpleNamespace(update=shown[-1].append)

    front_end = SimpleNamespace(HTML=str, display=display)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(display=front_end))
    monkeypatch.setitem(sys.modules, "IPython.display", front_end)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    return shown


def test_a_notebook_gets_one_bar_per_stage_with_literal_names(capsys, clock, notebook):
    with closing(ConsoleNarrator()) as narrator:
        for done in range(11):
            clock.now += 1
            narrator.progress("<b>train", done, 10, "loss 0.1")
        narrator.progress("generate", 0, 4)
        narrator.progress("generate", 4, 4)
    train, generate = notebook
    assert train[0].startswith('<progress value="0" max="10">') and train[-1].startswith(
        '<progress value="10" max="10">'
    )
    assert all("&lt;b&gt;train: " in shown and "<b>" not in shown for shown in train)
    assert "generate: 100%" in generate[-1]
    assert lines(capsys) == []
