"""The demo's page, as a visitor uses it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, Self
from urllib.parse import quote

from selenium import webdriver
from selenium.common.exceptions import ElementClickInterceptedException, StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

SECONDS: Final = 25.0


class Page:
    """One tab with the page open."""

    def __init__(self, browser: webdriver.Chrome, url: str, session_id: str) -> None:
        self._browser = browser
        self.session_id = session_id
        self._address = f"{url}/#{quote(session_id, safe='')}"
        self.handle = ""

    def open(self, *, new_tab: bool = False) -> Self:
        """Open it, in a new tab or in this one."""
        if new_tab:
            self._browser.switch_to.new_window("tab")
        self._browser.get("about:blank")  # else only the fragment would change
        self._browser.get(self._address)
        self.handle = self._browser.current_window_handle
        self.until(lambda: "connected" in self.text("#connection"), "the stream is connected")
        return self

    def close(self) -> None:
        """Close this tab as a visitor does. The browser is left at an empty one, where it can be opened again."""
        self._browser.switch_to.new_window("tab")
        empty = self._browser.current_window_handle
        self.show()
        self._browser.close()
        self._browser.switch_to.window(empty)

    def show(self) -> None:
        """Bring this tab to the front."""
        self._browser.switch_to.window(self.handle)

    def find(self, element_id: str) -> WebElement:
        """An element by its id."""
        return self._browser.find_element(By.ID, element_id)

    def all(self, selector: str) -> list[WebElement]:
        """Elements by a CSS selector."""
        return self._browser.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """The text of the first element, empty without one. In one step, as the page may replace elements any time."""
        return str(self.run(f"document.querySelector({selector!r})?.innerText || ''"))

    def click(self, selector: str) -> None:
        """Click the first element, again if the page has replaced it meanwhile."""

        def is_clicked() -> bool:
            try:
                self._browser.find_element(By.CSS_SELECTOR, selector).click()
            except (StaleElementReferenceException, ElementClickInterceptedException):
                return False
            return True

        self.until(is_clicked, f"{selector} is clicked")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        return self._browser.execute_async_script(
            f"const done = arguments[0]; Promise.resolve({script}).then(done, (error) => done(String(error)))"
        )

    def until(self, condition: Callable[[], object], describe: str) -> None:
        """Wait for a condition."""
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                if condition():
                    return
            except Exception as error:  # noqa: BLE001 - elements come and go while the page draws
                last: object = error
            else:
                last = self.stages()
            assert time.monotonic() < deadline, f"not within {SECONDS:.0f} s: {describe}. {last}"
            time.sleep(0.05)

    def stages(self) -> dict[str, str]:
        """By task, where it stands on this page."""
        found: dict[str, str] = self.run(
            "Object.fromEntries([...document.querySelectorAll('.task')].map((e) => [e.dataset.task, e.dataset.stage]))"
        )
        return found

    def stage(self) -> str | None:
        """Where the newest task stands on this page."""
        return next(iter(self.stages().values()), None)

    def words(self) -> str:
        """What the page says of the newest task."""
        return self.text(".task .why")

    def results(self) -> int:
        """How many verdicts the page has noted, over all tasks."""
        return int(
            self.run(
                "[...window.demo.entries.keys()].filter((id) => !id.startsWith('held ')).filter("
                "(id) => window.demo.entries.get(id).kind === 'result').length"
            )
        )

    def ask(self, text: str = "What should I see?") -> None:
        """Ask a question in the chat, and wait until the agent is at work."""
        question = self.find("question")
        question.clear()
        question.send_keys(text)
        self.click("#composer button")
        self.until(lambda: self.stage() == "running" and self.words() != "at work", "an agent is at work")

    def flush(self) -> None:
        """Wait until Kafka has acknowledged what this page has written."""
        assert self.run("window.demo.session._last.then(() => true)") is True

    def network(self, *, offline: bool) -> None:
        """Cut or restore the page's network."""
        self._browser.set_network_conditions(offline=offline, latency=0, throughput=10_000_000)
