"""Replays through the real fold and gate, in memory: every answer gets the verdict its history asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from local.replay.conversations import Conversation
from local.replay.delays import parse
from local.replay.ledger import Ledger
from local.replay.plan import Options, Plan, plan
from local.replay.report import unexpected
from tests.unit.memory_gate import MemoryGate
from tests.unit.recordings import Message, called, conversation, said, user


def played(planned: Plan) -> Ledger:
    gate, ledger = MemoryGate(), Ledger()
    answers = iter(planned.answers)
    for event in planned.events:
        if event.role == "results":
            ledger.produced(next(answers), event.at_seconds)
        for verdict in gate.take(event.role, event.body):
            ledger.judged(verdict, event.at_seconds)
    return ledger


@st.composite
def moves(draw: st.DrawFn) -> list[Message]:
    """A few tool calls on few things: read, written, read again under another tool, failing."""
    kind = draw(st.sampled_from(["order", "user"]))
    number = draw(st.integers(1, 2))
    tool = draw(st.sampled_from(["get_{}_status", "get_{}_history", "update_{}", "cancel_{}", "think"]))
    answer = draw(st.sampled_from(["a", "b", "c", "Error: no"]))
    return called(tool.format(kind), answer, **{f"{kind}_id": str(number)})


TALKS = st.lists(st.lists(moves(), max_size=4), min_size=1, max_size=6)
DELAYS = st.sampled_from(["fixed:0", "fixed:3", "exp:3"])
EACH = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def recorded(directory: Path, turns: list[list[list[Message]]]) -> Conversation:
    messages: list[Message | list[Message]] = []
    for number, calls in enumerate(turns):
        messages += [user(str(number)), *calls, said("ok")]
    return conversation(directory, *messages)


def options(agent: str, think: str, **others: Any) -> Options:
    return Options(parse(agent, "--agent-delay"), parse(think, "--think-time"), **others)


@EACH
@given(turns=TALKS, agent=DELAYS, think=DELAYS)
def test_nothing_is_withheld_without_interference_and_strictness(
    tmp_path: Path, turns: list[list[list[Message]]], agent: str, think: str
) -> None:
    planned = plan(recorded(tmp_path, turns), "s", options(agent, think))
    # Where answers differ although nobody wrote, somebody outside the recording interfered.
    assume(not any(event.body["source"].endswith("somebody-else") for event in planned.events))
    ledger = played(planned)

    assert len(ledger.verdicts) == len(turns)
    assert all(verdict.delivered and verdict.reason == "fresh" for verdict in ledger.verdicts.values())


@EACH
@given(turns=TALKS, agent=DELAYS, think=DELAYS, strict=st.booleans(), interfere=st.sampled_from([0.3, 1.0]))
def test_the_gate_withholds_just_what_was_made_stale(
    tmp_path: Path, *, turns: list[list[list[Message]]], agent: str, think: str, strict: bool, interfere: float
) -> None:
    how = options(agent, think, strict=strict, interfere=interfere)
    ledger = played(plan(recorded(tmp_path, turns), "s", how))

    assert ledger.missing == []
    assert unexpected(ledger) == []


def test_the_plan_is_not_the_verdict(tmp_path: Path) -> None:
    """What the checks above compare with can be contradicted: without the change, the expectation fails."""
    talk = conversation(tmp_path, user("x"), called("get_user", "ann", user_id="1"), said("ok"))
    planned = plan(talk, "s", options("fixed:1", "fixed:1", interfere=1.0))
    kept = [event for event in planned.events if not event.body["source"].endswith("somebody-else")]

    assert len(kept) < len(planned.events)
    assert unexpected(played(planned)) == []
    assert unexpected(played(Plan("s", kept, planned.answers))) == [("s", "turn-1")]


def test_it_is_the_cause_that_keeps_an_agents_own_work_fresh(tmp_path: Path) -> None:
    talk = conversation(
        tmp_path,
        user("x"),
        called("get_user", "ann", user_id="1"),
        called("update_user", "bob", user_id="1"),
        said("ok"),
    )
    planned = plan(talk, "s", options("fixed:1", "fixed:3"))
    assert unexpected(played(planned)) == []

    for event in planned.events:
        event.body.pop("cause", None)
    assert unexpected(played(planned)) == [("s", "turn-1")]


@pytest.mark.parametrize("again", ["paid", "lost"])
def test_what_others_made_of_an_agents_first_change_may_be_read_again(tmp_path: Path, again: str) -> None:
    talk = conversation(
        tmp_path,
        user("x"),
        called("get_order_status", "paid", order_id="1"),
        called("update_order", "done", order_id="1"),
        called("get_order_status", "sent", order_id="1"),
        called("get_order_status", again, order_id="1"),
        said("ok"),
    )
    planned = plan(talk, "s", options("fixed:1", "fixed:3"))
    ledger = played(planned)

    assert [answer.stale for answer in planned.answers] == [frozenset()]
    assert [verdict.reason for verdict in ledger.verdicts.values()] == ["fresh"]
    assert unexpected(ledger) == []
