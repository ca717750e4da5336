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

pytestmark = pytest.mark.long
"""All of them: while other work runs, a move is now and then not shown within 25 s. One cause was the page, which took
the parts of a result in one order only; why a second tab once stayed at "running" has not been found out yet."""

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
        page.click("ask-search")
        page.until(lambda: page.stage() == "running", "an agent is at work")
        stage.pause_agents()
        page.all("[data-view=hotels]")[0].click()
    else:
        page.ask()
        stage.pause_agents()
        if what == "new conversation":
            page.click("new-conversation")
        elif what == "archive":
            page.all(".message.mine button")[0].click()
        else:
            page.click("leave")
    page.flush()


def trouble(page: Page, stage: Stage, what: str) -> Page | None:
    """What happens then, and the result comes; the second tab if there is one."""
    second = None
    if what == "reload":
        page.open()
    elif what == "second tab":
        second = Page(page._browser, stage.gateway.url, page.run("window.demo.session.id")).open(new_tab=True)
        page.show()
    elif what == "network cut":
        page.network(offline=True)
        stage.resume_agents()
        time.sleep(3)  # the result comes meanwhile
        page.network(offline=False)
    else:
        stage.gateway.kill()
        stage.resume_agents()
        asyncio.run(stage.gateway.start())
    stage.resume_agents()
    return second


def come_back(page: Page, what: str) -> None:
    """The user returns to where the answer belongs, if it waits for that."""
    if what == "navigate":
        page.until(lambda: page.stage() == "held", "the answer waits")
        page.all("[data-view=flights]")[0].click()
    elif what == "close the tab" and page.find("back").is_displayed():
        page.click("back")


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
    second = None
    try:
        move(page, stage, what)
        second = trouble(page, stage, happens)
        come_back(page, what)
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
        page.show()


def test_what_the_switch_shows(browser: webdriver.Chrome, stage: Stage, new_session: Callable[[], str]) -> None:
    page = Page(browser, stage.gateway.url, new_session()).open()
    page.click("ask-lunch")
    page.until(lambda: page.stage() == "running", "an agent is at work")
    stage.pause_agents()
    try:
        page.all(".meeting[data-id=budget] button")[0].click()
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
        page.all(".task button")[0].click()
        page.until(lambda: page.stage() == "cancelled", "it is cancelled")
    finally:
        stage.resume_agents()
    page.until(lambda: "never begun: " in page.words(), "with a receipt")
    page.until(lambda: "came all the same, and was withheld" in page.words(), "and its late result is withheld")


def test_pages_left_behind_hold_no_connection(
    browser: webdriver.Chrome, stage: Stage, new_session: Callable[[], str]
) -> None:
    """A browser keeps pages for its back button, and has six connections for a host."""
    for _ in range(8):
        page = Page(browser, stage.gateway.url, new_session()).open()
    page.ask()
    browser.back()
    browser.back()  # over about:blank
    page.until(lambda: "connected" in page.find("connection").text, "the page before is connected again")
    page.ask()
