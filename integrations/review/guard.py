"""Lets only the browser that was given the token use the page, and only from the page itself.

Any site that a browser shows can send requests to 127.0.0.1, and by DNS rebinding under a name of its own. So the host
must be this machine by name, reading takes the token in a cookie that no script can read, and writing also takes the
origin of the page, which other pages on other ports of this machine don't have.
"""

import re
import secrets
from urllib.parse import parse_qs

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

THIS_MACHINE = re.compile(r"(127\.0\.0\.1|localhost)(:\d+)?")  # a tunnel may begin at another port
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
ENTER = (
    '<!doctype html><title>diffaug review</title><link rel="icon" href="/icon.svg">'
    '<meta http-equiv="refresh" content="0; url=/">'
)


class Guard:
    """Answers in place of the application what is not allowed, and adds the headers that protect its page."""

    def __init__(self, application: ASGIApp, token: str, port: int) -> None:
        self._application, self._token = application, token
        self._cookie = f"diffaug_review_{port}"  # ports of one host share their cookies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            return

        async def protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Cache-Control", "no-store")
                headers.update(HEADERS)
            await send(message)

        await (self._answer(Request(scope)) or self._application)(scope, receive, protected)

    def _answer(self, request: Request) -> Response | None:
        """What is answered in place of the application; None if the request is allowed."""
        host = request.headers.get("host", "")
        if not THIS_MACHINE.fullmatch(host):
            return PlainTextResponse("This page is served at 127.0.0.1 only.", 403)
        given = parse_qs(request.url.query).get("token", [""])[-1]
        if request.method == "GET" and request.url.path == "/" and self._is_token(given):
            return self._enter()
        if not self._is_token(request.cookies.get(self._cookie, "")):
            return PlainTextResponse("Open the address that diffaug review printed, with its token.", 403)
        if request.method not in ("GET", "HEAD") and request.headers.get("origin") != f"http://{host}":
            return PlainTextResponse("Only the page itself may change something.", 403)
        return None

    def _enter(self) -> Response:
        """Puts the token into a cookie and goes on to the page, whose address doesn't have it.

        The page is gone to by a refresh. A redirect of a link on another site would not send the strict cookie.
        """
        response = HTMLResponse(ENTER)
        response.set_cookie(self._cookie, self._token, httponly=True, samesite="strict")
        return response

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self._token.encode())
