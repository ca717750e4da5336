"""What events do to a session row: facets, own changes, dispatches and steps, one at a time."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.fold import MAX_CHANGES, MAX_LEFT, MAX_STEPS, MAX_UNDISPATCHED, dispatch_digest
from projections.row import row_to_bytes
from schemas.decode import Decoder
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
    return make_batch("steps", 0, [orjson.dumps(body)], [START_MS]).events[0]


# Facets


def test_a_facet_knows_its_value_and_the_event_that_gave_it() -> None:
    feed = Feed()
    feed.changed({"doc/1": "a"}, source="docs", event_id="d-1")
    assert feed.row["facets"] == {"doc/1": ["a", 0, START_MS + 1000, "docs", "d-1", None]}
    feed.changed(unset=["doc/1", "doc/2"], source="docs", event_id="d-2", by="t")
    assert feed.row["facets"] == {
        "doc/1": [None, 1, START_MS + 2000, "docs", "d-2", "t"],
        "doc/2": [None, 1, START_MS + 2000, "docs", "d-2", "t"],
    }


def test_what_is_set_and_unset_at_once_is_unset() -> None:
    feed = Feed()
    feed.changed({"doc/1": "a"}, unset=["doc/1"])
    assert feed.row["facets"]["doc/1"][0] is None


def test_a_value_that_was_there_already_keeps_its_first_event() -> None:
    feed = Feed()
    feed.changed({"doc/1": "a"})
    feed.take()
    feed.changed({"doc/1": "a"})
    assert feed.row["facets"]["doc/1"][1] == 0
    assert not feed.partition.store.has_changes


def test_a_value_given_again_by_another_is_nobodys_own() -> None:
    feed = Feed()
    feed.changed({"doc/1": "a"}, by="t1")
    feed.changed({"doc/1": "a"}, by="t1")
    assert feed.row["facets"]["doc/1"][1:] == [0, START_MS + 1000, "test", "e-1", "t1"]
    feed.changed({"doc/1": "a"}, by="t2")
    assert feed.row["facets"]["doc/1"][5] == ""
    feed.changed({"doc/1": "a"})
    assert feed.row["facets"]["doc/1"][5] is None
    feed.changed({"doc/1": "a"}, by="t1")
    assert feed.row["facets"]["doc/1"][5] is None


# Staleness while running


def test_the_status_says_at_once_when_the_snapshot_breaks_and_when_it_mends() -> None:
    feed = Feed()
    feed.dispatched("t", {"doc/1": "a", "doc/2": "x"})
    assert "stale" not in feed.statuses()["t"]
    feed.changed({"doc/2": "y", "doc/1": "a"})
    assert feed.statuses()["t"]["stale_facets"] == ["doc/2"]
    feed.changed({"doc/1": "b"})
    assert feed.statuses()["t"]["stale_facets"] == ["doc/2", "doc/1"]
    feed.changed({"doc/9": "b"})
    assert feed.statuses() == {}
    feed.changed({"doc/1": "a", "doc/2": "x"})
    assert "stale" not in feed.statuses()["t"]


def test_or_when_it_was_broken_at_dispatch() -> None:
    feed = Feed()
    feed.changed({"doc/1": "b"})
    feed.dispatched("t", {"doc/1": "a"})
    assert feed.statuses()["t"]["stale"] is True


def test_a_parents_status_says_that_it_is_stale_by_what_its_child_read() -> None:
    feed = Feed()
    feed.changed({"doc/1": "b"})
    feed.dispatched("parent")
    feed.dispatched("child", parent_task_id="parent")
    feed.take()
    feed.step("child", {"doc/1": "a"})
    assert {task_id: status.get("stale_facets") for task_id, status in feed.statuses().items()} == {
        "child": ["doc/1"],
        "parent": ["doc/1"],
    }


# What tasks below read


def a_scope(*children: str) -> Feed:
    feed = Feed()
    feed.changed({"fare": "90"})
    feed.dispatched("trip")
    for child in children:
        feed.dispatched(child, parent_task_id="trip")
    return feed


def expected_of_trip(feed: Feed) -> list[str]:
    """What of the fare its verdict says it expected; empty where it is fresh."""
    feed.take()
    feed.result("trip")
    parts = feed.verdict()["verdict"]["parts"]
    return [difference["expected"] for difference in parts[0].get("differences", ())]


@pytest.mark.parametrize("end", ["result", "cancel", "hold", "restart"])
def test_a_siblings_newer_read_does_not_hide_what_the_first_child_read(end: str) -> None:
    feed = a_scope("out", "back")
    feed.step("out", {"fare": "90"})
    feed.step("back", {"fare": "90"})
    feed.changed({"fare": "190"})
    feed.step("back", {"fare": "190"})
    feed.step("trip", {"fare": "190"})
    if end == "cancel":
        feed.send("task.cancel_requested", task_id="out")
    elif end == "result":
        feed.result("out")
    elif end == "restart":
        feed.take()
        feed.restart()
        feed.result("out")
    else:
        feed.result("out", {"part_id": "text", "on_stale": "hold"})
        feed.wait(601)
    feed.result("back")
    assert expected_of_trip(feed) == ["90"]


def test_who_looks_again_takes_back_its_own_and_no_more() -> None:
    feed = a_scope("out", "back")
    for task in ("trip", "out", "back"):
        feed.step(task, {"fare": "90"})
    feed.changed({"fare": "190"})
    for task in ("out", "back"):
        feed.step(task, {"fare": "190"})
        assert feed.statuses()["trip"]["stale"] is True
    feed.step("trip", {"fare": "190"})
    assert "stale" not in feed.statuses()["trip"]
    feed.result("out")
    feed.result("back")
    assert expected_of_trip(feed) == []


def test_what_a_child_wrote_moves_along_what_each_of_them_read() -> None:
    feed = a_scope("out", "back")
    feed.step("out", {"fare": "90"})
    feed.changed({"fare": "190"}, by="back")
    feed.step("back", {"fare": "190"})
    feed.result("out")
    feed.result("back")
    assert expected_of_trip(feed) == []


def test_what_a_child_and_its_children_read_before_their_parent_was_known_joins_whole() -> None:
    feed = Feed()
    feed.changed({"fare": "80"})
    feed.dispatched("out", {"fare": "80"}, parent_task_id="trip")
    feed.dispatched("seat", parent_task_id="out")
    feed.dispatched("meal", parent_task_id="out")
    feed.step("meal", {"fare": "85"})
    feed.result("meal")
    feed.step("seat", {"fare": "90"})
    feed.changed({"fare": "90"})
    feed.dispatched("trip")
    assert feed.row["tasks"]["trip"]["below"] == {"fare": [["85"], {"out": "80", "seat": "90"}]}
    feed.step("out", {"fare": "90"})
    feed.result("seat")
    feed.result("out", {"part_id": "text", "on_stale": "annotate"})
    assert expected_of_trip(feed) == ["85"]


def test_what_ended_children_read_is_kept_once_and_bounded() -> None:
    feed = a_scope()
    sizes = []
    for number in range(200):
        feed.dispatched(f"t{number}", parent_task_id="trip")
        feed.step(f"t{number}", {"fare": "90", "seats": str(number)})
        feed.result(f"t{number}")
        feed.take()
        sizes.append(len(orjson.dumps(feed.row)))
    below = feed.row["tasks"]["trip"]["below"]
    assert below["fare"] == [["90"], {}]
    assert below["seats"][0] == [str(each) for each in range(MAX_LEFT)]
    assert max(sizes) - sizes[MAX_LEFT] < 50


def test_a_task_without_children_remembers_nothing_of_who_read() -> None:
    feed = Feed()
    feed.dispatched("trip", {"fare": "90"})
    feed.dispatched("aside", {"fare": "80"}, parent_task_id="trip", independent=True)
    feed.step("trip", {"fare": "190"})
    assert not any("below" in task for task in feed.row["tasks"].values())


# Own changes


def test_own_changes_come_before_their_dispatch_too() -> None:
    for first in ("context", "steps"):
        feed = Feed()
        feed.changed({"doc/1": "a"})
        if first == "context":
            feed.changed({"doc/1": "b"}, by="t")
        feed.dispatched("t", {"doc/1": "a"})
        if first == "steps":
            feed.changed({"doc/1": "b"}, by="t")
        feed.result("t")
        assert reason_of(feed.verdict()) == ("delivered", "fresh")


def test_own_changes_of_tasks_that_never_come_are_bounded() -> None:
    feed = Feed()
    for number in range(3 * MAX_UNDISPATCHED):
        feed.changed({"doc/1": str(number)}, by=f"ghost-{number}")
    assert list(feed.row["own"]) == [f"ghost-{number}" for number in range(2 * MAX_UNDISPATCHED, 3 * MAX_UNDISPATCHED)]


def test_own_changes_of_a_task_that_has_ended_are_not_kept() -> None:
    feed = Feed()
    feed.dispatched("t")
    feed.result("t")
    feed.changed({"doc/1": "a"}, by="t")
    assert feed.row["own"] == {}


def test_a_task_that_writes_a_thousand_times_is_not_stale_by_it() -> None:
    feed = Feed()
    feed.changed({"doc/1": "0"})
    feed.dispatched("t", {"doc/1": "0"})
    for number in range(1, 1000):
        feed.changed({"doc/1": str(number)}, by="t")
        if number == 3:
            feed.step("t", {"doc/1": "3"})
    assert len(feed.row["tasks"]["t"]["own"]["doc/1"]) <= MAX_CHANGES
    feed.result("t")
    assert reason_of(feed.verdict()) == ("delivered", "fresh")


def test_what_somebody_else_wrote_in_between_is_not_forgotten_either() -> None:
    feed = Feed()
    feed.changed({"doc/1": "0"})
    feed.dispatched("t", {"doc/1": "0"})
    for number in range(1, 200):
        feed.changed({"doc/1": str(number)}, by=None if number == 5 else "t")
    feed.result("t")
    assert reason_of(feed.verdict()) == ("withheld", "stale")


# Dispatches


def test_a_dispatch_leaves_what_is_not_its_own_default() -> None:
    feed = Feed()
    feed.dispatched("t")
    task = feed.row["tasks"]["t"]
    assert task.keys() == {"at", "offset", "digest", "echo", "expected"}
    assert task["echo"] == {"task_type": "search"}


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


# Steps


def test_steps_are_counted_and_told() -> None:
    feed = Feed()
    feed.dispatched("t")
    feed.step("t", step_id="a", status="started", progress=0.2, message="Looking")
    feed.step("t", step_id="b", status="started")
    feed.step("t", step_id="a", status="progressed", progress=0.4)
    feed.step("t", step_id="a", checkpoint={"uri": "cp/2", "sequence": 2})
    feed.step("t", step_id="b", status="failed", checkpoint={"uri": "cp/1", "sequence": 1}, message="")
    status = feed.statuses()["t"]
    assert (status["steps_started"], status["steps_completed"]) == (2, 2)
    assert (status["progress"], status["message"]) == (0.4, "Looking")
    assert status["checkpoint"] == {"uri": "cp/2", "sequence": 2}
    task = feed.row["tasks"]["t"]
    assert (task["done"], task["failed"], task.get("in_flight")) == (["a"], ["b"], None)


def test_what_is_remembered_of_steps_is_bounded() -> None:
    feed = Feed()
    feed.dispatched("t")
    for number in range(2 * MAX_STEPS):
        for status in ("started", "completed", "failed"):
            feed.step("t", step_id=f"{status}-{number}", status=status)
    task = feed.row["tasks"]["t"]
    assert [len(task[name]) for name in ("in_flight", "done", "failed")] == [MAX_STEPS] * 3


def test_steps_of_tasks_that_are_not_open_are_counted_and_no_more() -> None:
    feed = Feed()
    feed.step("ghost", {"doc/1": "a"})
    feed.send("task.heartbeat", task_id="ghost")
    feed.dispatched("t")
    feed.result("t")
    feed.step("t", {"doc/1": "a"})
    feed.take()
    assert feed.changes[-1].ignored == {"task.step": 2, "task.heartbeat": 1}


def test_equal_rows_are_equal_bytes_and_a_decoder_has_no_memory() -> None:
    feeds = [Feed(), Feed()]
    for feed in feeds:
        feed.changed({"b": "1", "a": "2"})
        feed.dispatched("t", {"b": "1", "a": "2"})
        feed.step("t", {"c": "3"})
    one, other = (row_to_bytes(feed.partition.store.row("s")) for feed in feeds)
    assert one == other
    assert Decoder("steps") is not Decoder("steps")
