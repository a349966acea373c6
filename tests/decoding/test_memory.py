"""Large images wait for each other."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from PIL import Image

from diffaug.data.reading.parts import Reader, Source, whole_parts, write_part
from diffaug.decoding.limits import (
    MAX_MEMORY,
    PIECE,
    PIECES,
    UNCOUNTED,
    OfProcesses,
    OfThreads,
    open_regular,
    require_size,
    reserve,
    shared,
)
from diffaug.decoding.result import RejectedError

LARGEST = -(-MAX_MEMORY // PIECE)


class Recorded:
    """A budget that notes what is taken and what is given back."""

    def __init__(self) -> None:
        self.events: list[int] = []

    @contextmanager
    def take(self, pieces):
        self.events.append(pieces)
        yield
        self.events.append(-pieces)


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_never_more_is_held_than_there_is_and_everyone_gets_a_turn(tmp_path, kind) -> None:
    budget, held, most, lock = OfThreads() if kind == "threads" else OfProcesses(tmp_path), 0, [], threading.Lock()

    def use(pieces: int) -> int:
        nonlocal held
        with budget.take(pieces):
            with lock:
                held += pieces
                most.append(held)
            threading.Event().wait(0.002)
            with lock:
                held -= pieces
        return pieces

    wanted = [LARGEST, 1, PIECES, 3, LARGEST, LARGEST, 2, PIECES, 1, 1]
    with ThreadPoolExecutor(5) as threads:
        assert list(threads.map(use, wanted)) == wanted
    assert max(most) == PIECES


def test_the_largest_image_fits_the_budget() -> None:
    assert LARGEST <= PIECES


def test_only_what_is_asked_for_inside_of_a_block_is_held_and_growing_gives_back_first() -> None:
    budget = Recorded()
    reserve(MAX_MEMORY)
    with shared(budget):
        reserve(UNCOUNTED)
        reserve(2 * PIECE)
        reserve(PIECE)
        reserve(2.5 * PIECE)
        reserve(100 * PIECES * PIECE)
    reserve(MAX_MEMORY)
    assert budget.events == [2, -2, 3, -3, PIECES, -PIECES]


def test_a_size_within_the_limits_takes_the_memory_of_its_pixels() -> None:
    budget = Recorded()
    with shared(budget):
        require_size((10_000, 4_000), 4, "RGB")
    assert budget.events == [5, -5] and PIECE == 32 * 10**6  # of 160 MB


@pytest.mark.parametrize(
    ("size", "status", "note"),
    [
        ((3, 5000), "too small", "3 x 5000 px; each side needs 4"),
        ((10_000, 8_001), "too large", "10000 x 8001 px; of this kind at most 80 Mpx are read; save it smaller"),
    ],
)
def test_a_size_outside_of_the_limits_is_rejected_by_its_figures(size, status, note) -> None:
    with pytest.raises(RejectedError) as caught:
        require_size(size, 3, "RGB")
    found = caught.value.result
    assert (found.status, found.note, (found.width, found.height), found.mode) == (status, note, size, "RGB")


@pytest.mark.parametrize(("name", "note"), [("absent", "no such file or directory"), ("nul\0", "null")])
def test_a_file_that_cannot_be_opened_is_rejected_in_plain_words(tmp_path, name, note) -> None:
    with pytest.raises(RejectedError) as caught:
        open_regular(tmp_path / name)
    assert caught.value.result.status == "unreadable"
    assert note in caught.value.result.note and str(tmp_path) not in caught.value.result.note


@pytest.mark.parametrize(("side", "expected"), [(64, []), (1600, [1, -1])])
def test_reading_a_large_image_takes_its_share(tmp_path, side, expected) -> None:
    Image.new("RGB", (side, side)).save(tmp_path / "image.png")
    budget = Recorded()
    found, picture = Reader(tmp_path).read(Source("image.png"), budget)
    assert (found.status, found.width, picture.shape[2]) == ("ok", side, 1)
    assert budget.events == expected


@pytest.mark.e2e
def test_a_process_that_is_killed_gives_its_share_back(tmp_path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from diffaug.decoding.limits import *\n"
        "with OfProcesses(Path(sys.argv[1])).take(PIECES): print('has it', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"has it\n"
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(lambda: OfProcesses(tmp_path).take(1).__enter__())
            threading.Event().wait(0.05)
            assert not waiting.done()
            process.kill()
            waiting.result(timeout=60)


def test_a_worker_process_waits_for_the_others(tmp_path) -> None:
    Image.new("RGB", (1600, 1600)).save(tmp_path / "image.png")
    parts = tmp_path / "parts"
    with ThreadPoolExecutor(1) as threads:
        with OfProcesses(parts / "memory").take(PIECES):
            written = threads.submit(write_part, Reader(tmp_path), [Source("image.png")], parts, 0)
            threading.Event().wait(0.1)
            assert not written.done()
        written.result(timeout=60)
    assert [number for number, _ in whole_parts(parts)] == [0]
