"""Proposed effects: answered past their barrier, once per key, by what the session knows then."""

from __future__ import annotations

from typing import Any

import pytest

from projections.evolve import MAX_EFFECTS
from projections.rows import EffectAnswer
from tests.unit.event_logs import full_rows
from tests.unit.feeding import Feed


def proposed(feed: Feed, key: str = "k", task_id: str = "t", **fields: Any) -> None:
    feed.send("task.effect_proposed", task_id=task_id, idempotency_key=key, effect="book", **fields)


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


def test_of_tasks_that_are_not_open_nothing_may_happen() -> None:
    feed = Feed()
    feed.dispatched("t")
    feed.result("t")
    proposed(feed, "after the end")
    proposed(feed, "unheard of", "ghost")
    feed.barrier()
    assert answers(feed) == [("after the end", "refused", "late"), ("unheard of", "refused", "unknown_task")]


def test_the_same_key_gets_the_same_answer_after_a_restart_and_whatever_has_changed_since() -> None:
    feed = Feed()
    feed.changed({"doc/1": "a"})
    feed.dispatched("t", {"doc/1": "a"})
    proposed(feed, "fresh")
    feed.barrier()
    feed.changed({"doc/1": "b"})
    proposed(feed, "stale")
    feed.barrier()
    first = [body for body in feed.take() if body["type"].startswith("effect.")]
    feed.restart()
    feed.changed({"doc/1": "a" if feed.facets["doc/1"].value == "b" else "b"})
    proposed(feed, "fresh")
    proposed(feed, "stale")
    feed.barrier()
    again = [body for body in feed.take() if body["type"].startswith("effect.")]
    assert feed.changes[-1].duplicates == {"task.effect_proposed": 2}
    told = ("type", "idempotency_key", "effect", "reason", "judged")
    assert [[body.get(name) for name in told] for body in again] == [
        [body.get(name) for name in told] for body in first
    ]
    assert "differences" in first[1]
    assert "differences" not in again[1]


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


def test_so_many_answers_are_remembered() -> None:
    feed = Feed()
    feed.dispatched("t")
    for number in range(MAX_EFFECTS + 2):
        proposed(feed, f"k{number}")
    feed.barrier()
    effects = feed.row.effects
    assert list(effects) == [f"k{number}" for number in range(2, MAX_EFFECTS + 2)]
    assert isinstance(effects["k2"], EffectAnswer)


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
