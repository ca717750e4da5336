"""Sending an event again changes nothing: context events of a session, and steps and heartbeats of an open task."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from projections.recent_ids import MAX_RECENT, with_event
from projections.records import row_from_bytes, row_to_bytes
from projections.rules import Rules
from projections.store import Store
from schemas.identity import event_digest
from tests.unit.event_logs import full_rows
from tests.unit.feeding import Feed, reason_of
from tests.unit.test_budget import refused


def repeats(feed: Feed) -> dict[str, int]:
    """How many repeats were counted, by event type, since the last transaction."""
    return dict(feed.partition._changes.duplicates)


def test_the_last_events_are_known_and_older_ones_are_not() -> None:
    recent = b""
    identities = [event_digest("web", f"c-{number}") for number in range(MAX_RECENT + 1)]
    for identity in identities:
        assert identity not in recent
        recent = with_event(recent, identity)
    assert identities[0] not in recent
    assert all(identity in recent for identity in identities[1:])
    assert len(recent) == MAX_RECENT * 8


def test_an_old_value_does_not_come_back_with_its_event() -> None:
    feed = Feed()
    feed.changed({"doc": "1"}, event_id="c1")
    feed.changed({"doc": "2"}, event_id="c2")
    feed.changed({"doc": "1"}, event_id="c1")
    assert feed.facets["doc"].value == "2"
    assert repeats(feed) == {"context.changed": 1}
    feed.dispatched("t", {"doc": "1"})
    feed.result("t")
    assert reason_of(feed.verdict()) == ("withheld", "stale")


def test_an_event_is_known_again_by_source_and_id() -> None:
    feed = Feed()
    feed.changed({"doc": "1"}, source="web", event_id="c1")
    feed.changed({"doc": "2"}, source="app", event_id="c1")
    feed.changed({"doc": "3"}, source="web", event_id="c2")
    assert feed.facets["doc"].value == "3"
    assert repeats(feed) == {}


def test_an_event_that_changed_nothing_changes_nothing_later_either() -> None:
    feed = Feed()
    feed.changed({"doc": "1"})
    feed.changed({"doc": "1"}, event_id="same")
    feed.changed({"doc": "2"})
    feed.changed({"doc": "1"}, event_id="same")
    assert feed.facets["doc"].value == "2"


@pytest.mark.parametrize("restart", [False, True])
def test_a_repeat_is_known_after_a_restart(*, restart: bool) -> None:
    feed = Feed()
    feed.changed({"doc": "1"}, event_id="c1")
    feed.changed({"doc": "2"}, event_id="c2")
    feed.dispatched("t")
    feed.step("t", {"doc": "1"}, event_id="s1")
    feed.step("t", {"doc": "2"}, event_id="s2")
    feed.take()
    if restart:
        feed.restart(compacted=True)
    feed.changed({"doc": "1"}, event_id="c1")
    feed.step("t", {"doc": "1"}, event_id="s1")
    assert repeats(feed) == {"context.changed": 1, "task.step": 1}
    feed.result("t")
    assert reason_of(feed.verdict()) == ("delivered", "fresh")


def test_beyond_the_horizon_an_event_counts_like_a_new_one() -> None:
    feed = Feed()
    for number in range(MAX_RECENT + 1):
        feed.changed({"doc": f"{number}"}, event_id=f"c{number}")
    feed.changed({"doc": "1"}, event_id="c1")
    assert feed.facets["doc"].value == f"{MAX_RECENT}"
    feed.changed({"doc": "0"}, event_id="c0")
    assert feed.facets["doc"].value == "0"


def test_a_repeated_erasure_leaves_the_new_session_alone() -> None:
    feed = Feed()
    feed.changed({"doc": "1"}, event_id="c1")
    feed.dispatched("old")
    feed.send("session.erased", event_id="e1")
    feed.changed({"doc": "2"}, event_id="c2")
    feed.dispatched("new", {"doc": "2"})
    feed.take()
    feed.send("session.erased", event_id="e1")
    feed.changed({"doc": "1"}, event_id="c1")
    assert repeats(feed) == {"session.erased": 1, "context.changed": 1}
    feed.result("new")
    assert reason_of(feed.verdict()) == ("delivered", "fresh")


def test_an_erasure_of_a_session_not_heard_of_is_known_again() -> None:
    feed = Feed()
    feed.send("session.erased", event_id="e1")
    feed.changed({"doc": "2"})
    feed.send("session.erased", event_id="e1")
    assert feed.facets["doc"].value == "2"


def test_what_an_erasure_leaves_is_forgotten_after_the_ttl() -> None:
    feed = Feed(Rules(session_ttl_ms=60_000))
    feed.changed({"doc": "1"})
    feed.send("session.erased")
    feed.take()
    assert feed.partition.store.session_count == 1
    feed.now_ms += 63_000  # what keeps a session without changing it is noted only now and then
    feed.partition.find_idle(feed.now_ms, 10)
    feed.partition.find_idle(feed.now_ms, 10)
    feed.partition.drop_idle()
    feed.take()
    assert feed.partition.store.session_count == 0


def test_a_report_of_a_consumer_that_comes_again_changes_nothing() -> None:
    feed = Feed()
    feed.dispatched("t")
    feed.result("t")
    feed.send("result.acknowledged", task_id="t", outcome="refused", event_id="a1")
    feed.send("result.acknowledged", task_id="t", outcome="shown", event_id="a2")
    feed.send("result.acknowledged", task_id="t", outcome="refused", event_id="a1")
    assert [body["acknowledged"] for body in feed.take() if "acknowledged" in body] == ["refused", "shown"]


def test_a_wish_to_cancel_that_comes_again_is_counted() -> None:
    feed = Feed()
    feed.dispatched("t")
    feed.send("task.cancel_requested", task_id="t", event_id="x")
    feed.send("task.cancel_requested", task_id="t", event_id="x")
    assert repeats(feed) == {"task.cancel_requested": 1}


def test_what_a_task_read_before_does_not_come_back_with_its_step() -> None:
    feed = Feed()
    feed.changed({"doc": "2"})
    feed.dispatched("t")
    feed.step("t", {"doc": "1"}, event_id="s1", status="started")
    feed.step("t", {"doc": "2"}, event_id="s2")
    feed.step("t", {"doc": "1"}, event_id="s1", status="started")
    assert feed.row.tasks["t"].steps_started == 1
    feed.result("t")
    assert reason_of(feed.verdict()) == ("delivered", "fresh")


def test_a_repeated_heartbeat_is_no_sign_of_life() -> None:
    feed = Feed()
    feed.dispatched("t", heartbeat_timeout_seconds=10)
    feed.send("task.heartbeat", task_id="t", event_id="h1")
    feed.wait(6)
    feed.send("task.heartbeat", task_id="t", event_id="h1")
    feed.wait(4)
    assert feed.statuses()["t"]["reason"] == "heartbeat_missed"


def test_an_event_that_was_refused_for_room_is_known_again() -> None:
    feed = Feed()
    feed.changed({"known": "1"})
    with full_rows(300):
        feed.changed({"known": "2", **{f"new/{number}": "v" * 100 for number in range(4)}}, event_id="c2")
        assert refused(feed) == ["session_full"]
    feed.changed({"known": "3"})
    feed.changed({"known": "2", **{f"new/{number}": "v" * 100 for number in range(4)}}, event_id="c2")
    assert feed.facets["known"].value == "3"
    assert "new/0" not in feed.facets


def test_an_idle_session_is_small() -> None:
    feed = Feed()
    for number in range(40):
        feed.changed({"view/tab-1": f"v{number}", "presence/tab-1": "present", "conversation": "c-1"})
    feed.partition.has_folded(feed.now_ms)  # former values of facets are needed no more
    feed.take()
    records: dict[bytes, Any] = dict(feed.changelog)
    assert sum(len(key) + len(value) for key, value in records.items() if value is not None) < 1024


def test_rows_written_before_there_were_identities_are_read() -> None:
    feed = Feed()
    feed.changed({"doc": "1"})
    feed.dispatched("t", {"doc": "1"})
    row = feed.partition.store.session("s").row()
    fields = [getattr(row, name) for name in row.__struct_fields__]
    assert row.__struct_fields__[-3:] == ("replaced", "context_ids", "extras")
    store = Store(0)
    store.restore(b"ss", _encoded(fields[:-3]))
    restored = store.session("s")
    assert restored.context_ids == b""
    assert dict(restored.facets.items()) == row.facets
    again = row_from_bytes(row_to_bytes(restored.row()))
    assert again.tasks == row.tasks


def _encoded(fields: list[Any]) -> bytes:
    return msgspec.msgpack.encode(fields)
