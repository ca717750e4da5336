"""Gateways and workers are killed under load: clients that resume miss nothing and repeat nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
import pytest

from local.broker import LocalBroker
from schemas.topics import Role
from tests.broker.events import returned
from tests.broker.harness import Gate
from tests.broker.waiting import wait_for
from tests.gateway.process import QUERY_SECRET, GatewayProcess, Listener, path, token
from tidegate.settings import Settings, load_settings

SESSIONS: Final = 24
SECONDS_BETWEEN: Final = 1.2
RATE: Final = 60.0
"""Tasks per second, over all sessions."""
VERDICTS: Final[tuple[Role, ...]] = ("delivered", "delivered.cold", "withheld")


class Load:
    """People who dispatch by HTTP through whichever gateway answers, and agents who return results on Kafka."""

    def __init__(self, gate: Gate, urls: list[str], sessions: list[str], bearer: str) -> None:
        self.accepted: Counter[str] = Counter()
        """Requests that were acknowledged, by session."""
        self.repeated_requests = 0
        self._gate = gate
        self._urls = urls
        self._sessions = sessions
        self._headers = {"Authorization": f"Bearer {bearer}"}

    async def run(self, stop: asyncio.Event) -> None:
        tasks: set[asyncio.Task[None]] = set()
        number = 0
        async with httpx.AsyncClient(
            headers=self._headers, timeout=10, limits=httpx.Limits(max_connections=40)
        ) as http:
            while not stop.is_set():
                session_id = self._sessions[number % len(self._sessions)]
                tasks.add(asyncio.create_task(self._one(http, session_id, f"click-{number}")))
                number += 1
                await asyncio.sleep(1 / RATE)
            await asyncio.gather(*tasks)

    async def _one(self, http: httpx.AsyncClient, session_id: str, key: str) -> None:
        for attempt in range(100):
            url = self._urls[(hash(key) + attempt) % len(self._urls)]
            with contextlib.suppress(httpx.TransportError):
                answer = await http.post(
                    url + path(session_id, "tasks"), json={"task_type": "test"}, headers={"Idempotency-Key": key}
                )
                if answer.status_code == 202:
                    self.accepted[session_id] += 1
                    await self._gate.send(returned(session_id, answer.json()["task_id"]))
                    return
            self.repeated_requests += 1
            await asyncio.sleep(0.1)
        raise AssertionError(f"{key} was never accepted")


@contextlib.asynccontextmanager
async def following(listeners: list[Listener]) -> AsyncIterator[None]:
    """All listeners at work, each at a known position."""
    tasks = [asyncio.create_task(each.run()) for each in listeners]

    async def ready() -> bool:
        return all(each.cursor for each in listeners)

    try:
        await wait_for(ready, 30, "all streams have a position")
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def told_by_kafka(gate: Gate) -> dict[str, Counter[str]]:
    """By session, the event ids of verdicts and commands on the topics."""
    found: dict[str, Counter[str]] = {}
    for role in (*VERDICTS, "commands"):
        for record in await gate.read(role):
            found.setdefault(record.key.decode(), Counter())[orjson.loads(record.value)["event_id"]] += 1
    return found


def heard_by(listener: Listener) -> Counter[str]:
    return Counter(each.data["event_id"] for each in listener.of("delivered", "withheld", "command"))


async def under_load(settings: Settings, directory: Path, *, rounds: int, broker: LocalBroker | None) -> None:
    """Kill gateways, a worker and perhaps the broker while people and agents are at work."""
    async with (
        Gate(settings, directory) as gate,
        GatewayProcess("g1", settings, directory) as one,
        GatewayProcess("g2", settings, directory) as two,
    ):
        first, second = await gate.start("w1", "w2", query_secret=QUERY_SECRET)
        sessions = [f"acme/s {number}" for number in range(SESSIONS)]
        bearer = token("acme/*")
        urls = [one.url, two.url]
        # every session has a client that prefers one gateway, and one that prefers the other
        listeners = [Listener([*urls[turn:], *urls[:turn]], each, bearer) for each in sessions for turn in (0, 1)]
        load, stop = Load(gate, urls, sessions, bearer), asyncio.Event()
        async with following(listeners):
            loading = asyncio.create_task(load.run(stop))
            for victim in (one, two) * rounds:
                await asyncio.sleep(SECONDS_BETWEEN)
                victim.kill()
                await asyncio.sleep(0.3)
                await victim.start()
            first.kill()
            if broker is not None:
                await asyncio.to_thread(broker.kill)
                await asyncio.to_thread(broker.start)
            await asyncio.sleep(SECONDS_BETWEEN)
            assert await two.terminate() == 0, "this one is asked to stop, and drains"
            await two.start()
            stop.set()
            await loading
            await gate.drained(60)
            expected = await told_by_kafka(gate)

            async def caught_up() -> bool:
                heard = {each: sum(heard_by(each).values()) for each in listeners}
                return all(count >= sum(expected[each._session_id].values()) for each, count in heard.items())

            await wait_for(caught_up, 30, "every client has heard everything", lambda: _missing(listeners, expected))
        assert sum(load.accepted.values()) > 100
        assert load.repeated_requests > 0, "the kills hit requests under way"
        for listener in listeners:
            heard, wanted = heard_by(listener), expected[listener._session_id]
            assert heard == wanted, "nothing is missed and nothing repeated"
            assert not listener.of("reset")
            assert listener.connections >= 2, "each has lost its gateway at least once"
        assert {session: sum(counts.values()) for session, counts in expected.items()} == dict(load.accepted)
        assert second.is_alive
        await gate.audit(tasks=sum(load.accepted.values()))


def _missing(listeners: list[Listener], expected: dict[str, Counter[str]]) -> Any:
    return [(sum((expected[each._session_id] - heard_by(each)).values()), each.statuses[-3:]) for each in listeners]


def test_clients_that_resume_miss_and_repeat_nothing(settings: Settings, tmp_path: Path) -> None:
    asyncio.run(under_load(settings, tmp_path, rounds=1, broker=None))


@pytest.mark.long
def test_neither_when_the_broker_is_killed(tmp_path: Path) -> None:
    with LocalBroker(ephemeral=True, short_lived=True) as broker:
        settings = load_settings(
            bootstrap_servers=broker.bootstrap_servers,
            topic_prefix="killed",
            group_id="killed",
            partitions=4,
            state_dir=tmp_path,
            metrics_port=0,
        )
        asyncio.run(under_load(settings, tmp_path, rounds=3, broker=broker))
