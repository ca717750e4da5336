"""The pages that docs/gateway.md shows, as they stand there, with tokens and from another origin than the gateway's."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx
from aiokafka import AIOKafkaProducer
from selenium import webdriver

from schemas.topics import topic_name
from tests.broker.events import body, returned
from tests.browser.conftest import Stage
from tests.browser.page import Page
from tests.gateway.process import GatewayProcess, path, token

ROOT: Final = Path(__file__).parents[2]
CLIENT: Final = ROOT / "clients" / "javascript" / "src"
SESSION: Final = "acme/user-7"
BEFORE: Final = """<!doctype html><title>plain</title><body>
<script>
  const say = (what) => document.body.append(Object.assign(document.createElement('p'), { textContent: what }))
  const show = (payload) => say(`shown: ${JSON.stringify(payload)}`)
  const explain = (reason, differences) => say(`withheld: ${reason}: ${differences[0].actual}`)
</script>
"""
TICKET: Final = """<!doctype html><title>ticket</title><body><script>
  const say = (what) => document.body.append(Object.assign(document.createElement('p'), { textContent: what }))
  const events = new EventSource('GATEWAY' + location.hash.slice(1))
  events.onopen = () => say('open')
  events.addEventListener('delivered', (event) => say(`delivered ${JSON.parse(event.data).task_id}`))
</script>
"""


@contextmanager
def site(pages: dict[str, str]) -> Iterator[str]:
    """A web site of its own, with the client beside its pages; its origin."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.split("?")[0]
            if name.startswith("/tidegate/"):
                self._answer((CLIENT / Path(name).name).read_text(), "text/javascript")
            else:
                kind = {".html": "text/html", ".js": "text/javascript"}.get(Path(name).suffix, "text/plain")
                self._answer(pages.get(name, ""), kind)

        def _answer(self, text: str, kind: str) -> None:
            content = text.encode()
            self.send_response(200)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def return_result(stage: Stage, task_id: str) -> None:
    """What an agent does."""
    async with AIOKafkaProducer(**stage.settings.kafka_kwargs()) as producer:
        topic = topic_name("results", stage.settings.topic_prefix)
        await producer.send_and_wait(topic, body(returned(SESSION, task_id)), key=SESSION.encode())


def tasks_of(gateway: GatewayProcess, bearer: str) -> list[dict[str, Any]]:
    headers = {"Authorization": f"Bearer {bearer}"}
    found: list[dict[str, Any]] = httpx.get(gateway.url + path(SESSION, "tasks"), headers=headers).json()["tasks"]
    return found


def test_plain_page_and_event_source(browser: webdriver.Chrome, stage: Stage) -> None:
    document = (ROOT / "docs" / "gateway.md").read_text()
    (snippet,) = re.findall(r"```html\n(.*?)```", document, re.DOTALL)
    bearer = token(SESSION)
    pages = {"/token": bearer}
    with site(pages) as origin:
        changes = {"gateway_cors_origins": json.dumps([origin])}
        gateway = GatewayProcess("documents", stage.settings, stage.directory, **changes)
        try:
            asyncio.run(gateway.start())
            pages["/plain.html"] = BEFORE + snippet.replace("https://gate.example.com", gateway.url)
            pages["/ticket.html"] = TICKET.replace("GATEWAY", gateway.url)
            page = Page(browser, origin, "")
            browser.get(f"{origin}/plain.html")
            page.until(lambda: tasks_of(gateway, bearer), "the page's task runs")
            (task,) = tasks_of(gateway, bearer)
            asyncio.run(return_result(stage, task["task_id"]))
            page.until(lambda: "shown: " in page.all("body")[0].text, "its result is shown")
            page.until(lambda: tasks_of(gateway, bearer)[0].get("acknowledged") == "shown", "and acknowledged")

            headers = {"Authorization": f"Bearer {bearer}"}
            ticket = httpx.post(gateway.url + path(SESSION, "tickets"), headers=headers).json()["ticket"]
            browser.get("about:blank")
            browser.get(f"{origin}/ticket.html#{path(SESSION, 'events')}?ticket={ticket}")
            page.until(lambda: page.all("body")[0].text.count("open") == 1, "the EventSource is open")
            gateway.kill()
            asyncio.run(gateway.start())
            page.until(lambda: page.all("body")[0].text.count("open") == 2, "it has come back with the same ticket")
            again = httpx.post(gateway.url + path(SESSION, "tasks"), headers=headers, json={"task_type": "search"})
            asyncio.run(return_result(stage, again.json()["task_id"]))
            page.until(lambda: f"delivered {again.json()['task_id']}" in page.all("body")[0].text, "and goes on")
        finally:
            gateway.kill()
