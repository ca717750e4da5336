"""The worker seen over HTTP: `/metrics`, `/healthz` and `/readyz`, served by the worker's own event loop.

Responsible for the three answers and their status codes. What they say comes from `streams.metrics` and from the
worker. That the event loop answers at all is half of the health check.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import orjson
from aiohttp import web
from prometheus_client.exposition import choose_encoder

from streams.errors import FatalError
from streams.metrics import Metrics

_SHUTDOWN_SECONDS = 1.0


class WorkerState(Protocol):
    """What the worker says about itself."""

    def healthy(self) -> tuple[bool, str]:
        """Whether the worker can still do its work, and what is wrong where it cannot."""

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether every assigned partition is running, and the details: a JSON object with each partition's state."""


@asynccontextmanager
async def serve(host: str, port: int, metrics: Metrics, state: WorkerState) -> AsyncIterator[int]:
    """Serve until the block ends; gives the port that was bound (`port` 0 takes a free one).

    Raises `FatalError` if the address cannot be bound. Cancelled, it closes the socket and open connections.
    """
    runner = web.AppRunner(application(metrics, state), access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise _cannot_bind(host, port, error) from error
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def application(metrics: Metrics, state: WorkerState) -> web.Application:
    """Build the three routes, without a socket."""

    async def show_metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(",".join(request.headers.getall("Accept", [])))
        # 22 ms with 64 partitions and 64 task types: a thread gives the event loop its turn every 5 ms
        body = await asyncio.to_thread(encode, metrics.registry)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def show_health(request: web.Request) -> web.Response:
        del request
        healthy, detail = state.healthy()
        return _answer({"healthy": healthy, "detail": detail}, good=healthy)

    async def show_readiness(request: web.Request) -> web.Response:
        del request
        ready, details = state.ready()
        return _answer({"ready": ready, **details}, good=ready)

    app = web.Application()
    app.router.add_get("/metrics", show_metrics)
    app.router.add_get("/healthz", show_health)
    app.router.add_get("/readyz", show_readiness)
    return app


def _answer(body: dict[str, Any], *, good: bool) -> web.Response:
    return web.Response(
        status=200 if good else 503,
        body=orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def _cannot_bind(host: str, port: int, error: OSError) -> FatalError:
    if error.errno == errno.EADDRINUSE:
        return FatalError(
            f"Cannot serve /metrics: port {port} on {host} is in use."
            " Stop what holds it, or set TIDEGATE_METRICS_PORT to another port (0 takes a free one).",
        )
    return FatalError(
        f"Cannot serve /metrics on {host}, port {port}: {error.strerror or error}."
        " Check TIDEGATE_METRICS_HOST and TIDEGATE_METRICS_PORT.",
    )
