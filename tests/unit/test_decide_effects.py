"""Proposed effects: answered past their barrier, once per key, by what the session knows then."""

from __future__ import annotations

from typing import Any

import pytest

from projections.decide_effects import MAX_EFFECTS
from projections.rows import EffectAnswer
from tests.unit.event_logs import full_rows
from tests.unit.feeding import Feed


def proposed(feed: Feed, key: str = "k", task_id: str = "t", **fields: Any) -> None:
    feed.send("task.effect_proposed", task_id=task_id, idempotency_key=key, **{"effect": "book", **fields})


def answers(feed: Feed) -> list[tuple[str, str, str | None]]:
    """Key, answer and reason of every answer in the next transaction."""
    told = [body for body in feed.take() if body["type"].startswith("effect.")]
    return [(body["idempotency_key"], body["type"].removeprefix("effect."), body.get("reason")) for body in told]


def test_it_is_answered_when_its_record_is_decided_and_says_at_which_place() -> None:
    feed = Feed()
    feed.reaches_cuts = False
    feed.changed({"doc/1": "a"})
    feed.dispatched("t")
    proposed(feed, "one")
    proposed(feed, "another")
    places = [body["judged"] for body in feed.take() if body["type"].startswith("effect.")]
    assert [(place["context_offset"], place["steps_offset"], place["results_offset"]) for place in places] == [
        (1, 2, 0),
        (1, 3, 0),
    ]


@pytest.mark.parametrize(
    ("before", "answer"),
    [
        ({}, ("cleared", None)),
        ({"doc/1": "b"}, ("refused", "stale")),
        ({"session": "closed"}, ("refused", "session_closed")),
        ({"request/r": "archived"}, ("refused", "request_archived")),
    ],
)
def test_it_may_happen_if_a_result_might_be_delivered(before: dict[str, str], answer: tuple[str, str | None]) -> None:
    feed = Feed()
    feed.changed({"doc/1": "a"})
    feed.dispatched("t", {"doc/1": "a"}, request_id="r")
    feed.changed(before)
    proposed(feed)
    feed.barrier()
    assert answers(feed) == [("k", *answer)]


def test_of_tasks_that_have_ended_nothing_may_happen_and_the_answer_says_why() -> None:
    feed = Feed()
    for task_id in ("done", "stopped", "expired"):
        feed.dispatched(task_id, heartbeat_timeout_seconds=10 if task_id == "expired" else 1000)
    feed.result("done")
    feed.send("task.cancel_requested", task_id="stopped")
    feed.wait(20)
    for task_id in ("done", "stopped", "expired"):
        proposed(feed, task_id, task_id)
    feed.barrier()
    assert answers(feed) == [
        ("done", "refused", "late"),
        ("stopped", "refused", "cancelled"),
        ("expired", "refused", "heartbeat_missed"),
    ]
    assert feed.row.effects == {}


# Again


def told(feed: Feed) -> list[dict[str, Any]]:
    """The answers in the next transaction."""
    return [body for body in feed.take() if body["type"].startswith("effect.")]


@pytest.mark.parametrize("restart", [False, True])
def test_what_was_cleared_is_judged_again_and_marked_as_a_repeat(*, restart: bool) -> None:
    feed = Feed()
    feed.changed({"doc/1": "a"})
    feed.dispatched("t", {"doc/1": "a"})
    proposed(feed)
    feed.barrier()
    (first,) = told(feed)
    assert "repeat" not in first
    if restart:
        feed.restart(compacted=True)
    proposed(feed)
    feed.barrier()
    (second,) = told(feed)
    assert (second["type"], second["repeat"], second["first_cleared"]) == ("effect.cleared", True, first["judged"])
    feed.changed({"doc/1": "b"})
    proposed(feed)
    feed.barrier()
    (third,) = told(feed)
    assert (third["type"], third["reason"], third["first_cleared"]) == ("effect.refused", "stale", first["judged"])
    assert third["differences"][0]["actual"] == "b"
    assert len({body["event_id"] for body in (first, second, third)}) == 3


def test_an_agent_of_a_cancelled_task_is_told_that_it_had_been_cleared() -> None:
    feed = Feed()
    feed.dispatched("t")
    proposed(feed)
    feed.barrier()
    (first,) = told(feed)
    feed.send("task.cancel_requested", task_id="t")
    proposed(feed)
    feed.barrier()
    (second,) = told(feed)
    assert (second["reason"], second["first_cleared"]) == ("cancelled", first["judged"])


def test_a_refusal_does_not_stick_to_its_key() -> None:
    feed = Feed()
    feed.changed({"doc/1": "b"})
    feed.dispatched("t", {"doc/1": "a"})
    proposed(feed)
    feed.barrier()
    feed.changed({"doc/1": "a"})
    proposed(feed)
    feed.barrier()
    assert answers(feed) == [("k", "refused", "stale"), ("k", "cleared", None)]


def test_every_answer_names_its_proposal() -> None:
    feed = Feed()
    feed.dispatched("t")
    proposed(feed, event_id="p-1")
    proposed(feed, event_id="p-1")
    feed.barrier()
    first, second = told(feed)
    assert (first["proposal"]["event_id"], first["proposal"]["offset"]) == ("p-1", 1)
    assert (second["proposal"]["offset"], second["repeat"]) == (2, True)


def test_what_a_repeated_proposal_read_does_not_come_back() -> None:
    feed = Feed()
    feed.changed({"doc/1": "2"})
    feed.dispatched("t")
    proposed(feed, event_id="p-1", reads={"doc/1": "1"})
    feed.barrier()
    feed.step("t", {"doc/1": "2"})
    proposed(feed, event_id="p-1", reads={"doc/1": "1"})
    feed.barrier()
    assert answers(feed) == [("k", "refused", "stale"), ("k", "cleared", None)]


# Whose a key is


def test_a_key_belongs_to_one_effect() -> None:
    feed = Feed()
    feed.dispatched("t")
    proposed(feed)
    proposed(feed, effect="pay")
    feed.barrier()
    _, second = told(feed)
    assert (second["type"], second["reason"]) == ("effect.refused", "key_conflict")
    assert second["conflicts_with"] == {"idempotency_key": "k", "task_id": "t", "effect": "book"}
    assert "first_cleared" not in second


def test_a_key_belongs_to_one_task_whatever_else_speaks_against_the_other() -> None:
    feed = Feed()
    feed.changed({"cart": "3"})
    feed.dispatched("a", {"cart": "3"})
    feed.dispatched("b", {"cart": "2"})
    feed.dispatched("over")
    feed.result("over")
    proposed(feed, task_id="a")
    for task_id in ("b", "over"):
        proposed(feed, task_id=task_id)
    feed.barrier()
    assert answers(feed) == [("k", "cleared", None), ("k", "refused", "key_conflict"), ("k", "refused", "key_conflict")]


def test_a_key_that_was_refused_belongs_to_its_effect_too() -> None:
    feed = Feed()
    feed.changed({"doc/1": "b"})
    feed.dispatched("t", {"doc/1": "a"})
    proposed(feed)
    proposed(feed, effect="pay")
    feed.barrier()
    assert answers(feed) == [("k", "refused", "stale"), ("k", "refused", "key_conflict")]


@pytest.mark.parametrize("commanded", [False, True])
def test_a_key_belongs_to_the_attempts_of_its_task_too(*, commanded: bool) -> None:
    feed = Feed()
    feed.changed({"doc/1": "a"})
    feed.dispatched("t", {"doc/1": "a"}, on_stale="redispatch" if commanded else "withhold")
    proposed(feed)
    feed.barrier()
    feed.changed({"doc/1": "b"})
    feed.result("t")
    feed.dispatched("t~2", {"doc/1": "b"}, attempt=2)
    proposed(feed, task_id="t~2")
    feed.barrier()
    _, second = told(feed)
    assert second["type"] == ("effect.cleared" if commanded else "effect.refused")
    assert second.get("reason") == (None if commanded else "key_conflict")
    assert second.get("repeat", False) == commanded


def test_effects_in_rows_of_before_are_known() -> None:
    feed = Feed()
    feed.dispatched("t")
    judged = '{"partition":0,"context_offset":3,"steps_offset":4,"at":"2025-11-24T16:00:00Z"}'
    members = f'"idempotency_key":"k","effect":"book","judged":{judged}'
    feed.partition.store.session("s").effects["k"] = EffectAnswer(cleared=True, members=members)
    proposed(feed)
    proposed(feed, effect="pay")
    feed.barrier()
    first, second = told(feed)
    assert (first["repeat"], first["first_cleared"]["context_offset"]) == (True, 3)
    assert second["conflicts_with"] == {"idempotency_key": "k", "task_id": "t", "effect": "book"}


# Fingerprints


def test_the_same_effect_under_another_key_is_refused_unless_it_is_meant() -> None:
    feed = Feed()
    feed.dispatched("t")
    proposed(feed, "k1", fingerprint="f")
    proposed(feed, "k2", fingerprint="f")
    proposed(feed, "k3", fingerprint="f", allow_duplicate=True)
    proposed(feed, "k4", fingerprint="g")
    proposed(feed, "k5")
    feed.barrier()
    told_of = told(feed)
    assert [body.get("reason") for body in told_of] == [None, "duplicate_effect", None, None, None]
    assert told_of[1]["conflicts_with"] == {"idempotency_key": "k1", "task_id": "t", "effect": "book"}


def test_what_was_refused_is_no_duplicate() -> None:
    feed = Feed()
    feed.changed({"doc/1": "b"})
    feed.dispatched("t", {"doc/1": "a"})
    proposed(feed, "k1", fingerprint="f")
    feed.barrier()
    feed.changed({"doc/1": "a"})
    proposed(feed, "k2", fingerprint="f")
    feed.barrier()
    assert answers(feed) == [("k1", "refused", "stale"), ("k2", "cleared", None)]


def test_another_fingerprint_is_another_effect() -> None:
    feed = Feed()
    feed.dispatched("t")
    proposed(feed, fingerprint="f")
    proposed(feed, fingerprint="g")
    proposed(feed)
    feed.barrier()
    assert [reason for _, _, reason in answers(feed)] == [None, "key_conflict", None]


# Before the dispatch


@pytest.mark.parametrize("restart", [False, True])
def test_a_proposal_that_overtakes_its_dispatch_waits_for_it(*, restart: bool) -> None:
    feed = Feed()
    proposed(feed)
    feed.barrier()
    assert answers(feed) == []
    if restart:
        feed.restart(compacted=True)
    feed.wait(5)
    feed.dispatched("t")
    feed.barrier()
    assert answers(feed) == [("k", "cleared", None)]
    feed.wait(60)
    assert answers(feed) == []
    assert feed.partition.next_due_ms() is None


@pytest.mark.parametrize("restart", [False, True])
def test_it_does_not_wait_for_ever_and_its_key_stays_free(*, restart: bool) -> None:
    feed = Feed()
    proposed(feed)
    feed.barrier()
    feed.take()
    if restart:
        feed.restart(compacted=True)
    feed.wait(31)
    assert answers(feed) == [("k", "refused", "unknown_task")]
    feed.dispatched("t")
    proposed(feed, effect="pay")
    feed.barrier()
    assert answers(feed) == [("k", "cleared", None)]


def test_a_proposal_and_a_result_wait_together() -> None:
    feed = Feed()
    proposed(feed)
    feed.barrier()
    feed.result("t")
    feed.dispatched("t")
    feed.barrier()
    bodies = [(body["type"], body.get("reason")) for body in feed.take()]
    assert ("effect.cleared", None) in bodies
    assert "result.delivered" in dict(bodies)


def test_of_a_task_that_ends_with_its_dispatch_nothing_may_happen() -> None:
    feed = Feed()
    feed.dispatched("old", slot="s")
    proposed(feed, task_id="new")
    feed.barrier()
    feed.dispatched("new", slot="s", on_newer="reject")
    feed.barrier()
    assert answers(feed) == [("k", "refused", "slot_taken")]


def test_an_erased_session_answers_nothing_that_waits() -> None:
    feed = Feed()
    proposed(feed)
    feed.barrier()
    feed.send("session.erased")
    feed.wait(60)
    assert answers(feed) == []
    assert feed.partition.store.waiting_bytes == 0


def test_what_it_read_is_what_the_task_expects_from_then_on() -> None:
    feed = Feed()
    feed.changed({"doc/1": "b"})
    feed.dispatched("t")
    feed.take()
    proposed(feed, reads={"doc/1": "a"})
    feed.barrier()
    outputs = feed.take()
    assert [body["type"] for body in outputs] == ["effect.refused", "task.status"]
    assert outputs[1]["stale_facets"] == ["doc/1"]
    assert feed.row.tasks["t"].expected == {"doc/1": "a"}


def test_so_many_keys_are_remembered_and_those_of_ended_tasks_are_forgotten_first() -> None:
    feed = Feed()
    for task_id in ("a", "b"):
        feed.dispatched(task_id)
    for number in range(MAX_EFFECTS):
        proposed(feed, f"k{number}", "a" if number % 2 else "b")
    feed.barrier()
    proposed(feed, "one more", "a")
    feed.barrier()
    assert answers(feed)[-1] == ("one more", "refused", "session_full")
    feed.result("b")
    proposed(feed, "one more", "a")
    feed.barrier()
    assert answers(feed) == [("one more", "cleared", None)]
    assert list(feed.row.effects) == [*(f"k{number}" for number in range(1, MAX_EFFECTS)), "one more"]


def test_without_room_to_remember_its_answer_an_effect_may_not_happen() -> None:
    feed = Feed()
    feed.dispatched("t")
    with full_rows(10):
        proposed(feed)
    assert answers(feed) == [("k", "refused", "session_full")]
    assert feed.row.effects == {}
    proposed(feed)
    feed.barrier()
    assert answers(feed) == [("k", "cleared", None)]
