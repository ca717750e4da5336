"""Runs one instance: uvicorn around the application, with a drain at the end.

uvicorn with httptools, because an idle stream costs 12 KiB there, and its ASGI objects allow cutting a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from typing import Any, Final

import structlog
import uvicorn
from aiokafka.errors import KafkaError

from gateway import exposition
from gateway.app import Gateway
from gateway.config import GatewayConfig

_log = structlog.get_logger(__name__)

RETRY_SECONDS: Final = 2.0
_POLL_SECONDS: Final = 0.02


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: a signal drains first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `run`."""
        yield


async def run(config: GatewayConfig) -> None:
    """Serve until SIGTERM or SIGINT, then drain: end the streams, finish running requests, and return.

    Raises `OSError` if an address cannot be bound.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    gateway = await _connected(config, stop)
    if gateway is None:
        return
    async with exposition.serve(config.metrics_host, config.metrics_port, gateway) as metrics_port:
        await _serve(config, gateway, stop, metrics_port)
    _log.info("gateway_stopped")


async def _serve(config: GatewayConfig, gateway: Gateway, stop: asyncio.Event, metrics_port: int) -> None:
    server = _Server(
        uvicorn.Config(
            gateway,
            host=config.host,
            port=config.port,
            http="httptools",
            loop="none",
            lifespan="off",
            ws="none",
            access_log=False,  # it would write query strings, which have tickets in them
            log_config=None,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=20,
            timeout_graceful_shutdown=int(config.drain_seconds) + 1,
            backlog=4096,
        )
    )
    serving = asyncio.create_task(server.serve())
    stopping = asyncio.create_task(stop.wait())
    try:
        while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(_POLL_SECONDS)
        if server.started:
            _log.info("gateway_started", host=config.host, port=port_of(server), metrics_port=metrics_port)
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            _log.info("gateway_draining")
            gateway.drain()
            await _until_streams_ended(gateway, config.drain_seconds)
            server.should_exit = True
        await serving
    finally:
        stopping.cancel()
        await gateway.stop()


def port_of(server: uvicorn.Server) -> int:
    """The port that was bound."""
    sockets: Any = server.servers[0].sockets
    return int(sockets[0].getsockname()[1])


async def _connected(config: GatewayConfig, stop: asyncio.Event) -> Gateway | None:
    while not stop.is_set():
        gateway = Gateway(config)
        try:
            await gateway.start()
        except (KafkaError, OSError) as error:
            _log.warning("waiting_for_broker", error=repr(error), retry_seconds=RETRY_SECONDS)
            await gateway.stop()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), RETRY_SECONDS)
        else:
            return gateway
    return None


async def _until_streams_ended(gateway: Gateway, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while gateway.open_streams:  # noqa: ASYNC110 - bounded, and only at the end
                await asyncio.sleep(_POLL_SECONDS)
