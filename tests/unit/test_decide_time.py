"""What falls due, and that nothing does while something that was in time is on the topics."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.feeding import START_MS, Feed, reason_of
from tests.unit.session_checks import tasks_inside


def verdicts(feed: Feed) -> list[tuple[str, tuple[str, str]]]:
    """Task and verdict of every result judged since the last transaction."""
    return [(body["task_id"], reason_of(body)) for body in feed.verdicts()]


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
    feed.partition.act_on_due(feed.position, feed.now_ms, hot_only=True)
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


@pytest.mark.parametrize("inside", [0, 8])
def test_tasks_that_fall_due_together_end_in_the_order_of_their_ids(inside: int) -> None:
    """Whether their session has an index or not: where a task is written decides nothing."""
    with tasks_inside(inside):
        feed = Feed()
        for task_id in ("b", "a", "c"):
            feed.dispatched(task_id, deadline_at="2025-11-24T16:01:00Z")
        feed.wait(120)
        ended = [body["task_id"] for body in feed.take() if body.get("disposition") == "expired"]
    assert ended == ["a", "b", "c"]


@pytest.mark.parametrize("acts_before", [False, True])
@pytest.mark.parametrize("final", [True, False])
def test_a_result_after_its_deadline_is_late_whether_the_cold_lane_was_looked_at_before_or_not(
    *, acts_before: bool, final: bool
) -> None:
    """The task's parent may be on the cold lane, so that it falls due with the cold lane's cut only."""
    feed = Feed()
    feed.dispatched("child", parent_task_id="nobody", deadline_seconds=0.5)
    feed.now_ms += 1000
    if acts_before:
        feed.partition.act_on_due(feed.position, feed.now_ms)
    feed.result("child", final=final)
    feed.wait(5)
    bodies = feed.take()
    assert [body["disposition"] for body in bodies if body.get("status") == "ended"] == ["expired"]
    (verdict,) = [body["verdict"] for body in bodies if "verdict" in body]
    assert (verdict["reason"], verdict["disposition"]) == ("late", "expired")
