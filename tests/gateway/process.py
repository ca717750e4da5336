"""A gateway as a process of its own, and clients of it: requests with tokens, and event streams that resume."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx
import jwt

from gateway.routing import encode_id
from local.broker import free_port
from testing.process import environment
from tests.broker.waiting import wait_for
from tidegate.settings import Settings

SECRET: Final = "a secret of the tests, with more than 32 bytes"
TICKET_SECRET: Final = "another secret of the tests, for tickets only"
QUERY_SECRET: Final = "a third one, that workers and gateways share"
EVERYTHING: Final = ("read", "context", "dispatch", "cancel", "acknowledge", "cause")


def token(*sessions: str, actions: Sequence[str] = EVERYTHING, seconds: float = 600.0, **claims: Any) -> str:
    """A bearer token for some sessions."""
    granted = {"sessions": list(sessions), "actions": list(actions), **claims.pop("grant", {})}
    told = {"aud": "tidegate", "exp": time.time() + seconds, "sub": "user", "tidegate": granted, **claims}
    return jwt.encode(told, SECRET, algorithm="HS256")


class GatewayProcess:
    """One `tidegate gateway`, on a port that stays the same over its starts."""

    def __init__(self, name: str, settings: Settings, directory: Path, *options: str, **changes: Any) -> None:
        self.port = free_port()
        self.metrics_port = free_port()
        self.log_file = directory / f"{name}.log"
        self._options = options
        self._directory = directory
        self._environment = environment(
            settings,
            **{
                "gateway_port": self.port,
                "metrics_port": self.metrics_port,
                "gateway_jwt_secret": SECRET,
                "query_secret": QUERY_SECRET,
                "gateway_ticket_secret": TICKET_SECRET,
                "gateway_requests_per_second": 10_000,
                "gateway_streams_per_token": 10_000,
                "gateway_heartbeat_seconds": 1,
                "log_format": "json",
                **changes,
            },
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if error is not None:
            sys.stderr.write(f"--- gateway at {self.url}\n{self.log_text()[-6000:]}\n")

    def launch(self) -> None:
        """Start it; returns at once."""
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tidegate", "gateway", *self._options],
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def start(self) -> Self:
        """Start it and wait until it is ready."""
        self.launch()

        async def is_ready() -> bool:
            assert self.exit_status is None, f"the gateway has ended\n{self.log_text()}"
            try:
                async with httpx.AsyncClient() as client:
                    return (await client.get(f"{self.url}/readyz")).status_code == 200
            except httpx.TransportError:
                return False

        await wait_for(is_ready, 30, "the gateway is ready", self.log_text)
        return self

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process of the last start."""
        assert self._process is not None
        return self._process

    @property
    def exit_status(self) -> int | None:
        """None while it runs."""
        return self.process.poll()

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def terminate(self) -> int:
        """End it with SIGTERM; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, 30)

    async def metrics(self) -> str:
        """What it shows to Prometheus."""
        async with httpx.AsyncClient() as client:
            return (await client.get(f"http://127.0.0.1:{self.metrics_port}/metrics")).text

    def log_text(self) -> str:
        """Everything it has printed."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def client(self, bearer: str | None = None, **options: Any) -> httpx.AsyncClient:
        """An HTTP client with a token."""
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=30, **options)


def path(session_id: str, rest: str) -> str:
    """The path of a resource of a session."""
    return f"/v1/sessions/{encode_id(session_id)}/{rest}"


@dataclass(frozen=True, slots=True)
class Heard:
    """One server-sent event. `name` is empty for a block that only moves the cursor."""

    id: str | None
    name: str
    data: Any


async def blocks(lines: AsyncIterator[str]) -> AsyncIterator[Heard]:
    """Parse an event stream, as the HTML Living Standard says."""
    fields: dict[str, str] = {}
    async for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
            continue
        if fields and "retry" not in fields:
            data = json.loads(fields["data"]) if "data" in fields else None
            yield Heard(fields.get("id"), fields.get("event", ""), data)
        fields = {}


class Listener:
    """A client of an event stream that notes everything and comes back with its cursor when the connection ends."""

    def __init__(self, urls: Sequence[str], session_id: str, bearer: str | None, *, cursor: str | None = None) -> None:
        self.heard: list[Heard] = []
        self.cursor = cursor
        self.connections = 0
        self.statuses: list[int] = []
        self._urls = list(urls)
        self._session_id = session_id
        self._headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            url = self._urls[self.connections % len(self._urls)]
            self.connections += 1
            with suppress(httpx.TransportError):
                await self._follow(url)
            await asyncio.sleep(0.05)

    async def _follow(self, url: str) -> None:
        headers = {**self._headers, **({"Last-Event-ID": self.cursor} if self.cursor else {})}
        async with (
            httpx.AsyncClient(base_url=url, timeout=httpx.Timeout(10.0, read=10.0)) as client,
            client.stream("GET", path(self._session_id, "events"), headers=headers) as response,
        ):
            self.statuses.append(response.status_code)
            if response.status_code != 200:
                return
            async for each in blocks(response.aiter_lines()):
                if each.id is not None:
                    self.cursor = each.id
                if each.name:
                    self.heard.append(each)

    def of(self, *names: str) -> list[Heard]:
        """The events with one of these names."""
        return [each for each in self.heard if each.name in names]

    async def until(self, condition: Callable[[], object], describe: str, timeout_seconds: float = 20) -> None:
        """Wait for a condition on what was heard."""

        async def check() -> bool:
            return bool(condition())

        await wait_for(check, timeout_seconds, describe, lambda: self.heard)


@asynccontextmanager
async def listening(listener: Listener) -> AsyncIterator[Listener]:
    """The listener at work, connected and at a known position."""
    task = asyncio.create_task(listener.run())
    try:
        await listener.until(lambda: listener.cursor, "the stream has a position")
        yield listener
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
