"""What steps, heartbeats and proposed effects establish before their barrier."""

from projections.budget import NAME_BYTES, NO_ROOM, added_above, has_room_to_wait, room_for, snapshot_bytes
from projections.facts import (
    EffectProposed,
    EventIgnored,
    EventRefused,
    EventRepeated,
    EventTaken,
    Fact,
    HeartbeatReceived,
    StepTaken,
)
from projections.refusing import session_full, too_many_waiting
from projections.session import Session
from projections.waiting import Arrived
from schemas.events import TaskHeartbeat, TaskStep
from schemas.identity import event_digest


def decide_step(session: Session, event: TaskStep, size_bytes: int, timestamp: int) -> list[Fact]:
    """A step of an open task. `size_bytes`: of the record's value."""
    task_id = event.task_id
    task = session.tasks.get(task_id)
    if task is None:
        return [EventIgnored("task.step")]
    identity = event_digest(event.source, event.event_id)
    if identity in task.step_ids:
        return [EventRepeated("task.step")]
    reads = event.reads
    added = 2 * size_bytes + len(reads) * NAME_BYTES  # what it read may differ, too, and is then there twice
    if reads and (task.snapshot is None or task.scope is not None):
        added += snapshot_bytes(session, task)
    if reads and task.scope is not None and task.scope.parent is not None:
        added += added_above(task_id, len(reads), size_bytes) * len(session.ancestors(task))
    estimate = room_for(session, added, adds_names=bool(reads) and not reads.keys() <= task.expected.keys())
    if estimate == NO_ROOM:
        return [EventRefused("session_full", session_full(session)), EventTaken(identity, timestamp, task_id)]
    return [StepTaken(task_id, event, timestamp, estimate, identity)]


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


def decide_proposal(session: Session, proposal: Arrived) -> list[Fact]:
    """A proposed effect waits for its barrier."""
    size_bytes = proposal.size_bytes
    if not has_room_to_wait(session, size_bytes):
        return [EventRefused("session_full", too_many_waiting(session, size_bytes))]
    return [EffectProposed(proposal)]
