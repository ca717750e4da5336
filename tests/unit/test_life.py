"""The life of a task where batches, restarts and other tasks get in its way."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from projections.rules import Rules
from tests.unit.feeding import START_MS, Feed, make_batch, reason_of


def verdicts(feed: Feed) -> list[tuple[str, tuple[str, str]]]:
    """Task and verdict of every result judged since the last transaction."""
    return [(body["task_id"], reason_of(body)) for body in feed.verdicts()]


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
    assert verdicts(feed) == [("parent", ("withheld", "request_archived")), ("child", ("withheld", "late"))]
    assert feed.changes[-1].duplicates == {"task.result": 1}


@pytest.mark.parametrize("restarts", [False, True])
def test_what_waits_is_decided_in_the_order_of_the_dispatches_whatever_happens_in_between(*, restarts: bool) -> None:
    feed = Feed()
    feed.dispatched("old", {"view": "1"}, slot="panel", on_stale="hold")
    feed.dispatched("new", {"view": "1"}, slot="panel", on_stale="hold")
    feed.changed({"view": "2"})
    feed.result("new")
    feed.result("old")
    feed.changed({"view": "1"})
    feed.take()
    if restarts:
        feed.restart()
    feed.barrier()
    assert verdicts(feed) == [("old", ("delivered", "fresh")), ("new", ("delivered", "fresh"))]


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
    assert verdicts(feed) == [
        ("new", ("delivered", "stale")),
        ("waiting", ("withheld", "superseded")),
        ("old", ("withheld", "superseded")),
        ("new", ("delivered", "fresh")),
    ]


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
    assert verdicts(feed) == [
        ("child", ("delivered", "fresh")),
        ("parent", ("delivered", "fresh")),
        ("other", ("withheld", reason)),
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
    assert verdicts(feed)[1] == ("parent", ("withheld", "request_archived"))


def test_the_work_of_one_who_has_ended_is_that_of_all_above_who_are_open() -> None:
    feed = Feed()
    feed.changed({"doc": "1"})
    feed.dispatched("top", {"doc": "1"})
    feed.dispatched("middle", parent_task_id="top")
    feed.dispatched("bottom", parent_task_id="middle")
    feed.result("bottom")
    feed.result("middle")
    feed.changed({"doc": "2"}, by="bottom")
    feed.result("top")
    assert verdicts(feed)[-1] == ("top", ("delivered", "fresh"))


def test_a_result_that_overtook_its_dispatch_is_judged_before_its_task_expires() -> None:
    feed = Feed()
    feed.result("task")
    feed.dispatched("task", heartbeat_timeout_seconds=10)
    feed.wait(20)
    assert verdicts(feed) == [("task", ("delivered", "fresh"))]


def test_an_effect_is_answered_before_its_task_expires() -> None:
    feed = Feed()
    feed.dispatched("task", heartbeat_timeout_seconds=10)
    feed.send("task.effect_proposed", task_id="task", idempotency_key="k", effect="pay")
    feed.wait(20)
    assert [body["type"] for body in feed.take() if "idempotency_key" in body] == ["effect.cleared"]


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
    assert verdicts(feed) == [("task", ("withheld", "stale"))]


def test_what_the_cold_lane_cannot_keep_from_falling_due_does_not_wait_for_it() -> None:
    feed = Feed()
    limit: dict[str, Any] = {"heartbeat_timeout_seconds": 10}
    feed.dispatched("hot", **limit)
    feed.send("task.dispatched", role="steps.cold", task_id="cold", task_type="digest", lane="cold", **limit)
    feed.dispatched("parent", scope_grace_seconds=10)
    feed.send(
        "task.dispatched", role="steps.cold", task_id="child", task_type="q", lane="cold", parent_task_id="parent"
    )
    feed.dispatched("orphan", parent_task_id="nobody")
    feed.result("parent")
    feed.take()
    assert feed.partition.next_due_ms(hot_only=True) == START_MS + 11_000
    assert feed.partition.next_due_ms(hot_only=False) == START_MS + 12_000
    feed.now_ms += 60_000
    feed.partition.act_on_due(feed.place, feed.now_ms, hot_only=True)
    assert {task_id: told["status"] for task_id, told in feed.statuses().items()} == {"hot": "ended"}
    assert feed.partition.next_due_ms(hot_only=True) is None
    assert feed.partition.next_due_ms() == START_MS + 12_000
    feed.restart()
    feed.wait(0)
    ended = {task_id: told["reason"] for task_id, told in feed.statuses().items()}
    assert ended == {
        "cold": "heartbeat_missed",
        "child": "scope_closed",
        "parent": "fresh",
        "orphan": "unknown_parent",
    }
    assert feed.partition.next_due_ms() is None


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (2, 0, 1)], ids=str)
def test_what_others_made_of_a_tasks_first_change_may_be_read_again(order: tuple[int, ...]) -> None:
    feed = Feed()
    feed.dispatched("task")
    for what in order:
        if what == 0:
            feed.changed({"doc": "mine"}, by="task")
        elif what == 1:
            feed.changed({"doc": "theirs"})
        else:
            feed.step("task", {"doc": "theirs"})
    feed.result("task")
    body = feed.verdict()
    assert reason_of(body) == ("delivered", "fresh")
    assert body["snapshot"] == {"doc": "theirs"}


def test_and_changed_again() -> None:
    feed = Feed()
    feed.dispatched("task")
    feed.changed({"doc": "mine"}, by="task")
    feed.changed({"doc": "theirs"})
    feed.step("task", {"doc": "theirs"})
    feed.changed({"doc": "mine again"}, by="task")
    feed.result("task")
    body = feed.verdict()
    assert reason_of(body) == ("delivered", "fresh")
    assert body["snapshot"] == {"doc": "mine again"}


def test_what_was_read_before_the_first_change_and_is_not_there_any_more_is_stale() -> None:
    feed = Feed()
    feed.dispatched("task", {"doc": "old"})
    feed.changed({"doc": "mine"}, by="task")
    feed.changed({"doc": "theirs"})
    feed.result("task")
    (told,) = feed.verdict()["verdict"]["parts"]
    assert (told["differences"][0]["expected"], told["differences"][0]["actual"]) == ("mine", "theirs")


@pytest.mark.parametrize("on_newer", ["allow", "enqueue", "reject", "interrupt"])
def test_newer_is_who_comes_later_in_the_log_even_if_the_brokers_clock_was_set_back(on_newer: str) -> None:
    feed = Feed()
    feed.dispatched("old", slot="panel")
    feed.now_ms -= 5_000
    feed.dispatched("new", slot="panel", on_newer=on_newer)
    feed.result("new")
    feed.result("old")
    told = dict(verdicts(feed))
    fresh, superseded, late = ("delivered", "fresh"), ("withheld", "superseded"), ("withheld", "late")
    assert (
        told
        == {
            "allow": {"new": fresh, "old": superseded},
            "enqueue": {"old": fresh, "new": fresh},
            "reject": {"new": late, "old": fresh},
            "interrupt": {"new": fresh, "old": late},
        }[on_newer]
    )


def test_between_lanes_newer_is_who_was_dispatched_later() -> None:
    feed = Feed()
    feed.changed({"view": "1"})
    feed.dispatched("hot before", slot="panel")
    feed.step("hot before")
    feed.step("hot before")
    feed.send("task.dispatched", role="steps.cold", task_id="cold", task_type="q", lane="cold", slot="panel")
    feed.dispatched("hot after", slot="panel")
    for task_id in ("cold", "hot before", "hot after"):
        feed.result(task_id)
    assert verdicts(feed) == [
        ("cold", ("delivered", "fresh")),
        ("hot before", ("withheld", "superseded")),
        ("hot after", ("delivered", "fresh")),
    ]
