"""What a dispatch opens, repeats or is refused for, and what outputs repeat of it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.decide_dispatch import dispatch_digest
from projections.decode import Decoder
from tests.unit.feeding import START_MS, Feed, make_batch, reason_of


def dispatch(**fields: Any) -> Any:
    body = {
        "type": "task.dispatched",
        "source": "app",
        "event_id": "e-1",
        "session_id": "s",
        "occurred_at": "2025-01-01T00:00:00Z",
        "task_id": "t",
        "task_type": "search",
        **fields,
    }
    return Decoder("steps").event(make_batch("steps", 0, [orjson.dumps(body)], [START_MS]), 0, [])


def verdicts(feed: Feed) -> list[tuple[str, tuple[str, str]]]:
    return [(body["task_id"], reason_of(body)) for body in feed.verdicts()]


def test_everything_that_is_echoed_is_echoed_as_it_was() -> None:
    feed = Feed()
    feed.dispatched("t", destination="", metadata={"": [None, {}, 0.1]}, request_id="r", slot="p")
    status = feed.statuses()["t"]
    assert {name: status[name] for name in ("task_type", "destination", "metadata", "request_id", "slot")} == {
        "task_type": "search",
        "destination": "",
        "metadata": {"": [None, {}, 0.1]},
        "request_id": "r",
        "slot": "p",
    }


@given(data=st.data())
def test_two_dispatches_agree_if_they_differ_only_in_id_and_time(data: st.DataObject) -> None:
    fields = {"snapshot": {"a": "1", "b": None}, "metadata": {"x": 1, "y": 2}, "on_stale": "annotate"}
    again = {**fields, "snapshot": {"b": None, "a": "1"}, "metadata": {"y": 2, "x": 1}, "later_field": 1}
    same = dispatch_digest(dispatch(**again, event_id="e-2", occurred_at="2025-06-01T00:00:00+02:00"))
    assert same == dispatch_digest(dispatch(**fields))
    name, value = data.draw(
        st.sampled_from(
            [
                ("task_type", "book"),
                ("source", "other"),
                ("snapshot", {"a": "1"}),
                ("snapshot", {"a": "1", "b": ""}),
                ("depends_on", ["a"]),
                ("metadata", {}),
                ("destination", ""),
                ("when_absent", "hold"),
                ("valid_until", "2025-06-01T00:00:00Z"),
                ("attempt", 2),
            ]
        )
    )
    assert dispatch_digest(dispatch(**{**fields, name: value})) != same


def test_a_dispatch_sent_twice_is_one_task() -> None:
    feed = Feed()
    for _ in range(2):
        feed.dispatched("t", {"doc/1": "a"})
    feed.result("t")
    feed.dispatched("t", {"doc/1": "a"})
    feed.take()
    assert feed.changes[-1].duplicates == {"task.dispatched": 2}


def test_a_dispatch_of_the_same_id_with_other_content_is_an_error() -> None:
    feed = Feed()
    feed.dispatched("t", {"doc/1": "a"})
    feed.dispatched("t", {"doc/1": "b"})
    feed.result("t")
    feed.dispatched("t", {"doc/1": "b"})
    feed.take()
    details = [(refusal.error, refusal.detail) for refusal in feed.changes[-1].refusals]
    assert [error for error, _ in details] == ["dispatch_conflict"] * 2
    assert all('snapshot.doc/1 was "a" and is "b" now' in detail for _, detail in details)


def test_a_dispatch_on_the_other_lanes_topic_is_an_error() -> None:
    feed = Feed()
    feed.send("task.dispatched", role="steps.cold", task_id="t", task_type="q")
    feed.send("task.dispatched", task_id="t", task_type="q", lane="cold")
    assert feed.take() == []
    assert [refusal.error for refusal in feed.changes[-1].refusals] == ["invalid_event"] * 2
    assert feed.row.tasks == {}


# Scopes without end


def test_a_task_is_not_above_itself() -> None:
    feed = Feed()
    feed.dispatched("a", parent_task_id="c")
    feed.dispatched("b", parent_task_id="a")
    feed.dispatched("c", parent_task_id="b")
    assert feed.statuses()["c"]["reason"] == "unknown_parent"
    feed.send("task.cancel_requested", task_id="a")
    assert {task_id: status["disposition"] for task_id, status in feed.statuses().items()} == {
        "a": "cancelled",
        "b": "cancelled",
    }


def test_nor_its_own_parent() -> None:
    feed = Feed()
    feed.dispatched("a", parent_task_id="a")
    assert feed.statuses()["a"]["reason"] == "unknown_parent"


def test_tasks_below_each_other_are_stopped_however_many_they_are() -> None:
    feed = Feed()
    depth = 600
    for number in reversed(range(depth)):
        feed.dispatched(f"t{number}", parent_task_id=f"t{number - 1}" if number else None)
    feed.take()
    open_tasks = len(feed.row.tasks)
    feed.send("task.cancel_requested", task_id="t0")
    ended = [body for body in feed.take() if body["type"] == "task.status"]
    assert len(ended) == open_tasks
    assert ended[-1]["task_id"] == "t0"
    assert feed.row.tasks == {}


# Slots


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


def test_a_newer_task_stops_the_older_ones_of_its_slot_once_with_their_children() -> None:
    feed = Feed()
    feed.dispatched("parent", slot="panel")
    feed.dispatched("child", slot="panel", parent_task_id="parent")
    feed.dispatched("kept", slot="panel", protected=True)
    feed.dispatched("elsewhere", slot="mail")
    feed.take()
    feed.dispatched("new", slot="panel", on_newer="interrupt")
    told = [(body["task_id"], body.get("reason")) for body in feed.take() if body["type"] == "task.status"]
    assert told == [("child", "parent_ended"), ("parent", "superseded"), ("new", None)]
    assert list(feed.row.tasks) == ["kept", "elsewhere", "new"]
