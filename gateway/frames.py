"""From a record that the gate wrote to a server-sent event.

Source: HTML Living Standard, section 9.2 (server-sent events).
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from schemas.topics import Role

EVENT_NAMES: Final = (
    "delivered",
    "withheld",
    "running",
    "stale",
    "held",
    "ended",
    "cancelled",
    "expired",
    "rejected",
    "command",
    "outdated",
    "unmatched",
    "reset",
    "reconnect",
    "unauthorized",
)
"""The names of all events of a stream; the last three are the gateway's own."""

_ENVELOPE: Final = ("source", "session_id")
_COMMAND_NAMES: Final = {"result.outdated": "outdated", "task.cancel_unmatched": "unmatched"}
_STATUS_ENDS: Final = {"cancelled": "cancelled", "expired": "expired", "rejected": "rejected"}


def session_of(role: Role, key: bytes | None) -> str | None:
    """The session a record belongs to; None if its key is not one that the gate writes."""
    if key is None:
        return None
    try:
        return str(orjson.loads(key)[0]) if role == "tasks" else key.decode()
    except (ValueError, LookupError, TypeError):
        return None


def event_of(role: Role, value: bytes | None) -> tuple[str, bytes, str | None] | None:
    """The event's name, its data, and the task whose progress it replaces, if it is only progress.

    None for a record without a value (a forgotten task) or without meaning.
    """
    if value is None:
        return None
    try:
        body: dict[str, Any] = orjson.loads(value)
    except ValueError:
        return None
    for name in _ENVELOPE:
        body.pop(name, None)
    if role == "tasks":
        name = status_name(body)
        replaces = str(body["task_id"]) if name == "running" else None
        return name, orjson.dumps(body), replaces
    if role == "commands":
        return _COMMAND_NAMES.get(str(body.get("type")), "command"), orjson.dumps(body), None
    verdicts = {each["part_id"]: each for each in body["verdict"]["parts"]}
    for part in body["parts"]:
        part["verdict"] = verdicts.get(part["part_id"])
    return ("withheld" if role == "withheld" else "delivered"), orjson.dumps(body), None


def status_name(status: dict[str, Any]) -> str:
    """The event name for a task's status."""
    if status["status"] == "running":
        return "stale" if status.get("stale") else "running"
    if status["status"] == "waiting":
        return "held"
    return _STATUS_ENDS.get(str(status.get("disposition")), "ended")


def frame(name: str, data: bytes, cursor: str | None) -> bytes:
    """One event. JSON has no line breaks, so its data is one line."""
    head = f"id: {cursor}\nevent: {name}\ndata: " if cursor is not None else f"event: {name}\ndata: "
    return b"%s%s\n\n" % (head.encode(), data)


def position_frame(cursor: str) -> bytes:
    """A block that only moves the client's last event id."""
    return f"id: {cursor}\n\n".encode()
