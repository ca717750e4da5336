"""What should have been decided: the gate's rules, computed anew from the logs. Pure.

Written from the rules (design.md §4), not from the engine; it must never import `projections` or `streams`. Where the
engine keeps one row per session and moves it along, this looks back into whole histories.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from tidegate.audit.logs import NEVER, ContextEvent, Facets, Result, ResultPart, Session, Task, Value

PRESENCE: Final = "presence/"

UNSUPPORTED_INPUTS: Final = frozenset({"task.cancel_requested", "task.effect_proposed"})
"""Event types this gate does not obey yet: they belong in the DLQ."""

_UNSUPPORTED_UNLESS: Final[dict[str, tuple[object, ...]]] = {
    "slot": (None,),
    "parent_task_id": (None,),
    "independent": (False,),
    "protected": (False,),
    "on_newer": ("allow",),
    "lane": ("hot",),
    "on_stale": ("withhold", "annotate"),
    "on_stale_failure": ("withhold", "annotate"),
    "when_absent": ("deliver", "withhold"),
    "while_stale": ("continue",),
    "deadline_at": (None,),
    "heartbeat_timeout_seconds": (None,),
    "scope_grace_seconds": (None,),
    "hold_ttl_seconds": (None,),
}


def unsupported_field(dispatch: dict[str, Any]) -> str | None:
    """The first field of a dispatch that asks for what this gate does not do yet, or None."""
    for name, supported in _UNSUPPORTED_UNLESS.items():
        if name in dispatch and dispatch[name] not in supported:
            return name
    return None


def unsupported_part(result: Result) -> str | None:
    """The id of the first part that asks for what this gate does not do yet, or None."""
    return next((part.part_id for part in result.parts if part.on_stale in ("hold", "redispatch")), None)


@dataclass(frozen=True, slots=True)
class Contradiction:
    """An expected facet that the context contradicts."""

    expected: str | None
    actual: str | None
    givers: list[ContextEvent]
    """The events that gave the actual value, newest first."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the rules say of a known, running task's result at one place in the logs."""

    blockers: tuple[str, ...] = ()
    """Reasons that withhold the whole result, in the gate's order; the first one is to be named."""
    stale: dict[str, Contradiction] = field(default_factory=dict)
    """The expected facets that are contradicted, whichever part they matter to."""


def expected_facets(
    session: Session, task_id: str, task: Task, result: Result, *, steps_offset: int, taken: Facets
) -> Facets:
    """The facets the task depends on with the values it stated, own changes not yet considered.

    Snapshot, then what the gate took for `depends_on`, then the reads of the steps below `steps_offset`, last the
    result's own.
    """
    expected = dict(task.snapshot)
    for name in task.depends_on:
        if name not in expected and name in taken:
            expected[name] = taken[name]
    for role, offset, reads in session.reads.get(task_id, ()):
        if role == task.role and task.offset < offset < steps_offset:
            expected.update(reads)
    expected.update(result.reads)
    return expected


def moved_along(session: Session, task_id: str, name: str, stated: str | None, context_offset: int) -> Value:
    """What a task that stated `stated` expects of a facet after its own changes below `context_offset`."""
    expected: Value = stated
    since = session.erased_before(context_offset)
    for offset, before, after in session.own.get(task_id, {}).get(name, ()):
        if since < offset < context_offset and (before is NEVER or before == expected):
            expected = after
    return expected


def rule(
    session: Session, task_id: str, task: Task, result: Result, *, context_offset: int, steps_offset: int, taken: Facets
) -> Ruling:
    """The rules applied with exactly the context below `context_offset` and the steps below `steps_offset` folded."""
    stale = {}
    expectations = expected_facets(session, task_id, task, result, steps_offset=steps_offset, taken=taken)
    for name, stated in expectations.items():
        facet = session.facets.get(name)
        if facet is None:
            continue
        actual = facet.at(context_offset)[0]
        if actual is NEVER:
            continue
        expected = moved_along(session, task_id, name, stated, context_offset)
        if expected != actual and expected is not NEVER:
            stale[name] = Contradiction(expected, actual, facet.givers(context_offset))
    return Ruling(tuple(_blockers(session, task_id, task, context_offset)), stale)


def contradictions_of(part: ResultPart, ruling: Ruling) -> dict[str, Contradiction]:
    """The contradicted facets that matter to one part."""
    if part.depends_on is None:
        return ruling.stale
    return {name: ruling.stale[name] for name in part.depends_on if name in ruling.stale}


def policy_of(part: ResultPart, task: Task, result: Result) -> str:
    """What is to be done with the part if it is stale."""
    return part.on_stale or (task.on_stale if result.outcome == "completed" else task.on_stale_failure)


def _blockers(session: Session, task_id: str, task: Task, context_offset: int) -> list[str]:
    reasons = []
    if _set_by_another(session, "session", "closed", task_id, context_offset):
        reasons.append("session_closed")
    if task.request_id is not None and _set_by_another(
        session, f"request/{task.request_id}", "archived", task_id, context_offset
    ):
        reasons.append("request_archived")
    if task.when_absent == "withhold" and user_absent(session, context_offset):
        reasons.append("user_absent")
    return reasons


def _set_by_another(session: Session, name: str, value: str, task_id: str, context_offset: int) -> bool:
    facet = session.facets.get(name)
    if facet is None or facet.at(context_offset)[0] != value:
        return False
    return any(event.cause != task_id for event in facet.givers(context_offset))


def user_absent(session: Session, context_offset: int) -> bool:
    """Whether at least one client is known, and every known one is absent."""
    known = [
        value
        for name, facet in session.facets.items()
        if name.startswith(PRESENCE)
        for value in (facet.at(context_offset)[0],)
        if value is not NEVER
    ]
    return bool(known) and all(value in (None, "absent") for value in known)
