"""What the passing of time establishes: tasks expire, or wait no more."""

from projections.clocks import deadline_of, given_up_at
from projections.ending import stop, stop_children
from projections.facts import CancelExpired, Fact, KeptForgotten, UndispatchedForgotten, WaitExpired
from projections.session import Session


def decide_extras_due(session: Session, now_ms: int, grace_ms: int) -> list[Fact]:
    """What has waited longer than the grace for dispatches: by `now_ms` every one that was written has been folded."""
    extras = session.row.extras
    if extras is None:
        return []
    facts: list[Fact] = [CancelExpired(each) for each in extras.cancels if each.timestamp + grace_ms <= now_ms]
    facts += [
        UndispatchedForgotten(task_id)
        for task_id, last_ms in extras.undispatched_since.items()
        if last_ms + grace_ms <= now_ms
    ]
    return facts


def decide_kept_due(session: Session, now_ms: int) -> list[Fact]:
    """The ended tasks of which more was asked until `now_ms`, and not any longer."""
    extras = session.row.extras
    if extras is None:
        return []
    return [KeptForgotten(task_id) for task_id, each in extras.kept.items() if each.until <= now_ms]


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
    deadline_ms = deadline_of(task)
    if deadline_ms is not None and deadline_ms < now_ms:
        return stop(session, task_id, "expired", "deadline_passed", now_ms)
    silent = given_up_at(task)
    if silent is not None and silent[0] <= now_ms:
        return stop(session, task_id, "expired", silent[1], now_ms)
    grace_ms = policy.while_stale_grace_ms
    if task.stale_since is not None and grace_ms is not None and task.stale_since + grace_ms <= now_ms:
        return stop(session, task_id, "cancelled", "stale", now_ms)
    return []
