"""Steps, heartbeats and proposed effects of tasks that are open, and of those that are not."""

from __future__ import annotations

from tests.unit.event_logs import full_rows
from tests.unit.feeding import Feed, reason_of
from tests.unit.test_budget import refused


def test_steps_of_tasks_that_are_not_open_are_counted_and_no_more() -> None:
    feed = Feed()
    feed.step("ghost", {"doc/1": "a"})
    feed.send("task.heartbeat", task_id="ghost")
    feed.dispatched("t")
    feed.result("t")
    feed.step("t", {"doc/1": "a"})
    feed.take()
    assert feed.changes[-1].ignored == {"task.step": 2, "task.heartbeat": 1}


def test_a_heartbeat_changes_nothing_unless_its_task_may_not_be_silent() -> None:
    feed = Feed()
    feed.dispatched("quiet")
    feed.dispatched("beating", heartbeat_timeout_seconds=10)
    feed.take()
    feed.send("task.heartbeat", task_id="quiet")
    assert not feed.partition.has_changes
    before = feed.partition.next_due_ms()
    feed.send("task.heartbeat", task_id="beating")
    assert feed.take() == []
    after = feed.partition.next_due_ms()
    assert before is not None
    assert after == before + 2000


def test_a_step_is_a_sign_of_life_too() -> None:
    feed = Feed()
    feed.dispatched("t", heartbeat_timeout_seconds=10)
    feed.wait(8)
    feed.step("t")
    feed.wait(8)
    assert feed.statuses()["t"]["status"] == "running"
    feed.wait(2)
    assert feed.statuses()["t"]["reason"] == "heartbeat_missed"


def test_a_step_is_refused_where_the_session_has_no_room_for_it_and_its_task_goes_on() -> None:
    feed = Feed()
    feed.changed({"doc/1": "a"})
    feed.dispatched("t", {"doc/1": "a"})
    feed.take()
    before = feed.row
    with full_rows(600):
        feed.step("t", {f"never/seen/{number}": "v" for number in range(4)})
        assert refused(feed) == ["session_full"]
        assert feed.row.tasks["t"].expected == before.tasks["t"].expected
        assert feed.row.facets == before.facets
        feed.step("t", {"doc/1": "a"}, message="still here")
        assert refused(feed) == []
    feed.result("t")
    assert reason_of(feed.verdict()) == ("delivered", "fresh")
