"""`/metrics`, `/healthz` and `/readyz` for operators, on a separate address.

The public port has only the last two, for load balancers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp import web
from prometheus_client.exposition import choose_encoder

from gateway.app import Gateway


@asynccontextmanager
async def serve(host: str, port: int, gateway: Gateway) -> AsyncIterator[int]:
    """Serve until the block ends; gives the port that was bound. Raises `OSError` if the address cannot be bound."""
    runner = web.AppRunner(application(gateway), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def application(gateway: Gateway) -> web.Application:
    """Build the three routes, without a socket."""

    async def show_metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(",".join(request.headers.getall("Accept", [])))
        return web.Response(body=encode(gateway.metrics.registry), headers={"Content-Type": content_type})

    async def show_health(request: web.Request) -> web.Response:
        del request
        return _answer({"healthy": True}, good=True)

    async def show_readiness(request: web.Request) -> web.Response:
        del request
        return _answer({"ready": gateway.is_ready, "draining": gateway.is_draining}, good=gateway.is_ready)

    app = web.Application()
    app.router.add_get("/metrics", show_metrics)
    app.router.add_get("/healthz", show_health)
    app.router.add_get("/readyz", show_readiness)
    return app


def _answer(body: dict[str, Any], *, good: bool) -> web.Response:
    headers = {"Cache-Control": "no-store"}
    status = 200 if good else 503
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json", headers=headers)
