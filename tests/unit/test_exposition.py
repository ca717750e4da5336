import asyncio
import socket
from typing import Any

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from projections.changes import Verdicted
from streams.errors import FatalError
from streams.exposition import serve
from streams.metrics import Metrics

HOST = "127.0.0.1"
OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3"


class FakeWorker:
    def __init__(self) -> None:
        self.health = (True, "")
        self.readiness: tuple[bool, dict[str, Any]] = (True, {"partitions": {0: "running"}})

    def healthy(self) -> tuple[bool, str]:
        return self.health

    def ready(self) -> tuple[bool, dict[str, Any]]:
        return self.readiness


def get(path: str, worker: FakeWorker | None = None, accept: str = "*/*") -> tuple[int, str, str]:
    """Status, content type and body."""

    async def ask() -> tuple[int, str, str]:
        metrics = Metrics("1.2.3")
        metrics.judged([Verdicted("delivered", "fresh", "search", "hot", None, 0)] * 3, 0)
        async with (
            serve(HOST, 0, metrics, worker or FakeWorker()) as port,
            aiohttp.ClientSession() as session,
            session.get(f"http://{HOST}:{port}{path}", headers={"Accept": accept}) as answer,
        ):
            return answer.status, answer.headers["Content-Type"], await answer.text()

    return asyncio.run(ask())


def test_metrics_in_openmetrics_format_for_who_asks_for_it() -> None:
    status, content_type, body = get("/metrics", accept=OPENMETRICS)
    assert status == 200
    assert content_type.startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert body.endswith("# EOF\n")
    assert "tidegate_verdicts" in {family.name for family in parse_openmetrics(body)}  # type: ignore[no-untyped-call]


def test_metrics_as_text_for_everybody_else() -> None:
    status, content_type, body = get("/metrics")
    assert status == 200
    assert content_type.startswith("text/plain")
    assert "tidegate_verdicts" in {family.name for family in parse_text(body)}


def test_healthy_and_ready() -> None:
    assert get("/healthz") == (200, "application/json", '{"healthy":true,"detail":""}')
    assert get("/readyz") == (200, "application/json", '{"ready":true,"partitions":{"0":"running"}}')


def test_a_fatal_error_is_unhealthy_and_named() -> None:
    worker = FakeWorker()
    worker.health = (False, "fetch task ended")
    status, _, body = get("/healthz", worker)
    assert status == 503
    assert "fetch task ended" in body


def test_a_restoring_partition_is_not_ready() -> None:
    worker = FakeWorker()
    worker.readiness = (False, {"partitions": {0: "running", 1: "restoring"}})
    status, _, body = get("/readyz", worker)
    assert status == 503
    assert '"1":"restoring"' in body


def test_anything_else_is_not_found() -> None:
    assert get("/")[0] == 404


def test_a_port_in_use_is_a_clear_error() -> None:
    async def start_on(port: int) -> None:
        async with serve(HOST, port, Metrics(), FakeWorker()):
            raise AssertionError("bound")

    with socket.create_server((HOST, 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(FatalError, match=f"port {port} on {HOST} is in use") as caught:
            asyncio.run(start_on(port))
    assert "TIDEGATE_METRICS_PORT" in str(caught.value)


def test_the_port_is_free_again_afterwards() -> None:
    async def twice() -> None:
        async with serve(HOST, 0, Metrics(), FakeWorker()) as port:
            pass
        async with serve(HOST, port, Metrics(), FakeWorker()) as again:
            assert again == port

    asyncio.run(twice())
