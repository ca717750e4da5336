"""Which tasks a request to cancel means."""

from __future__ import annotations

from typing import Any

import pytest

from projections.cancelling import reached_by, reaches
from projections.rows import CancelRequest
from tests.unit.feeding import Feed


def request(
    task_id: str | None = None, request_id: str | None = None, slot: str | None = None, at_ms: int = 2**62
) -> CancelRequest:
    return CancelRequest(task_id, request_id, slot, at_ms, 0, "app", "e")


@pytest.mark.parametrize("inside", [True, False])
def test_tasks_are_meant_by_id_request_slot_or_all(*, inside: bool) -> None:
    feed = Feed()
    for number in range(2 if inside else 12):
        feed.dispatched(f"t{number}", slot="even" if number % 2 == 0 else "odd", request_id=f"r{number // 2}")
    session = feed.partition.store.session("s")
    everything = list(session.tasks)
    assert reached_by(session, request()) == everything
    assert reached_by(session, request(slot="even")) == everything[::2]
    assert reached_by(session, request(request_id="r0")) == ["t0", "t1"]
    assert reached_by(session, request(slot="nobodys")) == []


def test_a_group_reaches_what_was_dispatched_before_and_a_name_whatever_comes() -> None:
    feed = Feed()
    feed.dispatched("t", slot="s")
    task = feed.row.tasks["t"]
    at_ms = task.dispatched_at
    assert reaches(request(slot="s", at_ms=at_ms), "t", task, 30_000)
    assert not reaches(request(slot="s", at_ms=at_ms - 1), "t", task, 30_000)
    assert not reaches(request(at_ms=at_ms - 1), "t", task, 30_000)
    assert reaches(request(task_id="t", at_ms=at_ms - 1), "t", task, 30_000)
    assert not reaches(request(task_id="other"), "t", task, 30_000)


def test_a_request_waits_for_a_cut_that_was_asked_for_after_it() -> None:
    """Carried out with an older cut, its receipt would leave out steps that had been acknowledged before it."""
    feed = Feed()
    feed.reaches_cuts = False
    feed.dispatched("t")
    fetched = feed.ends["context"]
    feed.send("task.cancel_requested", task_id="t")
    feed.partition.judge_ready(feed.position, feed.now_ms, context_fetched=fetched)
    assert "t" in feed.row.tasks
    assert feed.partition.has_cancels(cold=False)
    feed.send("task.step", task_id="t", step_id="look", status="completed")
    feed.partition.judge_ready(feed.position, feed.now_ms, context_fetched=feed.ends["context"])
    (status,) = [each for each in feed.take() if each.get("disposition") == "cancelled"]
    assert status["receipt"] == {"done": ["look"]}


def test_what_ends_a_task_that_is_to_be_cancelled_ends_it_for_that_reason() -> None:
    feed = Feed()
    feed.reaches_cuts = False
    feed.dispatched("parent", deadline_seconds=5)
    feed.dispatched("child", parent_task_id="parent")
    feed.send("task.cancel_requested", task_id="child")
    feed.now_ms += 60_000
    feed.send("task.heartbeat", task_id="parent")
    ends = {each["task_id"]: each["reason"] for each in feed.take() if each.get("disposition")}
    assert ends == {"parent": "deadline_passed", "child": "cancelled"}


@pytest.mark.parametrize(
    ("requests", "reason"),
    [
        ([{"task_id": "child"}, {"task_id": "parent"}], "cancelled"),
        ([{"task_id": "parent"}, {"task_id": "child"}], "parent_ended"),
        ([{"task_id": "parent"}, {"all": True}], "parent_ended"),
        ([{"all": True}], "cancelled"),
        ([{"request_id": "r"}], "cancelled"),
    ],
)
@pytest.mark.parametrize("asks_after", [1, 2])
def test_a_task_ends_for_the_reason_that_its_agent_was_told(
    requests: list[dict[str, Any]], reason: str, asks_after: int
) -> None:
    """The first request that reached it or one above it decides, whatever comes until a cut has been reached."""
    feed = Feed()
    feed.reaches_cuts = False
    feed.dispatched("parent", request_id="r")
    feed.dispatched("child", parent_task_id="parent", request_id="r")
    for number, each in enumerate(requests, start=1):
        feed.send("task.cancel_requested", **each)
        if number == min(asks_after, len(requests)):
            feed.send("task.effect_proposed", task_id="child", idempotency_key="k", effect="pay")
    feed.partition.judge_ready(feed.position, feed.now_ms, context_fetched=feed.ends["context"])
    outputs = feed.take()
    (answer,) = [each for each in outputs if each["type"].startswith("effect.")]
    ends = {each["task_id"]: each["reason"] for each in outputs if each.get("disposition")}
    assert (answer["reason"], ends) == (reason, {"parent": "cancelled", "child": reason})
