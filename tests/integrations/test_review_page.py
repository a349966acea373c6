"""The page of `diffaug review` over real connections: who is let in, and what it answers."""

import errno
import http.client
import json
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from diffaug.data.images import LabeledImages
from diffaug.errors import UsageError
from diffaug.integrations.review import server
from diffaug.synthesis.pool.pool import Pool
from diffaug.synthesis.review.review import Review
from tests.conftest import eventually, write_pool

TOKEN = "the-token"
CLASSES = ("a", "<img src=x onerror=alert(1)>")


@dataclass
class Page:
    """A running page; `ask` sends a request of its browser, with other headers if given."""

    port: int
    review: Review
    said: list[str]
    running: Any

    def ask(self, method: str, path: str, content: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        own = {"Host": f"127.0.0.1:{self.port}", "Cookie": f"diffaug_review_{self.port}={TOKEN}"}
        own |= {"Origin": f"http://127.0.0.1:{self.port}"} if method == "POST" else {}
        given = own | headers
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        body = b"" if content is None else content if isinstance(content, bytes) else json.dumps(content).encode()
        for name, value in {**given, "Content-Length": str(len(body))}.items():
            if value:
                connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        connection.close()
        return found

    def get(self, path: str) -> Any:
        status, _, body = self.ask("GET", path)
        assert status == 200, body
        return json.loads(body)

    def post(self, path: str, content: Any) -> Any:
        status, _, body = self.ask("POST", path, content)
        assert status == 200, body
        return json.loads(body)

    def stored(self) -> str:
        return self.review.file.path.read_text() if self.review.file.path.exists() else ""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    made = [(label, np.full((4, 4, 1), 20 * number, np.uint8)) for number, label in enumerate([0, 0, 0, 1, 1, 1])]
    pool = write_pool(tmp_path_factory.mktemp("study") / "pool", CLASSES, made, nearest="1.png", copy_ratio=0.5)
    real = np.full((6, 4, 4, 1), 200, np.uint8)
    train = LabeledImages(real, np.repeat([0, 1], 3), CLASSES, tuple(f"{number}.png" for number in range(6)))
    catalog = SimpleNamespace(images=lambda split: train, unlabeled=lambda: (real[:0], ()))
    said: list[str] = []
    review = Review.of("study", "anna", catalog, pool)
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    running = server._server(review, TOKEN, port, said.append)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    assert eventually(lambda: running.started)
    yield Page(port, review, said, running)
    running.should_exit = True
    thread.join()


@pytest.fixture(autouse=True)
def unreviewed(page: Page) -> None:
    page.review.file.path.unlink(missing_ok=True)


def test_the_token_is_exchanged_for_a_cookie_that_no_script_and_no_other_site_can_use(page: Page) -> None:
    status, headers, body = page.ask("GET", f"/?token={TOKEN}", Cookie="")
    assert status == 200
    cookie = headers["set-cookie"].lower()
    assert f"diffaug_review_{page.port}={TOKEN}" in headers["set-cookie"]
    assert all(part in cookie for part in ("httponly", "samesite=strict", "path=/"))
    assert TOKEN.encode() not in body  # the address that the browser goes on to does not hold it
    status, headers, body = page.ask("GET", "/")
    assert status == 200 and b"page.js" in body
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert not re.search(rb"<style|<script(?! type=\"module\" src=\"/page.js\")|\son\w+=|style=|https?:", body)
    for name in ("x-content-type-options", "referrer-policy", "cross-origin-resource-policy", "x-frame-options"):
        assert name in headers


@pytest.mark.parametrize("cookie", ["", "diffaug_review_{port}=wrong", "diffaug_review_{port}=é", "other=the-token"])
def test_without_the_token_nothing_is_shown(page: Page, cookie: str) -> None:
    for path in ("/", "/page.js", "/api/study", "/?token=wrong", "/nowhere"):
        status, headers, body = page.ask("GET", path, Cookie=cookie.format(port=page.port))
        assert status == 403
        assert "set-cookie" not in headers
        assert b"study" not in body


HOSTS = ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example:{port}", "0.0.0.0:{port}", "a@127.0.0.1", "[::"]


@pytest.mark.parametrize("host", HOSTS)
def test_a_name_that_is_rebound_to_this_machine_is_refused_also_with_the_token(page: Page, host: str) -> None:
    for path in ("/api/study", f"/?token={TOKEN}"):
        assert page.ask("GET", path, Host=host.format(port=page.port))[0] in (400, 403)


@pytest.mark.parametrize(
    "origin",
    ["", "null", "http://evil.example", "http://127.0.0.1:1", "http://localhost:{port}", "https://127.0.0.1:{port}"],
)
def test_other_sites_and_other_ports_of_this_machine_can_not_decide_anything(page: Page, origin: str) -> None:
    content = {"number": 0, "reviewer": "anna", "decision": "reject"}
    status, _, _ = page.ask("POST", "/api/decision", content, Origin=origin.format(port=page.port))
    assert status == 403
    assert page.stored() == ""


def test_reading_never_decides_anything_and_a_tunnel_from_another_port_works(page: Page) -> None:
    for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS"):
        assert page.ask(method, "/api/decision")[0] in (403, 405)
    here = {"Host": "localhost:9999", "Origin": "http://localhost:9999"}
    content = {"number": 0, "reviewer": "anna", "decision": "reject"}
    assert page.ask("POST", "/api/decision", content, **here)[0] == 200
    assert page.stored().count("reject") == 1


def test_a_decision_is_kept_shown_and_taken_back(page: Page) -> None:
    for reviewer, decision in (("anna", "reject"), ("ben", "accept")):
        page.post("/api/decision", {"number": 4, "reviewer": reviewer, "decision": decision})
    (image,) = page.get("/api/images?numbers=4")
    assert (image["judged"], image["scores"], image["nearest"]) == (
        {"anna": "reject", "ben": "accept"},
        {"copy_ratio": 0.5},
        1,
    )
    assert len(Pool.open(page.review.gallery.pool.root)) == 5
    assert page.get("/api/rows?class_index=1&show=disputed") == {"synthetic": [4], "real": [3, 4, 5]}
    assert page.get("/api/rows?class_index=1&show=undecided&reviewer=anna")["synthetic"] == [3, 5]
    assert page.get("/api/classes")[1] == {
        **{"name": CLASSES[1], "real": 3, "synthetic": 3, "reviewed": 1, "rejected": 1, "blind": False}
    }
    assert page.post("/api/decision", {"number": 4, "reviewer": "anna"})["judged"] == {"ben": "accept"}
    assert len(Pool.open(page.review.gallery.pool.root)) == 6


@pytest.mark.parametrize(
    "content",
    [
        {"number": 6, "reviewer": "anna", "decision": "reject"},
        {"number": -1, "reviewer": "anna", "decision": "reject"},
        {"number": 0, "reviewer": "=cmd", "decision": "reject"},
        {"number": 0, "reviewer": "anna", "decision": "maybe"},
        {"number": "0; x", "reviewer": "anna", "decision": "reject"},
        [],
        b"{",
        b"\xff",
    ],
)
def test_a_wrong_request_is_refused_in_words_and_changes_nothing(page: Page, content: Any) -> None:
    status, _, body = page.ask("POST", "/api/decision", content)
    assert status == 400
    assert json.loads(body)["error"]
    assert page.stored() == ""


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/rows", 400),
        ("/api/rows?class_index=2", 400),
        ("/api/rows?class_index=x", 400),
        ("/api/images?numbers=9", 400),
        ("/api/images?numbers=-1", 400),
        (f"/api/images?numbers={','.join('0' * 201)}", 400),
        ("/api/../../etc/passwd", 404),
        ("/page.html/../../server.py", 404),
    ],
)
def test_wrong_addresses_are_answered(page: Page, path: str, status: int) -> None:
    assert page.ask("GET", path)[0] == status


def test_a_body_of_any_length_is_cut_off(page: Page) -> None:
    with pytest.raises((ConnectionError, AssertionError)):
        assert page.ask("POST", "/api/decision", b"x" * 10_000_000)[0] != 413
    assert page.get("/api/study")["study"] == "study"


def test_a_file_that_was_edited_into_something_else_is_told_and_kept(page: Page) -> None:
    page.review.file.path.write_text("nonsense\n")
    status, _, body = page.ask("POST", "/api/decision", {"number": 0, "reviewer": "anna", "decision": "reject"})
    assert (status, page.stored()) == (400, "nonsense\n")
    assert "line 1" in json.loads(body)["error"]


def test_images_are_kept_by_the_browser_under_names_of_this_run(page: Page) -> None:
    images = page.get("/api/study")["images"]
    for kind in ("synthetic", "real"):
        status, headers, body = page.ask("GET", f"{images}/{kind}/1.png")
        assert (status, headers["content-type"], body[:4]) == (200, "image/png", b"\x89PNG")
        assert "immutable" in headers["cache-control"]
        assert page.ask("GET", f"{images}/{kind}/99.png")[0] == 404
    assert page.ask("GET", "/api/classes")[1]["cache-control"] == "no-store"
    assert page.ask("GET", "/images/other/real/1.png")[0] == 404


def test_a_blind_test_tells_nothing_before_its_end(page: Page) -> None:
    images = page.get("/api/study")["images"]
    test = page.post("/api/test", {"count": 6, "class_index": None})
    assert 3 <= test["count"] <= 6
    synthetic = []
    for position in range(test["count"]):
        _, headers, body = page.ask("GET", f"{images}/test/{test['test']}/{position}.png")
        assert headers["cache-control"] == "no-store"
        synthetic.append(b"\xc8" not in body and page.ask("GET", f"{images}/real/0.png")[2] != body)
        answer = "synthetic" if synthetic[-1] else "real"
        found = page.post("/api/answer", {"test": test["test"], "position": position, "answer": answer})
        assert position == test["count"] - 1 or set(found) == {"left"}
        repeated = {"test": test["test"], "position": position, "answer": "real"}
        assert page.ask("POST", "/api/answer", repeated)[0] == 400  # no second guess
    assert found["sentence"].startswith(f"{test['count']} of {test['count']} right: 100 %")
    assert found["synthetic"] == found["answers"] == synthetic
    assert page.said[-1] == f"blind test: {found['sentence']}"
    assert page.ask("POST", "/api/answer", {"test": "gone", "position": 0, "answer": "real"})[0] == 400


def test_a_port_in_use_is_an_error_if_it_was_asked_for_and_else_another_one_is_taken(monkeypatch) -> None:
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} is in use") as caught:
            server._listening(port, said.append)
        assert "--port" in caught.value.fix
        monkeypatch.setattr(server, "USUAL_PORT", port)
        with server._listening(None, said.append) as other:
            assert other.getsockname()[0] == "127.0.0.1"
            assert other.getsockname()[1] != port
    assert len(said) == 1


def test_an_error_of_the_system_that_is_none_of_the_port_stays_as_it_is(monkeypatch) -> None:
    def refuse(address: object) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(OSError, match="too many"):
        server._listening(8765, print)


@pytest.mark.parametrize(
    ("environment", "opened", "words", "missing"),
    [
        ({}, True, [], "ssh"),
        ({}, False, ["ssh -N -L 8765:127.0.0.1:8765"], "nothing"),
        (
            {"SSH_CONNECTION": "10.0.0.2 50000 10.0.0.7 22"},
            False,
            ["ssh -N -L 8765:127.0.0.1:8765", "@10.0.0.7"],
            "open it in",
        ),
    ],
)
def test_the_way_to_the_page_is_told_where_no_browser_opens(environment, opened, words, missing) -> None:
    text = "\n".join(server._directions("http://127.0.0.1:8765/?token=x", 8765, environment, opened=opened))
    assert all(word in text for word in ["http://127.0.0.1:8765/?token=x", "Ctrl-C", *words])
    assert missing not in text


@pytest.mark.parametrize(("name", "value"), [("SSH_CONNECTION", "a 1 b 2"), ("DISPLAY", "")])
def test_no_browser_is_opened_in_a_terminal_or_on_a_remote_screen(monkeypatch, name, value) -> None:
    opened: list[str] = []
    monkeypatch.setattr(server.sys, "platform", "linux")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(server.webbrowser, "open", lambda address: opened.append(address) or True)
    assert server._open("http://x") and opened == ["http://x"]
    monkeypatch.setenv(name, value)
    assert not server._open("http://x") and opened == ["http://x"]
