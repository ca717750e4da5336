"""What the passing of time establishes: tasks expire, or wait no more."""

from projections.ending import stop, stop_children
from projections.facts import Fact, WaitExpired
from projections.session import Session
from projections.timers import due_ms


def decide_due(session: Session, task_id: str, now_ms: int) -> list[Fact]:
    """What has fallen due of an open task by `now_ms`; nothing if it has been put off.

    It happens at the time at which it was due, whenever the gate gets to it.
    """
    task = session.tasks[task_id]
    due = due_ms(task)
    if due is None or due > now_ms:
        return []
    scope, wait, policy = task.scope, task.wait, task.policy
    if scope is not None and scope.parentless_until == due:
        return stop(session, task_id, "rejected", "unknown_parent", due)
    if wait is not None:
        if wait.why == "children":
            return stop_children(session, task, "scope_closed", due) or [WaitExpired(task_id, due)]
        return [WaitExpired(task_id, due)]
    if policy is None:
        return []
    if policy.deadline_ms == due:
        return stop(session, task_id, "expired", "deadline_passed", due)
    if policy.heartbeat_timeout_ms is not None and task.last_heartbeat + policy.heartbeat_timeout_ms == due:
        return stop(session, task_id, "expired", "heartbeat_missed", due)
    return stop(session, task_id, "cancelled", "stale", due)
