"""Events as producers write them, and which sessions and topics they belong to."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from schemas.events import ContextChanged, Event, TaskDispatched, TaskResult, TaskStep
from schemas.topics import Role
from testing.workload import Record, partition_of

_numbers = itertools.count(1)


def _envelope(session_id: str) -> dict[str, Any]:
    return {
        "source": "test",
        "event_id": f"event-{next(_numbers)}",
        "session_id": session_id,
        "occurred_at": datetime.now(UTC),
    }


def changed(session_id: str, set_: Mapping[str, str] | None = None, **fields: Any) -> ContextChanged:
    """A context event."""
    return ContextChanged(type="context.changed", set=dict(set_ or {}), **{**_envelope(session_id), **fields})


def dispatched(session_id: str, task_id: str, snapshot: Mapping[str, str | None], **fields: Any) -> TaskDispatched:
    """A dispatch that depends on `snapshot`."""
    own = {"type": "task.dispatched", "task_id": task_id, "task_type": "test", "snapshot": dict(snapshot)}
    return TaskDispatched(**{**_envelope(session_id), **own, **fields})


def stepped(session_id: str, task_id: str, **fields: Any) -> TaskStep:
    """A completed step."""
    own = {"type": "task.step", "task_id": task_id, "step_id": "1", "status": "completed"}
    return TaskStep(**{**_envelope(session_id), **own, **fields})


def returned(session_id: str, task_id: str, **fields: Any) -> TaskResult:
    """A completed result with one part to show."""
    parts = [{"part_id": "answer", "kind": "show", "payload": {"text": f"the answer of {task_id}"}}]
    own = {"type": "task.result", "task_id": task_id, "outcome": "completed", "parts": parts}
    return TaskResult(**{**_envelope(session_id), **own, **fields})


def body(event: Event) -> bytes:
    """What a producer writes: the fields that were set, and no others."""
    return event.model_dump_json(exclude_unset=True).encode()


def sessions_on(partition: int, partitions: int, count: int, name: str = "session") -> list[str]:
    """`count` session ids that belong to `partition`."""
    found: list[str] = []
    for number in itertools.count():
        session_id = f"{name}-{number}"
        if partition_of(session_id.encode(), partitions) == partition:
            found.append(session_id)
            if len(found) == count:
                return found
    raise AssertionError


def backlog(role: Role, count: int, partitions: int, sessions: int = 500) -> Iterator[Record]:
    """`count` records that only make a topic long: context of sessions without tasks, or signs of life of no task."""
    keys = [f"backlog-{number}".encode() for number in range(sessions)]
    homes = [partition_of(key, partitions) for key in keys]
    middle = {
        "context": b'","type":"context.changed","set":{"view/tab-1":"inbox"},"event_id":"',
        "steps": b'","type":"task.heartbeat","task_id":"nobodys","event_id":"',
    }[role]
    for number in range(count):
        session = number % sessions
        value = b'{"source":"backlog","session_id":"%b%b%d-%d","occurred_at":"2025-06-02T00:00:00Z"}' % (
            keys[session],
            middle,
            next(_numbers),
            number,
        )
        yield Record(role, homes[session], keys[session], value, None)


def role_of(event: Event) -> Role:
    """The topic an input event belongs on."""
    event_type = str(getattr(event, "type"))  # noqa: B009 - every event has one, but not their base
    if event_type in {"context.changed", "task.cancel_requested", "result.acknowledged", "session.erased"}:
        return "context"
    return "results" if event_type == "task.result" else "steps"
