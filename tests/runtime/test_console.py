from contextlib import closing

import pytest

from diffaug.runtime import console as narration
from diffaug.runtime.console import ConsoleNarrator, SilentNarrator, duration

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


class Clock:
    def __init__(self):
        self.now = 3.0  # a machine that was started a moment ago

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(narration, "time", clock)
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


def test_a_line_says_share_elapsed_and_left(capsys, clock):
    narrator = ConsoleNarrator()
    narrator.progress("train", 0, 100)
    clock.now += 20
    narrator.progress("train", 10, 100, "loss 0.30")
    clock.now += 180
    narrator.progress("train", 100, 100, "loss 0.10")
    assert lines(capsys) == [
        "train: 0%  0 s",
        "train: 10%  20 s  3 min 00 s left  loss 0.30",
        "train: 100%  3 min 20 s  loss 0.10",
    ]


def test_time_left_counts_only_what_this_run_did(capsys, clock):
    narrator = ConsoleNarrator()
    narrator.progress("train", 800, 1000)  # resumed
    clock.now += 30
    narrator.progress("train", 900, 1000)
    assert lines(capsys)[-1] == "train: 90%  30 s  30 s left"


def test_the_end_and_another_stage_are_said_at_once(capsys, clock):
    narrator = ConsoleNarrator()
    for stage in ("sample", "judge", "sample"):
        narrator.progress(stage, 0, 2)
        narrator.progress(stage, 1, 2)
        clock.now += 1
        narrator.progress(stage, 2, 2)
    assert lines(capsys) == [
        f"{stage}: {end}" for stage in ("sample", "judge", "sample") for end in ("0%  0 s", "100%  1 s")
    ]


def test_a_stage_that_comes_again_is_timed_anew(capsys, clock):
    narrator = ConsoleNarrator()
    for _ in range(2):
        clock.now += 100
        narrator.progress("sample", 2, 2)
    assert lines(capsys) == ["sample: 100%  0 s"] * 2


def test_a_stage_with_nothing_to_do_is_complete(capsys, clock):
    ConsoleNarrator().progress("sample", 0, 0)
    assert lines(capsys) == ["sample: 100%  0 s"]


def test_sentences_are_printed_literally_on_one_line(capsys):
    narrator = ConsoleNarrator()
    for text in [*TRICKY, "long " * 60]:
        narrator.say(text)
        narrator.warn(text)
        assert lines(capsys) == [text, f"warning: {text}"]


def test_tables_print_markup_literally(capsys):
    ConsoleNarrator().table("[b]counts[/b]", ["class [x]", "images"], [[name, "7"] for name in TRICKY])
    title, *rest = lines(capsys)
    assert title.strip() == "[b]counts[/b]"
    text = "\n".join(rest)
    assert "class [x]" in text
    for name in TRICKY:
        assert [cell.strip() for line in rest if f" {name} " in line for cell in line.strip("│").split("│")] == [
            name,
            "7",
        ]


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
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (42, "42 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (360000, "100 h 00 min"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_the_silent_narrator_says_nothing(capsys):
    narrator = SilentNarrator()
    narrator.say("x")
    narrator.warn("x")
    narrator.table("x", ["a"], [["b"]])
    narrator.progress("x", 1, 1)
    assert lines(capsys) == []
