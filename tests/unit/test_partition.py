"""A partition: what is kept, lost, forgotten and sent on, and that a restart at any moment changes nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import orjson
import pytest

from projections import store
from projections.decode import Batch
from projections.log_position import LogPosition
from projections.partition import Partition
from projections.records import row_to_bytes
from projections.rows import new_row
from projections.rules import Rules
from schemas.envelope import FORWARDED_FROM, Headers
from tests.unit.feeding import Feed, make_batch, reason_of

DAY_SECONDS = 86_400
FORWARDED: Headers = [(FORWARDED_FROM, b"tidegate.context.v1/3/17")]


def result_value(**fields: Any) -> bytes:
    part = {"part_id": "p", "kind": "show", "payload": 1}
    return orjson.dumps({"task_id": "t", "outcome": "completed", "parts": [part], **fields})


def decided(feed: Feed) -> list[tuple[str, str, str]]:
    return [(body["task_id"], *reason_of(body)) for body in feed.verdicts()]


def to_write(feed: Feed) -> list[bool]:
    """In a list: mypy believes that what was true once stays true."""
    return [feed.partition.has_changes]


def knows_ended(feed: Feed, session_id: str, task_id: str) -> bool:
    return feed.partition.store.session(session_id).ended_task(task_id) is not None


# Status and disposition


def test_running_is_told_once_in_a_transaction_and_the_end_once_for_all() -> None:
    feed = Feed()
    feed.dispatched("t", {"doc/1": "a"})
    for value in "bcd":
        feed.changed({"doc/1": value})
        feed.step("t", message=value)
    assert [(body["status"], body["message"]) for body in feed.take()] == [("running", "d")]
    feed.step("t", message="e")
    feed.result("t")
    told = [body for body in feed.take() if body["type"] == "task.status"]
    assert [(body["status"], body["disposition"], body["message"]) for body in told] == [("ended", "withheld", "e")]
    feed.step("t", message="f")
    feed.changed({"doc/1": "a"})
    feed.result("t")
    assert feed.take() == []


def test_statuses_of_an_open_task_that_differ_have_different_ids_and_one_published_again_has_its_own() -> None:
    feed = Feed()
    feed.dispatched("t")
    ids = [body["event_id"] for body in feed.take()]
    feed.restart()
    for message in "ab":
        feed.step("t", message=message)
        ids += [body["event_id"] for body in feed.take()]
    before = feed.now_ms
    again = []
    for _ in range(2):
        feed.now_ms = before
        feed.step("t", message="c")
        again += [orjson.loads(output.value or b"") for output in feed.partition.take(feed.now_ms).outputs]
        feed.partition.roll_back()  # it was not committed
    assert again[0] == again[1]
    ids.append(again[0]["event_id"])
    assert len(set(ids)) == 4
    digest = feed.row.tasks["t"].digest
    assert all(event_id.startswith(f"{digest}-") for event_id in ids)


# What is refused


def test_what_is_no_event_is_refused_with_its_record_and_costs_its_neighbours_nothing() -> None:
    feed = Feed()
    envelope = {"source": "a", "session_id": "s", "occurred_at": "2025-01-01T00:00:00Z"}
    change = {**envelope, "type": "context.changed"}
    for role, good in (
        ("context", {**change, "event_id": "c", "set": {"a": "1"}}),
        ("steps", {**envelope, "event_id": "d", "type": "task.dispatched", "task_id": "t", "task_type": "q"}),
        ("results", {**envelope, "event_id": "r", "type": "task.result", **orjson.loads(result_value())}),
    ):
        values: list[bytes | None] = [None, b"{", orjson.dumps(good)]
        key = b"s"
        batch = Batch(role, 0, 0, 3, [0, 1, 2], [feed.now_ms] * 3, [key] * 3, values, [()] * 3)  # type: ignore[arg-type]
        feed.feed(batch)
    assert decided(feed) == [("t", "delivered", "fresh")]
    refused = [(each.batch.role, each.index, each.error) for each in feed.changes[-1].refusals]
    assert refused == [
        (role, index, error)
        for role in ("context", "steps", "results")
        for index, error in ((0, "empty_value"), (1, "invalid_event"))
    ]
    counted = {role: sum(counts.values()) for role, counts in feed.changes[-1].events.items()}
    assert counted == {"context": 1, "steps": 1, "results": 1}


# Sessions


def test_erasing_leaves_nothing_and_says_so() -> None:
    feed = Feed()
    feed.changed({"doc/1": "a"})
    feed.dispatched("open")
    feed.dispatched("over")
    feed.result("over")
    feed.result("unknown")
    feed.dispatched("holding", {"doc/1": "b"}, on_stale="hold")
    feed.result("holding")
    feed.take()
    feed.send("session.erased")
    feed.take()
    changes = feed.changes[-1]
    tombstones = [orjson.loads(output.key)[1] for output in changes.outputs if output.value is None]
    assert sorted(tombstones) == ["holding", "open", "over"]
    assert [key for key, value in changes.rows.items() if value is not None] == [b"ss"]
    for compacted in (False, True):
        feed.restart(compacted=compacted)
        kept = feed.partition.store
        assert (kept.session_count, kept.waiting_count) == (1, 0)
        assert feed.row == msgspec.structs.replace(
            new_row(), last_event_at=feed.row.last_event_at, context_ids=feed.row.context_ids
        )
        assert len(feed.row.context_ids) == 2 * 8
        assert kept.row_bytes < 64
        assert (kept.ended_bytes, kept.waiting_bytes) == (0, 0)
        assert feed.partition.next_due_ms() is None


@pytest.mark.parametrize("taken_before", [True, False])
@pytest.mark.parametrize("evicted", [True, False])
def test_what_comes_after_erasing_finds_an_empty_session(
    monkeypatch: pytest.MonkeyPatch, *, taken_before: bool, evicted: bool
) -> None:
    if evicted:
        monkeypatch.setattr(store, "MAX_DECODED", 0)
    feed = Feed()
    feed.changed({"doc/1": "secret"})
    feed.dispatched("t")
    if taken_before:
        feed.take()
    feed.send("session.erased")
    feed.changed({"doc/2": "x"})
    feed.dispatched("t", {"doc/1": "a"})
    assert list(feed.facets) == ["doc/2"]
    outputs = feed.take()
    assert [body["status"] for body in outputs] == ["running"]
    assert b"secret" not in row_to_bytes(feed.row)
    feed.restart(compacted=True)
    assert b"secret" not in row_to_bytes(feed.row)
    feed.result("t")
    assert decided(feed) == [("t", "delivered", "fresh")]


@pytest.mark.parametrize("metadata", [{}, {"tasks": {}}, {"x": '"tasks":{}'}])
def test_idle_sessions_are_forgotten_but_not_those_with_open_tasks(metadata: dict[str, Any]) -> None:
    feed = Feed(Rules(session_ttl_ms=3_600_000))
    feed.dispatched("t", {"doc/1": "a"}, metadata=metadata, deadline_at="2025-11-26T00:00:00Z")
    feed.take()
    feed.restart()
    assert feed.partition.next_due_ms() is not None
    for session in ("idle", "rejected", "unknown"):
        feed.session = session
        if session == "idle":
            feed.changed({"doc/1": "a"})
        elif session == "rejected":
            feed.dispatched("t", parent_task_id="t")
        else:
            feed.result("t")
            feed.wait(60)
    feed.take()
    assert feed.partition.store.session_count == 4
    feed.now_ms += 4_000_000
    for _ in range(3):
        feed.partition.find_idle(feed.now_ms, 100)
        feed.partition.drop_idle()
    feed.take()
    assert feed.partition.store.session_ids() == ["s"]
    feed.restart(compacted=True)
    assert feed.partition.store.session_ids() == ["s"]
    assert not any(knows_ended(feed, session, "t") for session in ("idle", "rejected", "unknown"))


def test_a_session_found_idle_is_kept_if_something_of_it_was_on_the_topics() -> None:
    feed = Feed(Rules(session_ttl_ms=3_600_000))
    feed.changed({"view": "hotels"})
    feed.take()
    feed.now_ms += 4_000_000
    feed.partition.find_idle(feed.now_ms, 100)
    feed.partition.find_idle(feed.now_ms, 100)
    assert feed.partition.has_idle
    feed.dispatched("task", {"view": "flights"})  # it was there, behind what had been folded
    feed.partition.drop_idle()
    feed.result("task")
    assert decided(feed) == [("task", "withheld", "stale")]


def sweep(feed: Feed) -> None:
    """Look at every session, and forget those that are idle."""
    for _ in range(3):
        feed.partition.find_idle(feed.now_ms, 100)
        feed.partition.drop_idle()


def test_every_event_keeps_a_session() -> None:
    day = 86_400_000
    feed = Feed(Rules(session_ttl_ms=day))
    feed.changed({"presence/tab": "present"})
    feed.send("context.changed", session_id="silent", set={"presence/tab": "present"})
    feed.take()
    for _ in range(30):  # the same again, every hour
        feed.now_ms += day // 24
        feed.changed({"presence/tab": "present"})
        feed.take()
    feed.send("task.heartbeat", task_id="nobodys")
    sweep(feed)
    feed.take()
    assert feed.partition.store.session_ids() == ["s"]
    assert feed.row.last_event_at > feed.now_ms - day // 8


def test_a_session_that_a_clock_put_into_the_future_is_forgotten_all_the_same() -> None:
    day = 86_400_000
    feed = Feed(Rules(session_ttl_ms=day))
    began = feed.now_ms
    feed.now_ms += 400 * day
    feed.changed({"a": "1"})
    feed.take()
    feed.now_ms = began
    sweep(feed)
    feed.take()
    assert feed.partition.store.session_ids() == ["s"]
    feed.now_ms += 2 * day
    sweep(feed)
    feed.take()
    assert feed.partition.store.session_ids() == []


@pytest.mark.parametrize(("odd_ms", "before"), [(-5_000, "fresh"), (0, "fresh"), (2**62, "late")])
def test_an_odd_time_concerns_its_own_events_and_what_fell_due_before_it(odd_ms: int, before: str) -> None:
    feed = Feed()
    feed.dispatched("before", heartbeat_timeout_seconds=60)
    now_ms, feed.now_ms = feed.now_ms, odd_ms
    feed.changed({"a": "1"})
    feed.dispatched("odd", {"a": "1"}, heartbeat_timeout_seconds=60)
    feed.result("odd")
    feed.result("unknown")
    feed.take()
    feed.now_ms = now_ms
    feed.dispatched("after", {"a": "1"}, heartbeat_timeout_seconds=60)
    feed.wait(1)
    feed.take()
    feed.restart(compacted=True)
    feed.result("before")
    feed.result("after")
    decision = "delivered" if before == "fresh" else "withheld"
    assert decided(feed) == [("before", decision, before), ("after", "delivered", "fresh")]


# What the gate forgets, readers of the tasks topic forget


def removed(feed: Feed) -> list[str]:
    feed.take()
    return [orjson.loads(each.key)[1] for each in feed.changes[-1].outputs if each.value is None]


def test_the_status_of_a_task_beyond_the_horizon_is_removed() -> None:
    feed = Feed(Rules(ended_tasks_per_session=3))
    feed.result("never dispatched")
    feed.wait(60)
    for number in range(6):
        feed.dispatched(f"t{number}")
        feed.result(f"t{number}")
    assert removed(feed) == ["t0", "t1", "t2"]
    feed.dispatched("t0")  # as if it had never been: its status comes after the removal of the old one
    feed.result("t0")
    feed.dispatched("t6")
    feed.result("t6")
    feed.send("session.erased")
    assert removed(feed) == ["t3", "t4", "t5", "t0", "t6"]


def test_the_statuses_of_an_idle_session_are_removed_with_it() -> None:
    feed = Feed(Rules(session_ttl_ms=3_600_000))
    for number in range(3):
        feed.dispatched(f"t{number}")
        feed.result(f"t{number}")
    feed.take()
    feed.now_ms += 4_000_000
    sweep(feed)
    assert removed(feed) == ["t0", "t1", "t2"]


# Records that went astray


def test_records_of_other_partitions_are_sent_on_and_not_folded() -> None:
    partition = Partition(0, Rules(), lambda session_id: session_id == "home")
    for role, value in (
        ("context", {"type": "context.changed", "set": {"a": "1"}}),
        ("steps", {"type": "task.dispatched", "task_id": "t", "task_type": "q"}),
        ("results", {"type": "task.result", **orjson.loads(result_value())}),
        ("context", {"type": "session.erased"}),
    ):
        envelope = {"source": "a", "event_id": "e", "session_id": "away", "occurred_at": "2025-01-01T00:00:00Z"}
        values = [orjson.dumps({**envelope, **value}), orjson.dumps({**envelope, **value, "session_id": "home"})]
        batch = make_batch(role, 0, values, [0, 0])  # type: ignore[arg-type]
        if role == "context":
            partition.fold_context(batch, 0)
        elif role == "steps":
            partition.fold_steps(batch, LogPosition(0, 1, 1), 0)
        else:
            partition.judge(batch, LogPosition(0, 1, 1), 0)
    changes = partition.take(0)
    assert [(batch.role, index) for batch, index in changes.misrouted] == [
        ("context", 0),
        ("steps", 0),
        ("results", 0),
        ("context", 0),
    ]
    assert not any(b"away" in key for key in changes.rows)
    assert not any(b"away" in (output.value or b"") for output in changes.outputs)


def test_a_record_that_was_sent_on_twice_is_folded_once() -> None:
    feed = Feed()
    for value in "ab":
        feed.changed({"doc/1": value}, event_id=value, headers=FORWARDED)
    for _ in range(2):
        feed.restart()
        feed.changed({"doc/1": "a"}, event_id="a", headers=FORWARDED)
        feed.changed({"doc/1": "b"}, event_id="b", headers=FORWARDED)
        feed.changed({"doc/1": "a"}, event_id="a", headers=FORWARDED)
        feed.take()
        assert feed.facets["doc/1"].value == "b"
    duplicates = sum((changes.duplicates for changes in feed.changes), Counter[str]())
    assert duplicates["context.changed"] >= 3


# Ended tasks


def test_ended_tasks_are_forgotten_in_the_same_order_after_a_restart() -> None:
    def forgotten(*, restarted: bool) -> set[str]:
        feed = Feed(Rules(ended_tasks_per_session=3))
        for task_id in "abc":
            feed.dispatched(task_id)
            feed.result(task_id)
        feed.result("a", {"part_id": "late"})
        feed.take()
        if restarted:
            feed.restart()
        feed.dispatched("d")
        feed.result("d")
        feed.take()
        return {task_id for task_id in "abcd" if not knows_ended(feed, "s", task_id)}

    assert forgotten(restarted=True) == forgotten(restarted=False) == {"b"}


def test_what_was_forgotten_is_unknown_and_its_status_is_not_touched() -> None:
    feed = Feed(Rules(ended_tasks_per_session=1))
    for task_id in "ab":
        feed.dispatched(task_id)
        feed.result(task_id)
    feed.take()
    feed.result("a", {"part_id": "late"})
    feed.wait(30)
    assert [(body["type"], body["verdict"]["reason"]) for body in feed.take()] == [("result.withheld", "unknown_task")]


def test_a_restored_entry_is_the_one_that_was_remembered() -> None:
    feed = Feed()
    feed.dispatched('odd "id"\n')
    feed.result('odd "id"\n')
    feed.take()
    before = feed.partition.store.session("s").ended_task('odd "id"\n')
    feed.restart()
    after = feed.partition.store.session("s").ended_task('odd "id"\n')
    assert before is not None
    assert after is not None
    assert after.line() == before.line()


# Nothing to do


def test_nothing_to_write_is_known() -> None:
    feed = Feed()
    feed.take()
    feed.step("ghost")
    feed.send("task.heartbeat", task_id="ghost")
    assert to_write(feed) == [False]
    feed.changed({"doc/1": "a"})
    assert to_write(feed) == [True]
    feed.take()
    assert to_write(feed) == [False]
    feed.wait(DAY_SECONDS)
    feed.barrier()
    assert to_write(feed) == [False]
