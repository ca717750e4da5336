"""When tasks fall due, derived from the rows, so that it survives restarts. Times are the broker's, in ms."""

from typing import Final, Literal

from projections.clocks import deadline_of, given_up_at
from projections.rows import Extras, Policy, Task

Due = tuple[int | None, int | None]
"""When the first of a session's tasks falls due: of those that no record of the cold lane can keep from it, and of the
others."""

Lanes = Literal["hot", "both", "children"]
"""On the topics of which lanes something may be that keeps a task from falling due. `children`: it waits for its
children, so it depends on theirs."""

MAX_WALK: Final = 16
"""Descendants that are looked at to find out whether one is on the cold lane. With more, both lanes are waited for."""


def due_ms(task: Task) -> int | None:
    """When the task falls due; None if it does not.

    With its result there, only waiting ends: the result was in time, and nobody has to send heartbeats any more.
    """
    scope, wait, policy = task.scope, task.wait, task.policy
    due = scope.parentless_until if scope is not None else None
    if wait is not None:
        if wait.until is not None and not wait.expired:
            due = wait.until if due is None else min(due, wait.until)
        return due
    if policy is not None:
        limit = limit_ms(task, policy)
        if limit is not None:
            due = limit if due is None else min(due, limit)
    return due


def limit_ms(task: Task, policy: Policy) -> int | None:
    """When the first of a task's own limits passes that has no result yet; None if there is none."""
    due = deadline_of(task)
    silent = given_up_at(task)
    if silent is not None:
        due = silent[0] if due is None else min(due, silent[0])
    if task.stale_since is not None and policy.while_stale_grace_ms is not None:
        given_up = task.stale_since + policy.while_stale_grace_ms
        due = given_up if due is None else min(due, given_up)
    return due


def lanes_of(task: Task) -> Lanes:
    """On which lanes something may be that keeps the task from falling due."""
    scope = task.scope
    if task.is_cold or (scope is not None and scope.parentless_until is not None):
        return "both"
    return "children" if task.wait is not None and task.wait.why == "children" else "hot"


def awaits_both_lanes(tasks: dict[str, Task], task: Task) -> bool:
    """Whether something on the cold lane's topics may keep the task from falling due, so far as it looks."""
    lanes = lanes_of(task)
    if lanes != "children":
        return lanes == "both"
    below = list(task.scope.children) if task.scope is not None else []
    looked_at = 0
    while below:
        child = tasks.get(below.pop())
        if child is None:
            continue
        lanes = lanes_of(child)
        looked_at += 1
        if lanes == "both" or looked_at > MAX_WALK:
            return True
        if lanes == "children" and child.scope is not None:
            below += child.scope.children
    return False


def extras_dues(extras: Extras, grace_ms: int) -> Due:
    """When the first of what few sessions have falls due.

    Leases run out, and more is not asked any longer of a task that has ended, whatever is on the cold lane. What waits
    for dispatches does so for the grace, and on whichever lane they are.
    """
    first = min((lease.until for lease in extras.leases.values()), default=None)
    kept = min((each.until for each in extras.kept.values()), default=None)
    hot = first if kept is None else kept if first is None else min(first, kept)
    other = min((each.timestamp for each in extras.cancels), default=None)
    last_own = min(extras.undispatched_since.values(), default=None)
    if last_own is not None and (other is None or last_own < other):
        other = last_own
    return hot, None if other is None else other + grace_ms


def keeps_session(extras: Extras) -> bool:
    """Whether an idle session is not forgotten yet because of them: something of them will fall due."""
    return bool(extras.cancels or extras.undispatched_since or extras.leases or extras.kept)


def is_timed(task: Task) -> bool:
    """Whether anything of the task can fall due, or stands still. Only a result that waits can add to it later."""
    policy = task.policy
    if task.wait is not None or task.clocks is not None or (policy is not None and _has_times(policy)):
        return True
    return task.scope is not None and task.scope.parentless_until is not None


def _has_times(policy: Policy) -> bool:
    """Whether the policy says when something is to happen. Most say only what becomes of a stale result."""
    return (
        policy.deadline_ms is not None
        or policy.heartbeat_timeout_ms is not None
        or policy.while_stale_grace_ms is not None
        or policy.options is not None
    )


def dues_of(tasks: dict[str, Task]) -> Due:
    """When the first of the tasks falls due."""
    hot: int | None = None
    other: int | None = None
    for task in tasks.values():
        if task.policy is None and task.wait is None and task.scope is None:
            continue
        due = due_ms(task)
        if due is None:
            continue
        if awaits_both_lanes(tasks, task):
            other = due if other is None else min(other, due)
        else:
            hot = due if hot is None else min(hot, due)
    return hot, other
