"""The command review: how it begins and ends, and what it says."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from http.cookiejar import CookieJar

import pytest

from diffaug.errors import MissingExtraError
from diffaug.files.temporaries import host
from diffaug.stages import review as stage

pytestmark = pytest.mark.e2e


def test_the_answer_counts_decisions_and_names_the_next_command(answer, study, monkeypatch) -> None:
    shown = {}

    def page(review, *, port, browser, say):
        shown.update(port=port, browser=browser, study=review.study)
        review.decide(0, "anna", "reject")

    monkeypatch.setattr(stage, "_page", lambda: page)
    ended = answer("review", str(study), "--no-browser", "--port", "8901")
    assert shown == {"port": 8901, "browser": False, "study": "copy"}
    assert ended["results"]["rejected"] == 1
    assert ended["next"] == f"diffaug evaluate {study}"
    assert answer("generate", str(study))["results"]["images"] == ended["results"]["images"] - 1


def test_what_a_killed_reviewer_left_is_removed(answer, study, monkeypatch) -> None:
    left = study / f".review.csv.{host()}.{2**22 + 1}.tmp"  # larger than any number of a process
    left.write_text("half a line")
    monkeypatch.setattr(stage, "_page", lambda: lambda *_, **__: None)
    assert answer("review", str(study))["status"] == "ok"
    assert not left.exists()


def test_what_is_missing_is_said_with_what_helps(fails, study, tmp_path, monkeypatch) -> None:
    (study / "review.csv").write_text("nonsense\n")
    code, message = fails("review", str(study))
    assert (code, "line 1 can't be read" in message) == (3, True)
    (study / "review.csv").unlink()
    (study / "pool" / "DONE.json").unlink()
    code, message = fails("review", str(study))
    assert (code, f"diffaug generate {study}" in message) == (2, True)
    assert fails("review", str(tmp_path / "nothing"))[0] == 2

    def lacking() -> None:
        raise MissingExtraError.of("starlette", "review")

    monkeypatch.setattr(stage, "_page", lacking)
    code, message = fails("review", str(study))
    assert (code, "pip install 'diffaug[review]'" in message) == (4, True)


def test_ctrl_c_ends_a_real_page_cleanly_and_names_the_next_command(study) -> None:
    pytest.importorskip("uvicorn")
    command = [sys.executable, "-m", "diffaug", "review", str(study), "--no-browser"]
    environment = {name: value for name, value in os.environ.items() if name != "SSH_CONNECTION"}
    running = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    lines = []
    while not lines or "Ctrl-C" not in lines[-1]:
        lines.append(running.stderr.readline())
        assert lines[-1], lines
    address = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", "".join(lines))[0]
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    assert browser.open(address).status == 200
    base = address.partition("?")[0]
    content = json.dumps({"number": 0, "reviewer": "anna", "decision": "reject"}).encode()
    request = urllib.request.Request(f"{base}api/decision", content, {"Origin": base.rstrip("/")})
    assert json.load(browser.open(request))["judged"] == {"anna": "reject"}
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=120)
    assert (running.returncode, out) == (0, "")
    assert "1 rejected and left out" in err and err.rstrip().endswith(f"next: diffaug evaluate {study}")
    assert "Traceback" not in err
