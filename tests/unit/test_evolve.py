"""What facts do to a session: facets, own changes, what tasks below read, and steps, one at a time."""

from __future__ import annotations

import orjson
import pytest

from projections.evolve import FEW_SLOTS, MAX_OWN_CHANGES, MAX_STEPS
from projections.records import change_of, row_to_bytes
from projections.rows import CHANGED_BY_SEVERAL, FORMAT, Checkpoint, StatedBelow, Task
from projections.rules import Rules
from projections.stale import MAX_LEFT
from tests.unit.feeding import START_MS, Feed, reason_of

# Facets


def facets_of(feed: Feed) -> dict[str, tuple[str | None, str | None, int, int, str, str]]:
    """Value and cause of each facet, then offset, time, source and id of the event that gave it."""
    found = {}
    for name, facet in feed.facets.items():
        change = change_of(facet)
        found[name] = facet.value, facet.cause, change.offset, change.timestamp, change.source, change.event_id
    return found


def test_a_facet_knows_its_value_and_the_event_that_gave_it() -> None:
    feed = Feed()
    feed.changed({"doc/1": "a"}, source="docs", event_id="d-1")
    assert facets_of(feed) == {"doc/1": ("a", None, 0, START_MS + 1000, "docs", "d-1")}
    feed.changed(unset=["doc/1", "doc/2"], source="docs", event_id="d-2", by="t")
    assert facets_of(feed) == {
        "doc/1": (None, "t", 1, START_MS + 2000, "docs", "d-2"),
        "doc/2": (None, "t", 1, START_MS + 2000, "docs", "d-2"),
    }


def test_what_is_set_and_unset_at_once_is_unset() -> None:
    feed = Feed()
    feed.changed({"doc/1": "a"}, unset=["doc/1"])
    assert feed.facets["doc/1"].value is None


def test_a_value_that_was_there_already_keeps_its_first_event() -> None:
    feed = Feed()
    feed.changed({"doc/1": "a"})
    feed.take()
    feed.changed({"doc/1": "a"})
    assert facets_of(feed)["doc/1"][2] == 0


def test_a_value_given_again_by_another_is_nobodys_own() -> None:
    feed = Feed()
    feed.changed({"doc/1": "a"}, by="t1")
    feed.changed({"doc/1": "a"}, by="t1")
    assert facets_of(feed)["doc/1"] == ("a", "t1", 0, START_MS + 1000, "test", "e-1")
    feed.changed({"doc/1": "a"}, by="t2")
    assert facets_of(feed)["doc/1"][1] == CHANGED_BY_SEVERAL
    feed.changed({"doc/1": "a"})
    assert facets_of(feed)["doc/1"][1] is None
    feed.changed({"doc/1": "a"}, by="t1")
    assert facets_of(feed)["doc/1"][1] is None


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


def below_trip(feed: Feed) -> dict[str, StatedBelow]:
    scope = feed.row.tasks["trip"].scope
    return scope.below if scope is not None else {}


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
    assert below_trip(feed) == {"fare": StatedBelow(["85"], {"out": "80", "seat": "90"})}
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
        sizes.append(feed.row_bytes)
    below = below_trip(feed)
    assert below["fare"] == StatedBelow(["90"], {})
    assert below["seats"].ended == [str(each) for each in range(MAX_LEFT)]
    assert max(sizes) - sizes[MAX_LEFT] < 50


def test_a_task_without_children_remembers_nothing_of_who_read() -> None:
    feed = Feed()
    feed.dispatched("trip", {"fare": "90"})
    feed.dispatched("aside", {"fare": "80"}, parent_task_id="trip", independent=True)
    feed.step("trip", {"fare": "190"})
    assert not any(task.scope is not None and task.scope.below for task in feed.row.tasks.values())


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


def test_own_changes_of_tasks_that_never_come_are_forgotten_after_the_grace() -> None:
    feed = Feed(Rules(unknown_task_grace_ms=200_000))
    for number in range(100):
        feed.changed({f"doc/{number}": "1"}, by=f"ghost-{number}")
    feed.take()
    feed.restart(compacted=True)
    feed.dispatched("ghost-3", {"doc/3": "0"})
    assert list(feed.row.undispatched) == [f"ghost-{number}" for number in range(100) if number != 3]
    feed.result("ghost-3")
    feed.wait(300)
    assert feed.row.undispatched == {}
    assert feed.row.extras is None


def test_an_older_answer_never_lands_on_a_newer_one_however_many_slots_there_are() -> None:
    feed = Feed()
    for number in range(2 * FEW_SLOTS):
        feed.dispatched(f"old-{number}", slot=f"s{number}")
        feed.dispatched(f"new-{number}", slot=f"s{number}")
        feed.result(f"new-{number}")
    feed.take()
    feed.restart(compacted=True)
    for number in range(2 * FEW_SLOTS):
        feed.result(f"old-{number}")
    assert {reason_of(body) for body in feed.verdicts()} == {("withheld", "superseded")}


def test_slots_without_open_tasks_are_forgotten_like_ended_tasks() -> None:
    feed = Feed(Rules(ended_task_retention_ms=1_000_000))
    feed.dispatched("open", slot="s0")
    for number in range(3 * FEW_SLOTS):
        feed.dispatched(f"t{number}", slot=f"s{number}")
        feed.result(f"t{number}")
    assert len(feed.row.slots) == 3 * FEW_SLOTS
    feed.now_ms += 2_000_000
    feed.dispatched("last", slot="last")
    feed.result("last")
    assert next(iter(feed.row.slots)) == "s0"  # its open task is older, and must not land on what was delivered
    feed.result("open")
    assert ("withheld", "superseded") in [reason_of(body) for body in feed.verdicts()]
    feed.dispatched("more", slot="more")
    feed.result("more")
    assert list(feed.row.slots)[-2:] == ["last", "more"]
    assert len(feed.row.slots) == FEW_SLOTS


def test_own_changes_of_a_task_that_has_ended_are_not_kept() -> None:
    feed = Feed()
    feed.dispatched("t")
    feed.result("t")
    feed.changed({"doc/1": "a"}, by="t")
    assert feed.row.undispatched == {}


def test_a_task_that_writes_a_thousand_times_is_not_stale_by_it() -> None:
    feed = Feed()
    feed.changed({"doc/1": "0"})
    feed.dispatched("t", {"doc/1": "0"})
    for number in range(1, 1000):
        feed.changed({"doc/1": str(number)}, by="t")
        if number == 3:
            feed.step("t", {"doc/1": "3"})
    own = feed.row.tasks["t"].own
    assert own is not None
    assert len(own["doc/1"]) <= MAX_OWN_CHANGES
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


@pytest.mark.parametrize("change_first", [False, True])
def test_a_change_by_a_rejected_child_is_its_parents_own_whichever_was_folded_first(*, change_first: bool) -> None:
    feed = Feed()
    feed.changed({"doc/1": "a"})
    feed.dispatched("parent", {"doc/1": "a"})
    feed.dispatched("other", slot="panel")
    for is_change in (change_first, not change_first):
        if is_change:
            feed.changed({"doc/1": "b"}, by="child")
        else:
            feed.dispatched("child", parent_task_id="parent", slot="panel", on_newer="reject")
    assert feed.statuses()["child"]["reason"] == "slot_taken"
    feed.result("parent")
    assert reason_of(feed.verdict()) == ("delivered", "fresh")


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
    assert [(body["task_id"], reason_of(body)) for body in feed.verdicts()][-1] == ("top", ("delivered", "fresh"))


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


# Dispatches


def test_a_dispatch_leaves_what_is_not_its_own_default() -> None:
    feed = Feed()
    feed.dispatched("t")
    task = feed.row.tasks["t"]
    echo = '"task_type":"search"'
    assert task == Task(FORMAT, START_MS + 1000, 0, task.digest, "search", echo, {})


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
    task = feed.row.tasks["t"]
    assert task.work is not None
    assert (task.done, task.work.failed, task.work.in_flight) == ('"a"', ["b"], [])
    assert task.work.checkpoint == Checkpoint("cp/2", 2)


def test_what_is_remembered_of_steps_is_bounded() -> None:
    feed = Feed()
    feed.dispatched("t")
    for number in range(2 * MAX_STEPS):
        for status in ("started", "completed", "failed"):
            feed.step("t", step_id=f"{status}-{number}", status=status)
    task = feed.row.tasks["t"]
    assert task.work is not None
    done = orjson.loads(f"[{task.done}]")
    last = range(MAX_STEPS, 2 * MAX_STEPS)
    assert task.work.in_flight == [f"started-{number}" for number in last]
    assert done == [f"completed-{number}" for number in last]
    assert task.work.failed == [f"failed-{number}" for number in last]
    assert (task.steps_started, task.steps_completed) == (2 * MAX_STEPS, 4 * MAX_STEPS)


def test_equal_rows_are_equal_bytes() -> None:
    feeds = [Feed(), Feed()]
    for feed in feeds:
        feed.changed({"b": "1", "a": "2"})
        feed.dispatched("t", {"b": "1", "a": "2"})
        feed.step("t", {"c": "3"})
    one, other = (row_to_bytes(feed.row) for feed in feeds)
    assert one == other
