"""Which facets an open task finds changed, and what was stated about them. Changes the task it is given.

Used by `evolve` on a session's tasks, and on a copy of one to find out what a result's reads would make of it.
"""

from typing import Final

import msgspec

from projections.expectation import ABSENT, differs
from projections.facets import Facets
from projections.records import change_of
from projections.rows import Scope, StatedBelow, Task

ITSELF: Final = ""
"""Stands for the task itself among those that stated a value; left out if `expected` is what it stated."""

MAX_LEFT: Final = 16
"""Values of one facet that are kept of descendants that have ended. So many differing ones are stale anyway."""


def restale(facets: Facets, task: Task, name: str, timestamp: int) -> bool:
    """Bring the task's list of differing facets up to date with one facet. True if it changed.

    A closed session and an archived request are among them, whatever the task depends on: nobody wants its work.
    """
    stale = task.stale
    is_stale = bool(stale) and name in stale
    is_now = differs(facets, task, name)
    if not is_now and name[0] in "rs":  # `request/<id>` and `session`
        is_now = _is_abandoned(facets, task, name)
    if is_now == is_stale:
        return False
    if is_stale:
        stale.remove(name)
        if not stale:
            task.stale_since = None
        return True
    stale.append(name)
    policy = task.policy
    if policy is not None and policy.while_stale_grace_ms is not None and task.stale_since is None:
        task.stale_since = timestamp
    return True


def abandoning(facets: Facets, task: Task) -> list[str]:
    """The known facets that may say that nobody wants the task's work any more."""
    found = ["session"] if "session" in facets else []
    if task.request_id is not None and f"request/{task.request_id}" in facets:
        found.append(f"request/{task.request_id}")
    return found


def _is_abandoned(facets: Facets, task: Task, name: str) -> bool:
    if name != "session" and not name.startswith("request/"):
        return False
    facet = facets.get(name)
    if facet is None or not facet.change:
        return False
    if name == "session":
        if facet.value != "closed":
            return False
    elif facet.value != "archived" or task.request_id is None or name != f"request/{task.request_id}":
        return False
    if not facet.cause or task.own is None:
        return True
    offset = change_of(facet).offset
    return all(change.offset != offset for change in task.own.get(name, ()))


def state_own_reads(facets: Facets, task: Task, reads: dict[str, str | None], timestamp: int) -> None:
    """What the task looked at joins what it expects, or replaces what it stated."""
    scope = task.scope
    for name, value in reads.items():
        if scope is not None and scope.below:
            state(task, ITSELF, name, value)
        expect(task, name, value)
        restale(facets, task, name, timestamp)


def expect(task: Task, name: str, value: str | None) -> None:
    """Set what the task expects of a facet. What its dispatch said is kept when that is the first thing it changes."""
    expected = task.expected
    if task.snapshot is None and (name not in expected or expected[name] != value):
        task.snapshot = dict(expected)
    expected[name] = value


def state(task: Task, reader_id: str, name: str, value: str | None) -> None:
    """Note who stated the value, next to what others stated. `expected` becomes the value after that."""
    scope = task.scope
    if scope is None:
        scope = task.scope = Scope()
    found = scope.below.get(name)
    if reader_id == ITSELF:
        if found is not None and found.by_task:
            found.by_task[ITSELF] = value
        return
    if found is None:
        found = scope.below[name] = StatedBelow([], {})
    if not found.by_task and name in task.expected and task.expected[name] not in found.ended:
        found.by_task[ITSELF] = task.expected[name]
    found.by_task[reader_id] = value


def leave(task: Task, name: str, value: str | None) -> None:
    """Keep what a descendant stated that can replace it no more."""
    scope = task.scope
    if scope is None:
        scope = task.scope = Scope()
    found = scope.below.get(name)
    if found is None:
        found = scope.below[name] = StatedBelow([], {})
    if value not in found.ended and len(found.ended) < MAX_LEFT:
        found.ended.append(value)


def leave_reads(above: Task, task_id: str, task: Task) -> None:
    """What a task that has ended depended on stays with a task above it, whoever it was that stated it."""
    scope = above.scope
    if scope is None or not scope.below:
        return
    for name in task.expected:
        found = scope.below.get(name)
        if found is None or task_id not in found.by_task:
            continue
        leave(above, name, found.by_task.pop(task_id))
        if len(found.by_task) == 1 and found.by_task.get(ITSELF, ABSENT) == above.expected[name]:
            found.by_task.clear()


def with_reads(facets: Facets, task: Task, reads: dict[str, str | None], timestamp: int) -> Task:
    """A copy of the task that has looked at these facets. The task stays as it is."""
    copy = msgspec.structs.replace(task, expected=dict(task.expected), stale=list(task.stale))
    scope = task.scope
    if scope is not None and scope.below:
        below = {
            name: StatedBelow(list(found.ended), dict(found.by_task)) if name in reads else found
            for name, found in scope.below.items()
        }
        copy.scope = msgspec.structs.replace(scope, below=below)
    state_own_reads(facets, copy, reads, timestamp)
    return copy
