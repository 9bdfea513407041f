"""goTalk's pages in a real browser do what they are for, run nothing that anybody wrote, and give no token away."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_twisted
from playwright.sync_api import Browser, Error, Page, Route, expect

from tests.support.browser import PASSWORD, BrowserThread, GotalkServer, Visitor

pytestmark = pytest.mark.slow

NO_SERVER = "net::ERR_"  # what Chromium writes of each try while the server is away
OPENING = "status of 503"  # and while it opens its store
LOGGED_OUT = "the server responded with a status of 401"
REFUSED = r"the server responded with a status of 4\d\d"
IMAGE = '"><img src=x onerror="window.harmed=1">'
SCRIPT = "<script>window.harmed=1</script>"


@pytest_twisted.async_yield_fixture(scope="module")
async def chromium() -> AsyncIterator[BrowserThread]:
    """A browser that takes seconds to start; each test's people have windows and cookies of their own."""
    browser = BrowserThread()
    yield browser
    await browser.close()


@pytest_twisted.async_yield_fixture
async def server(tmp_path: Path, free_port: Callable[[], int]) -> AsyncIterator[GotalkServer]:
    """A server of each test's own."""
    server = GotalkServer(tmp_path, free_port)
    await server.start()
    yield server
    await server.kill()


def friends(browser: Browser, server: GotalkServer) -> tuple[Visitor, Visitor]:
    """Two who are there and have each other's conversation open."""
    ann, ben = Visitor(browser, server.pages, "ann"), Visitor(browser, server.pages, "ben")
    ben.register()
    ann.register()
    ann.befriend("ben")
    ben.page.reload()
    ben.turn_to("ann")
    return ann, ben


@pytest_twisted.ensureDeferred
async def test_two_people_talk_and_it_is_all_there_after_a_reload(
    server: GotalkServer, chromium: BrowserThread
) -> None:
    def scene(browser: Browser, server: GotalkServer) -> None:
        ann, ben = friends(browser, server)
        ann.say("Good morning! Is the bread ready?")
        ben.sees("Good morning! Is the bread ready?")
        ben.say("Доброе утро! 早上好!\nIn five minutes.")
        both = ["Good morning! Is the bread ready?", "Доброе утро! 早上好!\nIn five minutes."]
        for person in (ann, ben):
            person.sees(*both)
            person.page.reload()
            person.sees(*both)
            person.check()

    await chromium.play(scene, server)


@pytest_twisted.ensureDeferred
async def test_a_page_comes_back_by_itself_and_what_was_written_meanwhile_is_sent_once(
    server: GotalkServer, chromium: BrowserThread
) -> None:
    def scene(browser: Browser, server: GotalkServer) -> None:
        ann, ben = friends(browser, server)
        ann.say("before")
        ben.sees("before")
        server.kill_now()
        for person in (ann, ben):
            expect(person.page.get_by_role("status")).to_contain_text("No connection")
        ann.say("first")
        ann.say("second")
        expect(ann.page.locator("#outbox li")).to_contain_text(["Not sent. There is no connection."] * 2)
        server.start_now()
        for person in (ann, ben):
            person.is_connected()
            person.sees("before", "first", "second")
            person.check(NO_SERVER, OPENING)

    await chromium.play(scene, server)


@pytest_twisted.ensureDeferred
async def test_a_message_whose_answer_was_lost_is_tried_again_and_is_there_once(
    server: GotalkServer, chromium: BrowserThread
) -> None:
    def scene(browser: Browser, server: GotalkServer) -> None:
        ann, ben = friends(browser, server)

        def lose_the_answer(route: Route) -> None:
            route.fetch()
            route.abort()

        ann.page.route("**/send", lose_the_answer, times=1)
        ann.say("once")
        again = ann.page.get_by_role("button", name="Try again")
        expect(again).to_be_visible()
        ben.sees("once")
        again.click()
        for person in (ann, ben):
            person.sees("once")
            person.page.reload()
            person.sees("once")
            person.check(NO_SERVER)

    await chromium.play(scene, server)


@pytest_twisted.ensureDeferred
async def test_what_was_not_sent_outlives_a_reload(server: GotalkServer, chromium: BrowserThread) -> None:
    def scene(browser: Browser, server: GotalkServer) -> None:
        ann, ben = friends(browser, server)
        ann.page.route("**/send", lambda route: route.abort(), times=1)
        ann.say("kept")
        expect(ann.page.get_by_role("button", name="Try again")).to_be_visible()
        ann.page.reload()
        for person in (ann, ben):
            person.sees("kept")
            person.check(NO_SERVER)

    await chromium.play(scene, server)


@pytest_twisted.ensureDeferred
async def test_a_refused_message_says_why_and_can_be_discarded(server: GotalkServer, chromium: BrowserThread) -> None:
    def scene(browser: Browser, server: GotalkServer) -> None:
        ann, ben = friends(browser, server)
        ann.say("x" * 40_000)
        expect(ann.page.locator("#outbox li")).to_contain_text("Not sent. The text is longer than")
        ann.say("short")
        ben.sees("short")
        ann.page.get_by_role("button", name="Discard").click()
        ann.sees("short")
        ann.check(REFUSED)

    await chromium.play(scene, server)


@pytest_twisted.ensureDeferred
async def test_all_windows_and_devices_show_everything_and_unread_is_counted(
    server: GotalkServer, chromium: BrowserThread
) -> None:
    def scene(browser: Browser, server: GotalkServer) -> None:
        ann, ben = friends(browser, server)
        window, phone = ann.window(), Visitor(browser, server.pages, "ann")
        window.route("**/sync", lambda route: None)  # it gets nothing by itself, only from the other window
        window.goto(ann.page.url)
        phone.log_in()
        for n in range(3):
            ben.say(f"{n}")
        texts = ["0", "1", "2"]
        ann.sees(*texts)
        ann.sees(*texts, page=window)
        expect(phone.page.get_by_role("link", name="ben")).to_have_text("ben 3 unread")
        expect(phone.page).to_have_title("(3) goTalk")
        phone.turn_to("ben")
        phone.sees(*texts)
        expect(phone.page).to_have_title("goTalk")
        phone.say("from the phone")
        window.reload()
        ann.sees(*texts, "from the phone", page=window)
        for person in (ann, ben, phone):
            person.check()

    await chromium.play(scene, server)


@pytest_twisted.ensureDeferred
async def test_a_long_conversation_is_shown_from_its_end_and_goes_back_to_its_beginning(
    server: GotalkServer, chromium: BrowserThread
) -> None:
    def scene(browser: Browser, server: GotalkServer) -> None:
        ann, _ = friends(browser, server)
        texts = [f"number {n}" for n in range(130)]
        for text in texts[:-1]:
            answer = ann.context.request.post("/send", form={"sendToId": "1", "content": text})
            assert answer.ok, answer.text()
        ann.say(texts[-1])
        ann.page.reload()
        ann.sees(*texts[-100:])
        expect(ann.page.get_by_text(texts[-1])).to_be_in_viewport()
        ann.page.get_by_role("button", name="Earlier messages").click()
        ann.sees(*texts)
        expect(ann.page.get_by_role("button", name="Earlier messages")).to_be_hidden()
        ann.check()

    server.flags += ["--limits.messages-per-second=0"]
    await server.kill()
    await server.start()
    await chromium.play(scene, server)


@pytest_twisted.ensureDeferred
async def test_markup_in_names_and_messages_is_text(server: GotalkServer, chromium: BrowserThread) -> None:
    """As it is written by somebody who wants to run it in another one's browser."""

    def scene(browser: Browser, server: GotalkServer) -> None:
        eve, mallory = Visitor(browser, server.pages, SCRIPT), Visitor(browser, server.pages, IMAGE)
        eve.register()
        mallory.register()
        mallory.befriend(SCRIPT)
        mallory.say(SCRIPT)
        mallory.say(IMAGE)
        expect(eve.page.locator("#people .name")).to_have_text([IMAGE])
        eve.turn_to(IMAGE)
        eve.sees(SCRIPT, IMAGE)
        for person, other in ((eve, IMAGE), (mallory, SCRIPT)):
            expect(person.page.locator("#me")).to_have_text(person.name)
            expect(person.page.locator("#other")).to_have_text(other)
            assert person.page.locator("main img, nav img, #me *, main script, nav script").count() == 0
            person.page.get_by_label("Add a friend").fill(IMAGE * 3)
            person.page.get_by_role("button", name="Add", exact=True).click()
            expect(person.page.get_by_role("alert")).not_to_be_empty()
            person.page.goto("/login?" + "username=" + IMAGE)
            expect(person.page.get_by_label("Username")).to_have_value(IMAGE)
            assert person.page.evaluate("window.harmed") is None
            person.check(REFUSED)

    await chromium.play(scene, server)


@pytest_twisted.ensureDeferred
async def test_the_policy_would_stop_a_mistake_and_these_tests_would_see_it(
    server: GotalkServer, chromium: BrowserThread
) -> None:
    """As if markup had got into a page, on its way or by its own script."""

    def spoil(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace("<body", f'{SCRIPT}<img title="{IMAGE}<body'))

    def scene(browser: Browser, server: GotalkServer) -> None:
        ann = Visitor(browser, server.pages, "ann")
        ann.register()
        ann.check()
        for path in ("/login", "/register", "/send"):
            ann.complaints.clear()
            ann.page.route(f"**{path}", spoil, times=1)
            ann.page.goto(path)
            expect(ann.page.locator("script:not([src])")).to_have_count(1)
            with pytest.raises(Error, match="TrustedHTML"):
                ann.page.evaluate("html => { document.body.innerHTML = html }", IMAGE)
            assert ann.page.evaluate("window.harmed") is None
            for what in ("inline script", "inline event handler", "TrustedHTML"):
                assert any(what in words for words in ann.complaints), f"{what}: {ann.complaints}"

    await chromium.play(scene, server)


@pytest_twisted.ensureDeferred
async def test_no_script_and_no_address_ever_has_the_token(server: GotalkServer, chromium: BrowserThread) -> None:
    def scene(browser: Browser, server: GotalkServer) -> None:
        ann = Visitor(browser, server.pages, "ann")
        told: list[str] = []
        ann.page.on("request", lambda one: told.append(f"{one.url} {one.post_data}"))

        def read_along(route: Route) -> None:
            answer = route.fetch()
            told.append(answer.text())
            route.fulfill(response=answer)

        ann.register()
        ann.page.route("**/login", read_along)
        ann.log_in()
        assert re.search(r"/send\?username=ann&token=cookie$", ann.page.url)
        (cookie,) = ann.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        secret = cookie["value"]
        assert len(secret) > 40
        assert '{"Id":1,"Name":"ann","Pwd":"","SessionID":""}' in told
        assert ann.page.evaluate("document.cookie") == ""
        kept = ann.page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
        assert not any(secret in words for words in [*told, ann.page.url, ann.page.content(), kept])
        assert not any(PASSWORD in words for words in [ann.page.url, ann.page.content(), kept])

    await chromium.play(scene, server)


@pytest_twisted.ensureDeferred
async def test_after_logging_out_nothing_private_is_left(server: GotalkServer, chromium: BrowserThread) -> None:
    def scene(browser: Browser, server: GotalkServer) -> None:
        ann, _ = friends(browser, server)
        ann.say("nobody else's business")
        ann.sees("nobody else's business")
        window, address = ann.window(), ann.page.url
        window.goto(address)
        ann.sees("nobody else's business", page=window)
        ann.log_out()
        window.wait_for_url("**/login")
        assert ann.context.cookies() == []
        assert ann.page.evaluate("sessionStorage.length") == 0
        for way in ("back", "by its address"):
            ann.page.go_back() if way == "back" else ann.page.goto(address)
            expect(ann.page).to_have_url(re.compile("/(login|register)$"))
            expect(ann.page.get_by_label("Password")).to_be_empty()
            assert "business" not in ann.page.content()
        ann.check(LOGGED_OUT)

    await chromium.play(scene, server)


@pytest_twisted.ensureDeferred
async def test_what_cannot_be_is_said_where_it_was_tried(server: GotalkServer, chromium: BrowserThread) -> None:
    def scene(browser: Browser, server: GotalkServer) -> None:
        ann = Visitor(browser, server.pages, "ann")
        ann.register()
        ann.page.get_by_label("Add a friend").fill("nobody")
        ann.page.keyboard.press("Enter")
        expect(ann.page.get_by_role("alert")).to_have_text("There is no user with this name.")
        ann.log_out()
        ann.page.get_by_label("Username").fill("ann")
        ann.page.get_by_label("Password").fill("not the password")
        ann.page.keyboard.press("Enter")
        expect(ann.page.get_by_role("alert")).to_have_text("The username or the password is wrong.")
        expect(ann.page.get_by_label("Password")).to_be_focused()
        assert ann.page.url.endswith("/login")
        ann.page.goto("/register")
        ann.page.get_by_label("Username").fill("ANN")
        ann.page.get_by_label("Password").fill(PASSWORD)
        ann.page.keyboard.press("Enter")
        expect(ann.page.get_by_role("alert")).to_have_text("This username is taken; choose another one.")
        expect(ann.page.get_by_label("Username")).to_be_focused()
        ann.check(REFUSED)

    await chromium.play(scene, server)


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until this has the focus."""
    for _ in range(30):
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab does not lead to {selector}")


@pytest_twisted.ensureDeferred
async def test_the_keyboard_is_enough(server: GotalkServer, chromium: BrowserThread) -> None:
    def scene(browser: Browser, server: GotalkServer) -> None:
        ben = Visitor(browser, server.pages, "ben")
        ben.register()
        ann = Visitor(browser, server.pages, "ann")
        page, keys = ann.page, ann.page.keyboard
        page.goto("/register")
        expect(page.get_by_label("Username")).to_be_focused()
        for key in ("ann", "Tab", PASSWORD, "Enter"):
            keys.press(key) if key in ("Tab", "Enter") else keys.type(key)
        ann.is_connected()
        tab_to(page, "#friend")
        keys.type("ben")
        keys.press("Enter")
        expect(page.get_by_label("Message", exact=True)).to_be_focused()
        keys.type("two")
        keys.press("Shift+Enter")
        keys.type("lines")
        keys.press("Enter")
        ann.sees("two\nlines")
        expect(page.get_by_label("Message", exact=True)).to_be_focused()
        tab_to(page, "#people a")
        tab_to(page, "#log")
        tab_to(page, "#logout")
        keys.press("Enter")
        page.wait_for_url("**/login")
        ann.check()

    await chromium.play(scene, server)


@pytest_twisted.ensureDeferred
async def test_on_a_phone_there_is_one_thing_at_a_time_and_nothing_is_too_wide(
    server: GotalkServer, chromium: BrowserThread
) -> None:
    def scene(browser: Browser, server: GotalkServer) -> None:
        phone = {"viewport": {"width": 360, "height": 640}, "has_touch": True, "is_mobile": True}
        long = "w" * 150
        ann, ben = Visitor(browser, server.pages, "ann", **phone), Visitor(browser, server.pages, long, **phone)
        people, talk = ann.page.get_by_role("navigation"), ann.page.get_by_role("main")
        for path in ("/login", "/register"):
            ann.page.goto(path)
            fits(ann.page)
        ben.register()
        ann.register()
        fits(ann.page)
        expect(people).to_be_visible()
        expect(talk).to_be_hidden()
        ann.befriend(long)
        expect(people).to_be_hidden()
        ann.say(long * 2)
        ann.sees(long * 2)
        fits(ann.page)
        ann.page.get_by_role("link", name="Back to people").click()
        expect(people).to_be_visible()
        expect(talk).to_be_hidden()
        fits(ann.page)
        ann.turn_to(long)
        ann.page.go_back()
        expect(people).to_be_visible()
        ann.check()

    await chromium.play(scene, server)


def fits(page: Page) -> None:
    """Nothing has to be scrolled sideways, nor a button's finger be small."""
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for button in page.get_by_role("button").all():
        box = button.bounding_box()
        assert box is None or (box["height"] >= 44 and box["x"] + box["width"] <= 360), box
