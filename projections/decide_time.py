"""What the passing of time establishes: tasks expire, or wait no more."""

from projections.ending import stop, stop_children
from projections.facts import Fact, WaitExpired
from projections.session import Session


def decide_due(session: Session, task_id: str, now_ms: int) -> list[Fact]:
    """What has fallen due of an open task by `now_ms`; nothing if it has been put off."""
    task = session.tasks[task_id]
    scope, wait, policy = task.scope, task.wait, task.policy
    if scope is not None and scope.parentless_until is not None and scope.parentless_until <= now_ms:
        return stop(session, task_id, "rejected", "unknown_parent", now_ms)
    if wait is not None:
        if wait.expired or wait.until is None or wait.until > now_ms:
            return []
        if wait.why == "children":
            return stop_children(session, task, "scope_closed", now_ms)
        return [WaitExpired(task_id, now_ms)]
    if policy is None:
        return []
    if policy.deadline_ms is not None and policy.deadline_ms < now_ms:
        return stop(session, task_id, "expired", "deadline_passed", now_ms)
    if policy.heartbeat_timeout_ms is not None and task.last_heartbeat + policy.heartbeat_timeout_ms <= now_ms:
        return stop(session, task_id, "expired", "heartbeat_missed", now_ms)
    grace_ms = policy.while_stale_grace_ms
    if task.stale_since is not None and grace_ms is not None and task.stale_since + grace_ms <= now_ms:
        return stop(session, task_id, "cancelled", "stale", now_ms)
    return []
