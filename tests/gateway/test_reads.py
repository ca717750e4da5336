"""What is read of a session, and what the contract's later additions are by HTTP, with a real broker and worker."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx

from tests.broker.events import returned, stepped
from tests.broker.harness import Gate
from tests.broker.waiting import wait_for
from tests.gateway.process import QUERY_SECRET, GatewayProcess, Listener, listening, path, token
from tidegate.settings import Settings

SESSION = "acme/reads"
TWO_PARTS = [
    {"part_id": "answer", "kind": "show", "payload": "found"},
    {"part_id": "booking", "kind": "apply", "payload": {"at": 12}},
]


class Reader:
    """A session by HTTP, its events, and the gate behind it."""

    def __init__(self, gate: Gate, client: httpx.AsyncClient, ears: Listener) -> None:
        self.gate = gate
        self.ears = ears
        self._client = client

    async def get(self, rest: str, **headers: str) -> httpx.Response:
        return await self._client.get(path(SESSION, rest), headers=headers)

    async def post(self, rest: str, body: dict[str, Any], expected: int = 202) -> dict[str, Any]:
        answer = await self._client.post(path(SESSION, rest), json=body)
        assert answer.status_code == expected, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def dispatch(self, **fields: Any) -> str:
        """A task that runs."""
        made = await self.post("tasks", {"task_type": "search", **fields})
        task_id = str(made["task_id"])
        await self.heard("running", task_id)
        return task_id

    async def heard(self, name: str, task_id: str) -> dict[str, Any]:
        """The first event of a name about a task."""

        def found() -> list[Any]:
            return [each.data for each in self.ears.of(name) if each.data.get("task_id") == task_id]

        await self.ears.until(found, f"{name} of {task_id}")
        data: dict[str, Any] = found()[0]
        return data

    async def facets(self, position: str) -> dict[str, Any]:
        found: dict[str, Any] = (await self.get(f"context?at_least={position}")).json()["facets"]
        return found


async def a_task_has_its_result(reader: Reader) -> None:
    task_id = await reader.dispatch()
    running = await reader.get(f"tasks/{task_id}")
    assert "results" not in running.json()
    tag = {"if-none-match": running.headers["etag"]}
    began = time.monotonic()
    unchanged = await reader.get(f"tasks/{task_id}?wait=0.5", **tag)
    assert (unchanged.status_code, time.monotonic() - began >= 0.5) == (304, True)

    waiting = asyncio.create_task(reader.get(f"tasks/{task_id}?wait=20", **tag))
    await reader.gate.send(stepped(SESSION, task_id, progress=0.5))
    progressed = await waiting
    assert (progressed.status_code, progressed.json()["progress"]) == (200, 0.5)

    interim = returned(SESSION, task_id, final=False)
    await reader.gate.send(interim)
    assert (await reader.heard("delivered", task_id))["final"] is False
    still = await reader.get(f"tasks/{task_id}")
    waiting = asyncio.create_task(reader.get(f"tasks/{task_id}?wait=20", **{"if-none-match": still.headers["etag"]}))
    final = returned(SESSION, task_id, parts=TWO_PARTS)
    await reader.gate.send(final)
    ended = await waiting
    assert (ended.status_code, ended.json()["disposition"]) == (200, "delivered")
    assert [each["result"]["event_id"] for each in ended.json()["results"]] == [interim.event_id, final.event_id]
    parts = ended.json()["results"][1]["parts"]
    assert [(each["part_id"], each["verdict"]["decision"]) for each in parts] == [
        ("answer", "delivered"),
        ("booking", "delivered"),
    ]
    known = await reader.get(f"tasks/{task_id}", **{"if-none-match": ended.headers["etag"]})
    assert known.status_code == 304

    result_id = ended.json()["results"][1]["event_id"]
    where = f"results/{result_id}/acknowledgement"
    await reader.post(where, {"task_id": task_id, "outcome": "shown", "part_ids": ["answer"]})
    await reader.post(where, {"task_id": task_id, "outcome": "refused", "part_ids": ["booking"]})

    async def has_both() -> bool:
        status = (await reader.get(f"tasks/{task_id}")).json()
        return bool(status.get("acknowledged_parts") == {"answer": "shown", "booking": "refused"})

    await wait_for(has_both, 10, "each part has its own acknowledgement")

    before = time.monotonic()
    missing = await reader.get("tasks/nobody?wait=0.3")
    assert (missing.status_code, time.monotonic() - before >= 0.3) == (404, True)
    appearing = asyncio.create_task(reader.get("tasks/later?wait=20"))
    await reader.post("tasks", {"task_type": "search", "task_id": "later"})
    assert (await appearing).status_code == 200


async def many_are_cancelled(reader: Reader) -> None:
    for name, fields, body in (
        ("request", {"request_id": "r1"}, {"request_id": "r1"}),
        ("slot", {"slot": "panel"}, {"slot": "panel"}),
        ("all", {}, {"all": True}),
    ):
        task_id = await reader.dispatch(**fields, plan=["read", "write"])
        await reader.post("cancel", body)
        cancelled = await reader.heard("cancelled", task_id)
        read = (await reader.get(f"tasks/{task_id}")).json()
        assert read["receipt"] == cancelled["receipt"], name
        assert read["receipt"]["not_attempted"] == ["read", "write"]
        assert "results" not in read
    await reader.post("cancel", {"slot": "nobody's"})
    await reader.ears.until(lambda: reader.ears.of("unmatched"), "a request that meets nothing is answered")
    (unmatched,) = reader.ears.of("unmatched")
    assert unmatched.data["slot"] == "nobody's"
    await reader.post("cancel", {}, 422)
    await reader.post("cancel", {"slot": "a", "all": True}, 422)


async def facets_have_leases_and_versions(reader: Reader) -> None:
    newer = {"set": {"doc/1": "rev-9"}, "versions": {"doc/1": 9}}
    older = {"set": {"doc/1": "rev-8"}, "versions": {"doc/1": 8}}
    await reader.post("context", newer, 200)
    wrote = await reader.post("context", older, 200)
    assert (await reader.facets(wrote["position"]))["doc/1"] == "rev-9"

    leased = {"set": {"presence/phone": "present", "cursor/phone": "7"}}
    leases = {"presence/phone": 1.0, "cursor/phone": 1.0}
    wrote = await reader.post("context", {**leased, "expires_in_seconds": leases}, 200)
    assert (await reader.facets(wrote["position"]))["presence/phone"] == "present"

    async def has_lapsed() -> bool:
        facets = (await reader.get("context")).json()["facets"]
        return facets["presence/phone"] == "absent" and facets["cursor/phone"] is None

    await wait_for(has_lapsed, 10, "the leases lapse")


async def a_delivery_becomes_outdated(reader: Reader) -> None:
    await reader.post("context", {"set": {"view/tab": "flights"}}, 200)
    task_id = await reader.dispatch(snapshot={"view/tab": "flights"}, watch_seconds=60)
    await reader.gate.send(returned(SESSION, task_id))
    await reader.heard("delivered", task_id)
    await reader.post("context", {"set": {"view/tab": "hotels"}}, 200)
    outdated = await reader.heard("outdated", task_id)
    assert outdated["part_ids"] == ["answer"]
    assert outdated["differences"][0]["actual"] == "hotels"


async def a_moving_partition_is_told(reader: Reader) -> None:
    """The owner is killed: until another worker has taken over, reads are refused with `Retry-After`."""
    (first,) = reader.gate.workers
    first.kill()
    wrote = await reader.post("context", {"set": {"view/tab": "trains"}}, 200)  # writes need no worker
    position = f"context?at_least={wrote['position']}"
    for rest in ("context", "tasks", "inbox", "tasks/later", "tasks/later?wait=5", position):
        refused = await reader.get(rest)
        assert refused.status_code == 503, rest
        assert refused.json()["type"] == "urn:tidegate:problem:state_unavailable"
        assert int(refused.headers["retry-after"]) >= 1
    await reader.gate.start("w2", query_secret=QUERY_SECRET)

    async def is_back() -> bool:
        return (await reader.get("context")).status_code == 200

    await wait_for(is_back, 20, "the new owner is found")
    assert (await reader.get("tasks/later")).json()["status"] == "ended"


async def story(settings: Settings, directory: Path) -> None:
    bearer = token("acme/*")
    async with (
        Gate(settings, directory, unknown_task_grace_seconds=1) as gate,
        GatewayProcess("gateway", settings, directory) as gateway,
    ):
        await gate.start("w1", query_secret=QUERY_SECRET)
        async with gateway.client(bearer) as client, listening(Listener([gateway.url], SESSION, bearer)) as ears:
            reader = Reader(gate, client, ears)
            await a_task_has_its_result(reader)
            await many_are_cancelled(reader)
            await facets_have_leases_and_versions(reader)
            await a_delivery_becomes_outdated(reader)
            await a_moving_partition_is_told(reader)


def test_reads(settings: Settings, tmp_path: Path) -> None:
    asyncio.run(story(settings, tmp_path))
