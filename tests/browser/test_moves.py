"""Every move of the user, with everything that can happen to a page meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Final

import pytest
from selenium import webdriver

from tests.browser.conftest import Stage, console_errors
from tests.browser.page import Page

MOVES: Final = ("navigate", "new conversation", "archive", "close the tab")
TROUBLES: Final = ("reload", "second tab", "network cut", "gateway killed")
IN_SHORT: Final = {
    ("navigate", "gateway killed"),
    ("new conversation", "reload"),
    ("archive", "network cut"),
    ("close the tab", "second tab"),
}
"""Each move and each trouble once. The other pairs are for `make test-all`."""

CASES: Final = [
    pytest.param(*case, marks=[] if case in IN_SHORT else [pytest.mark.long], id=" x ".join(case))
    for case in itertools.product(MOVES, TROUBLES)
]


def move(page: Page, stage: Stage, what: str) -> None:
    """The user asks for something and moves on before it is there."""
    if what == "navigate":
        page.click("#ask-search")
        page.until(lambda: page.stage() == "running", "an agent is at work")
        stage.pause_agents()
        page.click("[data-view=hotels]")
    else:
        page.ask()
        stage.pause_agents()
        if what == "new conversation":
            page.click("#new-conversation")
        elif what == "archive":
            page.click(".message.mine button")
        else:
            close(page, stage)
            return
    page.flush()


def close(page: Page, stage: Stage) -> None:
    """Close the tab, and wait until the gate knows that nobody is there."""
    session_id, client = page.run("[window.demo.session.id, window.demo.client]")
    page.close()

    def is_absent() -> bool:
        facets = stage.read(session_id, "context")["facets"]
        return bool(facets[f"presence/{client}"] == "absent")

    page.until(is_absent, "the page has told that it is being closed")


def trouble(page: Page, stage: Stage, what: str, *, closed: bool) -> None:
    """What happens then, and the result comes. A tab that was closed is opened again."""
    if what == "reload":
        if closed:
            come_back_to_what_waits(page, stage)
        else:
            page.open()
    elif what == "network cut":
        if closed:
            page.open()
        page.network(offline=True)
        stage.resume_agents()
        time.sleep(3)  # the result comes meanwhile
        page.network(offline=False)
    elif what == "gateway killed":
        stage.gateway.kill()
        stage.resume_agents()
        asyncio.run(stage.gateway.start())
        if closed:
            come_back_to_what_waits(page, stage)
    stage.resume_agents()


def come_back_to_what_waits(page: Page, stage: Stage) -> None:
    """Open a tab that was closed, once the answer waits for the user."""
    stage.resume_agents()
    page.until(lambda: stage.read(page.session_id, "inbox")["held"], "the answer waits")
    page.open()


@pytest.mark.parametrize(("what", "happens"), CASES)
def test_move(browser: webdriver.Chrome, stage: Stage, new_session: Callable[[], str], what: str, happens: str) -> None:
    page = Page(browser, stage.gateway.url, new_session()).open()
    console_errors(browser)
    expected, reason = {
        "navigate": ("delivered", "released"),
        "new conversation": ("withheld", "another conversation"),
        "archive": ("withheld", "archived"),
        "close the tab": ("delivered", ""),
    }[what]
    closed = what == "close the tab"
    second = None
    try:
        if happens == "second tab":  # it hears by the first one, and goes on by itself when that one closes
            second = Page(browser, stage.gateway.url, page.session_id).open(new_tab=True)
            page.show()
        move(page, stage, what)
        trouble(page, stage, happens, closed=closed)
        if what == "navigate":
            page.until(lambda: page.stage() == "held", "the answer waits")
            page.click("[data-view=flights]")
        if closed and second is not None:
            second.show()
            second.until(lambda: second.stage() == expected, "the tab that is left has it")
            browser.switch_to.window(next(each for each in browser.window_handles if each != second.handle))
            page.open()
        for each in filter(None, (page, second)):
            each.show()
            each.until(lambda each=each: each.stage() == expected, f"it is {expected}")  # type: ignore[misc]
            assert reason in each.words()
            assert each.results() == 1, "once, and only once"
        assert console_errors(browser) == []
    finally:
        stage.resume_agents()
        page.network(offline=False)
        if second is not None:
            second.show()
            browser.close()
        browser.switch_to.window(browser.window_handles[0])


@pytest.mark.long
def test_leaving_and_coming_back(browser: webdriver.Chrome, stage: Stage, new_session: Callable[[], str]) -> None:
    """The button that plays a closed tab."""
    page = Page(browser, stage.gateway.url, new_session()).open()
    page.ask()
    page.click("#leave")
    page.until(lambda: stage.read(page.session_id, "inbox")["held"], "the answer waits")
    page.click("#back")
    page.until(lambda: page.stage() == "delivered", "it is delivered")
    assert "released" in page.words()


@pytest.mark.long
def test_what_the_switch_shows(browser: webdriver.Chrome, stage: Stage, new_session: Callable[[], str]) -> None:
    page = Page(browser, stage.gateway.url, new_session()).open()
    page.click("#ask-lunch")
    page.until(lambda: page.stage() == "running", "an agent is at work")
    stage.pause_agents()
    try:
        page.click(".meeting[data-id=budget] button")
        page.flush()
    finally:
        stage.resume_agents()
    page.until(lambda: page.stage() in {"withheld", "delivered"}, "it is decided")
    page.until(lambda: "marked as outdated; the change was withheld" in page.words(), "both parts are told of")
    assert not page.all(".meeting.by-agent")
    assert page.all(".message.outdated")
    page.run("document.getElementById('gate').click()")
    page.until(lambda: page.all(".meeting.by-agent.wrong"), "without the gate it is in the calendar")
    page.run("document.getElementById('gate').click()")
    page.until(lambda: not page.all(".meeting.by-agent"), "with the gate it is not")


def test_cancel_leaves_a_receipt(browser: webdriver.Chrome, stage: Stage, new_session: Callable[[], str]) -> None:
    page = Page(browser, stage.gateway.url, new_session()).open()
    page.ask()
    stage.pause_agents()
    try:
        page.click(".task button")
        page.until(lambda: page.stage() == "cancelled", "it is cancelled")
    finally:
        stage.resume_agents()
    page.until(lambda: "never begun: " in page.words(), "with a receipt")
    page.until(lambda: "came all the same, and was withheld" in page.words(), "and its late result is withheld")


@pytest.mark.long
def test_pages_left_behind_hold_no_connection(
    browser: webdriver.Chrome, stage: Stage, new_session: Callable[[], str]
) -> None:
    """A browser keeps pages for its back button, and has six connections for a host."""
    for _ in range(8):
        page = Page(browser, stage.gateway.url, new_session()).open()
    page.ask()
    browser.back()
    browser.back()  # over about:blank
    page.until(lambda: "connected" in page.text("#connection"), "the page before is connected again")
    page.ask()
