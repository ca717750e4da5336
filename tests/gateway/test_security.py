"""What a token of one session gets of another: nothing, by any route, cursor or ticket."""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path
from typing import Any, Final

import httpx
from aiohttp import ClientSession
from yarl import URL

from gateway.routing import ROUTES, encode_id
from testing.workload import partition_of
from tests.broker.events import returned
from tests.broker.harness import Gate
from tests.broker.outputs import Outputs
from tests.gateway.process import (
    EVERYTHING,
    QUERY_SECRET,
    GatewayProcess,
    Listener,
    listening,
    path,
    token,
)
from tidegate.settings import Settings

VICTIM: Final = "acme/victim"
SPY: Final = next(
    f"acme/spy-{number}"
    for number in itertools.count()
    if partition_of(f"acme/spy-{number}".encode(), 2) == partition_of(VICTIM.encode(), 2)
)
"""Of the same partition: its stream reads the same records."""
MARK: Final = "only the victim may see this"
BODIES: Final[list[dict[str, Any]]] = [
    {"set": {"view/x": "y"}},
    {"task_type": "search", "task_id": "intruder"},
    {"reason": "sabotage"},
    {"task_id": "t", "outcome": "refused"},
]
METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")


def spellings(session_id: str) -> list[str]:
    """Ways to write a session id into a path."""
    whole = session_id.replace("/", "%2F")
    return [
        encode_id(session_id),
        whole,
        "".join(f"%{byte:02x}" for byte in session_id.encode()),
        f"%7E{encode_id(session_id)[1:]}",
        session_id,
        f"{encode_id(SPY)}/../{encode_id(session_id)}",
        f"{encode_id(SPY)}%2F..%2F..%2F{whole}",
    ]


async def everything_refused(settings: Settings, directory: Path) -> None:
    async with (
        Gate(settings, directory) as gate,
        GatewayProcess("gateway", settings, directory) as gateway,
        Outputs(settings) as outputs,
    ):
        await gate.start("w1", query_secret=QUERY_SECRET)
        owner, spy = token(VICTIM), token(SPY)
        async with gateway.client(owner) as mine, listening(Listener([gateway.url], VICTIM, owner)) as ears:
            await mine.post(path(VICTIM, "context"), json={"set": {"secret": MARK}})
            task = {"task_id": "t", "task_type": "search", "metadata": {"x": MARK}}
            await mine.post(path(VICTIM, "tasks"), json=task)
            await gate.send(returned(VICTIM, "t"))
            await ears.until(lambda: ears.of("delivered"), "the victim's result is there")
            result_id = ears.of("delivered")[0].data["event_id"]
            ticket = (await mine.post(path(VICTIM, "tickets"))).json()["ticket"]
            cursor = ears.cursor
        before = {role: await gate.end_offsets(role) for role in ("context", "steps", "steps.cold")}

        bearers = {
            "of another session": spy,
            "of nothing": token(),
            "of a longer name": token(f"{VICTIM}2", f"{VICTIM}/*"),
            "of another tenant": token("acme/*", grant={"tenant": "other"}),
            "expired": token(VICTIM, seconds=-60),
            "for another audience": token(VICTIM, aud="elsewhere"),
            "a ticket": ticket,
            "none": None,
        }
        tried = 0

        async def refused(
            http: ClientSession, why: str, bearer: str | None, segment: str, name: tuple[str, ...]
        ) -> None:
            nonlocal tried
            inner = result_id if name[0] == "results" else "t"
            rest = "/".join(inner if part.startswith("{") else part for part in name)
            query = f"?last_event_id={cursor}" if name == ("events",) else ""
            where = URL(f"{gateway.url}/v1/sessions/{segment}/{rest}{query}", encoded=True)  # sent as it is
            headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
            for method in METHODS:
                tried += 1
                sent = http.request(method, where, json=BODIES[tried % len(BODIES)], headers=headers)
                async with sent as answer:
                    text = await answer.text()
                    assert answer.status in {400, 401, 403, 404, 405}, (why, method, str(where), text)
                    assert MARK not in text

        async with ClientSession() as http:
            for why, bearer in bearers.items():
                pairs = itertools.product(spellings(VICTIM), ROUTES)
                await asyncio.gather(*[refused(http, why, bearer, segment, name) for segment, name in pairs])
        async with httpx.AsyncClient(base_url=gateway.url, timeout=10) as client:
            # the ticket of one session, its cursor, and a ticket that the spy makes for itself
            own = (await client.post(path(SPY, "tickets"), headers={"Authorization": f"Bearer {spy}"})).json()["ticket"]
            for shown in (own, owner, spy, ""):
                for cursors in ({}, {"last_event_id": cursor or ""}):
                    answer = await client.get(path(VICTIM, "events"), params={"ticket": shown, **cursors})
                    assert answer.status_code in {401, 403}, shown
            for rest in ("context", "tasks", "inbox"):
                assert (await client.get(path(VICTIM, rest), params={"ticket": ticket})).status_code == 401
        assert tried > 3000

        # a cursor of the victim's, shown for the spy's own session: nothing but the spy's events
        spy_ears = Listener([gateway.url], SPY, spy, cursor=cursor)
        async with listening(spy_ears):
            async with gateway.client(spy) as client:
                await client.post(path(SPY, "tasks"), json={"task_id": "own", "task_type": "search"})
            await spy_ears.until(lambda: spy_ears.of("running"), "the spy's own task runs")
        assert {each.data.get("task_id") for each in spy_ears.heard} == {"own"}

        after = {role: await gate.end_offsets(role) for role in ("context", "steps", "steps.cold")}
        written = sum(sum(after[role].values()) - sum(before[role].values()) for role in before)
        assert written == 1, "the spy's own dispatch, and nothing else"
        await outputs.poll()
        logged = gateway.log_text()
        for secret in (owner, spy, ticket, own, MARK):
            assert secret not in logged
        assert await gateway.terminate() == 0


def test_no_route_cursor_or_ticket_leads_into_another_session(settings: Settings, tmp_path: Path) -> None:
    asyncio.run(everything_refused(settings, tmp_path))


async def bounds(settings: Settings, directory: Path) -> None:
    options = {
        "gateway_requests_per_second": 5,
        "gateway_streams_per_token": 2,
        "gateway_cors_origins": '["https://a"]',
    }
    async with Gate(settings, directory) as gate, GatewayProcess("gateway", settings, directory, **options) as gateway:
        session = "acme/s"
        for action, method, rest, body in [
            ("read", "GET", "events", None),
            ("context", "POST", "context", {"set": {"a": "b"}}),
            ("dispatch", "POST", "tasks", {"task_type": "x"}),
            ("cancel", "POST", "tasks/t/cancel", {}),
            ("acknowledge", "POST", "results/r/acknowledgement", {"task_id": "t", "outcome": "shown"}),
        ]:
            others = [each for each in EVERYTHING if each != action]
            async with gateway.client(token(session, actions=others, sub=f"no-{action}")) as client:
                answer = await client.request(method, path(session, rest), json=body)
                assert (answer.status_code, answer.json()["type"]) == (403, "urn:tidegate:problem:forbidden"), action
        without_cause = [each for each in EVERYTHING if each != "cause"]
        async with gateway.client(token(session, actions=without_cause, sub="person")) as client:
            forged = {"set": {"a": "b"}, "cause": {"task_id": "t"}}
            assert (await client.post(path(session, "context"), json=forged)).status_code == 403
            for content, status in [
                (b"{", 400),
                (b"[]", 400),
                (b'{"set": {"a": 1}}', 422),
                (b'{"unknown": 1}', 422),
                (b'{"set": {"\xc3\xa4": "' + b"x" * 2000 + b'"}}', 422),
                (b'{"set": {"a": "' + b"x" * 800_000 + b'"}}', 413),
            ]:
                answer = await client.post(
                    path(session, "context"), content=content, headers={"Content-Type": "application/json"}
                )
                assert answer.status_code == status, content[:40]
                assert answer.headers["content-type"] == "application/problem+json"
            plain = await client.post(path(session, "context"), content=b"{}", headers={"Content-Type": "text/plain"})
            assert plain.status_code == 415
        async with gateway.client(token(session, sub="hasty")) as client:
            answers = await asyncio.gather(
                *[client.post(path(session, "context"), json={"set": {"n": "1"}}) for _ in range(30)]
            )
            refused = [each for each in answers if each.status_code == 429]
            assert 15 <= len(refused) < 30
            assert all(int(each.headers["retry-after"]) >= 1 for each in refused)
        async with (
            gateway.client(token(session, sub="greedy")) as client,
            client.stream("GET", path(session, "events")),
            client.stream("GET", path(session, "events")),
        ):
            third = await client.get(path(session, "events"))
            assert (third.status_code, third.json()["type"]) == (429, "urn:tidegate:problem:too_many_streams")
        async with gateway.client() as client:
            for origin, allowed in [("https://a", True), ("https://b", False), ("null", False)]:
                preflight = await client.options(path(session, "context"), headers={"Origin": origin})
                assert (preflight.status_code == 204) == allowed
                assert preflight.headers.get("access-control-allow-origin") == (origin if allowed else None)
        short = token(session, seconds=-7, sub="short")  # within the leeway of 10 s, for 3 s more
        ears = Listener([gateway.url], session, short)
        began = time.monotonic()
        async with listening(ears):
            await ears.until(lambda: ears.of("unauthorized"), "the stream ends with its token")
            await ears.until(lambda: 401 in ears.statuses, "and is not opened again", 15)
        assert time.monotonic() - began < 15
        del gate


def test_bounds(settings: Settings, tmp_path: Path) -> None:
    asyncio.run(bounds(settings, tmp_path))
