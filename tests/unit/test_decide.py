"""To decide changes nothing: whatever a log holds, a session is the same after every `decide` as before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections import decide_dispatch, partition
from projections.facts import Fact
from projections.session import Session
from tests.unit.event_logs import CUTS, Cut, Kinds, Op, full_rows, logs, run
from tests.unit.feeding import Feed
from tests.unit.session_checks import kept_of, tasks_inside
from tests.unit.test_lives import live

DECIDING = sorted(name for name in vars(partition) if name.startswith("decide_") and name != "decide_late")
"""Not `decide_late`, which is not even given a session."""


def everything(session: Session) -> dict[str, Any]:
    """The session, encoded, and what is noted of it."""
    return {
        **kept_of(session),
        "estimate": (session.size_estimate, session.last_event_at),
        "status due": list(session.status_due or ()),
        "changed tasks": list(session.changed_tasks or ()),
        "records": dict(session.records or {}),
        "to reconsider": list(session.to_reconsider or ()),
        "to judge": list(session.to_judge or ()),
        "noted": session.noted,
        "flags": (session.is_changed, session.is_erased, session.owns_waiting),
        "indexed": session.index is not None,
    }


@contextmanager
def compared() -> Iterator[Counter[str]]:
    """An AssertionError if a `decide` function changes its session; counts their calls."""
    calls: Counter[str] = Counter()

    def comparing(name: str, decide: Callable[..., list[Fact]]) -> Callable[..., list[Fact]]:
        def wrapped(session: Session, *arguments: Any, **more: Any) -> list[Fact]:
            calls[name] += 1
            before = everything(session)
            facts = decide(session, *arguments, **more)
            assert everything(session) == before
            return facts

        return wrapped

    with ExitStack() as stack:
        for name in DECIDING:
            stack.enter_context(patch.object(partition, name, comparing(name, getattr(partition, name))))
        yield calls


CUTS_DRAWN = st.lists(st.sampled_from(CUTS), max_size=50)


@given(ops=logs(Kinds()), drawn=CUTS_DRAWN, inside=st.sampled_from([1, 8]))
def test_to_decide_changes_nothing(ops: list[Op], drawn: list[Cut], inside: int) -> None:
    with tasks_inside(inside), compared():
        run(ops, drawn)


@given(ops=logs(Kinds()), drawn=CUTS_DRAWN, limit=st.sampled_from([1000, 1500, 2500]))
def test_nor_where_rows_are_full(ops: list[Op], drawn: list[Cut], limit: int) -> None:
    with full_rows(limit), compared():
        run(ops, drawn)


def test_whole_lives_try_every_decide_function() -> None:
    with compared() as calls:
        live(1, sessions=20, seconds=5, crashes_per_second=0.5)
        feed = Feed()
        feed.dispatched("t")
        feed.result("unknown")
        feed.send("session.erased")
        feed.send("task.cancel_requested", task_id="nobodys")
        feed.dispatched("watched", {"doc": "1"}, watch_seconds=60, deadline_seconds=60)
        feed.send("task.extended", task_id="watched", deadline_seconds=120)
        feed.result("watched")
        feed.send("context.changed", set={"doc": "2"}, expires_in_seconds={"doc": 1})
        feed.now_ms += 5_000
        feed.changed({"doc": "3"})
        feed.wait(60)
    assert sorted(name for name in DECIDING if not calls[name]) == []


def test_a_decision_that_changes_something_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(session: Session, *arguments: Any, **more: Any) -> list[Fact]:
        session.cancels["another"] = 1
        return decide_dispatch.decide_dispatch(session, *arguments, **more)

    monkeypatch.setattr(partition, "decide_dispatch", forgetful)
    with compared(), pytest.raises(AssertionError):
        Feed().dispatched("t")
