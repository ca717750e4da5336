"""What the passing of time establishes: tasks expire, or wait no more."""

from typing import Final

from projections.clocks import deadline_of, given_up_at
from projections.decide_context import changes_of
from projections.ending import stop, stop_children
from projections.facts import (
    CancelExpired,
    FacetsChanged,
    Fact,
    KeptForgotten,
    LeasesChanged,
    UndispatchedForgotten,
    WaitExpired,
)
from projections.records import change_of_bytes, expired_change_to_bytes
from projections.rows import Task
from projections.session import Session
from projections.timers import due_ms, limit_ms

_NO_EVENT: Final = b""
"""Of a change that no event makes."""


def decide_expiry(session: Session, now_ms: int) -> list[Fact]:
    """The leases that have run out by `now_ms`: a client is absent then, any other facet is unset."""
    extras = session.extras
    if extras is None:
        return []
    facts: list[Fact] = []
    due = sorted((lease.until, name) for name, lease in extras.leases.items() if lease.until <= now_ms)
    for until, name in due:
        value = "absent" if name.startswith("presence/") else None
        changes = changes_of(session, {name: value}, None)
        if changes:
            made = extras.leases[name].change
            offset = change_of_bytes(made).offset
            change = expired_change_to_bytes(made, until)
            facts.append(FacetsChanged(changes, change, offset, until, None, None, session.size_estimate, _NO_EVENT))
        facts.append(LeasesChanged({}, [name], until, session.size_estimate))
    return facts


def decide_extras(session: Session, due: int, grace_ms: int, *, hot_only: bool) -> list[Fact]:
    """What falls due of a session besides its tasks at this time, which is the first one at which something does.

    `hot_only`: of what no record of the cold lane can keep from it. `grace_ms`: how long a dispatch is waited for.
    """
    extras = session.extras
    if extras is None:
        return []
    facts = decide_expiry(session, due)
    facts += [KeptForgotten(task_id) for task_id, each in extras.kept.items() if each.until <= due]
    if hot_only:
        return facts
    facts += [CancelExpired(each) for each in extras.cancels if each.timestamp + grace_ms <= due]
    facts += [
        UndispatchedForgotten(task_id)
        for task_id, last_ms in extras.undispatched_since.items()
        if last_ms + grace_ms <= due
    ]
    return facts


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
    return _limit_passed(session, task_id, task, due)


def decide_run_out(session: Session, task_id: str, now_ms: int) -> list[Fact]:
    """What a limit that has passed before `now_ms` makes of an open task without a result; nothing if none has.

    It may not have fallen due: the cold lane may hold its parent's dispatch. A result of the hot lane does not wait for
    that, and must not be judged as if it had come in time either.
    """
    task = session.tasks.get(task_id)
    if task is None or task.policy is None or task.wait is not None:
        return []
    due = limit_ms(task, task.policy)
    return [] if due is None or due >= now_ms else _limit_passed(session, task_id, task, due)


def _limit_passed(session: Session, task_id: str, task: Task, due: int) -> list[Fact]:
    if deadline_of(task) == due:
        return stop(session, task_id, "expired", "deadline_passed", due)
    silent = given_up_at(task)
    if silent is not None and silent[0] == due:
        return stop(session, task_id, "expired", silent[1], due)
    return stop(session, task_id, "cancelled", "stale", due)
