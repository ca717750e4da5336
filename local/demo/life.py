"""The demo's second story: what else can become of a task, from its dispatch to its end. Data only.

Each episode is a session of its own. Users, agents and orchestrators go on when they have heard from the gate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from local.demo.story import CONTEXT, SNAPSHOT

PREFIX: Final = "life-"
"""What the sessions' ids begin with."""

SILENCE_SECONDS: Final = 2.0
"""How long an agent may be silent where the story says so; long enough for its few events to be sent in time."""


@dataclass(frozen=True, slots=True)
class Says:
    """Somebody writes an event; without its envelope. `who` is its source."""

    who: str
    event: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Hears:
    """It goes on when the gate has written an event with at least these fields."""

    fields: dict[str, Any]


class Told(NamedTuple):
    """What the gate tells of a task; `why` is empty where the verdict says no more than `fresh`."""

    task_id: str
    says: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Episode:
    """What happens, in words and as events, and what the gate has to tell of it, in the order of the tale.

    `why` of what is expected also says why a delivery is right.
    """

    name: str
    happens: str
    steps: tuple[Says | Hears, ...]
    expected: tuple[Told, ...]

    @property
    def session_id(self) -> str:
        """The session it is played in."""
        return f"{PREFIX}{self.name}"


def envelope(episode: Episode, number: int, step: Says) -> tuple[str, dict[str, Any]]:
    """The event as role and body, without `occurred_at`; `number` is its place in the episode."""
    event = step.event
    role = {"task.result": "results", "context.changed": "context", "task.cancel_requested": "context"}
    head = {
        "source": f"demo/{step.who}",
        "event_id": f"{episode.session_id}/{number}",
        "session_id": episode.session_id,
    }
    return role.get(event["type"], "steps"), {**event, **head}


def _sets(**facets: str) -> Says:
    return Says("web", {"type": "context.changed", "set": {_FACETS[name]: value for name, value in facets.items()}})


_FACETS: Final = {"view": "view/laptop", "meeting": "calendar/tuesday"}
_BEGIN: Final = Says("web", {"type": "context.changed", "set": CONTEXT})


def _dispatches(task_id: str, **fields: Any) -> Says:
    event = {
        "type": "task.dispatched",
        "task_id": task_id,
        "task_type": "flight-search",
        "snapshot": SNAPSHOT,
        "destination": CONTEXT["conversation"],
        **fields,
    }
    return Says("orchestrator", event)


def _step(task_id: str, step_id: str, status: str) -> Says:
    fields = {"task_id": task_id, "step_id": step_id, "kind": "tool_call", "status": status}
    return Says("agent", {"type": "task.step", **fields})


def _returns(task_id: str, message: str, **fields: Any) -> Says:
    part = {"part_id": "message", "kind": "show", "payload": message, **fields}
    return Says("agent", {"type": "task.result", "task_id": task_id, "outcome": "completed", "parts": [part]})


_MOVED: Final = 'calendar/tuesday: "meeting 3 pm" → "meeting 5 pm"'
_UNCHANGED: Final = "all it depends on is as it was"

LIFE: Final = (
    Episode(
        "slot",
        "two searches for one panel;\nthe newer returns first",
        (
            _BEGIN,
            _dispatches("search-1", slot="panel"),
            _dispatches("search-2", slot="panel"),
            _returns("search-2", "Two flights on Tuesday evening."),
            _returns("search-1", "Nine flights on Tuesday."),
        ),
        (
            Told("search-2", "delivered", _UNCHANGED),
            Told("search-1", "withheld", "superseded: a newer answer is in the panel"),
        ),
    ),
    Episode(
        "interrupt",
        "the same, but the newer is to\ninterrupt the older",
        (
            _BEGIN,
            _dispatches("search-1", slot="panel"),
            _step("search-1", "search", "started"),
            _dispatches("search-2", slot="panel", on_newer="interrupt"),
            _returns("search-2", "Two flights on Tuesday evening."),
        ),
        (
            Told("search-1", "told to stop", "superseded: a newer task takes the panel"),
            Told("search-1", "cancelled", "in flight: search"),
            Told("search-2", "delivered", _UNCHANGED),
        ),
    ),
    Episode(
        "cancelled",
        "the user cancels a trip while\nthe agent reserves; the agent\ngoes on all the same",
        (
            _BEGIN,
            _dispatches("book-trip", plan=["search", "reserve", "pay", "mail"]),
            _step("book-trip", "search", "started"),
            _step("book-trip", "search", "completed"),
            _step("book-trip", "reserve", "started"),
            Hears({"type": "task.status", "task_id": "book-trip", "steps_started": 2}),
            Says("web", {"type": "task.cancel_requested", "task_id": "book-trip"}),
            _returns("book-trip", "Your trip is booked."),
        ),
        (
            Told("book-trip", "told to stop", "the user wants it no more"),
            Told("book-trip", "cancelled", "done: search\nin flight: reserve\nnever attempted: pay, mail"),
            Told("book-trip", "withheld", "late: it was cancelled"),
        ),
    ),
    Episode(
        "held",
        "the user goes to the hotels,\nand later back to the flights",
        (
            _BEGIN,
            _dispatches("find-flight", on_stale="hold"),
            _sets(view="hotels"),
            _returns("find-flight", "The flight at 5:40 pm fits."),
            Hears({"type": "task.status", "task_id": "find-flight", "waiting_for": "context"}),
            _sets(view="flights"),
        ),
        (
            Told("find-flight", "held", "until view/laptop is as it was"),
            Told("find-flight", "delivered", "view/laptop is as it was again"),
        ),
    ),
    Episode(
        "redispatch",
        "the meeting moves, and stale\nwork is to be done again",
        (
            _BEGIN,
            _dispatches("find-flight", on_stale="redispatch"),
            _sets(meeting="meeting 5 pm"),
            _returns("find-flight", "The flight at 5:40 pm fits."),
            Hears({"type": "task.redispatch", "new_task_id": "find-flight~2"}),
            _dispatches("find-flight~2", attempt=2, snapshot={**SNAPSHOT, "calendar/tuesday": "meeting 5 pm"}),
            _returns("find-flight~2", "The flight at 8:10 pm fits."),
        ),
        (
            Told("find-flight", "withheld", _MOVED),
            Told("find-flight", "to be redone", 'as find-flight~2, with\ncalendar/tuesday = "meeting 5 pm"'),
            Told("find-flight~2", "delivered", _UNCHANGED),
        ),
    ),
    Episode(
        "effect",
        "the meeting moves; before it\npays, the agent asks the gate",
        (
            _BEGIN,
            _dispatches("buy-ticket"),
            _sets(meeting="meeting 5 pm"),
            Says(
                "agent",
                {
                    "type": "task.effect_proposed",
                    "task_id": "buy-ticket",
                    "idempotency_key": "pay-1",
                    "effect": "payment",
                },
            ),
            Hears({"type": "effect.refused", "idempotency_key": "pay-1"}),
            _returns("buy-ticket", "I bought nothing: your meeting has moved.", depends_on=["conversation"]),
        ),
        (
            Told("buy-ticket", "payment refused", _MOVED),
            Told("buy-ticket", "delivered", '"I bought nothing" does not depend on that'),
        ),
    ),
    Episode(
        "expired",
        f"an agent dies: no heartbeat\ncomes for {SILENCE_SECONDS:g} s",
        (
            _BEGIN,
            _dispatches("find-flight", heartbeat_timeout_seconds=SILENCE_SECONDS, plan=["search", "compare"]),
            Says("agent", {"type": "task.heartbeat", "task_id": "find-flight"}),
            _step("find-flight", "search", "started"),
        ),
        (
            Told("find-flight", "told to stop", "its heartbeats have stopped"),
            Told("find-flight", "expired", "in flight: search\nnever attempted: compare"),
        ),
    ),
)
