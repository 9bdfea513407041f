"""goTalk's pages at their old addresses, and the files that they are made of: static/, read once, at the start.

The pages are the same for everybody and hold nothing of anybody: what a person sees is fetched by their scripts. The
scripts may do nothing but that. Whatever they show is text, never markup: Trusted Types see to it as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib.resources import files
from typing import Any, Final

from twisted.web.http import CACHED

from mercury.http.server import HttpRequest

PAGES: Final = {"/login": "login.html", "/register": "register.html", "/send": "send.html"}
MOVED: Final = {"/": "/login", "/sync": "/send"}  # what /sync showed is part of the chat's page
KINDS: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

#: Content Security Policy Level 3, and Trusted Types.
PAGE_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # the address of the chat's page has a name in it
}


def add_pages(app: Any) -> None:
    """Give a Klein application routes to all of it."""
    folder = files("mercury.gotalk") / "static"
    routes = {file.name: f"/{file.name}" for file in folder.iterdir()} | {page: path for path, page in PAGES.items()}
    for name, path in routes.items():
        kind = name[name.rindex(".") :]
        serve = _file((folder / name).read_bytes(), KINDS[kind], is_page=kind == ".html")
        app.route(path, methods=["GET"], endpoint=f"file {path}")(serve)
    for path, target in MOVED.items():
        app.route(path, methods=["GET"], endpoint=f"moved {path}")(_moved(target))


def _file(content: bytes, kind: str, is_page: bool) -> Callable[[HttpRequest], bytes]:
    """A browser keeps no page, so that after logging out its back button asks again; it keeps the rest, and asks each
    time whether that is still so (RFC 9111, 5.2.2.4)."""
    headers = {"Content-Type": kind, "Cache-Control": "no-store" if is_page else "no-cache"} | PAGE_HEADERS
    tag = b'"' + hashlib.sha256(content).hexdigest()[:16].encode() + b'"'

    def respond(request: HttpRequest) -> bytes:
        body = request.respond(200, content, headers)
        if not is_page and request.setETag(tag) is CACHED:  # type: ignore[no-untyped-call]
            return b""
        return body

    return respond


def _moved(target: str) -> Callable[[HttpRequest], bytes]:
    def respond(request: HttpRequest) -> bytes:
        return request.respond(302, b"", {"Location": target, "Content-Type": "text/plain"} | PAGE_HEADERS)

    return respond
