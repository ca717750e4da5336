"""The React page of docs/gateway.md, as it stands there, with the client as npm packs it."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest
from selenium import webdriver

from tests.browser.conftest import Stage, console_errors
from tests.browser.page import Page
from tests.browser.test_documents import CLIENT, ROOT, SESSION, return_result, site, tasks_of
from tests.gateway.process import GatewayProcess, token

PROJECT: Final = Path(__file__).parent / "react"
HTML: Final = '<!doctype html><title>react</title><body><div id="root"></div><script src="/page.js"></script>'


def built(page: str, directory: Path) -> str:
    """The page as one script. Skips where npm cannot install what the lock file names."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(PROJECT / name, directory / name)
    (directory / "page.jsx").write_text(page)
    quiet = ["--no-audit", "--no-fund", "--ignore-scripts"]
    installed = subprocess.run(
        [npm, "ci", *quiet], cwd=directory, capture_output=True, text=True, check=False, timeout=120
    )
    if installed.returncode != 0:
        pytest.skip(f"npm cannot install React: {installed.stderr[-300:]}")
    pack = [npm, "pack", "--silent", "--pack-destination", str(directory), str(CLIENT.parent)]
    packed = subprocess.run(pack, cwd=directory, check=True, capture_output=True, text=True, timeout=60)
    own = [npm, "install", "--no-save", "--offline", *quiet, packed.stdout.split()[-1]]
    subprocess.run(own, cwd=directory, check=True, capture_output=True, timeout=60)
    bundler = directory / "node_modules" / ".bin" / "esbuild"
    options = ["page.jsx", "--bundle", "--jsx=automatic", "--log-level=error"]
    bundled = subprocess.run([bundler, *options], cwd=directory, check=True, capture_output=True, text=True, timeout=60)
    return bundled.stdout


@pytest.mark.long
def test_react_page(browser: webdriver.Chrome, stage: Stage, tmp_path: Path) -> None:
    document = (ROOT / "docs" / "gateway.md").read_text()
    (snippet,) = re.findall(r"```jsx\n(.*?)```", document, re.DOTALL)
    bearer = token(SESSION)
    pages = {"/token": bearer, "/react.html": HTML}
    with site(pages) as origin:
        gateway = GatewayProcess("react", stage.settings, stage.directory, gateway_cors_origins=json.dumps([origin]))
        pages["/page.js"] = built(snippet.replace("https://gate.example.com", gateway.url), tmp_path)
        before: set[str] = set()
        try:
            asyncio.run(gateway.start())
            page = Page(browser, origin, "")
            browser.get(f"{origin}/react.html")
            console_errors(browser)
            for shown in (1, 2):
                page.click("button")
                page.until(lambda before=before: len(tasks(gateway, bearer) - before), "a task runs")  # type: ignore[misc]
                (task_id,) = tasks(gateway, bearer) - before
                before.add(task_id)
                asyncio.run(return_result(stage, task_id))
                page.until(lambda shown=shown: page.text("main").count("shown: ") == shown, "it is shown")  # type: ignore[misc]
                page.until(lambda task_id=task_id: is_shown(gateway, bearer, task_id), "and acknowledged")  # type: ignore[misc]
                if shown == 1:
                    gateway.kill()
                    asyncio.run(gateway.start())
            assert console_errors(browser) == []
        finally:
            gateway.kill()


def tasks(gateway: GatewayProcess, bearer: str) -> set[str]:
    return {str(each["task_id"]) for each in tasks_of(gateway, bearer) if each["status"] == "running"}


def is_shown(gateway: GatewayProcess, bearer: str, task_id: str) -> bool:
    return any(each["task_id"] == task_id and each.get("acknowledged") == "shown" for each in tasks_of(gateway, bearer))
