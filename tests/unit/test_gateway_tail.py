import asyncio
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.cursor import STREAM_ROLES, parse_cursor
from gateway.subscriber import Subscriber
from gateway.tail import Tail, replay

DELIVERED, TASKS = STREAM_ROLES.index("delivered"), STREAM_ROLES.index("tasks")
SESSIONS = ("a", "b")


def delivered(number: int, session_id: str = "a") -> tuple[bytes, bytes]:
    parts = [{"part_id": "p", "kind": "show", "payload": number}]
    verdict = {"parts": [{"part_id": "p", "decision": "delivered", "reason": "fresh"}]}
    body = {"type": "result.delivered", "source": "gate", "session_id": session_id, "event_id": str(number)}
    return session_id.encode(), json.dumps({**body, "parts": parts, "verdict": verdict}).encode()


def status(task_id: str, session_id: str = "a", **fields: Any) -> tuple[bytes, bytes]:
    body = {"type": "task.status", "session_id": session_id, "task_id": task_id, "status": "running", **fields}
    return json.dumps([session_id, task_id]).encode(), json.dumps(body).encode()


def told(block: bytes) -> list[tuple[str, str, Any]]:
    """The events in what a subscriber got: id, name, data."""
    found = []
    for text in block.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in text.splitlines())
        if fields:
            found.append((fields.get("id", ""), fields.get("event", ""), json.loads(fields.get("data", "null"))))
    return found


def new_tail() -> Tail:
    return Tail("00000000", 3, [0] * len(STREAM_ROLES))


def test_parts_come_with_their_verdicts() -> None:
    tail, stream = new_tail(), Subscriber("a", 10_000)
    tail.follow(stream, tail.positions)
    stream.take()
    assert tail.add(DELIVERED, 0, *delivered(1)) == 1
    ((cursor, name, data),) = told(stream.take())
    assert (cursor, name) == ("1-00000000-3-1-0-0-0-0", "delivered")
    assert data["parts"][0]["verdict"]["decision"] == "delivered"
    assert "source" not in data


def test_statuses_have_the_names_of_what_happened() -> None:
    tail, stream = new_tail(), Subscriber("a", 100_000)
    tail.follow(stream, tail.positions)
    stream.take()
    statuses: list[dict[str, Any]] = [
        {},
        {"stale": True},
        {"status": "waiting"},
        {"status": "ended", "disposition": "delivered"},
        {"status": "ended", "disposition": "cancelled"},
        {"status": "ended", "disposition": "expired"},
        {"status": "ended", "disposition": "rejected"},
    ]
    for offset, fields in enumerate(statuses):
        tail.add(TASKS, offset, *status("t", **fields))
    names = [name for _, name, _ in told(stream.take())]
    assert names == ["running", "stale", "held", "ended", "cancelled", "expired", "rejected"]


def test_only_the_latest_progress_of_a_task_waits_for_a_slow_client() -> None:
    tail, stream = new_tail(), Subscriber("a", 100_000)
    tail.follow(stream, tail.positions)
    stream.take()
    for number in range(50):
        tail.add(TASKS, number, *status("t", progress=number / 100))
        tail.add(DELIVERED, number, *delivered(number))
    events = told(stream.take())
    assert [data["progress"] for _, name, data in events if name == "running"] == [0.49]
    assert [data["event_id"] for _, name, data in events if name == "delivered"] == [str(each) for each in range(50)]
    positions = [parse_cursor(cursor).positions for cursor, _, _ in events]  # type: ignore[union-attr]
    assert positions == sorted(positions), "the cursor never passes what is still queued"


def test_a_slow_client_is_closed_and_others_are_not() -> None:
    tail, slow, quick = new_tail(), Subscriber("a", 1_000), Subscriber("a", 1_000)
    for each in (slow, quick):
        tail.follow(each, tail.positions)
    for number in range(20):
        tail.add(DELIVERED, number, *delivered(number))
        quick.take()
    assert slow.closed == "slow"
    assert slow.take() == b""
    assert quick.closed is None


def test_one_record_fits_even_if_it_is_larger_than_the_limit() -> None:
    tail, stream = new_tail(), Subscriber("a", 10)
    tail.follow(stream, tail.positions)
    stream.take()
    tail.add(DELIVERED, 0, *delivered(0))
    assert len(told(stream.take())) == 1
    assert stream.closed is None


def test_what_is_not_of_the_gate_is_passed_over() -> None:
    tail, stream = new_tail(), Subscriber("a", 10_000)
    tail.follow(stream, tail.positions)
    stream.take()
    records = [(None, b"{}"), (b"\xff", b"{}"), (b"a", None), (b"a", b"not JSON")]
    for offset, (key, value) in enumerate(records):
        tail.add(DELIVERED, offset, key, value)
    tail.add(TASKS, 0, b"a", b"{}")
    assert stream.take() == b""
    assert tail.positions[DELIVERED] == len(records)


def test_waiting_ends_with_a_block_or_a_close() -> None:
    async def story() -> None:
        stream = Subscriber("a", 100)
        waiting = asyncio.create_task(stream.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        stream.put(b"x")
        await waiting
        stream.take()
        waiting = asyncio.create_task(stream.wait())
        await asyncio.sleep(0)
        stream.close("gone")
        await waiting

    asyncio.run(story())


@given(
    st.lists(st.tuples(st.sampled_from([DELIVERED, TASKS]), st.sampled_from(SESSIONS)), max_size=60),
    st.lists(st.integers(0, 60), max_size=5),
    st.integers(0, 4_000),
)
def test_a_client_that_resumes_misses_nothing_and_repeats_nothing(
    records: list[tuple[int, str]], cuts: list[int], limit_bytes: int
) -> None:
    """Disconnected anywhere, it goes on from the tail, or from the log where the tail is too short."""
    tail = new_tail()
    log: list[tuple[int, int, str, bytes]] = []
    stream = Subscriber("a", 10**9)
    tail.follow(stream, tail.positions)
    heard: list[tuple[str, str, Any]] = []
    cursor = tail.cursor()

    def listen() -> None:
        nonlocal cursor
        for each in told(stream.take()):
            cursor = each[0]
            if each[1]:
                heard.append(each)

    offsets = [0] * len(STREAM_ROLES)
    for index, (role, session_id) in enumerate(records):
        ended = status(f"t{index}", session_id, status="ended")
        key, value = delivered(index, session_id) if role == DELIVERED else ended
        tail.add(role, offsets[role], key, value)
        log.append((role, offsets[role], session_id, value))
        offsets[role] += 1
        tail.trim(limit_bytes)
        if index % 3 == 0:
            listen()
        if index in cuts:  # what is queued is lost with the connection
            tail.leave(stream, 0.0)
            stream = Subscriber("a", 10**9)
            parsed = parse_cursor(cursor)
            assert parsed is not None
            positions = list(parsed.positions)
            if not tail.covers(positions):
                older = [
                    (each, at, body)
                    for each, at, owner, body in log
                    if owner == "a" and positions[each] <= at < tail.start[each]
                ]
                replay(stream, tail.fingerprint, tail.partition, positions, older)
                positions = [max(at, start) for at, start in zip(positions, tail.start, strict=True)]
            tail.follow(stream, positions)
    listen()
    expected = [index for index, (_, session_id) in enumerate(records) if session_id == "a"]
    numbers = [int(data.get("event_id") or data["task_id"][1:]) for _, _, data in heard]
    assert sorted(numbers) == expected
    for role in (DELIVERED, TASKS):
        of_role = [number for number in numbers if records[number][0] == role]
        assert of_role == sorted(of_role)
