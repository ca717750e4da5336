"""What steps and heartbeats establish."""

from typing import Any, Final

from projections.budget import NAME_BYTES, NO_ROOM, added_above, room_for, snapshot_bytes
from projections.facts import (
    EventIgnored,
    EventRefused,
    EventRepeated,
    EventTaken,
    Fact,
    HeartbeatReceived,
    StepTaken,
)
from projections.refusing import session_full
from projections.session import Session
from schemas.events import TaskHeartbeat, TaskStep
from schemas.identity import event_digest
from schemas.wire import fields_of, picker

_Fields = tuple[str, str, str, str, str, float | None, str | None, dict[str, str | None], Any]
_fields_of: Final = fields_of
_picked: Final[Any] = picker(
    TaskStep, "source", "event_id", "task_id", "step_id", "status", "progress", "message", "reads", "checkpoint"
)


def decide_step(session: Session, event: TaskStep, size_bytes: int, timestamp: int) -> list[Fact]:
    """A step of an open task. `size_bytes`: of the record's value."""
    fields: _Fields = _picked(_fields_of(event))
    source, event_id, task_id, step_id, status, progress, message, reads, checkpoint = fields
    task = session.tasks.get(task_id)
    if task is None:
        return [EventIgnored("task.step")]
    identity = event_digest(source, event_id)
    if identity in task.step_ids:
        return [EventRepeated("task.step")]
    added = 2 * size_bytes + len(reads) * NAME_BYTES  # what it read may differ, too, and is then there twice
    if reads:
        added += snapshot_bytes(session, task)
    if reads and task.scope is not None and task.scope.parent is not None:
        added += added_above(task_id, len(reads), size_bytes) * len(session.ancestors(task))
    estimate = room_for(session, added, adds_names=bool(reads) and not reads.keys() <= task.expected.keys())
    if estimate == NO_ROOM:
        return [EventRefused("session_full", session_full(session)), EventTaken(identity, timestamp, task_id)]
    taken = StepTaken(task_id, step_id, status, progress, message, reads, checkpoint, timestamp, estimate, identity)
    return [taken]


def decide_heartbeat(session: Session, event: TaskHeartbeat, timestamp: int) -> list[Fact]:
    """The agent of an open task is alive. It matters if its silence has a limit."""
    task = session.tasks.get(event.task_id)
    if task is None:
        return [EventIgnored("task.heartbeat")]
    if task.policy is None or task.policy.heartbeat_timeout_ms is None:
        return []
    identity = event_digest(event.source, event.event_id)
    if identity in task.heartbeat_ids:
        return [EventRepeated("task.heartbeat")]
    return [HeartbeatReceived(event.task_id, timestamp, identity)]
