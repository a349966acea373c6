import shlex
import subprocess
import sys
import threading

import pytest

from diffaug.errors import DataError, UsageError
from diffaug.synthesis.decisions import HEADER, ReviewFile, judgments, rejected_images

CAT, DOG = ("images/cat/000001.png", "a" * 64), ("images/dog, big/000001.png", "b" * 64)
LINE = f"2026-01-31T12:00:00+00:00,anna,{CAT[0]},{CAT[1]},reject"


@pytest.fixture
def review(tmp_path) -> ReviewFile:
    return ReviewFile(tmp_path / "pool")


def test_the_last_line_of_a_reviewer_counts_and_any_rejection_leaves_an_image_out(review) -> None:
    assert review.read() == []
    for reviewer, image, decision in [
        ("anna", CAT, "accept"),
        ("anna", CAT, "reject"),
        ("Zoë B.", CAT, "accept"),
        ("anna", DOG, "reject"),
        ("anna", DOG, "accept"),
    ]:
        review.add(reviewer, image, decision)
    assert judgments(review.read()) == {CAT: {"anna": "reject", "Zoë B.": "accept"}, DOG: {"anna": "accept"}}
    assert rejected_images(review.read()) == rejected_images(ReviewFile(review.path.parent / "pool").read()) == {CAT}


def test_deleting_a_line_undoes_its_decision_by_hand_and_by_withdrawing(review) -> None:
    for image in (CAT, DOG, CAT):
        review.add("anna", image, "reject")
    review.add("ben", CAT, "reject")
    lines = review.path.read_text().splitlines(keepends=True)
    review.withdraw("anna", CAT)
    assert review.path.read_text().splitlines(keepends=True) == [*lines[:3], lines[4]]
    review.withdraw("nobody", CAT)
    review.path.write_text("".join(lines[:1] + lines[3:4]))
    assert rejected_images(review.read()) == {CAT}
    review.path.write_text(lines[0])
    assert review.read() == []


@pytest.mark.parametrize(
    "edited",
    [
        f"\ufeff{HEADER}\r\n{LINE}\r\n",
        f"{HEADER}\n\n  \n{LINE}",
        f"{HEADER}\n{LINE.replace(',', ' , ')}\n,,,,\n",
        f"{HEADER}\n{LINE.replace('anna', chr(34) + 'anna' + chr(34))}\n",
        f"{HEADER}\r{LINE}\r",
    ],
)
def test_what_editors_do_to_the_form_is_read_and_no_line_is_lost_by_the_next_one(review, edited) -> None:
    review.path.write_text(edited, encoding="utf-8", newline="")
    assert judgments(review.read()) == {CAT: {"anna": "reject"}}
    review.add("ben", DOG, "reject")
    again = ReviewFile(review.path.parent / "pool").read()
    assert judgments(again) == {CAT: {"anna": "reject"}, DOG: {"ben": "reject"}}
    review.withdraw("anna", CAT)
    assert judgments(review.read()) == {DOG: {"ben": "reject"}}


@pytest.mark.parametrize(
    "line",
    [
        "anna,reject",
        LINE.replace("reject", "maybe"),
        LINE.replace("anna", "=1+1"),
        LINE.replace("anna", ""),
        LINE.replace("a" * 64, "a" * 63),
        LINE.replace(CAT[0], ""),
        LINE.replace("2026-01-31T12:00:00+00:00", "31.01.2026 12:00"),
        LINE.replace("+00:00", ""),
        LINE.replace(",", ";"),
        LINE + ",remark",
        '"' + LINE,
        HEADER,
    ],
)
def test_a_broken_line_is_named_with_its_number_and_deleting_it_helps(review, line) -> None:
    review.path.write_text(f"{HEADER}\n{LINE}\n\n{line}\n")
    for act in (review.read, lambda: review.add("ben", DOG, "accept"), review.require_writable):
        with pytest.raises(DataError, match="line 4 can't be read") as caught:
            act()
        assert caught.value.where == f"{review.path}, line 4"
    assert "delete it" in caught.value.fix
    lines = review.path.read_text().splitlines(keepends=True)
    review.path.write_text("".join(lines[:3]))
    assert rejected_images(review.read()) == {CAT}


def test_the_example_of_the_fix_is_a_good_line(review) -> None:
    review.path.write_text(f"{HEADER}\nx\n")
    with pytest.raises(DataError) as caught:
        review.read()
    example = caught.value.fix.split("such as: ")[1].split(";")[0]
    review.path.write_text(f"{HEADER}\n{example}\n")
    assert len(review.read()) == 1


@pytest.mark.parametrize("content", [b"name,stars\nx,5\n", LINE.encode(), b"\xff\xfet\x00", b"PK\x03\x04\x00\n"])
def test_a_file_of_another_kind_is_refused_and_the_fix_works(review, content) -> None:
    review.path.write_bytes(content)
    with pytest.raises(DataError, match="line 1 can't be read") as caught:
        review.read()
    if "mv " in caught.value.fix:
        subprocess.run(shlex.split(caught.value.fix[caught.value.fix.index("mv ") :]), check=True)
        assert review.read() == []


def test_a_folder_in_its_place_is_refused_and_the_fix_works(review) -> None:
    review.path.mkdir()
    with pytest.raises(DataError, match="something else") as caught:
        review.read()
    subprocess.run(shlex.split(caught.value.fix.partition(": ")[2]), check=True)
    review.add("anna", CAT, "reject")


@pytest.mark.parametrize("name", ["", " ", "=cmd", "a,b", 'a"b', "a\nb", "x" * 61, "-x", "\u202eanna"])
def test_a_name_that_can_not_stand_in_the_file_is_refused(review, name) -> None:
    with pytest.raises(UsageError, match="no name"):
        review.add(name, CAT, "reject")
    assert not review.path.exists()


def test_threads_lose_no_line(review) -> None:
    def decide(reviewer: str) -> None:
        own = ReviewFile(review.path.parent / "pool")
        for number in range(5):
            own.add(reviewer, (f"{number}.png", "c" * 64), "reject")

    threads = [threading.Thread(target=decide, args=(f"reviewer {number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({(one.reviewer, one.image) for one in review.read()}) == len(review.read()) == 15


@pytest.mark.slow
def test_processes_that_add_and_withdraw_at_once_lose_no_line(review) -> None:
    code = """
import sys
from pathlib import Path
from diffaug.synthesis.decisions import ReviewFile
review = ReviewFile(Path(sys.argv[1]))
for number in range(10):
    review.add(sys.argv[2], (f"{number}.png", "c" * 64), "reject")
    if number % 3 == 0:
        review.withdraw(sys.argv[2], (f"{number}.png", "c" * 64))
"""
    pool = str(review.path.parent / "pool")
    started = [subprocess.Popen([sys.executable, "-c", code, pool, name]) for name in ("anna", "ben")]
    assert [process.wait() for process in started] == [0, 0]
    expected = {(name, f"{number}.png") for name in ("anna", "ben") for number in range(10) if number % 3}
    assert sorted((one.reviewer, one.image) for one in review.read()) == sorted(expected)
