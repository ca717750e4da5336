"""The worker's read endpoint: what it tells of a session, and to whom."""

import asyncio
import time
from typing import Any

import orjson
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from projections.decode import Batch
from projections.log_position import LogPosition
from projections.partition import Partition
from projections.rules import Rules
from schemas.queries import MAX_AGE_MS, PATH, SIGNATURE_HEADER, is_signature, sign_answer, sign_request
from schemas.topics import Role
from streams.queries import announced, application, state_of

SECRET = "a secret of the tests, with more than 32 bytes"
NOW_MS = 1_764_000_000_000


class Fed:
    """A partition that is fed, and committed when the test says so."""

    def __init__(self) -> None:
        self.partition = Partition(0, Rules())
        self.ends: dict[Role, int] = {"context": 0, "steps": 0, "results": 0}

    def feed(self, role: Role, **body: Any) -> None:
        offset = self.ends[role]
        self.ends[role] += 1
        envelope = {"source": "test", "event_id": f"{role}-{offset}", "session_id": "s"}
        value = orjson.dumps({**envelope, "occurred_at": "2025-11-24T16:00:00Z", **body})
        batch = Batch(role, 0, offset, offset + 1, [offset], [NOW_MS + offset], [b"s"], [value], [()], len(value))
        position = LogPosition(0, self.ends["context"], self.ends["steps"], self.ends["results"])
        if role == "context":
            self.partition.fold_context(batch, NOW_MS)
        elif role == "steps":
            self.partition.fold_steps(batch, position, NOW_MS)
        else:
            self.partition.judge(batch, position, NOW_MS)

    def write(self, *, commit: bool) -> None:
        self.partition.take(NOW_MS)
        if commit:
            self.partition.committed()

    def state(self, session_id: str = "s") -> dict[str, Any]:
        told: dict[str, Any] = orjson.loads(state_of(self.partition.store, session_id, self.ends, "gate"))
        return told


def parts(payload: str) -> list[dict[str, Any]]:
    return [{"part_id": "p", "kind": "show", "payload": payload}]


def test_a_session_from_its_facets_to_its_ended_tasks() -> None:
    fed = Fed()
    fed.feed("context", type="context.changed", set={"view": "flights", "gone": "x"})
    fed.feed("context", type="context.changed", unset=["gone"])
    fed.feed("steps", type="task.dispatched", task_id="a", task_type="search", metadata={"n": 1})
    fed.feed("steps", type="task.step", task_id="a", step_id="1", status="started", progress=0.5, message="looks")
    fed.feed(
        "steps", type="task.dispatched", task_id="b", task_type="search", snapshot={"view": "hotels"}, on_stale="hold"
    )
    fed.feed("results", type="task.result", task_id="b", outcome="completed", parts=parts("held back"))
    fed.feed("steps", type="task.dispatched", task_id="c", task_type="search")
    fed.feed("results", type="task.result", task_id="c", outcome="completed", parts=parts("done"))
    fed.feed("context", type="result.acknowledged", task_id="c", outcome="refused", reason="too late")
    fed.write(commit=True)
    state = fed.state()
    assert state["facets"] == {"view": "flights", "gone": None}
    assert state["positions"] == {"context": 3, "steps": 4, "results": 2}
    told = {task["task_id"]: task for task in state["tasks"]}
    assert (told["a"]["status"], told["a"]["progress"], told["a"]["metadata"]) == ("running", 0.5, {"n": 1})
    assert (told["b"]["status"], told["b"]["waiting_for"]) == ("waiting", "context")
    assert (told["c"]["disposition"], told["c"]["acknowledged"]) == ("delivered", "refused")
    assert told["c"]["detail"] == "too late"
    assert not any({"source", "session_id", "event_id"} & task.keys() for task in state["tasks"])
    ((held),) = state["held"]
    assert (held["task_id"], held["waiting_for"]) == ("b", "context")
    assert [part["payload"] for part in held["parts"]] == ["held back"]


def test_only_what_is_committed_is_told() -> None:
    fed = Fed()
    fed.feed("context", type="context.changed", set={"view": "flights"})
    fed.write(commit=True)
    fed.feed("context", type="context.changed", set={"view": "hotels"})
    for number in range(12):  # so many that each has a record of its own
        fed.feed("steps", type="task.dispatched", task_id=f"t{number}", task_type="search")
    assert fed.state()["facets"] == {"view": "flights"}, "folded, not written"
    fed.write(commit=False)
    assert fed.state()["facets"] == {"view": "flights"}, "written, not committed"
    assert fed.state()["tasks"] == []
    fed.partition.roll_back()
    assert fed.state()["facets"] == {"view": "flights"}, "aborted"


def test_a_session_that_nobody_knows_is_empty() -> None:
    state = Fed().state("nobody")
    assert (state["facets"], state["tasks"], state["held"]) == ({}, [], [])


def test_only_signed_questions_are_answered_and_answers_are_signed() -> None:
    fed = Fed()
    fed.feed("context", type="context.changed", set={"view": "flights"})
    fed.write(commit=True)
    ends = fed.ends
    app = application(SECRET, "gate", lambda number: (fed.partition, ends) if number == 0 else None)
    now = int(time.time() * 1000)

    async def ask(client: Any, **changes: Any) -> Any:
        asked = {"session": "s", "partition": "0", "at": str(now), "nonce": "n", **changes}
        signature = asked.pop("signature", sign_request(SECRET, "s", now, "n"))
        return await client.get(URL(PATH).with_query(asked), headers={SIGNATURE_HEADER: signature} if signature else {})

    async def story() -> None:
        async with TestClient(TestServer(app)) as client:
            answer = await ask(client)
            body = await answer.read()
            assert answer.status == 200
            assert orjson.loads(body)["facets"] == {"view": "flights"}
            found = answer.headers[SIGNATURE_HEADER]
            assert is_signature(sign_answer(SECRET, "n", 200, body), found)
            for other in (sign_answer(SECRET, "m", 200, body), sign_answer(SECRET, "n", 421, body)):
                assert not is_signature(other, found), "an answer to another question"
            assert (await ask(client, partition="1")).status == 421
            old = now - MAX_AGE_MS - 1000
            refused: list[dict[str, Any]] = [
                {"signature": None},
                {"signature": "0" * 64},
                {"session": "other"},
                {"nonce": "m"},
                {"at": str(now + 1)},
                {"at": str(old), "signature": sign_request(SECRET, "s", old, "n")},
                {"at": "soon"},
                {"at": ""},
                {"signature": sign_request(SECRET + "!", "s", now, "n")},
            ]
            for changes in refused:
                assert (await ask(client, **changes)).status == 401, changes
            for number in ("", "x", "-1", "9999999999"):
                assert (await ask(client, partition=number)).status == 421

    asyncio.run(story())


def test_the_address_is_announced_beside_the_member() -> None:
    assert str(announced(URL("tidegate://gate-0"), "10.0.0.7", 9000)) == "tidegate://gate-0/?read=10.0.0.7:9000"
