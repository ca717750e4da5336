"""What context events establish: changes by tasks that are known or not, cancellations, acknowledgements."""

from __future__ import annotations

import pytest

from projections.decide_context import decide_change
from projections.decode import Decoder
from projections.facts import EventRefused, EventTaken, FacetsChanged, FacetsLost
from projections.records import change_to_bytes
from projections.rows import CHANGED_BY_SEVERAL, KNOWN, UNKNOWN, UNSEEN, Facet
from projections.rules import Rules
from projections.session import Session
from tests.unit.event_logs import full_rows
from tests.unit.feeding import START_MS, Feed, make_batch, reason_of
from tests.unit.test_budget import refused
from tests.unit.test_waiting import result_value

CHANGED = change_to_bytes(0, 0, "app", "e")


def change(session: Session, **fields: object) -> list[object]:
    body = result_value(**{"type": "context.changed", "set": {}, **fields})
    event = Decoder("context").event(make_batch("context", 0, [body], [5]), 0, [])
    return list(decide_change(session, event, len(body), 0, 5))


def session_with(feed: Feed, **facets: Facet) -> Session:
    session = feed.partition.store.session("s")
    for name, facet in facets.items():
        session.facets[name] = facet
    return session


# Changes


@pytest.mark.parametrize(
    ("known", "by", "expected"),
    [
        (None, None, (None, None, UNSEEN)),
        (None, "t", ("t", None, UNSEEN)),
        (Facet("a", None, CHANGED), None, None),
        (Facet("a", None, CHANGED), "t", None),
        (Facet("a", "t", CHANGED), "t", None),
        (Facet("a", "t", CHANGED), None, (None, "a", KNOWN)),
        (Facet("a", "t", CHANGED), "u", (CHANGED_BY_SEVERAL, "a", KNOWN)),
        (Facet("a", CHANGED_BY_SEVERAL, CHANGED), "t", (CHANGED_BY_SEVERAL, "a", KNOWN)),
        (Facet("b", "t", CHANGED), "u", ("u", "b", KNOWN)),
        (Facet(None, None, CHANGED), None, (None, None, KNOWN)),
        (Facet(None, None, b""), "t", ("t", None, UNKNOWN)),
    ],
)
def test_a_facet_changes_if_it_has_another_value_or_another_cause(
    known: Facet | None, by: str | None, expected: tuple[str | None, str | None, int] | None
) -> None:
    session = session_with(Feed(), **({"f": known} if known else {}))
    facts = change(session, set={"f": "a"}, **({"cause": {"task_id": by}} if by else {}))
    if expected is None:
        assert [type(fact) for fact in facts] == [EventTaken]
        return
    (fact,) = facts
    assert isinstance(fact, FacetsChanged)
    (found,) = fact.changes
    assert (found.name, found.value) == ("f", "a")
    assert (found.cause, found.before, found.seen) == expected
    assert (fact.holder, fact.undispatched) == (None, by)


def test_a_change_is_the_own_work_of_the_open_task_or_of_the_nearest_open_one_above() -> None:
    feed = Feed()
    feed.dispatched("top")
    feed.dispatched("middle", parent_task_id="top")
    feed.dispatched("bottom", parent_task_id="middle")
    feed.dispatched("alone")
    feed.result("bottom")
    feed.result("alone")
    found = []
    for number, task_id in enumerate(("top", "bottom", "alone", "unheard of")):
        (fact,) = change(session_with(feed), set={f"f{number}": "a"}, cause={"task_id": task_id})
        assert isinstance(fact, FacetsChanged)
        found.append((fact.holder, fact.undispatched))
    assert found == [("top", None), ("middle", None), (None, None), (None, "unheard of")]


def test_of_one_event_known_facets_are_changed_and_new_ones_refused_where_there_is_no_room() -> None:
    feed = Feed()
    feed.changed({"known": "a"})
    feed.dispatched("t", {"depended on": "a"})
    session = session_with(feed)
    session.size_estimate = 10**9
    with full_rows(1000):
        facts = change(session, set={"new": "b", "known": "b", "depended on": "b"})
        assert [type(fact) for fact in facts] == [EventRefused, FacetsChanged]
        changed = facts[1]
        assert isinstance(changed, FacetsChanged)
        assert [each.name for each in changed.changes] == ["known", "depended on"]
    with full_rows(100):
        facts = change(session, set={"new": "b", "known": "b", "depended on": "b"})
        assert [type(fact) for fact in facts] == [EventRefused, FacetsLost, EventTaken]
        lost = facts[1]
        assert isinstance(lost, FacetsLost)
        assert lost.names == ["known", "depended on"]


# Cancellations


def test_a_task_may_be_cancelled_before_it_is_dispatched() -> None:
    feed = Feed()
    feed.send("task.cancel_requested", task_id="t")
    feed.take()
    feed.restart()
    feed.dispatched("t")
    feed.dispatched("t2")
    assert {task_id: status.get("reason") for task_id, status in feed.statuses().items()} == {
        "t": "cancelled",
        "t2": None,
    }
    assert feed.row.cancels == {}


def test_requests_to_cancel_that_meet_nothing_are_answered_and_forgotten() -> None:
    feed = Feed(Rules(unknown_task_grace_ms=200_000))
    for number in range(100):
        feed.send("task.cancel_requested", task_id=f"t{number}")
    feed.take()
    assert feed.row.extras is not None
    assert [each.task_id for each in feed.row.extras.cancels] == [f"t{number}" for number in range(100)]
    feed.dispatched("t7")
    feed.dispatched("t99")
    assert [body["task_id"] for body in feed.take() if body["type"] == "task.cancel"] == ["t7", "t99"]
    feed.restart(compacted=True)
    feed.wait(300)
    told = [body["task_id"] for body in feed.take() if body["type"] == "task.cancel_unmatched"]
    assert told == [f"t{number}" for number in range(100) if number not in (7, 99)]
    assert feed.row.extras is None


def test_requests_to_cancel_count_like_all_of_the_row_and_are_refused_beyond_it() -> None:
    feed = Feed()
    with full_rows(800):
        for number in range(100):
            feed.send("task.cancel_requested", task_id=f"t{number}")
    refused = [refusal.error for refusal in feed.partition.take(feed.now_ms).refusals]
    kept = feed.row.extras.cancels if feed.row.extras is not None else []
    assert 3 < len(kept) < 90
    assert refused == ["session_full"] * (100 - len(kept))


def test_a_request_to_cancel_that_comes_again_is_a_repeat() -> None:
    feed = Feed()
    for _ in range(2):
        feed.send("task.cancel_requested", slot="s", event_id="once")
    feed.take()
    assert feed.changes[-1].duplicates == {"task.cancel_requested": 1}
    feed.wait(40)
    assert [body["type"] for body in feed.take()] == ["task.cancel_unmatched"]


def test_rows_of_earlier_versions_have_requests_to_cancel_too() -> None:
    feed = Feed()
    feed.changed({"a": "1"})
    feed.partition.store.session("s").cancels["t"] = START_MS
    feed.take()
    feed.dispatched("t")
    assert feed.statuses()["t"]["reason"] == "cancelled"
    assert feed.row.cancels == {}


def test_cancelling_a_task_that_has_ended_is_counted_and_no_more() -> None:
    feed = Feed()
    feed.dispatched("t")
    feed.result("t")
    feed.take()
    feed.send("task.cancel_requested", task_id="t")
    assert feed.take() == []
    assert feed.changes[-1].ignored == {"task.cancel_requested": 1}


# Acknowledgements


def test_an_acknowledgement_matters_if_something_was_delivered_and_it_says_something_new() -> None:
    feed = Feed()
    feed.changed({"doc/1": "b"})
    feed.dispatched("withheld", {"doc/1": "a"})
    feed.dispatched("running")
    feed.dispatched("t")
    feed.result("withheld")
    feed.result("t")
    feed.take()
    for task_id in ("withheld", "running", "ghost"):
        feed.send("result.acknowledged", task_id=task_id, outcome="shown")
    assert feed.take() == []
    assert feed.changes[-1].ignored == {"result.acknowledged": 3}
    for _ in range(2):
        feed.send("result.acknowledged", task_id="t", outcome="refused", reason="too late")
    (status,) = feed.take()
    assert (status["acknowledged"], status["detail"]) == ("refused", "too late")
    assert feed.changes[-1].acknowledged == {"refused": 2}


def test_parts_that_were_delivered_are_acknowledged_while_others_wait() -> None:
    feed = Feed()
    feed.changed({"doc/1": "b"})
    feed.dispatched("t", {"doc/1": "a"})
    feed.result("t", {"part_id": "now", "depends_on": []}, {"part_id": "later", "on_stale": "hold"})
    feed.take()
    feed.send("result.acknowledged", task_id="t", outcome="shown", reason="é")
    assert feed.statuses()["t"]["acknowledged"] == "shown"
    feed.take()
    feed.restart()
    feed.changed({"doc/1": "a"})
    feed.barrier()
    outputs = feed.take()
    assert [reason_of(body) for body in outputs if body["type"].startswith("result.")] == [("delivered", "fresh")]
    (status,) = [body for body in outputs if body["type"] == "task.status"]
    assert (status["disposition"], status["acknowledged"], status["detail"]) == ("delivered", "shown", "é")


def test_an_acknowledgement_is_refused_where_the_session_is_full() -> None:
    feed = Feed()
    feed.changed({"doc/1": "b"})
    feed.dispatched("t", {"doc/1": "a"})
    feed.result("t", {"part_id": "now", "depends_on": []}, {"part_id": "later", "on_stale": "hold"})
    feed.take()
    with full_rows(10):
        feed.send("result.acknowledged", task_id="t", outcome="shown")
    assert refused(feed) == ["session_full"]


# Erasure


def test_an_erasure_says_how_many_events_that_waited_are_ignored() -> None:
    feed = Feed()
    feed.dispatched("t")
    for number in range(3):
        feed.result("unknown", {"part_id": str(number)})
    feed.send("session.erased")
    feed.take()
    assert feed.changes[-1].ignored["task.result"] == 3
    assert feed.partition.store.waiting_count == 0
