"""Streams of one gateway without a worker: what is on the topics comes out, whatever becomes of the connection."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import httpx
import orjson
from aiohttp import ClientSession, web

from testing.workload import partition_of
from tests.broker.harness import Gate
from tests.broker.waiting import wait_for
from tests.gateway.process import GatewayProcess, Listener, listening, path, token
from tidegate.settings import Settings

SESSION = "acme/a b/%2F/ü"


def delivery(number: int, session_id: str = SESSION, payload: Any = None) -> bytes:
    verdict = {"part_id": "p", "decision": "delivered", "reason": "fresh"}
    body = {
        "type": "result.delivered",
        "source": "gate",
        "event_id": f"e{number}",
        "session_id": session_id,
        "task_id": f"t{number}",
        "parts": [{"part_id": "p", "kind": "show", "payload": payload or number}],
        "verdict": {"decision": "delivered", "parts": [verdict]},
    }
    return orjson.dumps(body)


async def deliver(gate: Gate, numbers: range, session_id: str = SESSION, payload: Any = None) -> None:
    key = session_id.encode()
    partition = partition_of(key, 2)
    for number in numbers:
        await gate.write_raw("delivered", partition, (key, delivery(number, session_id, payload), []))


def numbers_of(listener: Listener) -> list[int]:
    return [int(each.data["event_id"][1:]) for each in listener.of("delivered")]


async def resuming(gate: Gate, gateway: GatewayProcess, bearer: str) -> None:
    first = Listener([gateway.url], SESSION, bearer)
    async with listening(first):
        await deliver(gate, range(3))
        await first.until(lambda: numbers_of(first) == [0, 1, 2], "three deliveries")
    early = first.heard[0].id
    gateway.kill()
    await deliver(gate, range(3, 6))
    await gateway.start()
    async with listening(Listener([gateway.url], SESSION, bearer)) as newcomer:  # its tail begins now
        for cursor, expected in ((early, [1, 2, 3, 4, 5]), (first.cursor, [3, 4, 5])):
            late = Listener([gateway.url], SESSION, bearer, cursor=cursor)
            async with listening(late):
                await late.until(lambda late=late: len(numbers_of(late)) >= 3, "what was missed")  # type: ignore[misc]
                await deliver(gate, range(6, 7))
                await late.until(lambda late=late: 6 in numbers_of(late), "and what comes then")  # type: ignore[misc]
                assert [each for each in numbers_of(late) if each < 6] == expected
                assert not late.of("reset")
        assert set(numbers_of(newcomer)) == {6}
    metrics = await gateway.metrics()
    assert re.search(r"tidegate_gateway_resumes_total \d", metrics)
    assert "tidegate_gateway_catch_up_seconds_count 2.0" in metrics


async def resets(gate: Gate, gateway: GatewayProcess, bearer: str) -> None:
    known = Listener([gateway.url], SESSION, bearer)
    async with listening(known):
        pass
    assert known.cursor is not None
    version, fingerprint, partition, *positions = known.cursor.split("-")
    others = {
        "not a cursor": "nonsense",
        "other topics": "-".join([version, "00000000", partition, *positions]),
        "another partition": "-".join([version, fingerprint, str(1 - int(partition)), *positions]),
    }
    for why, cursor in others.items():
        lost = Listener([gateway.url], SESSION, bearer, cursor=cursor)
        async with listening(lost):
            await lost.until(lambda lost=lost: lost.of("reset"), f"a reset: {why}")  # type: ignore[misc]
            moved = lambda lost=lost, cursor=cursor: lost.cursor != cursor  # noqa: E731
            await lost.until(moved, "a new position")
            await deliver(gate, range(7, 8))
            await lost.until(lambda lost=lost: numbers_of(lost), "it goes on from there")  # type: ignore[misc]
            assert len(lost.of("reset")) == 1
            assert lost.connections == 1


async def slow_clients(gate: Gate, gateway: GatewayProcess, bearer: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1024)
    request = f"GET {path(SESSION, 'events')} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {bearer}\r\n\r\n"
    writer.write(request.encode())
    await reader.readuntil(b"id: ")  # and from here on it reads nothing more
    large = "x" * 250_000
    async with listening(Listener([gateway.url], SESSION, bearer)) as quick:
        began = time.monotonic()
        await deliver(gate, range(100, 140), payload=large)
        await quick.until(lambda: numbers_of(quick) == list(range(100, 140)), "the quick one has all")
        assert time.monotonic() - began < 15

        async def is_dropped() -> bool:
            return 'tidegate_gateway_streams_closed_total{reason="slow"} 1.0' in await gateway.metrics()

        await wait_for(is_dropped, 10, "the slow one is disconnected")
        assert quick.connections == 1
    writer.close()


async def behind_a_proxy(gate: Gate, gateway: GatewayProcess, bearer: str) -> None:
    """A proxy that decodes the path and encodes it again, as some do: `%2F` becomes a slash on the way."""

    async def forward(request: web.Request) -> web.StreamResponse:
        where = quote(unquote(request.rel_url.raw_path), safe="/~")
        body = await request.read()
        async with ClientSession(auto_decompress=False) as session:
            headers = {name: value for name, value in request.headers.items() if name != "Host"}
            async with session.request(request.method, f"{gateway.url}{where}", data=body, headers=headers) as answer:
                return web.Response(status=answer.status, body=await answer.read(), content_type="application/json")

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", forward)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        port = runner.addresses[0][1]
        headers = {"Authorization": f"Bearer {bearer}"}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers) as client:
            encoded = await client.post(path(SESSION, "context"), json={"set": {"via": "proxy"}})
            assert encoded.status_code == 200
            decoded = await client.post(f"/v1/sessions/{quote('acme/b', safe='')}/context", json={"set": {"a": "b"}})
            assert decoded.status_code == 404, "it is not guessed where the id ends"
        async with gateway.client(bearer) as client:
            where = f"/v1/sessions/{quote(SESSION, safe='')}/context"
            assert (await client.post(where, json={"set": {"via": "percent"}})).status_code == 200
    finally:
        await runner.cleanup()
    written = [(record.key.decode(), orjson.loads(record.value)) for record in await gate.read("context")]
    assert [(key, event["session_id"], event["set"]) for key, event in written] == [
        (SESSION, SESSION, {"via": "proxy"}),
        (SESSION, SESSION, {"via": "percent"}),
    ]


async def as_ag_ui(gate: Gate, gateway: GatewayProcess, bearer: str) -> None:
    async with gateway.client(bearer) as client:
        wrong = await client.get(path(SESSION, "events"), params={"format": "ag-ui"})
        assert (wrong.status_code, wrong.json()["type"]) == (400, "urn:tidegate:problem:invalid_request")
        query = {"format": "ag-ui", "task": "t300"}
        async with client.stream("GET", path(SESSION, "events"), params=query) as response:
            lines = response.aiter_lines()
            async for line in lines:
                if line.startswith("id: "):
                    break
            await deliver(gate, range(299, 301), payload="found")
            status = {"type": "task.status", "task_id": "t300", "status": "ended", "disposition": "delivered"}
            key = orjson.dumps([SESSION, "t300"])
            await gate.write_raw("tasks", partition_of(SESSION.encode(), 2), (key, orjson.dumps(status), []))
            data = [orjson.loads(line[6:]) async for line in lines if line.startswith("data: ")]  # to the stream's end
    kinds = [each["type"] for each in data]
    assert kinds[0] == "RUN_STARTED"
    assert kinds[-1] == "RUN_FINISHED"
    assert [each["delta"] for each in data if each["type"] == "TEXT_MESSAGE_CONTENT"] == ["found"]


async def draining(gateway: GatewayProcess, bearer: str) -> None:
    async with listening(Listener([gateway.url], SESSION, bearer)) as ears, gateway.client(bearer) as client:
        began = time.monotonic()
        stopping = asyncio.create_task(gateway.terminate())
        await ears.until(lambda: ears.of("reconnect"), "the stream is told to go elsewhere")
        assert await stopping == 0
        assert time.monotonic() - began < 5
        del client


async def stream_story(settings: Settings, directory: Path) -> None:
    bearer = token("acme/*")
    async with Gate(settings, directory) as gate, GatewayProcess("gateway", settings, directory) as gateway:
        await resuming(gate, gateway, bearer)
        await resets(gate, gateway, bearer)
        await slow_clients(gate, gateway, bearer)
        await behind_a_proxy(gate, gateway, bearer)
        await as_ag_ui(gate, gateway, bearer)
        await draining(gateway, bearer)


def test_streams(settings: Settings, tmp_path: Path) -> None:
    asyncio.run(stream_story(settings, tmp_path))
