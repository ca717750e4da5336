"""Results of tasks that are open, waiting, stopped, ended or unknown, and that come more than once."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from projections.rules import Rules
from schemas.envelope import Headers
from tests.unit.feeding import START_MS, Feed, make_batch, reason_of

CLOUD_EVENT: Headers = [
    ("ce_type", b"task.result"),
    ("ce_source", b"agent"),
    ("ce_id", b"r-1"),
    ("ce_subject", b"s"),
    ("ce_time", b"2025-11-24T16:00:00Z"),
    ("x-odd", b"\xff\x00"),
    ("x-null", None),
]


def result_value(**fields: Any) -> bytes:
    part = {"part_id": "p", "kind": "show", "payload": 1}
    return orjson.dumps({"task_id": "t", "outcome": "completed", "parts": [part], **fields})


def result(event_id: str, task_id: str) -> bytes:
    body: dict[str, Any] = {
        "type": "task.result",
        "source": "test",
        "event_id": event_id,
        "session_id": "s",
        "occurred_at": "2025-11-24T16:00:00Z",
        "task_id": task_id,
        "outcome": "completed",
        "parts": [{"part_id": "text", "kind": "show", "payload": "done"}],
    }
    return orjson.dumps(body)


def decided(feed: Feed) -> list[tuple[str, str, str]]:
    """Task and verdict of every result judged since the last transaction."""
    return [(body["task_id"], *reason_of(body)) for body in feed.verdicts()]


def ready(feed: Feed) -> list[bool]:
    """In a list: mypy believes that what was true once stays true."""
    return [feed.partition.has_ready]


# Waiting for a dispatch


@pytest.mark.parametrize("compacted", [False, True])
def test_a_result_that_can_be_judged_is_not_lost_with_the_worker(*, compacted: bool) -> None:
    feed = Feed()
    feed.result("t")
    feed.take()
    feed.restart(compacted=compacted)
    feed.dispatched("t")
    assert decided(feed) == [("t", "delivered", "fresh")]
    feed.restart(compacted=compacted)
    assert ready(feed) == [False]
    assert feed.partition.store.waiting_count == 0


@pytest.mark.parametrize("compacted", [False, True])
def test_a_parked_result_is_the_same_after_a_restart_headers_and_all(*, compacted: bool) -> None:
    feed = Feed()
    value = result_value()
    feed.send_value("results", value, CLOUD_EVENT)
    feed.take()
    feed.restart(compacted=compacted)
    (waiting,) = feed.partition.store.session("s").parked["t"].results
    assert (waiting.value, waiting.headers, waiting.key) == (value, CLOUD_EVENT, None)
    feed.wait(30)
    assert decided(feed) == [("t", "withheld", "unknown_task")]


def test_what_is_refused_after_a_wait_goes_out_as_it_came() -> None:
    feed = Feed()
    feed.send_value("results", result_value(), CLOUD_EVENT)
    feed.take()
    feed.restart()
    feed.send_value("results", result_value(outcome="failed"), CLOUD_EVENT)
    feed.take()
    (refusal,) = feed.changes[-1].refusals
    assert refusal.error == "identity_conflict"
    assert refusal.batch.headers[refusal.index] == CLOUD_EVENT
    feed.dispatched("t")
    feed.barrier()
    assert decided(feed) == [("t", "delivered", "fresh")]


def test_of_several_results_that_wait_the_first_one_counts() -> None:
    feed = Feed()
    for number in range(3):
        feed.result("t", {"part_id": str(number)})
    feed.result("t", {"part_id": "0"})
    feed.dispatched("t")
    feed.result("t", {"part_id": "later"})
    verdicts = feed.verdicts()
    assert [(body["parts"][0]["part_id"], *reason_of(body)) for body in verdicts] == [
        ("0", "delivered", "fresh"),
        ("1", "withheld", "late"),
        ("2", "withheld", "late"),
        ("later", "withheld", "late"),
    ]
    assert feed.changes[-1].duplicates == {"task.result": 1}


def test_each_unknown_task_has_its_own_grace_period() -> None:
    feed = Feed(Rules(unknown_task_grace_ms=10_000))
    feed.result("a")
    due = feed.partition.next_due_ms()
    assert due == START_MS + 11_000
    feed.wait(5)
    feed.result("b")
    feed.wait(4)
    assert decided(feed) == [("a", "withheld", "unknown_task")]
    assert feed.partition.next_due_ms() == START_MS + 17_000
    feed.wait(100)
    assert decided(feed) == [("b", "withheld", "unknown_task")]
    assert feed.partition.next_due_ms() is None


# Waiting for something else


@pytest.mark.parametrize("restarted", [False, True])
def test_a_child_that_opens_while_the_result_of_its_parent_waits_is_awaited(*, restarted: bool) -> None:
    feed = Feed()
    feed.changed({"doc/1": "b"})
    feed.dispatched("parent", {"doc/1": "a"})
    feed.result("parent", {"part_id": "text", "on_stale": "hold"})
    assert feed.waits("parent") == "context"
    feed.dispatched("child", parent_task_id="parent")
    if restarted:
        feed.take()
        feed.restart()
    feed.barrier()
    assert feed.waits("parent") == "children"


def waiting_feed() -> Feed:
    """A task with a result that is held."""
    feed = Feed(Rules(hold_ttl_ms=600_000))
    feed.changed({"doc/1": "b"})
    feed.dispatched("t", {"doc/1": "a"}, on_stale="hold")
    feed.result("t", event_id="first")
    assert feed.verdicts() == []
    return feed


def test_a_second_result_while_the_first_is_held_is_late_and_told_once() -> None:
    feed = waiting_feed()
    for number in range(3):
        feed.result("t", {"part_id": "other"}, event_id=f"second-{number % 2}")
    assert decided(feed) == [("t", "withheld", "late")]
    assert feed.changes[-1].duplicates == {"task.result": 2}
    feed.restart()
    feed.result("t", {"part_id": "other"}, event_id="second-0")
    feed.changed({"doc/1": "a"})
    feed.barrier()
    assert decided(feed) == [("t", "delivered", "fresh")]
    feed.result("t", {"part_id": "other"}, event_id="second-0")
    assert decided(feed) == []


def test_a_repeat_of_a_held_result_that_comes_with_the_cancellation_gets_no_verdict_of_its_own() -> None:
    feed = waiting_feed()
    feed.send("task.cancel_requested", task_id="t")
    feed.result("t", event_id="first")
    assert decided(feed) == [("t", "withheld", "late")]
    assert feed.changes[-1].duplicates == {"task.result": 1}


@pytest.mark.parametrize("restarted", [False, True])
def test_a_held_result_of_a_task_that_is_cancelled_is_withheld_whole(*, restarted: bool) -> None:
    feed = waiting_feed()
    feed.reaches_cuts = False
    feed.send("task.cancel_requested", task_id="t")
    feed.take()
    if restarted:
        feed.restart()
    assert decided(feed) == []
    feed.barrier()
    assert decided(feed) == [("t", "withheld", "late")]
    assert feed.partition.store.waiting_count == 0


def test_a_result_that_waited_when_a_result_stopped_its_task_comes_before_its_repeat_in_the_same_batch() -> None:
    feed = Feed()
    feed.dispatched("parent", request_id="r")
    feed.dispatched("child", parent_task_id="parent")
    feed.dispatched("grandchild", parent_task_id="child")
    feed.result("child")  # waits
    feed.changed({"request/r": "archived"})
    feed.take()
    fields = {"source": "test", "session_id": feed.session, "occurred_at": "2025-11-24T16:00:00Z"}
    parts = [{"part_id": "text", "kind": "show", "payload": "done"}]
    results = [
        {
            **fields,
            "type": "task.result",
            "event_id": f"of {task}",
            "task_id": task,
            "outcome": "completed",
            "parts": parts,
        }
        for task in ("parent", "child")
    ]
    feed.feed(make_batch("results", 1, [orjson.dumps(result) for result in results], [feed.now_ms] * 2))
    assert [(body["task_id"], *reason_of(body)) for body in feed.verdicts()] == [
        ("parent", "withheld", "request_archived"),
        ("child", "withheld", "late"),
    ]
    assert feed.changes[-1].duplicates == {"task.result": 1}


def test_what_a_result_frees_comes_before_the_next_result_in_one_batch_or_two() -> None:
    def run(*, together: bool) -> list[tuple[str, str, str]]:
        feed = Feed()
        feed.dispatched("parent", slot="panel")
        feed.dispatched("child", parent_task_id="parent")
        feed.dispatched("newer", slot="panel")
        feed.result("parent")
        values = [
            orjson.dumps(
                {
                    "type": "task.result",
                    "source": "agent",
                    "event_id": task_id,
                    "session_id": "s",
                    "occurred_at": "2025-11-24T16:00:00Z",
                    **orjson.loads(result_value(task_id=task_id)),
                }
            )
            for task_id in ("child", "newer")
        ]
        if together:
            feed.feed(make_batch("results", 1, values, [feed.now_ms] * 2))
        else:
            for offset, value in enumerate(values, start=1):
                feed.feed(make_batch("results", offset, [value], [feed.now_ms]))
        return decided(feed)

    assert run(together=True) == run(together=False)
    assert run(together=True) == [
        ("child", "delivered", "fresh"),
        ("parent", "delivered", "fresh"),
        ("newer", "delivered", "fresh"),
    ]


@pytest.mark.parametrize("sizes", [[2], [1, 1]], ids=["one batch", "two batches"])
def test_a_repeat_right_behind_what_stopped_its_task_is_a_repeat(sizes: list[int]) -> None:
    feed = Feed()
    feed.dispatched("parent", request_id="r")
    feed.dispatched("child", {"view": "1"}, parent_task_id="parent", on_stale="hold")
    feed.changed({"view": "2", "request/r": "archived"})
    feed.result("child")
    feed.take()
    values = [result("r-1", "parent"), result("r-2", "child")]
    for size in sizes:
        feed.feed(make_batch("results", feed.ends["results"], values[:size], [feed.now_ms] * size))
        feed.ends["results"] += size
        values = values[size:]
    feed.barrier()
    assert decided(feed) == [("parent", "withheld", "request_archived"), ("child", "withheld", "late")]
    assert feed.changes[-1].duplicates == {"task.result": 1}


@pytest.mark.parametrize("restarts", [False, True])
def test_what_waits_is_decided_in_the_order_of_the_dispatches_whatever_happens_in_between(*, restarts: bool) -> None:
    feed = Feed()
    feed.dispatched("old", {"view": "1"}, slot="panel", on_stale="hold")
    feed.dispatched("new", {"view": "1"}, slot="panel", on_stale="hold")
    feed.changed({"view": "2"})
    feed.result("new")
    feed.result("old")
    feed.reaches_cuts = False
    feed.changed({"view": "1"})
    feed.take()
    if restarts:
        feed.restart()
    feed.barrier()
    assert decided(feed) == [("old", "delivered", "fresh"), ("new", "delivered", "fresh")]


def test_a_waiting_result_is_withheld_even_if_its_task_is_beyond_the_horizon_as_soon_as_it_is_stopped() -> None:
    feed = Feed(Rules(ended_tasks_per_session=1))
    feed.dispatched("parent")
    for task_id in ("a", "b"):
        feed.dispatched(task_id, {"view": "1"}, parent_task_id="parent", on_stale="hold")
    feed.changed({"view": "2"})
    feed.result("a")
    feed.result("b")
    feed.take()
    feed.send("task.cancel_requested", task_id="parent")
    feed.barrier()
    told = feed.verdicts()
    assert sorted(body["task_id"] for body in told) == ["a", "b"]
    assert {reason_of(body) for body in told} == {("withheld", "unknown_task")}
    assert [part["payload"] for body in told for part in body["parts"]] == ["done", "done"]


def test_an_older_result_does_not_land_on_a_part_of_a_newer_one() -> None:
    feed = Feed()
    feed.dispatched("waiting", {"view": "1"}, slot="panel", on_stale="hold")
    feed.dispatched("old", slot="panel")
    feed.dispatched("new", {"view": "1"}, slot="panel")
    feed.changed({"view": "2"})
    feed.result("waiting")
    feed.result("new", {"part_id": "now", "depends_on": []}, {"part_id": "later", "on_stale": "hold"})
    feed.result("old")
    feed.changed({"view": "1"})
    feed.barrier()
    assert decided(feed) == [
        ("new", "delivered", "stale"),
        ("waiting", "withheld", "superseded"),
        ("old", "withheld", "superseded"),
        ("new", "delivered", "fresh"),
    ]


# Own work


@pytest.mark.parametrize("facets", [{"request/r": "archived"}, {"session": "closed"}])
def test_what_a_child_archives_or_closes_is_its_parents_own_work(facets: dict[str, str]) -> None:
    feed = Feed()
    feed.dispatched("parent", request_id="r")
    feed.dispatched("child", request_id="r", parent_task_id="parent")
    feed.dispatched("other", request_id="r")
    feed.changed(facets, by="child")
    for task_id in ("child", "parent", "other"):
        feed.result(task_id)
    reason = "request_archived" if "request/r" in facets else "session_closed"
    assert decided(feed) == [
        ("child", "delivered", "fresh"),
        ("parent", "delivered", "fresh"),
        ("other", "withheld", reason),
    ]


def test_what_somebody_else_archived_as_well_is_nobodys_own_work() -> None:
    feed = Feed()
    feed.dispatched("parent", request_id="r")
    feed.dispatched("child", parent_task_id="parent")
    feed.dispatched("other")
    feed.changed({"request/r": "archived"}, by="child")
    feed.changed({"request/r": "archived"}, by="other")
    feed.result("child")
    feed.result("parent")
    assert decided(feed)[1] == ("parent", "withheld", "request_archived")
