"""What should have been decided: the gate's rules, computed anew from the logs. Pure.

Written from the rules (design.md §4), not from the engine; it must never import `projections` or `streams`. Where the
engine keeps one row per session and moves it along, this looks back into whole histories. What the logs leave open is
neither held to be so nor to be otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from audit.case import Case, Place
from audit.clocks import clock_at
from audit.expect import (
    ANYTHING,
    END,
    NOTHING,
    Cut,
    Expected,
    Mover,
    Statement,
    expected_at,
    moved_along,
    movers_of,
)
from audit.logs import NEVER, ContextEvent, Result, ResultPart, Session, Task

PRESENCE: Final = "presence/"
_ROUNDING_MS: Final = 1


@dataclass(frozen=True, slots=True)
class Contradiction:
    """An expected facet that the context contradicts, surely or perhaps."""

    expected: Expected
    """Of whoever may be contradicted: the task, and those below it."""
    actual: str | None
    givers: list[ContextEvent]
    """The events that gave the actual value, newest first."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the rules say of a known, running task at one place in the logs."""

    blockers: dict[str, bool] = field(default_factory=dict)
    """Reasons that refuse the task as a whole, in the gate's order, and whether each surely holds."""
    holds_for_user: bool = False
    """The user is absent, and the task asks to wait for their return."""
    stale: dict[str, Contradiction] = field(default_factory=dict)
    """The expected facets that are surely contradicted, whichever part they matter to."""
    maybe: dict[str, Contradiction] = field(default_factory=dict)
    """Those, and the ones that may be."""
    expected: frozenset[str] = frozenset()
    """Every facet that the task may depend on."""
    may_hold_for_user: bool = False
    """The user may be absent, and the task asks to wait for their return."""

    @property
    def blocked(self) -> str | None:
        """The first reason that surely refuses the task."""
        return next((reason for reason, is_sure in self.blockers.items() if is_sure), None)


def rule(
    case: Case,
    task: Task,
    at_ms: int,
    place: Place,
    cut: Cut,
    statements: Iterable[Statement],
    judged_ms: int,
) -> Ruling:
    """The rules applied with exactly the context below the place's offset folded. `at_ms`: the time of what is judged.

    `statements` are all that the task states, `cut` is where among the steps it is judged, `judged_ms` when by the
    gate's clock: leases that ran out between the two may count or not.
    """
    session, offset = case.session, place.context_offset
    stale: dict[str, Contradiction] = {}
    maybe: dict[str, Contradiction] = {}
    movers = movers_of(case, cut)
    stated_by = expected_at(statements, cut)
    may_ms = judged_ms + case.terms.slack_ms
    found = (
        (name, stated, *value)
        for (name, _reader), stated in stated_by.items()
        for value in session.values_at(name, offset, at_ms, may_ms)
    )
    for name, stated, actual, givers, is_certain in found:
        if actual is NEVER:
            continue
        expected = moved_along(case, movers, name, stated, offset, actual) if movers else stated
        if ANYTHING in expected or any(value not in (actual, NOTHING, NEVER) for value in expected):
            of_others = maybe[name].expected if name in maybe else frozenset()
            maybe[name] = Contradiction(expected | of_others, actual, givers)
            if is_certain and (name in stale or expected.isdisjoint((actual, NOTHING, NEVER, ANYTHING))):
                stale[name] = maybe[name]
    is_absent = user_absent(session, offset, at_ms, may_ms) if task.when_absent != "deliver" else None
    blockers = _blockers(case, task, at_ms, place, movers)
    if task.when_absent == "withhold" and is_absent is not None:
        blockers["user_absent"] = is_absent
    names = frozenset(name for name, _reader in stated_by)
    holds = task.when_absent == "hold"
    return Ruling(blockers, holds and bool(is_absent), stale, maybe, names, holds and is_absent is not None)


def contradictions_of(part: ResultPart, contradictions: dict[str, Contradiction]) -> dict[str, Contradiction]:
    """The contradicted facets that matter to one part."""
    if part.depends_on is None:
        return contradictions
    return {name: contradictions[name] for name in part.depends_on if name in contradictions}


def policy_of(part: ResultPart, task: Task, result: Result) -> str:
    """What is to be done with the part if it is stale."""
    return part.on_stale or (task.on_stale if result.outcome == "completed" else task.on_stale_failure)


def _blockers(case: Case, task: Task, at_ms: int, place: Place, movers: list[Mover]) -> dict[str, bool]:
    session, offset = case.session, place.context_offset
    reasons = {}
    closed = _set_by_another(session, "session", "closed", case.task_id, offset, movers)
    if closed is not None:
        reasons["session_closed"] = closed
    if task.request_id is not None:
        archived = _set_by_another(session, f"request/{task.request_id}", "archived", case.task_id, offset, movers)
        if archived is not None:
            reasons["request_archived"] = archived
    if task.deadline_ms is not None:
        clock = clock_at(case, task, at_ms)
        if clock.waits_since is None and clock.deadline_ms is not None and at_ms > clock.deadline_ms - _ROUNDING_MS:
            reasons["deadline_passed"] = at_ms > clock.deadline_ms + _ROUNDING_MS
    if (superseded := _superseded(case, task, place)) is not None:
        reasons["superseded"] = superseded
    return reasons


def _superseded(case: Case, task: Task, place: Place) -> bool | None:
    """Whether a newer task of the slot was delivered before: surely (True), perhaps (False), or not at all (None).

    A part of its result is enough, whatever became of the others later.
    """
    if task.slot is None or task.protected:
        return None
    found: bool | None = None
    for other in case.rivals:
        newer = other.task
        if newer is None or not task.is_older(newer):
            continue
        for result, verdict in other.judged:
            delivering = next((index for index, each in enumerate(verdict.decisions) if each.delivered), None)
            if delivering is None:
                continue
            there = other.place_of(result, verdict, delivering)
            if newer.role != task.role:
                there, here = Place(there.context_offset, None), Place(place.context_offset, None)
            else:
                here = place
            if here.is_before(there):
                continue
            settled = not case.unsettled and verdict.was_first
            if settled and there.is_before(here):
                return True
            found = False
    return found


def _set_by_another(
    session: Session, name: str, value: str, task_id: str, context_offset: int, movers: list[Mover]
) -> bool | None:
    """Whether the facet has the value, and not by own work alone: surely (True), perhaps (False), or not (None)."""
    actual, givers, is_certain = session.value_at(name, context_offset)
    if actual != value:
        return None
    if not is_certain:
        return False
    until = {mover.task_id: mover.until for mover in movers} | {task_id: END}
    if any(event.cause is None or event.cause not in until for event in givers):
        return True
    is_own = len({event.cause for event in givers}) == 1 and all(
        event.offset < until[event.cause or ""] for event in givers
    )
    return None if is_own else False


def user_absent(session: Session, context_offset: int, sure_ms: float, may_ms: float) -> bool | None:
    """Whether a client is known and every known one is absent: surely (True), perhaps (False), or not (None)."""
    known: dict[bool, list[bool]] = {True: [], False: []}
    for name in session.facets.keys() | session.perhaps.keys():
        if name.startswith(PRESENCE):
            for value, _, is_certain in session.values_at(name, context_offset, sure_ms, may_ms):
                if value is not NEVER:
                    known[is_certain].append(value in (None, "absent"))
    if not all(known[True]) or not (known[True] or any(known[False])):
        return None
    return bool(known[True]) and all(known[False])
