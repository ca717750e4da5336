"""When a task ends by its clocks: deadline, start and heartbeat, and what stops them."""

from __future__ import annotations

from typing import Any

import pytest

from projections.clocks import awaits_first_sign, deadline_of, given_up_at, minds_signs_of_life
from projections.rows import FORMAT, Clocks, Options, Policy, Task
from projections.timers import due_ms
from schemas.times import rfc3339
from tests.unit.feeding import Feed


def task(policy: Policy | None = None, clocks: Clocks | None = None) -> Task:
    return Task(FORMAT, 1000, 0, "", "", "", {}, policy=policy, clocks=clocks, last_heartbeat=1000)


def test_a_task_without_limits_has_no_clock() -> None:
    for each in (task(), task(Policy(on_stale="hold"))):
        assert (deadline_of(each), given_up_at(each), due_ms(each)) == (None, None, None)
        assert not minds_signs_of_life(each)


def test_a_deadline_that_was_put_off_counts_instead_of_the_first_one() -> None:
    policy = Policy(deadline_ms=5000)
    assert deadline_of(task(policy)) == 5000
    assert deadline_of(task(policy, Clocks())) == 5000
    assert deadline_of(task(policy, Clocks(deadline_ms=9000))) == 9000
    assert due_ms(task(policy, Clocks(deadline_ms=9000))) == 9000


def test_the_heartbeat_clock_begins_with_the_first_sign_of_life() -> None:
    policy = Policy(heartbeat_timeout_ms=100, options=Options(start_timeout_ms=3000))
    assert awaits_first_sign(task(policy))
    assert given_up_at(task(policy)) == (4000, "not_started")
    assert given_up_at(task(policy, Clocks(has_started=True))) == (1100, "heartbeat_missed")
    alone = Policy(options=Options(start_timeout_ms=3000))
    assert given_up_at(task(alone, Clocks(has_started=True))) is None


def test_a_task_that_queues_has_not_been_asked_to_start() -> None:
    policy = Policy(options=Options(start_timeout_ms=3000))
    assert given_up_at(task(policy, Clocks(is_queued=True))) is None
    assert given_up_at(task(policy, Clocks(turn_at=7000))) == (10_000, "not_started")


def test_nothing_falls_due_while_a_person_is_asked() -> None:
    policy = Policy(deadline_ms=5000, heartbeat_timeout_ms=100, options=Options(start_timeout_ms=3000))
    asking = task(policy, Clocks(waits_since=1000))
    assert (deadline_of(asking), given_up_at(asking), due_ms(asking)) == (None, None, None)
    assert minds_signs_of_life(asking)
    assert minds_signs_of_life(task(None, Clocks(waits_since=1000)))


@pytest.mark.parametrize(
    ("limit", "sign", "reason"),
    [
        (
            {"deadline_seconds": 0.5},
            {"kind": "task.step", "step_id": "ask", "status": "input_required"},
            "deadline_passed",
        ),
        ({"heartbeat_timeout_seconds": 0.5}, {"kind": "task.heartbeat"}, "heartbeat_missed"),
        (
            {"heartbeat_timeout_seconds": 0.5},
            {"kind": "task.step", "step_id": "look", "status": "started"},
            "heartbeat_missed",
        ),
        ({"start_timeout_seconds": 0.5}, {"kind": "task.step", "step_id": "look", "status": "started"}, "not_started"),
    ],
)
def test_a_clock_that_has_run_out_is_not_turned_back(limit: dict[str, Any], sign: dict[str, Any], reason: str) -> None:
    """The task's parent may be on the cold lane, so it falls due with that one's cut: the hot lane may be further."""
    feed = Feed()
    feed.dispatched("t", parent_task_id="nobody", **limit)
    began_ms = feed.now_ms
    feed.send(task_id="t", **sign)
    feed.send("task.step", task_id="t", step_id="think", status="started")
    assert "t" in feed.row.tasks
    feed.partition.act_on_due(feed.position, feed.now_ms)
    (end,) = [each for each in feed.take() if each.get("disposition")]
    assert (end["reason"], end["ended_at"]) == (reason, rfc3339(began_ms + 500))
