"""A dispatch that comes again: the same in other words is a repeat, another one is told with what differs."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projections.decode import MAX_DETAIL
from projections.dispatched import MAX_KEPT_BYTES, differences, dispatched_fields
from schemas.events import TaskDispatched
from tests.unit.feeding import Feed

FULL: Final[dict[str, Any]] = {
    "snapshot": {"doc": "1", "gone": None},
    "depends_on": ["view", "never seen"],
    "destination": "panel-7",
    "metadata": {"n": 1, "deep": {"a": [1, 2]}},
    "request_id": "r-1",
    "slot": "panel",
    "on_newer": "enqueue",
    "protected": True,
    "parent_task_id": "above",
    "independent": True,
    "on_stale": "hold",
    "on_stale_failure": "withhold",
    "when_absent": "hold",
    "while_stale": "cancel",
    "while_stale_grace_seconds": 2.5,
    "deadline_at": "2027-11-24T16:00:00.500Z",
    "heartbeat_timeout_seconds": 3600,
    "scope_grace_seconds": 0.25,
    "hold_ttl_seconds": 60,
    "max_redispatches": 3,
    "plan": ["look", "write"],
    "attempt": 2,
    "valid_until": "2027-11-24T17:00:00+00:00",
    "start_timeout_seconds": 3600,
    "on_late": "deliver",
    "watch_seconds": 30,
}
OTHER: Final[dict[str, Any]] = {
    "task_type": "other",
    "destination": "panel-8",
    "request_id": "r-2",
    "slot": "sidebar",
    "on_newer": "reject",
    "protected": False,
    "parent_task_id": "another",
    "independent": False,
    "on_stale": "annotate",
    "on_stale_failure": "hold",
    "when_absent": "withhold",
    "while_stale": "continue",
    "while_stale_grace_seconds": 3,
    "deadline_at": "2027-11-24T16:00:00.600Z",
    "heartbeat_timeout_seconds": 3601,
    "scope_grace_seconds": 1,
    "hold_ttl_seconds": 61,
    "max_redispatches": 4,
    "plan": ["look"],
    "depends_on": [],
    "attempt": 1,
    "valid_until": "2027-11-24T18:00:00Z",
    "start_timeout_seconds": 3601,
    "on_late": "withhold",
    "watch_seconds": 31,
}


def told(feed: Feed) -> list[str]:
    """The details of the conflicts since the last transaction."""
    refusals = feed.partition._changes.refusals
    assert {refusal.error for refusal in refusals} <= {"dispatch_conflict"}
    return [refusal.detail for refusal in refusals]


def fed(*, ended: bool = False, reads: bool = False, restart: bool = False, **fields: Any) -> Feed:
    feed = Feed()
    feed.changed({"view": "week"})
    feed.dispatched("above", on_newer="allow")
    feed.dispatched("t", **{**FULL, **fields})
    if reads:
        feed.step("t", {"doc": "2", "more": "x"})
    if ended:
        feed.send("task.cancel_requested", task_id="t")
    feed.take()
    if restart:
        feed.restart()
    return feed


CASES = [
    {"ended": ended, "reads": reads, "restart": restart}
    for ended in (False, True)
    for reads in (False, True)
    for restart in (False, True)
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_dispatch_in_other_words_is_a_repeat(case: dict[str, bool]) -> None:
    feed = fed(**case)
    again = {
        **FULL,
        "snapshot": {"gone": None, "doc": "1"},
        "metadata": {"deep": {"a": [1.0, 2]}, "n": 1e0},
        "deadline_at": "2027-11-24T17:00:00.500+01:00",
        "valid_until": "2027-11-24T17:00:00Z",
        "heartbeat_timeout_seconds": 3600.0,
    }
    feed.dispatched("t", source="another instance", **again)
    assert told(feed) == []
    assert feed.partition._changes.duplicates == {"task.dispatched": 1}


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", OTHER)
def test_a_field_that_differs_is_told_with_both_values(case: dict[str, bool], name: str) -> None:
    feed = fed(**case)
    feed.dispatched("t", **{**FULL, name: OTHER[name]})
    (detail,) = told(feed)
    assert f"{name} was " in detail
    assert len(detail) <= MAX_DETAIL


@pytest.mark.parametrize("case", CASES, ids=str)
def test_members_of_snapshot_and_metadata_are_told_one_by_one(case: dict[str, bool]) -> None:
    feed = fed(**case)
    feed.dispatched("t", **{**FULL, "snapshot": {"doc": "3", "new": "x"}, "metadata": {"n": 2}})
    (detail,) = told(feed)
    assert 'snapshot.doc was "1" and is "3" now' in detail
    assert "snapshot.gone was null and is not given now" in detail
    assert 'snapshot.new was not given and is "x" now' in detail
    assert "metadata.n was 1 and is 2 now" in detail


def test_long_values_and_many_differences_are_told_in_short() -> None:
    feed = Feed()
    feed.dispatched("t" * 256, {f"{'f' * 240}{number}": "v" * 1000 for number in range(12)})
    feed.dispatched("t" * 256, {f"{'f' * 240}{number}": "w" * 1000 for number in range(12)})
    (detail,) = told(feed)
    assert "and 7 more" in detail
    assert "(1002 characters)" in detail
    assert len(detail) < 2 * MAX_DETAIL


def test_of_an_ended_task_with_a_long_dispatch_only_digests_are_kept() -> None:
    feed = Feed()
    feed.dispatched("t", {"doc": "v" * MAX_KEPT_BYTES})
    feed.result("t")
    feed.dispatched("t", {"doc": "v" * MAX_KEPT_BYTES})
    assert feed.partition._changes.duplicates == {"task.dispatched": 1}
    feed.dispatched("t", {"doc": "w"})
    (detail,) = told(feed)
    assert "its digest was" in detail


def test_the_cost_of_an_unused_grace_is_no_difference() -> None:
    feed = Feed()
    feed.dispatched("t", while_stale_grace_seconds=3)
    feed.dispatched("t", while_stale_grace_seconds=4)
    assert told(feed) == []


@pytest.mark.parametrize("ended", [False, True])
def test_a_detached_child_is_known_again(*, ended: bool) -> None:
    feed = fed(ended=ended, detached=True)
    feed.dispatched("t", **{**FULL, "snapshot": {"gone": None, "doc": "1"}}, detached=True)
    assert told(feed) == []
    feed.dispatched("t", **FULL)
    assert "detached was true and is not given now" in told(feed)[0]


@pytest.mark.parametrize("ended", [False, True])
def test_seconds_to_a_deadline_count_from_the_first_dispatch(*, ended: bool) -> None:
    feed = fed(ended=ended, deadline_seconds=600)
    feed.dispatched("t", **{**FULL, "plan": ["look", "write"], "attempt": 2}, source="x", deadline_seconds=600.0)
    assert told(feed) == []
    feed.dispatched("t", **FULL, deadline_seconds=601)
    assert "deadline_at was " in told(feed)[0]


def test_every_field_of_a_dispatch_was_tried() -> None:
    envelope = {"type", "source", "event_id", "session_id", "occurred_at", "task_id", "lane", "task_type"}
    apart = {"detached", "deadline_seconds"}
    assert set(FULL) | apart == set(TaskDispatched.model_fields) - envelope
    assert set(FULL) - set(OTHER) == {"snapshot", "metadata"}


@settings(max_examples=50)
@given(st.lists(st.sampled_from(["doc", "gone", "more"]), max_size=4))
def test_what_was_dispatched_stays_known_whatever_is_read(names: list[str]) -> None:
    feed = Feed()
    feed.changed({"view": "week"})
    feed.dispatched("t", **{name: value for name, value in FULL.items() if name != "parent_task_id"})
    before = dispatched_fields(feed.row.tasks["t"])
    for number, name in enumerate(names):
        feed.step("t", {name: f"{number}"})
    assert differences(before, dispatched_fields(feed.row.tasks["t"])) == []
    assert before["snapshot"] == FULL["snapshot"]


def test_ended_lines_of_before_are_read() -> None:
    feed = fed(ended=True)
    ended = feed.partition.store.session("s").ended_task("t")
    assert ended is not None
    assert ended.dispatch is not None
    ended.dispatch = None
    feed.partition.store.session("s").ended = ended.line()
    assert msgspec.json.decode(ended.line())[0] == "t"
    feed.dispatched("t", **{**FULL, "slot": "other"})
    (detail,) = told(feed)
    assert "its digest was" in detail
