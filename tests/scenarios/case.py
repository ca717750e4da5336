"""A case: what is said on the topics, in order, and what the gate has to tell of each task. It holds no rule.

`tests.scenarios.told` explains the lines that a case expects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from projections.rules import Rules

SOON: Final = 1.0
"""Seconds of a timer that is to fire. On a broker it may do so before the case goes on: nothing must depend on it."""
NEVER: Final = 7_200.0
"""Seconds of a timer that is not to fire."""
HOUR: Final = 3_600.0
EVENT_SECONDS: Final = 0.001
"""From one event to the next."""
UNKNOWN_TASK_GRACE: Final = 4.0
SHADOWED: Final = "watched"
"""The task type of which everything is delivered."""

RULES: Final = Rules(
    unknown_task_grace_ms=int(UNKNOWN_TASK_GRACE * 1000),
    shadow_task_types=frozenset({SHADOWED}),
    session_ttl_ms=86_400_000,
)
SETTINGS: Final[dict[str, object]] = {
    "unknown_task_grace_seconds": UNKNOWN_TASK_GRACE,
    "shadow_task_types": f'["{SHADOWED}"]',
}
"""The same rules as settings of a worker."""

InputRole = Literal["context", "steps", "results"]


@dataclass(frozen=True, slots=True)
class Said:
    """An event without its envelope. `deadline_in` (seconds) in a dispatch becomes its `deadline_at`."""

    role: InputRole
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Together:
    """Events that are all on their topics before the gate looks at the first of them."""

    events: tuple[Said, ...]


@dataclass(frozen=True, slots=True)
class Later:
    """Time passes. Where the case expects something to be told now, it does."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Away:
    """The gate is down while this happens."""

    steps: tuple[Said | Later, ...]


Step = Said | Together | Later | Away


@dataclass(frozen=True, slots=True)
class Case:
    """`told`: for each task the lines that the gate tells of it, in order. `says`: outputs with at least these fields.

    `refused`: error codes in the dead-letter topic. `forgotten`: nothing is left of the session in the
    end, but for identities of its last context events.
    `clock_only`: why a broker cannot run it, as its clock cannot be set.
    """

    name: str
    steps: tuple[Step, ...]
    told: Mapping[str, Sequence[str]]
    says: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    refused: tuple[str, ...] = ()
    forgotten: bool = False
    clock_only: str | None = None


@dataclass(frozen=True, slots=True)
class Moment:
    """An event at its place: `position` counts the case's events, `at` is in seconds since its beginning."""

    position: int
    at: float
    said: Said
    event_id: str = field(default="")


def moments(case: Case) -> Iterator[Moment]:
    """Every event of the case with its place and time."""
    position, at = 0, 0.0
    for step in case.steps:
        for each in each_of(step):
            if isinstance(each, Later):
                at += each.seconds
            else:
                at += EVENT_SECONDS
                yield Moment(position, at, each, each.body.get("event_id", f"{position}"))
                position += 1


def each_of(step: Step) -> tuple[Said | Later, ...]:
    """The events and waits that a step is made of."""
    if isinstance(step, Together):
        return step.events
    return step.steps if isinstance(step, Away) else (step,)


# ---- what users, dispatchers, agents and consumers say


def sets(facets: Mapping[str, str] | None = None, *, unset: Sequence[str] = (), **fields: Any) -> Said:
    """The context changes."""
    body: dict[str, Any] = {"type": "context.changed", **fields}
    if facets:
        body["set"] = dict(facets)
    if unset:
        body["unset"] = list(unset)
    return Said("context", body)


def unsets(*facets: str) -> Said:
    """Facets are gone."""
    return sets(unset=facets)


def writes(task_id: str, facets: Mapping[str, str]) -> Said:
    """The context changes by a task's own work."""
    return sets(facets, cause={"task_id": task_id})


def cancels(task_id: str) -> Said:
    """Somebody asks for a task to be cancelled."""
    return Said("context", {"type": "task.cancel_requested", "task_id": task_id})


def cancels_all_of(**what: Any) -> Said:
    """Somebody asks for tasks to be cancelled without knowing their ids."""
    return Said("context", {"type": "task.cancel_requested", **what})


def extends(task_id: str, seconds: float) -> Said:
    """A task may take longer."""
    return Said("steps", {"type": "task.extended", "task_id": task_id, "deadline_seconds": seconds})


def acknowledges(task_id: str, outcome: str, **fields: Any) -> Said:
    """A consumer says what became of a delivery."""
    return Said("context", {"type": "result.acknowledged", "task_id": task_id, "outcome": outcome, **fields})


def erases() -> Said:
    """Everything of the session is to be removed."""
    return Said("context", {"type": "session.erased"})


def dispatches(task_id: str, snapshot: Mapping[str, str | None] | None = None, **fields: Any) -> Said:
    """A task is handed to an agent."""
    body = {"type": "task.dispatched", "task_id": task_id, "task_type": "answer", "snapshot": dict(snapshot or {})}
    return Said("steps", {**body, **fields})


def steps(task_id: str, step_id: str, status: str = "completed", **fields: Any) -> Said:
    """A step of a task."""
    return Said("steps", {"type": "task.step", "task_id": task_id, "step_id": step_id, "status": status, **fields})


def beats(task_id: str) -> Said:
    """A sign of life."""
    return Said("steps", {"type": "task.heartbeat", "task_id": task_id})


def proposes(task_id: str, key: str, reads: Mapping[str, str | None] | None = None) -> Said:
    """May this still happen?"""
    body: dict[str, Any] = {
        "type": "task.effect_proposed",
        "task_id": task_id,
        "idempotency_key": key,
        "effect": "send",
    }
    if reads:
        body["reads"] = dict(reads)
    return Said("steps", body)


def part(part_id: str, kind: str = "show", **fields: Any) -> dict[str, Any]:
    """A part of a result."""
    return {"part_id": part_id, "kind": kind, "payload": {"text": part_id}, **fields}


def returns(task_id: str, *parts: Mapping[str, Any], **fields: Any) -> Said:
    """A task completes, with one part to show unless `parts` say otherwise."""
    body: dict[str, Any] = {"type": "task.result", "task_id": task_id, "outcome": "completed"}
    body["parts"] = [dict(each) for each in parts] or [part("answer")]
    return Said("results", {**body, **fields})


def fails(task_id: str, *parts: Mapping[str, Any], **fields: Any) -> Said:
    """A task fails."""
    error = {"code": "tool_error", "message": "the tool did not answer"}
    return returns(task_id, *parts, outcome="failed", error=error, **fields)
