"""People in a real browser, Debian's Chromium, on goTalk's pages, and a server for them.

Playwright drives the browser. It waits by itself for what a page is about to show, in a thread of its own, so the
reactor goes on. Whatever a page complains of is kept: errors in its console, among them what its security policy
refused, and exceptions that nobody caught.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.threads import blockingCallFromThread, deferToThread, deferToThreadPool
from twisted.python.threadpool import ThreadPool

from tests.support.server_process import Server

reactor: Any = installed

PATIENCE = 60_000.0  # milliseconds until something that does not appear is given up
PASSWORD = "the bread is warm"

expect.set_options(timeout=PATIENCE)


class GotalkServer(Server):
    """A server with goTalk's door open."""

    def __init__(self, folder: Path, free_port: Callable[[], int], *flags: str) -> None:
        port = free_port()
        own = ("--gotalk.enabled=true", "--gotalk.address=127.0.0.1/32", f"--gotalk.port={port}")
        super().__init__(folder, (free_port(), free_port()), *own, *flags)
        self.pages = f"http://127.0.0.1:{port}"

    def kill_now(self) -> None:
        """kill(), for the thread that a browser is driven from."""
        self._now(self.kill)

    def start_now(self) -> None:
        """start(), for the thread that a browser is driven from."""
        self._now(self.start)

    def _now(self, act: Callable[[], Any]) -> None:
        blockingCallFromThread(reactor, lambda: Deferred.fromCoroutine(act()))


class Visitor:
    """Somebody with a browser of their own: its cookies and what it keeps are nobody else's."""

    def __init__(self, browser: Browser, pages: str, name: str = "", **looks: Any) -> None:
        looks = {"viewport": {"width": 1000, "height": 700}, "locale": "en-GB", "timezone_id": "UTC"} | looks
        self.name = name
        self.context = browser.new_context(base_url=pages, **looks)
        self.context.set_default_timeout(PATIENCE)
        self.complaints: list[str] = []
        self.page = self.window()

    def window(self) -> Page:
        """One more window of this browser."""
        page = self.context.new_page()
        page.on("console", lambda said: self._complain(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self._complain(str(error)))
        return page

    def _complain(self, words: str) -> None:
        self.complaints.append(words)

    def check(self, *allowed: str) -> None:
        """No page has complained, but of what one of these patterns is found in."""
        found = [words for words in self.complaints if not any(re.search(one, words) for one in allowed)]
        assert not found, f"{self.name}'s pages complain: {found}"

    # What people do

    def register(self) -> None:
        self.page.goto("/register")
        self._enter("Register")

    def log_in(self) -> None:
        self.page.goto("/login")
        self._enter("Log in")

    def _enter(self, what: str) -> None:
        self.page.get_by_label("Username").fill(self.name)
        self.page.get_by_label("Password").fill(PASSWORD)
        self.page.get_by_role("button", name=what).click()
        self.is_connected()

    def is_connected(self) -> None:
        expect(self.page.get_by_role("status")).to_have_text("Connected")

    def befriend(self, name: str) -> None:
        self.page.get_by_label("Add a friend").fill(name)
        self.page.get_by_role("button", name="Add", exact=True).click()
        expect(self.page.get_by_role("heading", name=name)).to_be_visible()

    def turn_to(self, name: str) -> None:
        self.page.get_by_role("link", name=name).click()
        expect(self.page.get_by_role("heading", name=name)).to_be_visible()

    def say(self, text: str) -> None:
        self.page.get_by_label("Message", exact=True).fill(text)
        self.page.get_by_role("button", name="Send").click()

    def sees(self, *texts: str, page: Page | None = None) -> None:
        """The conversation that is open is just this, all of it acknowledged."""
        expect((page or self.page).locator("#messages p")).to_have_text([*texts])
        expect((page or self.page).locator("#outbox li")).to_have_count(0)

    def log_out(self) -> None:
        self.page.get_by_role("button", name="Log out").click()
        self.page.wait_for_url("**/login")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, without a screen."""
    path = shutil.which("chromium")
    assert path, "there is no chromium: make test installs the package"
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path)
        try:
            yield browser
        finally:
            browser.close()


Scene = Callable[[Browser, GotalkServer], None]


class BrowserThread:
    """A browser in a thread of its own, the only one that may use it. It starts with the first scene; close() it."""

    def __init__(self) -> None:
        self._pool = ThreadPool(minthreads=1, maxthreads=1, name="browser")
        self._pool.start()
        self._open = ExitStack()
        self._browser: Browser | None = None

    async def play(self, scene: Scene, server: GotalkServer) -> None:
        """Play a scene; what its people had open is closed then."""
        await deferToThreadPool(reactor, self._pool, self._play, scene, server)

    def _play(self, scene: Scene, server: GotalkServer) -> None:
        if self._browser is None:
            self._browser = self._open.enter_context(chromium())
        try:
            scene(self._browser, server)
        finally:
            for context in self._browser.contexts:
                context.close()

    async def close(self) -> None:
        """Close the browser."""
        await deferToThreadPool(reactor, self._pool, self._open.close)
        await deferToThread(self._pool.stop)
