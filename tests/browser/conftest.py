"""A headless Chromium, and the web demo's broker, worker, gateway and agents for it."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from local.broker import LocalBroker
from testing.process import Worker, environment, until_ready
from tests.gateway.process import QUERY_SECRET, GatewayProcess, path
from tidegate.settings import Settings, load_settings
from tidegate.topics import create_topics

HERE: Final = Path(__file__).parent
PACE: Final = "0.35"
"""How much of the time that agents take in the demo they take here."""
_BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
_numbers: Final = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.broker)


@pytest.fixture(scope="session")
def browser() -> Iterator[webdriver.Chrome]:
    """A headless Chromium with an empty profile. Skips where none is installed."""
    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if found is None or driver is None:
        pytest.skip("no Chromium with its driver is installed (Debian: chromium, chromium-driver)")
    options = Options()
    options.binary_location = found
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1360,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = webdriver.Chrome(service=Service(driver), options=options)
    running.set_script_timeout(20)
    try:
        yield running
    finally:
        running.quit()


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything behind the page."""

    gateway: GatewayProcess
    worker: Worker
    settings: Settings
    directory: Path
    agents: subprocess.Popen[bytes]

    def read(self, session_id: str, rest: str) -> Any:
        """What the gateway tells of a session."""
        return httpx.get(self.gateway.url + path(session_id, rest), timeout=10).raise_for_status().json()

    def pause_agents(self) -> None:
        """Stop the agents' clock, so that the user's move comes before their result however slow the machine is."""
        self.agents.send_signal(signal.SIGSTOP)

    def resume_agents(self) -> None:
        """Let them work on."""
        self.agents.send_signal(signal.SIGCONT)


@pytest.fixture(scope="session")
def stage(broker: LocalBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The web demo's processes, with agents that take less time."""
    directory = tmp_path_factory.mktemp("stage")
    settings = load_settings(
        bootstrap_servers=broker.bootstrap_servers,
        topic_prefix="browser",
        group_id="browser",
        partitions=2,
        state_dir=directory,
        metrics_port=0,
    )
    asyncio.run(create_topics(settings))
    worker = Worker("w1", settings, directory, query_secret=QUERY_SECRET)
    gateway = GatewayProcess("gateway", settings, directory, "--unauthenticated", "--demo-page")
    agents_log = (directory / "agents.log").open("wb")
    agents = subprocess.Popen(
        [sys.executable, "-m", "local.demo.agents", PACE],
        env=environment(settings),
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=agents_log,
        stderr=agents_log,
        start_new_session=True,
    )
    try:
        worker.start()
        asyncio.run(gateway.start())
        asyncio.run(until_ready([worker]))
        yield Stage(gateway, worker, settings, directory, agents)
        assert agents.poll() is None, (directory / "agents.log").read_text()
    finally:
        agents.kill()
        agents.wait()
        agents_log.close()
        gateway.kill()
        worker.kill()
        if os.environ.get("TIDEGATE_SHOW_LOGS"):
            sys.stderr.write(gateway.log_text())


@pytest.fixture
def new_session() -> Callable[[], str]:
    """Session ids that no other test uses."""
    return lambda: f"demo/browser {next(_numbers)}"


def console_errors(browser: webdriver.Chrome) -> list[dict[str, Any]]:
    """What the page has complained of since the last call, besides the network that a test cut."""
    told: list[dict[str, Any]] = browser.get_log("browser")  # type: ignore[no-untyped-call]
    return [
        each
        for each in told
        if each["level"] == "SEVERE" and "net::ERR_" not in each["message"] and "status of 503" not in each["message"]
    ]
