"""How much is kept of one session, and what a full one still takes."""

from __future__ import annotations

from typing import Any

import pytest

from projections.budget import (
    MAX_FULL_ROW_BYTES,
    MAX_RECORD_BYTES,
    MAX_ROW_BYTES,
    MAX_SESSION_BYTES,
    MAX_WAITING_BYTES,
    NO_ROOM,
    kept_bytes,
    measured_bytes,
    room_for,
)
from projections.ended import MAX_ENDED_BYTES
from projections.expectation import is_unknown
from projections.records import change_to_bytes, row_to_bytes
from projections.rows import Facet, new_row
from projections.session import Session
from schemas.fields import MAX_INLINE_PART_BYTES
from schemas.topics import CHANGELOG_MAX_MESSAGE_BYTES
from tests.unit.event_logs import full_rows
from tests.unit.feeding import Feed, reason_of

CHANGED = change_to_bytes(0, 0, "app", "e")


def refused(feed: Feed) -> list[str]:
    """The errors of the next transaction's refusals."""
    feed.take()
    return [refusal.error for refusal in feed.changes[-1].refusals]


# Room


def test_room_is_measured_when_the_count_runs_out_and_does_not_depend_on_writing() -> None:
    session = Session("s", new_row())
    size = 1000
    taken = 0
    while (estimate := room_for(session, size, adds_names=True)) != NO_ROOM:
        session.size_estimate = estimate
        name = f"doc/{taken}"
        session.facets[name] = Facet("x" * (size - len(name) - len(CHANGED) - 16), None, CHANGED)
        taken += 1
    written = len(row_to_bytes(session.row()))
    assert MAX_ROW_BYTES - size - 32 * taken < written <= MAX_ROW_BYTES
    assert room_for(session, size, adds_names=True) == NO_ROOM
    assert room_for(session, size, adds_names=False) > MAX_ROW_BYTES
    assert room_for(session, MAX_FULL_ROW_BYTES - measured_bytes(session.row()), adds_names=False) == MAX_FULL_ROW_BYTES
    assert room_for(session, MAX_FULL_ROW_BYTES - measured_bytes(session.row()) + 1, adds_names=False) == NO_ROOM


def test_a_row_that_changes_but_does_not_grow_always_has_room() -> None:
    session = Session("s", new_row())
    for _ in range(1000):
        session.size_estimate = room_for(session, 10_000, adds_names=True)
        assert session.size_estimate != NO_ROOM


def test_a_name_counts_what_its_value_may_take_at_least() -> None:
    session = Session("s", new_row())
    session.facets["a"] = Facet(None, None, b"")
    assert measured_bytes(session.row()) == 128


def test_everything_that_is_kept_counts() -> None:
    session = Session("s", new_row())
    session.ended, session.waiting_bytes = b"12345", 7
    assert kept_bytes(session, 100) == 112
    assert MAX_SESSION_BYTES == MAX_FULL_ROW_BYTES + MAX_WAITING_BYTES + MAX_ENDED_BYTES
    assert MAX_RECORD_BYTES < CHANGELOG_MAX_MESSAGE_BYTES


# Rows that would grow too large


def grown_feed() -> Feed:
    feed = Feed()
    number = 0
    dead: list[str] = []
    while not dead:
        feed.changed({f"doc/{number}/{each}": "v" * 1000 for each in range(16)})
        dead = refused(feed)
        number += 1
    assert number > 20
    assert dead == ["session_full"]
    return feed


def test_a_full_session_takes_no_new_facets_and_still_follows_the_known_ones() -> None:
    feed = grown_feed()
    size = feed.row_bytes
    assert MAX_ROW_BYTES * 0.8 < size <= MAX_ROW_BYTES
    feed.changed({"doc/0/0": "new value"})
    feed.changed(unset=["doc/0/1"])
    for number in range(300):
        feed.changed(unset=[f"never/seen/{number}/{each}" for each in range(200)])
    assert len(refused(feed)) >= 290
    assert feed.facets["doc/0/0"].value == "new value"
    assert feed.facets["doc/0/1"].value is None
    assert feed.row_bytes < 2 * MAX_ROW_BYTES
    number = 0
    while not refused(feed):
        feed.changed({f"more/{number}": "v" * 1000})
        number += 1
    feed.dispatched("t", {f"doc/1/{each}": "v" * 1000 for each in range(12)})
    assert feed.statuses()["t"]["reason"] == "session_full"


def test_many_small_facets_count_with_all_that_is_kept_of_them() -> None:
    feed = Feed()
    source, number = "s" * 250, 0
    while not refused(feed):
        feed.changed({f"{number}.{each}": "" for each in range(200)}, source=source)
        number += 1
        assert number < 100
    assert feed.row_bytes <= MAX_ROW_BYTES


def fill_with_names(feed: Feed) -> list[str]:
    """Give the session as many facets as it takes, all with short values."""
    number = 0
    while not refused(feed):
        feed.changed({f"{number}.{each}": "" for each in range(50)}, source="s")
        number += 1
        assert number < 200
    return [name for name in feed.facets if "." in name]


def fill_with_values(feed: Feed, names: list[str]) -> None:
    """Give facets that are known values for which the session has no room, until some are lost."""
    for name in names:
        feed.changed({name: "v" * 1024}, source="s" * 256, event_id=name.ljust(256, "e"))
    assert refused(feed) == []
    assert is_unknown(feed.facets[names[-1]])


def test_values_that_become_long_are_lost_where_the_row_has_no_room() -> None:
    feed = Feed()
    all_names = fill_with_names(feed)
    assert len(all_names) > 3000
    names = all_names[:1000]
    fill_with_values(feed, names)
    assert MAX_FULL_ROW_BYTES * 0.9 < feed.row_bytes <= MAX_FULL_ROW_BYTES
    assert list(feed.facets) == all_names
    assert feed.facets[names[0]].value == "v" * 1024
    for name in names[-4:]:
        feed.changed({name: "v" * 1024}, source="s")
    assert is_unknown(feed.facets[names[-1]])
    for name in names[:100]:
        feed.changed({name: ""}, source="s")
    feed.changed({names[-1]: "v" * 1024}, source="s")
    assert feed.facets[names[-1]].value == "v" * 1024
    assert feed.row_bytes <= MAX_FULL_ROW_BYTES


@pytest.mark.parametrize("is_known_again", [False, True])
@pytest.mark.parametrize("on_stale", ["withhold", "annotate", "hold", "redispatch"])
def test_a_result_that_depends_on_a_facet_that_is_lost_is_withheld(on_stale: str, *, is_known_again: bool) -> None:
    feed = Feed()
    with full_rows(50_000):
        feed.changed({"last.": "a"})
        feed.dispatched("t", {"last.": "a"}, on_stale=on_stale)
        feed.dispatched("other")
        _, *names = fill_with_names(feed)
        fill_with_values(feed, [*names, "last."])
        assert feed.row.tasks["t"].stale == ["last."]
        if is_known_again:
            for name in names[:10]:
                feed.changed({name: ""}, source="s")
            feed.changed({"last.": "a"})
    feed.send("task.effect_proposed", task_id="t", idempotency_key="k", effect="book")
    feed.result("t")
    feed.result("other")
    outputs = feed.take()
    verdicts = [reason_of(body) for body in outputs if body["type"].startswith("result.")]
    (answer,) = [body for body in outputs if body["type"].startswith("effect.")]
    if is_known_again:
        assert verdicts == [("delivered", "fresh")] * 2
        assert answer["type"] == "effect.cleared"
    else:
        assert verdicts == [("withheld", "session_full"), ("delivered", "fresh")]
        assert (answer["type"], answer["reason"]) == ("effect.refused", "session_full")


def test_what_the_gate_takes_for_a_dispatch_counts() -> None:
    feed = Feed()
    feed.changed({f"doc/{each}": "v" * 1000 for each in range(200)})
    number = 0
    while not any(body.get("reason") == "session_full" for body in feed.take()):
        feed.dispatched(f"t{number}", depends_on=[f"doc/{each}" for each in range(200)])
        number += 1
        assert number < 100
    assert feed.row_bytes <= MAX_ROW_BYTES


def test_what_results_read_for_the_task_above_counts() -> None:
    feed = Feed()
    feed.dispatched("above")
    dead: list[str] = []
    for number in range(120):
        feed.dispatched(f"t{number}", parent_task_id="above")
        feed.result(f"t{number}", reads={f"doc/{number}/{each}": "v" * 60 for each in range(120)})
        dead += refused(feed)
    assert MAX_ROW_BYTES * 0.4 < feed.row_bytes <= MAX_ROW_BYTES
    assert set(dead) == {"session_full"}
    assert len(dead) == len(feed.row.tasks) - 1
    last = list(feed.row.tasks)[-1]
    above = feed.row.tasks["above"].scope
    assert above is not None
    assert list(above.children)[-1] == last
    feed.result(last)  # without reads that are new to the row, it may end
    assert reason_of(feed.verdict()) == ("delivered", "fresh")


def test_what_children_that_came_before_their_parent_bring_with_them_counts() -> None:
    feed = Feed()
    rejected = 0
    for number in range(60):
        snapshot: dict[str, str | None] = {f"doc/{number}/{each}": "v" * 900 for each in range(12)}
        feed.dispatched(f"t{number}", snapshot, parent_task_id=f"t{number + 1}")
        rejected += sum(body.get("reason") == "session_full" for body in feed.take())
        assert feed.row_bytes <= MAX_ROW_BYTES
    assert rejected > 10


def test_a_result_that_is_refused_for_its_reads_leaves_no_trace() -> None:
    feed = grown_feed()
    feed.dispatched("above", {"doc/0/0": "a"})
    feed.dispatched("t", {"doc/0/0": "b"}, parent_task_id="above")
    feed.take()
    before = feed.row
    feed.result("t", reads={"doc/0/0": "c", **{f"never/seen/{each}": "v" * 1000 for each in range(14)}})
    assert feed.take() == []
    (refusal,) = feed.changes[-1].refusals
    assert (refusal.error, refusal.batch.role) == ("session_full", "results")
    assert feed.row == before
    assert feed.partition.store.session("s").waiting == {}


def test_what_a_result_reads_takes_no_room_where_it_is_decided_at_once() -> None:
    feed = grown_feed()
    feed.dispatched("t")
    feed.dispatched("held")
    reads = {"doc/0/0": "another", **{f"never/seen/{each}": "v" * 1000 for each in range(14)}}
    feed.result("t", reads=reads)
    assert reason_of(feed.verdict()) == ("withheld", "stale")
    feed.result("held", {"part_id": "text", "on_stale": "hold"}, reads=reads)
    assert refused(feed) == ["session_full"]
    assert feed.row.tasks["held"].wait is None


def test_what_a_proposed_effect_read_counts_and_its_agent_is_told() -> None:
    feed = Feed()
    feed.dispatched("t")
    answers = []
    for number in range(60):
        reads = {f"doc/{number}/{each}": "v" * 60 for each in range(120)}
        feed.send("task.effect_proposed", task_id="t", idempotency_key=f"k{number}", effect="book", reads=reads)
        feed.barrier()
        answers += [body for body in feed.take() if body["type"].startswith("effect.")]
    assert feed.row_bytes <= MAX_ROW_BYTES
    assert len(answers) == 60
    assert answers[0]["type"] == "effect.cleared"
    assert (answers[-1]["type"], answers[-1]["reason"]) == ("effect.refused", "session_full")
    feed.send("task.effect_proposed", task_id="t", idempotency_key="k", effect="book", reads={"doc/0/0": "v"})
    feed.barrier()
    assert feed.take()[0]["type"] == "effect.cleared"


def test_whether_a_session_is_full_does_not_depend_on_when_it_is_written() -> None:
    rows, refusals = [], []
    for every in (1, 7, 1000):
        feed = Feed()
        for number in range(60):
            feed.changed({f"doc/{number}/{each}": "v" * 1000 for each in range(10)}, by="t")
            if number % every == 0:
                feed.take()
                feed.restart()
        feed.take()
        rows.append(row_to_bytes(feed.row))
        refusals.append(sum(len(changes.refusals) for changes in feed.changes))
    assert len(set(rows)) == 1
    assert len(set(refusals)) == 1
    assert refusals[0] > 0


# Events that wait


def large_part(number: int) -> dict[str, Any]:
    return {"part_id": f"p{number}", "payload": "x" * (MAX_INLINE_PART_BYTES - 2)}


def test_so_many_bytes_of_results_wait_and_the_next_is_refused_until_there_is_room_again() -> None:
    feed = Feed()
    feed.changed({"doc/1": "b"})
    number = 0
    dead: list[str] = []
    while not dead:
        task_id = f"t{number}"
        if number % 2:
            feed.dispatched(task_id, {"doc/1": "a"}, on_stale="hold")
        feed.result(task_id, large_part(number))
        dead = refused(feed)
        number += 1
        assert number < 100
    assert dead == ["session_full"]
    kept = feed.partition.store.waiting_bytes
    assert MAX_WAITING_BYTES - MAX_INLINE_PART_BYTES - 1000 < kept <= MAX_WAITING_BYTES
    feed.dispatched("small")
    feed.result("small", {"part_id": "p"})
    assert reason_of(feed.verdict()) == ("delivered", "fresh")
    feed.send("task.effect_proposed", task_id="t1", idempotency_key="k", effect="book", reads={"a": "v" * 1000})
    feed.send("session.erased")
    feed.result(f"t{number}", large_part(number))
    assert refused(feed) == []
    assert 0 < feed.partition.store.waiting_bytes < 2 * MAX_INLINE_PART_BYTES


def test_headers_of_what_waits_count() -> None:
    feed = Feed()
    feed.result("t", headers=[("traceparent", b"x" * 100_000), ("null", None)])
    feed.take()
    assert 100_000 < feed.partition.store.waiting_bytes < 101_000


def test_what_a_dispatch_said_counts_once_more_when_its_task_expects_something_else() -> None:
    feed = Feed()
    snapshot: dict[str, str | None] = {f"facet-{number}": "v" * 900 for number in range(16)}
    for number in range(25):
        feed.dispatched(f"t{number}", snapshot)
    feed.dispatched("child", {"facet-1": "y"}, parent_task_id="t0")
    feed.send("task.effect_proposed", task_id="t1", idempotency_key="k", effect="pay", reads={"facet-1": "x"})
    feed.barrier()
    for number in range(2, 25):
        feed.step(f"t{number}", {"facet-1": "x"})
    session = feed.partition.store.session("s")
    assert all(task.snapshot is not None for task_id, task in session.tasks.items() if task_id != "child")
    assert len(row_to_bytes(session.row())) <= session.size_estimate
