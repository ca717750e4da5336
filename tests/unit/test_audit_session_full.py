"""The audit on sessions that were full: `session_full` is accepted where it may be right, and nowhere else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any
from unittest.mock import patch

import pytest

from audit import room
from tests.unit.event_logs import CUTS, Cut, Kinds, Op, full_rows, laid_out
from tests.unit.test_audit_laws import Logged, within_the_horizon
from tests.unit.test_audit_oracle import T, World, difference, stale

FILLED_WITH = 192
"""Facets of 1,000 bytes: more than an eighth of the largest row."""


def full(*, doc: str | None = "1") -> World:
    w = World()
    if doc is not None:
        w.context({"doc": doc})
    fill(w)
    return w


def fill(w: World) -> None:
    for first in range(0, FILLED_WITH, 64):
        w.context({f"note/{number}": "x" * 1000 for number in range(first, first + 64)})


def lost() -> World:
    w = full()
    w.dispatch(snapshot={"doc": "1"})
    w.context({"doc": "2"})
    w.withheld(w.result(), "session_full")
    return w


def lost_and_back() -> World:
    w = full()
    w.dispatch(snapshot={"doc": "1"})
    w.context({"doc": "2"})
    w.context({"doc": "1"})
    w.withheld(w.result(), "session_full")
    return w


def lost_though_it_may_be_held() -> World:
    w = full()
    w.dispatch(snapshot={"doc": "1"}, on_stale="hold")
    w.context({"doc": "2"})
    w.withheld(w.result(), "session_full")
    return w


def lost_for_one_part() -> World:
    w = full()
    w.dispatch(snapshot={"doc": "1", "note/7": "x" * 1000})
    w.context({"doc": "2"})
    parts = [
        {"part_id": name, "kind": "show", "depends_on": [facet]} for name, facet in (("p", "doc"), ("q", "note/7"))
    ]
    w.verdict(w.result(parts=parts), ("p", "withheld", "session_full", {}), ("q", "delivered", "fresh", {}))
    return w


def end_of_the_session_lost() -> World:
    """Whether the session is closed is unknown. Every result depends on that."""
    w = full()
    w.dispatch(snapshot={"doc": "1"})
    w.context({"session": "closed"})
    w.withheld(w.result(), "session_full")
    return w


def end_of_the_request_lost() -> World:
    w = full()
    w.dispatch(request_id="r")
    w.context({"request/r": "archived"})
    w.withheld(w.result(), "session_full")
    return w


def own_change_in_a_dead_letter() -> World:
    """The gate did not know the facet before, and took the change because its task was open."""
    w = full(doc=None)
    w.refuse("context", w.context({"doc": "1", "new": "1"}), "session_full")
    w.dispatch(snapshot={"doc": "2"})
    w.refuse("context", w.context({"doc": "3", "new": "1"}, cause=T), "session_full")
    by = w.context({"doc": "4"})
    w.verdict(w.result(), stale("p", difference("doc", "3", "4", by)))
    return w


def own_change_in_a_dead_letter_undone() -> World:
    w = full(doc=None)
    w.dispatch(snapshot={"doc": "1"})
    w.refuse("context", w.context({"doc": "1", "new": "1"}), "session_full")
    w.refuse("context", w.context({"doc": "2", "new": "1"}, cause=T), "session_full")
    by = w.context({"doc": "1", "new": "1"})
    w.refuse("context", by, "session_full")
    w.verdict(w.result(), stale("p", difference("doc", "2", "1", by)))
    return w


def presence_in_a_dead_letter() -> World:
    w = full()
    w.dispatch(snapshot={"presence/a": "present"}, when_absent="withhold")
    w.refuse("context", w.context({"presence/a": "absent", "new": "1"}), "session_full")
    w.withheld(w.result(), "user_absent")
    return w


def effect_that_read_something() -> World:
    """The effect was refused because a facet is unknown, and what it read joined its task."""
    w = full()
    w.dispatch()
    w.running()
    w.context({"doc": "2"})
    w.answer(w.propose(reads={"doc": "1"}), "session_full")
    w.withheld(w.result(), "session_full")
    return w


def known_again() -> World:
    w = full()
    w.dispatch(snapshot={"doc": "1"})
    w.context({"doc": "2"})
    w.context({"doc": "1"})
    w.fresh(w.result())
    return w


def many_readers() -> World:
    """What the tasks take for `depends_on` fills the session, and not what the events bring."""
    w = World()
    w.context({"doc": "1", **{f"note/{number}": "x" * 1000 for number in range(10)}})
    for number in range(20):
        w.dispatch(f"u-{number}", depends_on=[f"note/{each}" for each in range(10)])
        w.running(f"u-{number}", taken={f"note/{each}": "x" * 1000 for each in range(10)})
    w.dispatch(snapshot={"doc": "1"})
    w.running()
    w.context({"doc": "2"})
    w.withheld(w.result(), "session_full")
    return w


def nested() -> World:
    """A change is kept for the task whose work it is, and for every task above it."""
    w = World()
    w.context({"doc": "1"})
    for number in range(100):
        above = {"parent_task_id": f"u-{number - 1}"} if number else {}
        w.dispatch(f"u-{number}", **above)
        w.running(f"u-{number}")
    w.dispatch(snapshot={"doc": "1"})
    w.running()
    w.context({"doc": "x" * 1000}, cause="u-99")
    w.context({"doc": "2"})
    w.withheld(w.result(), "session_full")
    return w


def refused_with_known_facets() -> World:
    """The event is a dead letter, because it names a new facet. Its known facet has changed."""
    w = full()
    w.dispatch(snapshot={"doc": "1"})
    by = w.context({"doc": "2", "new": "1"})
    w.refuse("context", by, "session_full")
    w.verdict(w.result(), stale("p", difference("doc", "1", "2", by)))
    return w


def refused_and_lost() -> World:
    w = full()
    w.dispatch(snapshot={"doc": "1"})
    w.refuse("context", w.context({"doc": "2", "new": "1"}), "session_full")
    w.withheld(w.result(), "session_full")
    return w


def refused_new_facet() -> World:
    """No task depended on it: the gate does not know it."""
    w = full()
    w.refuse("context", w.context({"new": "1"}), "session_full")
    w.dispatch(snapshot={"new": "2"})
    w.fresh(w.result())
    return w


def refused_facet_that_a_task_depends_on() -> World:
    w = full()
    w.dispatch(snapshot={"new": "1"})
    by = w.context({"new": "2", "other": "1"})
    w.refuse("context", by, "session_full")
    w.verdict(w.result(), stale("p", difference("new", "1", "2", by)))
    return w


def refused_facet_that_stays() -> World:
    """The second event gives the value that the refused one gave already."""
    w = full()
    w.dispatch(snapshot={"new": "1"})
    by = w.context({"new": "2", "other": "1"})
    w.refuse("context", by, "session_full")
    w.context({"new": "2"})
    w.verdict(w.result(), stale("p", difference("new", "1", "2", by)))
    return w


def own_change_lost() -> World:
    """The own change did not move the expectation, because the gate had no room for it."""
    w = full()
    w.dispatch(snapshot={"doc": "1"})
    w.context({"doc": "2"}, cause=T)
    w.context({"doc": "1"})
    w.fresh(w.result())
    return w


def effect_refused() -> World:
    w = full()
    w.dispatch(snapshot={"doc": "1"})
    w.running()
    w.context({"doc": "2"})
    w.answer(w.propose(), "session_full")
    return w


CLEAN = [
    lost,
    lost_and_back,
    lost_though_it_may_be_held,
    lost_for_one_part,
    end_of_the_session_lost,
    end_of_the_request_lost,
    own_change_in_a_dead_letter,
    own_change_in_a_dead_letter_undone,
    presence_in_a_dead_letter,
    effect_that_read_something,
    known_again,
    many_readers,
    nested,
    refused_with_known_facets,
    refused_and_lost,
    refused_new_facet,
    refused_facet_that_a_task_depends_on,
    refused_facet_that_stays,
    own_change_lost,
    effect_refused,
]


@pytest.mark.parametrize("make", CLEAN)
def test_a_full_session_may_withhold(make: Callable[[], World]) -> None:
    findings, _, _ = make().audit()

    assert not findings, findings.examples


# ---- what is not accepted


def small_session() -> World:
    w = World()
    w.context({"doc": "1"})
    w.dispatch(snapshot={"doc": "1"})
    w.context({"doc": "2"})
    w.withheld(w.result(), "session_full")
    return w


def full_only_later() -> World:
    """The facet changed last when the session had room."""
    w = World()
    w.context({"doc": "1"})
    w.dispatch(snapshot={"doc": "1"})
    w.context({"doc": "2"})
    fill(w)
    w.withheld(w.result(), "session_full")
    return w


def filled_by_what_has_ended() -> World:
    """The tasks that had filled the session ended before the facet changed."""
    w = World()
    w.context({"doc": "1"})
    for number in range(20):
        w.dispatch(f"u-{number}", snapshot={f"note/{each}": "x" * 1000 for each in range(10)})
    for number in range(20):
        w.fresh(w.result(f"u-{number}"))
    w.dispatch(snapshot={"doc": "1"})
    w.context({"doc": "2"})
    w.withheld(w.result(), "session_full")
    return w


def facet_nobody_named() -> World:
    w = full(doc=None)
    w.dispatch(snapshot={"doc": "1"})
    w.context({"note/1": "2"})
    w.withheld(w.result(), "session_full")
    return w


def facet_of_another_part() -> World:
    w = full()
    w.dispatch(snapshot={"doc": "1", "list": "1"})
    w.context({"doc": "2"})
    parts = [{"part_id": name, "kind": "show", "depends_on": [facet]} for name, facet in (("p", "doc"), ("q", "list"))]
    w.verdict(w.result(parts=parts), ("p", "withheld", "session_full", {}), ("q", "withheld", "session_full", {}))
    return w


def delivered_all_the_same() -> World:
    w = full()
    w.dispatch(snapshot={"doc": "1"})
    w.context({"doc": "2"})
    w.fresh(w.result())
    return w


def delivered_as_session_full() -> World:
    w = full()
    w.dispatch(snapshot={"doc": "1"})
    w.context({"doc": "1"})
    w.verdict(w.result(), ("p", "delivered", "session_full", {}))
    return w


def with_differences() -> World:
    w = full()
    w.dispatch(snapshot={"doc": "1"})
    by = w.context({"doc": "2"})
    w.verdict(w.result(), ("p", "withheld", "session_full", {"differences": [difference("doc", "1", "2", by)]}))
    return w


def closed_before_it_was_full() -> World:
    w = World()
    w.context({"doc": "1", "session": "closed"})
    fill(w)
    w.dispatch(snapshot={"doc": "1"})
    w.context({"doc": "2"})
    w.withheld(w.result(), "session_full")
    return w


def delivered_though_it_was_closed() -> World:
    w = full()
    w.dispatch(snapshot={"doc": "1"})
    w.context({"session": "closed"})
    w.fresh(w.result())
    return w


def change_in_a_dead_letter_passed_over() -> World:
    w = full()
    w.dispatch(snapshot={"doc": "1"})
    w.refuse("context", w.context({"doc": "2", "new": "1"}), "session_full")
    w.fresh(w.result())
    return w


def dead_letter_for_another_reason() -> World:
    """Only for want of room is a part of an event folded."""
    w = full()
    w.dispatch(snapshot={"doc": "1"})
    by = w.context({"doc": "2", "new": "1"})
    w.refuse("context", by, "invalid_event")
    w.verdict(w.result(), stale("p", difference("doc", "1", "2", by)))
    return w


def own_change_in_a_small_session() -> World:
    w = World()
    w.context({"doc": "1"})
    w.dispatch(snapshot={"doc": "1"})
    w.context({"doc": "2"}, cause=T)
    w.context({"doc": "1"})
    w.fresh(w.result())
    return w


def effect_refused_in_a_small_session() -> World:
    w = World()
    w.context({"doc": "1"})
    w.dispatch(snapshot={"doc": "1"})
    w.running()
    w.answer(w.propose(), "session_full")
    return w


CORRUPT = [
    (small_session, "reason_false"),
    (full_only_later, "reason_false"),
    (filled_by_what_has_ended, "reason_false"),
    (facet_nobody_named, "reason_false"),
    (facet_of_another_part, "reason_false"),
    (delivered_all_the_same, "stale_delivered"),
    (delivered_as_session_full, "reason_unexpected"),
    (with_differences, "difference_wrong"),
    (closed_before_it_was_full, "reason_order"),
    (delivered_though_it_was_closed, "stale_delivered"),
    (change_in_a_dead_letter_passed_over, "stale_delivered"),
    (dead_letter_for_another_reason, "fresh_withheld"),
    (own_change_in_a_small_session, "stale_delivered"),
    (effect_refused_in_a_small_session, "effect_refused_fresh"),
]


@pytest.mark.parametrize(("make", "kind"), CORRUPT)
def test_and_nothing_else_may(make: Callable[[], World], kind: str) -> None:
    findings, _, _ = make().audit()

    assert kind in findings.counts, findings.examples


# ---- a gate at work


def filling(random: Random) -> list[Op]:
    """Few tasks, and context that grows until the session has no room for it."""
    facets, kinds = ["doc/1", "doc/2", "doc/3"], ["context"] * 5 + ["step", "effect", "result", "result"]
    records: list[dict[str, Any]] = [{"type": "context.changed", "set": dict.fromkeys(facets, "1")}]

    def some() -> dict[str, str]:
        values = ["1", "2", "x" * random.randint(200, 900)]
        return {name: random.choice(values) for name in facets if random.random() < 0.5} or {"doc/1": "1"}

    running = ["t1", "t2", "t3"]
    for number, task_id in enumerate(running):
        more: dict[str, Any] = {"on_stale": random.choice(["withhold", "annotate", "hold"])}
        if number and random.random() < 0.4:
            more["parent_task_id"] = running[number - 1]
        if random.random() < 0.3:
            more["depends_on"] = ["doc/3"]
        told = {"task_id": task_id, "task_type": "q", "snapshot": {"doc/1": "1", "doc/2": "1"}}
        records.append({"type": "task.dispatched", **told, **more})
    for number in range(random.randint(6, 16)):
        kind, task_id = random.choice(kinds), random.choice(running)
        if kind == "context":
            new = {f"new/{number % 3}": "1"} if random.random() < 0.3 else {}
            cause = {"cause": {"task_id": task_id}} if random.random() < 0.4 else {}
            records.append({"type": "context.changed", "set": {**some(), **new}, **cause})
        elif kind == "step":
            told = {"step_id": str(number), "status": "completed", "reads": some()}
            records.append({"type": "task.step", "task_id": task_id, **told})
        elif kind == "effect":
            told = {"idempotency_key": f"k{number}", "effect": "pay", "reads": random.choice([{}, some()])}
            records.append({"type": "task.effect_proposed", "task_id": task_id, **told})
        else:
            parts = [{"part_id": name, "kind": "show", "depends_on": [f"doc/{name}"]} for name in "12"]
            records.append({"type": "task.result", "task_id": task_id, "outcome": "completed", "parts": parts})
    return laid_out([("record", {"session_id": "s", **each}) for each in records], Kinds())


def test_the_audit_finds_nothing_wrong_where_changes_are_lost() -> None:
    reasons = Counter[tuple[str, str]]()
    for seed in range(80):
        random = Random(seed)
        ops = within_the_horizon(filling(random))
        choices: list[Cut] = [*CUTS, "take", "take"]
        cuts = [random.choice(choices) for _ in range(40)]
        # So small a row is always near its limit.
        with full_rows(random.choice([1500, 2500])), patch.object(room, "NEAR_BYTES", 0):
            findings, _, parts = Logged(ops, cuts).audit()
        assert findings.examples == {}, seed
        reasons += parts
    assert reasons["withheld", "session_full"] > 10
    assert reasons["delivered", "fresh"] > 10
    assert reasons["withheld", "stale"] > 10
