"""The demo's first story: one question, asked ten times, and what the user does meanwhile. Data only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Change = dict[str, Any]
"""The fields of a `context.changed` event that are its own: `set`, `unset`, `cause`."""

TASK_ID = "find-flight"

CONTEXT = {
    "presence/laptop": "present",
    "conversation": "Lisbon",
    "view/laptop": "flights",
    "calendar/tuesday": "meeting 3 pm",
    "doc/packing-list": "1",
    "request/lisbon": "1",
}
"""What the user's context is when the agent is asked."""

SNAPSHOT = {name: CONTEXT[name] for name in ("calendar/tuesday", "conversation", "view/laptop")}
"""What the answer depends on."""

OWN_WORK = {"task_id": TASK_ID}

MESSAGE = {"part_id": "message", "kind": "show", "payload": "The flight at 5:40 pm fits after your meeting."}
BOOKING = {"part_id": "booking", "kind": "apply", "payload": {"flight": "TP 1234", "departs": "Tuesday 5:40 pm"}}


@dataclass(frozen=True, slots=True)
class Scenario:
    """One way it can go.

    meanwhile: what the user, or the agent, does while the agent works, in words and as changes.
    fresh_because: why a part that is delivered unmarked may be.
    expected: for each part what must become of it: `delivered`, `marked` (delivered as stale) or `withheld`.
    dispatch: fields of the dispatch besides the snapshot.
    """

    name: str
    meanwhile: str
    changes: tuple[Change, ...]
    expected: dict[str, str]
    fresh_because: str = ""
    question: str = "find a flight"
    parts: tuple[dict[str, Any], ...] = (MESSAGE,)
    dispatch: dict[str, Any] = field(default_factory=dict)


STORY = (
    Scenario(
        "nothing",
        "does nothing",
        (),
        {"message": "delivered"},
        "all it depends on is as it was",
    ),
    Scenario(
        "unrelated",
        "edits the packing list",
        ({"set": {"doc/packing-list": "2"}},),
        {"message": "delivered"},
        "the answer does not depend on it",
    ),
    Scenario(
        "own-work",
        "does nothing, but the agent\nblocks 5 pm in the calendar",
        ({"set": {"calendar/tuesday": "meeting 3 pm, flight 5 pm"}, "cause": OWN_WORK},),
        {"message": "delivered"},
        "a task is not stale by its own work",
    ),
    Scenario(
        "deleted",
        "deletes the meeting",
        ({"unset": ["calendar/tuesday"]},),
        {"message": "withheld"},
    ),
    Scenario(
        "navigated",
        "goes to the hotels",
        ({"set": {"view/laptop": "hotels"}},),
        {"message": "withheld"},
    ),
    Scenario(
        "came-back",
        "goes to the hotels and back",
        ({"set": {"view/laptop": "hotels"}}, {"set": {"view/laptop": "flights"}}),
        {"message": "delivered"},
        "values are compared, not counted",
    ),
    Scenario(
        "new-conversation",
        "starts a new conversation",
        ({"set": {"conversation": "taxes"}},),
        {"message": "withheld"},
    ),
    Scenario(
        "archived",
        "archives the request",
        ({"set": {"request/lisbon": "archived"}},),
        {"message": "withheld"},
    ),
    Scenario(
        "closed-tab",
        "closes the tab",
        ({"set": {"presence/laptop": "absent"}},),
        {"message": "withheld"},
        question="find a flight,\nif I am here",
        dispatch={"when_absent": "withhold"},
    ),
    Scenario(
        "two-parts",
        "deletes the meeting",
        ({"unset": ["calendar/tuesday"]},),
        {"message": "marked", "booking": "withheld"},
        question="find a flight,\nand book it",
        parts=({**MESSAGE, "on_stale": "annotate"}, BOOKING),
    ),
)


def events(scenario: Scenario, session_id: str) -> list[tuple[str, Change]]:
    """The scenario's events in their order, as role and body without `occurred_at`. Each follows the last one's ack."""
    happenings: list[tuple[str, str, str, Change]] = [
        ("context", "context.changed", "web", {"set": CONTEXT}),
        (
            "steps",
            "task.dispatched",
            "orchestrator",
            {
                "task_id": TASK_ID,
                "task_type": "flight-search",
                "snapshot": SNAPSHOT,
                "destination": CONTEXT["conversation"],
                "request_id": "lisbon",
                **scenario.dispatch,
            },
        ),
        ("steps", "task.step", "agent", {"step_id": "search", "kind": "tool_call", "status": "started"}),
        *(
            ("context", "context.changed", "calendar" if "cause" in change else "web", change)
            for change in scenario.changes
        ),
        ("steps", "task.step", "agent", {"step_id": "search", "kind": "tool_call", "status": "completed"}),
        ("results", "task.result", "agent", {"outcome": "completed", "parts": list(scenario.parts)}),
    ]
    return [
        (
            role,
            {
                "type": event_type,
                "source": f"demo/{source}",
                "event_id": f"{session_id}/{number}",
                "session_id": session_id,
                **({} if role == "context" else {"task_id": TASK_ID}),
                **fields,
            },
        )
        for number, (role, event_type, source, fields) in enumerate(happenings, 1)
    ]


def session_id(scenario: Scenario) -> str:
    """The session a scenario is played in: each has its own."""
    return f"story-{scenario.name}"
