"""What steps and heartbeats establish."""

from typing import Any, Final

from projections.budget import NAME_BYTES, NO_ROOM, added_above, room_for, snapshot_bytes
from projections.clocks import is_waiting_for_person, minds_signs_of_life
from projections.facts import (
    DeadlineExtended,
    EventIgnored,
    EventRefused,
    EventRepeated,
    EventTaken,
    Fact,
    HeartbeatReceived,
    StepTaken,
)
from projections.recent_ids import has_event
from projections.refusing import session_full
from projections.session import Session
from schemas.events import TaskExtended, TaskHeartbeat, TaskStep
from schemas.identity import event_digest
from schemas.wire import fields_in_order

_Fields = tuple[
    str, str, object, object, str, str, object, object, str, float | None, str | None, dict[str, str | None], Any
]
_fields_of: Final[Any] = fields_in_order(
    TaskStep,
    "source",
    "event_id",
    "session_id",
    "occurred_at",
    "task_id",
    "step_id",
    "kind",
    "name",
    "status",
    "progress",
    "message",
    "reads",
    "checkpoint",
)


def decide_step(session: Session, event: TaskStep, size_bytes: int, timestamp: int) -> list[Fact]:
    """A step of an open task. `size_bytes`: of the record's value."""
    fields: _Fields = _fields_of(event)
    source, event_id, _, _, task_id, step_id, _, _, status, progress, message, reads, checkpoint = fields
    task = session.tasks.get(task_id)
    if task is None:
        return [EventIgnored("task.step")]
    identity = event_digest(source, event_id)
    if has_event(task.step_ids, identity):
        return [EventRepeated("task.step")]
    added = 2 * size_bytes + len(reads) * NAME_BYTES  # what it read may differ, too, and is then there twice
    if reads and (task.snapshot is None or task.scope is not None):
        added += snapshot_bytes(session, task)
    if reads and task.scope is not None and task.scope.parent is not None:
        added += added_above(task_id, len(reads), size_bytes) * len(session.ancestors(task))
    estimate = room_for(session, added, adds_names=bool(reads) and not reads.keys() <= task.expected.keys())
    if estimate == NO_ROOM:
        return [EventRefused("session_full", session_full(session)), EventTaken(identity, timestamp, task_id)]
    taken = StepTaken(task_id, step_id, status, progress, message, reads, checkpoint, timestamp, estimate, identity)
    return [taken]


def decide_heartbeat(session: Session, event: TaskHeartbeat, timestamp: int) -> list[Fact]:
    """The agent of an open task is alive. It matters if its silence has a limit, or its clocks stand still."""
    task = session.tasks.get(event.task_id)
    if task is None:
        return [EventIgnored("task.heartbeat")]
    if not minds_signs_of_life(task):
        return []
    identity = event_digest(event.source, event.event_id)
    if has_event(task.heartbeat_ids, identity):
        return [EventRepeated("task.heartbeat")]
    return [HeartbeatReceived(event.task_id, timestamp, identity)]


def decide_extension(session: Session, event: TaskExtended, timestamp: int) -> list[Fact]:
    """A task may take longer. A deadline is never brought forward, and one that has passed is not put off."""
    if (event.deadline_at is None) == (event.deadline_seconds is None):
        return [EventRefused("invalid_event", "event: state one of deadline_at and deadline_seconds")]
    task = session.tasks.get(event.task_id)
    if task is None or task.policy is None or task.policy.deadline_ms is None or task.wait is not None:
        return [EventIgnored("task.extended")]
    identity = event_digest(event.source, event.event_id)
    if has_event(task.step_ids, identity):
        return [EventRepeated("task.extended")]
    deadline_ms = task.policy.deadline_ms
    if task.clocks is not None and task.clocks.deadline_ms is not None:
        deadline_ms = task.clocks.deadline_ms
    if event.deadline_at is not None:
        extended_ms = round(event.deadline_at.timestamp() * 1000)
    else:
        extended_ms = timestamp + round((event.deadline_seconds or 0) * 1000)
    if extended_ms <= deadline_ms or (timestamp > deadline_ms and not is_waiting_for_person(task)):
        return [EventIgnored("task.extended")]
    return [DeadlineExtended(event.task_id, extended_ms, timestamp, identity)]
