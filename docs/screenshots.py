"""Photographs goTalk's pages in Chromium, for gotalk.md: a conversation on a phone, in light, and on a desk, in dark.

Two people talk by a real server and real pages; the same is seen by both. It needs what the tests need:
`.venv/bin/python docs/screenshots.py`, or with a folder behind it for every page in both sizes and both schemes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import react

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS.parent / "tests")]

from playwright.sync_api import Browser, expect  # noqa: E402

from tests.support.browser import BrowserThread, GotalkServer, Visitor  # noqa: E402
from tests.support.free_ports import free_port  # noqa: E402

PHONE = {"viewport": {"width": 360, "height": 640}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
DESK = {"viewport": {"width": 960, "height": 600}}

SAID = [
    ("ann", "Good morning! Is the bread ready?"),
    ("ben", "Доброе утро! 早上好!\nIn five minutes. I restarted the oven, and the server."),
    ("ann", "And nothing was lost?"),
    ("ben", "Not a crumb. <script>alert('warm')</script> is only text here, too."),
    ("ann", "Then keep me one, please!"),
]


def shoot(folder: Path, browser: Browser, server: GotalkServer, everything: bool) -> None:
    """Play the scene and take the pictures."""
    ann = Visitor(browser, server.pages, "ann", color_scheme="light", **PHONE)
    ben = Visitor(browser, server.pages, "ben", color_scheme="dark", **DESK)
    others = [Visitor(browser, server.pages, name) for name in ("Zoë", "Юрий", "the bakers' guild of the old town")]
    people = {"ann": ann, "ben": ben}
    for person in (ben, *others, ann):
        person.register()
    for person in (ann, *others):
        person.befriend("ben")
    others[1].say("Семь булок, пожалуйста!")
    others[2].say("The meeting is at eight.")
    others[2].say("Bring the sourdough.")
    ben.page.reload()
    ben.turn_to("ann")
    for n, (name, text) in enumerate(SAID):
        people[name].say(text)
        for person in people.values():
            person.sees(*(text for _, text in SAID[: n + 1]))
    expect(ben.page.locator(".count:visible")).to_have_text(["1 unread", "2 unread"])
    ben.page.screenshot(path=folder / "gotalk-desk.png")
    ann.page.screenshot(path=folder / "gotalk-phone.png")
    if everything:
        shoot_everything(folder, people)


def shoot_everything(folder: Path, people: dict[str, Visitor]) -> None:
    """Each page in both sizes and both schemes, troubles included."""
    for name, size in (("phone", PHONE), ("desk", DESK)):
        for scheme in ("light", "dark"):

            def take(what: str, person: Visitor, name: str = name, scheme: str = scheme) -> None:
                person.page.screenshot(path=folder / f"{what}-{name}-{scheme}.png")

            for person in people.values():
                person.page.set_viewport_size(size["viewport"])  # type: ignore[arg-type]
                person.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            ben = people["ben"]
            take("talk", ben)
            ben.page.route("**/send", lambda route: route.abort(), times=1)
            ben.say("This one does not get through.")
            expect(ben.page.get_by_role("button", name="Try again")).to_be_visible()
            take("failed", ben)
            ben.page.get_by_role("button", name="Discard").click()
            ben.page.evaluate("location.hash = ''")
            take("people", ben)
            ben.page.evaluate("history.back()")
            expect(ben.page.get_by_role("heading", name="ann")).to_be_visible()
            door = people["ann"]
            door.page.goto("/register")
            take("register", door)
            door.page.goto("/login")
            door.page.get_by_label("Username").fill("ann")
            door.page.get_by_label("Password").fill("wrong")
            door.page.keyboard.press("Enter")
            expect(door.page.get_by_role("alert")).not_to_be_empty()
            take("login", door)


async def main(_reactor: object, *arguments: str) -> None:
    """All of it, with a server of its own."""
    folder = Path(arguments[0]) if arguments else DOCS
    with tempfile.TemporaryDirectory() as place:
        server, chromium = GotalkServer(Path(place), free_port), BrowserThread()
        await server.start()
        try:
            await chromium.play(lambda browser, server: shoot(folder, browser, server, bool(arguments)), server)
        finally:
            await chromium.close()
            await server.kill()


if __name__ == "__main__":
    react(lambda reactor, *arguments: Deferred.fromCoroutine(main(reactor, *arguments)), sys.argv[1:])
