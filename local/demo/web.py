"""`tidegate demo --web`: broker, worker, gateway and agents, and one page to try them with."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shutil
import signal
import tempfile
import time
import urllib.request
from pathlib import Path

from rich.console import Console

from local.broker import LocalBroker, free_port
from local.demo.processes import Child
from local.kafka_jars import classpath
from tidegate.errors import TidegateError
from tidegate.settings import load_settings
from tidegate.topics import create_topics

PARTITIONS = 4
_READY_SECONDS = 60.0


def run_web_demo(port: int) -> int:
    """Serve the page until Ctrl-C or SIGTERM. Everything that is started and written is gone when it ends.

    Raises `TidegateError` if a part of it cannot start or dies.
    """
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    console = Console()
    classpath()
    directory = Path(tempfile.mkdtemp(prefix="tidegate-demo-"))
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with console.status("starting Apache Kafka"):
            broker = LocalBroker(ephemeral=True, short_lived=True).__enter__()
        with broker:
            asyncio.run(_serve(console, broker, directory, port or free_port()))
    except KeyboardInterrupt:
        console.print("stopped")
    finally:
        signal.signal(signal.SIGTERM, previous)
    shutil.rmtree(directory, ignore_errors=True)
    return 0


async def _serve(console: Console, broker: LocalBroker, directory: Path, port: int) -> None:
    metrics_port = free_port()
    given: dict[str, object] = {
        "bootstrap_servers": broker.bootstrap_servers,
        "security_protocol": "PLAINTEXT",
        "topic_prefix": "tidegate",
        "group_id": "tidegate",
        "partitions": PARTITIONS,
        "replication_factor": 1,
        "metrics_host": "127.0.0.1",
        "metrics_port": metrics_port,
        "query_host": "127.0.0.1",
        "query_port": 0,
        "query_secret": secrets.token_hex(32),
        "gateway_host": "127.0.0.1",
        "gateway_port": port,
        "state_dir": str(directory),
    }
    await create_topics(load_settings(**given))
    environment = {f"TIDEGATE_{name.upper()}": str(value) for name, value in given.items()}

    def child(name: str, *arguments: str) -> Child:
        return Child(name, list(arguments), environment, directory)

    async with (
        child("worker", "-m", "tidegate", "worker") as worker,
        Child(
            "gateway",
            ["-m", "tidegate", "gateway", "--unauthenticated", "--demo-page"],
            {**environment, "TIDEGATE_METRICS_PORT": "0"},
            directory,
        ) as gateway,
        child("agents", "-m", "local.demo.agents") as agents,
    ):
        children = [asyncio.create_task(each.ended()) for each in (worker, gateway, agents)]
        try:
            with console.status("starting a worker, a gateway and the agents"):
                urls = [f"http://127.0.0.1:{metrics_port}/readyz", f"http://127.0.0.1:{port}/readyz"]
                waiting = asyncio.create_task(_ready(urls))
                await asyncio.wait([waiting, *children], return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                waiting.result()
                console.print(f"The page: [bold]http://127.0.0.1:{port}/[/bold]   (Ctrl-C stops everything)")
            done, _ = await asyncio.wait(children, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
        finally:
            for each in children:
                each.cancel()
            await asyncio.gather(*children, return_exceptions=True)


async def _ready(urls: list[str]) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    for url in urls:
        while not await asyncio.to_thread(_answers, url):
            if time.monotonic() > deadline:
                raise TidegateError(f"{url} is not ready within {_READY_SECONDS:.0f} s.", "Try again.")
            await asyncio.sleep(0.1)


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1) as answer:  # noqa: S310 - our own
        return bool(answer.status == 200)
    return False
