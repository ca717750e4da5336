"""Attempts: where they stand in a slot, which of them a cancellation reaches, and what their command says."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.feeding import Feed, reason_of
from tests.unit.session_checks import tasks_inside


def stale_task(**fields: Any) -> Feed:
    """A task in a slot whose result was stale, so that another attempt was commanded."""
    feed = Feed()
    feed.changed({"doc": "1"})
    feed.dispatched("old", {"doc": "1"}, on_stale="redispatch", slot="panel", **fields)
    feed.changed({"doc": "2"})
    feed.result("old")
    return feed


def attempt(feed: Feed, number: int = 2, value: str = "2", **fields: Any) -> None:
    """The dispatch that the command asks for."""
    told = {"on_stale": "redispatch", "slot": "panel", "attempt": number, **fields}
    feed.dispatched(f"old~{number}", {"doc": value}, **told)


def ends(feed: Feed) -> dict[str, tuple[str, str]]:
    """How tasks ended since the last transaction."""
    bodies = [body for body in feed.take() if body["type"] == "task.status" and body["status"] == "ended"]
    return {body["task_id"]: (body["disposition"], body["reason"]) for body in bodies}


def commands(feed: Feed) -> list[tuple[str, str]]:
    """Commands since the last transaction: type and task."""
    return [
        (body["type"], body["task_id"]) for body in feed.take() if body["type"] in ("task.cancel", "task.redispatch")
    ]


RESTARTS = pytest.mark.parametrize("restart", [False, True])


def go_on(feed: Feed, *, restart: bool) -> None:
    feed.take()
    if restart:
        feed.restart(compacted=True)


@RESTARTS
def test_an_attempt_never_lands_on_a_newer_answer(*, restart: bool) -> None:
    feed = stale_task()
    feed.dispatched("new", slot="panel")
    feed.result("new")
    go_on(feed, restart=restart)
    attempt(feed)
    feed.result("old~2")
    assert reason_of(feed.verdict()) == ("withheld", "superseded")


@RESTARTS
def test_an_attempt_lands_where_no_newer_answer_is(*, restart: bool) -> None:
    feed = stale_task()
    go_on(feed, restart=restart)
    attempt(feed)
    feed.dispatched("new", slot="panel")
    feed.result("old~2")
    feed.result("new")
    assert [reason_of(body) for body in feed.verdicts()] == [("delivered", "fresh"), ("delivered", "fresh")]


def test_an_attempt_of_an_attempt_keeps_the_place_of_the_first() -> None:
    feed = stale_task(max_redispatches=3)
    attempt(feed, 2, "1", max_redispatches=3)
    feed.result("old~2")
    feed.dispatched("new", slot="panel")
    feed.result("new")
    attempt(feed, 3, max_redispatches=3)
    feed.take()
    feed.result("old~3")
    assert reason_of(feed.verdict()) == ("withheld", "superseded")


def test_a_newer_task_that_interrupts_stops_an_attempt_dispatched_later() -> None:
    feed = stale_task()
    feed.dispatched("new", slot="panel", on_newer="interrupt")
    attempt(feed)
    assert commands(feed)[-1:] == [("task.cancel", "old~2")]
    feed.result("new")
    assert reason_of(feed.verdict()) == ("delivered", "fresh")


def test_a_protected_attempt_is_left_alone_by_newer_tasks() -> None:
    feed = stale_task(protected=True)
    feed.dispatched("new", slot="panel", on_newer="interrupt")
    attempt(feed, protected=True)
    feed.result("new")
    feed.take()
    feed.result("old~2")
    assert reason_of(feed.verdict()) == ("delivered", "fresh")


def test_an_attempt_does_not_interrupt_newer_tasks() -> None:
    feed = stale_task(on_newer="interrupt")
    feed.dispatched("new", slot="panel")
    attempt(feed, on_newer="interrupt")
    assert "new" not in ends(feed)


def test_an_attempt_is_not_rejected_for_newer_tasks() -> None:
    feed = stale_task(on_newer="reject")
    feed.dispatched("new", slot="panel")
    attempt(feed, on_newer="reject")
    assert "old~2" not in ends(feed)


def test_a_queued_task_waits_for_an_older_ones_attempt() -> None:
    feed = stale_task()
    feed.dispatched("new", slot="panel", on_newer="enqueue")
    attempt(feed)
    feed.take()
    feed.result("new")
    assert feed.waits("new") == "slot"
    feed.result("old~2")
    assert [body["task_id"] for body in feed.verdicts()] == ["old~2", "new"]


@RESTARTS
@pytest.mark.parametrize("named", ["old", "old~2"])
def test_a_cancel_that_names_any_attempt_reaches_the_live_one(named: str, *, restart: bool) -> None:
    feed = stale_task()
    attempt(feed)
    go_on(feed, restart=restart)
    feed.send("task.cancel_requested", task_id=named)
    assert ends(feed) == {"old~2": ("cancelled", "cancelled")}


@RESTARTS
@pytest.mark.parametrize("named", ["old", "old~2"])
def test_an_attempt_that_is_not_dispatched_yet_is_revoked(named: str, *, restart: bool) -> None:
    feed = stale_task()
    feed.take()
    feed.send("task.cancel_requested", task_id=named)
    go_on(feed, restart=restart)
    attempt(feed)
    feed.result("old~2")
    bodies = feed.take()
    assert [body["task_id"] for body in bodies if body["type"] == "task.cancel"] == ["old~2"]
    (withheld,) = [body for body in bodies if body["type"].startswith("result.")]
    assert withheld["verdict"] | {"parts": [], "judged": {}} == {
        "decision": "withheld",
        "reason": "late",
        "parts": [],
        "judged": {},
        "disposition": "cancelled",
    }


def test_a_cancel_reaches_the_newest_of_several_attempts() -> None:
    feed = stale_task(max_redispatches=3)
    attempt(feed, 2, "1", max_redispatches=3)
    feed.result("old~2")
    feed.take()
    feed.send("task.cancel_requested", task_id="old")
    attempt(feed, 3)
    assert ends(feed) == {"old~3": ("cancelled", "cancelled")}


def test_a_task_that_still_waits_and_its_attempt_are_cancelled_together() -> None:
    feed = Feed()
    feed.changed({"doc": "1"})
    feed.dispatched("old", {"doc": "0"})
    parts = [{"part_id": "a", "on_stale": "redispatch"}, {"part_id": "b", "on_stale": "hold"}]
    feed.result("old", *parts)
    assert ("task.redispatch", "old") in commands(feed)
    feed.dispatched("old~2", {"doc": "1"}, attempt=2)
    feed.send("task.cancel_requested", task_id="old")
    assert ends(feed).keys() == {"old", "old~2"}


def test_a_task_that_still_waits_takes_the_attempt_not_dispatched_with_it() -> None:
    feed = Feed()
    feed.changed({"doc": "1"})
    feed.dispatched("old", {"doc": "0"})
    parts = [{"part_id": "a", "on_stale": "redispatch"}, {"part_id": "b", "on_stale": "hold"}]
    feed.result("old", *parts)
    feed.send("task.cancel_requested", task_id="old")
    feed.take()
    feed.dispatched("old~2", {"doc": "1"}, attempt=2)
    assert ends(feed) == {"old~2": ("cancelled", "cancelled")}


def test_one_attempt_is_commanded_whatever_parts_are_stale_later() -> None:
    feed = Feed()
    feed.changed({"doc": "1", "view": "1"})
    feed.dispatched("old", {"doc": "0", "view": "1"}, hold_ttl_seconds=60)
    parts = [
        {"part_id": "a", "on_stale": "redispatch", "depends_on": ["doc"]},
        {"part_id": "b", "on_stale": "hold", "depends_on": ["doc"]},
    ]
    feed.result("old", *parts)
    feed.wait(61)
    assert [what for what, _ in commands(feed)] == ["task.redispatch"]


def test_the_command_has_everything_to_dispatch_the_attempt() -> None:
    feed = Feed()
    feed.changed({"doc": "1", "view": "week"})
    feed.dispatched("parent")
    told: dict[str, Any] = {
        "snapshot": {"doc": "1"},
        "depends_on": ["view"],
        "metadata": {"prompt": "p-7"},
        "destination": "panel-3",
        "request_id": "r-1",
        "slot": "panel",
        "on_stale": "redispatch",
        "parent_task_id": "parent",
        "heartbeat_timeout_seconds": 30,
        "deadline_at": "2027-11-24T16:00:00Z",
        "while_stale": "cancel",
        "while_stale_grace_seconds": 80_000,
        "max_redispatches": 2,
        "plan": ["read", "write"],
        "independent": True,
    }
    feed.dispatched("old", **told)
    feed.step("old", {"doc": "1", "more": "x"}, checkpoint={"uri": "cp", "sequence": 3})
    feed.changed({"doc": "2"})
    feed.result("old")
    (command,) = [body for body in feed.take() if body["type"] == "task.redispatch"]
    assert (command["new_task_id"], command["attempt"]) == ("old~2", 2)
    assert command["snapshot"] == {"doc": "2", "view": "week", "more": "x"}
    assert command["checkpoint"] == {"uri": "cp", "sequence": 3}
    dispatch = {"type": "task.dispatched", "task_id": "old", "task_type": "search", **told}
    assert command["dispatch"] == {**dispatch, "deadline_at": "2027-11-24T16:00:00.000Z"}
    again = {
        **command["dispatch"],
        "task_id": command["new_task_id"],
        "attempt": command["attempt"],
        "snapshot": command["snapshot"],
    }
    feed.send(again.pop("type"), **again)
    feed.take()
    feed.result("old~2")
    assert reason_of(feed.verdict()) == ("delivered", "fresh")


def test_an_attempt_that_does_not_say_its_number_has_it() -> None:
    feed = stale_task()
    attempt(feed, 2, "1", attempt=1)
    feed.take()
    feed.result("old~2")
    assert commands(feed) == []


def test_an_attempt_that_nobody_commanded_is_a_task_of_its_own() -> None:
    feed = Feed()
    feed.dispatched("old", slot="panel")
    feed.dispatched("new", slot="panel")
    feed.result("new")
    feed.send("task.cancel_requested", task_id="old")
    feed.take()
    attempt(feed)
    feed.result("old~2")
    assert reason_of(feed.verdict()) == ("delivered", "fresh")
    feed.dispatched("x~2", attempt=2)
    feed.send("task.cancel_requested", task_id="x")
    assert "x~2" not in ends(feed)


def test_names_that_look_like_attempts_are_names() -> None:
    feed = stale_task()
    for name in ("old~", "old~02", "old~1", "old~18", "old~x", "~2", "old~2~2"):
        feed.dispatched(name)
        assert feed.row.tasks[name].lineage is None


def test_no_attempt_is_commanded_whose_id_would_be_too_long() -> None:
    feed = Feed()
    feed.changed({"doc": "1"})
    for length in (254, 255):
        feed.dispatched("t" * length, {"doc": "0"}, on_stale="redispatch")
        feed.result("t" * length)
    assert [len(task_id) for _, task_id in commands(feed)] == [254]


def test_ids_may_have_the_mark_in_them() -> None:
    feed = Feed()
    feed.changed({"doc": "1"})
    feed.dispatched("a~2", {"doc": "0"}, on_stale="redispatch", slot="s")
    feed.result("a~2")
    (command,) = [body for body in feed.take() if body["type"] == "task.redispatch"]
    assert command["new_task_id"] == "a~2~2"
    feed.dispatched("new", slot="s")
    feed.result("new")
    feed.take()
    feed.dispatched("a~2~2", slot="s", attempt=2)
    feed.result("a~2~2")
    assert reason_of(feed.verdict()) == ("withheld", "superseded")


@pytest.mark.parametrize("inside", [1, 8])
def test_an_attempt_that_queues_is_freed_though_its_first_task_still_waits(inside: int) -> None:
    feed = Feed()
    with tasks_inside(inside):
        feed.changed({"doc": "1"})
        feed.dispatched("older", slot="panel")
        feed.dispatched("old", {"doc": "0"}, slot="panel")
        parts = [{"part_id": "a", "on_stale": "redispatch"}, {"part_id": "b", "on_stale": "hold"}]
        feed.result("old", *parts)
        feed.dispatched("old~2", {"doc": "1"}, slot="panel", attempt=2, on_newer="enqueue")
        feed.result("old~2")
        assert feed.waits("old~2") == "slot"
        feed.take()
        feed.result("older")
        assert [body["task_id"] for body in feed.verdicts()] == ["older", "old~2"]


@pytest.mark.parametrize("inside", [1, 8])
def test_who_has_the_slot_is_told_wherever_tasks_are_kept(inside: int) -> None:
    with tasks_inside(inside):
        feed = stale_task()
        feed.dispatched("between", slot="panel")
        attempt(feed)
        feed.take()
        feed.dispatched("newest", slot="panel", on_newer="reject")
        (status,) = [body for body in feed.take() if body.get("disposition") == "rejected"]
        assert "'old~2'" in status["detail"]
