"""Serves the page of a review on this machine alone, until Ctrl-C.

starlette and uvicorn, since MLflow brings both along, and both are kept by the authors of much that is built on them.
"""

import errno
import getpass
import os
import secrets
import socket
import sys
import webbrowser
from collections.abc import Callable, Mapping
from contextlib import suppress

from diffaug.errors import MissingExtraError, UsageError
from diffaug.synthesis.review.review import Review

try:
    import uvicorn

    from diffaug.integrations.review.application import Application
    from diffaug.integrations.review.guard import Guard
except ImportError as error:
    raise MissingExtraError.of(error.name or "starlette", "review") from error

HOST, USUAL_PORT = "127.0.0.1", 8765
SECONDS_TO_END = 2


def serve(review: Review, *, port: int | None, browser: bool, say: Callable[[str], None]) -> None:
    """Serves the page until Ctrl-C; the address, with its token, is said before.

    Raises:
        UsageError: The port is in use.
    """
    token = secrets.token_urlsafe(24)
    with _listening(port, say) as listening:
        number = listening.getsockname()[1]
        address = f"http://{HOST}:{number}/?token={token}"
        for line in _directions(address, number, os.environ, opened=browser and _open(address)):
            say(line)
        server = _server(review, token, number, say)
        with suppress(KeyboardInterrupt):  # raised again by uvicorn, after it has ended
            server.run(sockets=[listening])


def _server(review: Review, token: str, port: int, say: Callable[[str], None]) -> uvicorn.Server:
    guarded = Guard(Application(review, say).routes(), token, port)
    config = uvicorn.Config(
        guarded,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=SECONDS_TO_END,
    )
    return uvicorn.Server(config)


def _listening(port: int | None, say: Callable[[str], None]) -> socket.socket:
    """A socket at the port; without one at the usual port, or at a free one if that is in use."""
    try:
        return socket.create_server((HOST, port or USUAL_PORT))
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        if port is not None:
            is_used = error.errno == errno.EADDRINUSE
            what = f"port {port} is in use" if is_used else f"port {port} may not be used by this user"
            raise UsageError(what, where=HOST, fix="leave --port out to get a free one, or name another one") from error
        say(f"port {USUAL_PORT} is in use, perhaps by another review; a free one is taken")
        return socket.create_server((HOST, 0))


def _directions(address: str, port: int, environment: Mapping[str, str], *, opened: bool) -> list[str]:
    """How to get to the page, in lines."""
    lines = [f"review page: {address}"]
    if "SSH_CONNECTION" in environment:
        server = environment["SSH_CONNECTION"].split()[2:3] or [socket.gethostname()]
        tunnel = f"ssh -N -L {port}:{HOST}:{port} {_user()}{server[0]}"
        lines += [f"from your own computer: run there {tunnel}", "and open the same address there"]
    elif not opened:
        lines += ["open it in a browser; from another computer, first run there: "]
        lines[-1] += f"ssh -N -L {port}:{HOST}:{port} {_user()}{socket.gethostname()}"
    return [*lines, "Ctrl-C ends the review; each decision is kept at once"]


def _open(address: str) -> bool:
    """Whether a browser could be opened; one of a remote machine or inside the terminal would be of no use."""
    has_screen = sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if "SSH_CONNECTION" in os.environ or not has_screen:
        return False
    try:
        return webbrowser.open(address)
    except (webbrowser.Error, OSError):
        return False


def _user() -> str:
    with suppress(OSError, KeyError):
        return f"{getpass.getuser()}@"
    return ""
