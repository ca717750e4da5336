"""What an open task expects of the facets it depends on, and whether they contradict it. Changes nothing.

A change that the task's own work made, or that of its descendants, moves the expectation along if the expectation
matched just before it. It is evaluated over all own changes, so it does not matter whether a read or a change was
folded first.
"""

from collections.abc import Iterator
from typing import Any, Final

from projections.facets import Facets
from projections.rows import KNOWN, UNSEEN, Facet, OwnChange, Task

ABSENT: Final = object()
"""Stands for the value of a facet that never changed."""


def is_unknown(facet: Facet) -> bool:
    """Whether the facet's last change did not fit into the session."""
    return not facet.change


def differs(facets: Facets, task: Task, name: str) -> bool:
    """Whether the session contradicts what the task expects of a facet.

    A facet that never changed contradicts nothing; one whose value is unknown always does. Neither does one that the
    task does not depend on.
    """
    facet = facets.get(name)
    if facet is None:
        return False
    if not facet.change:
        return name in task.expected
    actual = facet.value
    scope = task.scope
    if scope is not None and scope.below and name in task.expected:
        return any(_moved_along(task, name, stated, actual) != actual for stated in _statements(task, name))
    expected: Any = task.expected.get(name, ABSENT)
    if expected is ABSENT:
        return False
    if task.own is not None:
        expected = _moved_along(task, name, expected, actual)
    return bool(expected != actual)


def differing(task: Task) -> list[str]:
    """All the facets the task depends on that differ, in the order in which it came to depend on them."""
    stale = task.stale
    if len(stale) < 2:
        return stale if not stale or stale[0] in task.expected else []
    members = set(stale)
    return [name for name in task.expected if name in members]


def expected_values(facets: Facets, task: Task) -> dict[str, str | None]:
    """Every facet the task depends on, with the value it expects now."""
    if task.own is None:
        return task.expected
    expected: dict[str, str | None] = {}
    for name, stated in task.expected.items():
        facet = facets.get(name)
        actual: Any = ABSENT if facet is None or not facet.change else facet.value
        expected[name] = _moved_along(task, name, stated, actual)
    return expected


def contradicted(task: Task, name: str, actual: str | None) -> str | None:
    """Of what the task and its descendants expect of a facet that differs, the first that is not `actual`.

    As it was moved along, as if nobody knew what the facet is.
    """
    for stated in _statements(task, name):
        if _moved_along(task, name, stated, actual) != actual:
            return _moved_along(task, name, stated, ABSENT)
    raise ValueError(f"{name} does not differ")


def _statements(task: Task, name: str) -> Iterator[str | None]:
    """What was stated of a facet and not replaced by whoever stated it."""
    yield task.expected[name]
    scope = task.scope
    below = scope.below.get(name) if scope is not None else None
    if below is not None:
        yield from below.ended
        yield from below.by_task.values()


def _moved_along(task: Task, name: str, stated: str | None, actual: Any) -> str | None:
    """The value that is expected after the task's own changes.

    A change of a facet never seen before may have come before the statement or after it: if what was stated is what the
    facet `actual`ly is, it came before.
    """
    changes = task.own.get(name) if task.own is not None else None
    if not changes:
        return stated
    value = _after(stated, changes, 0)
    if value != actual and changes[0].seen == UNSEEN and _after(stated, changes, 1) == actual:
        return _after(stated, changes, 1)
    return value


def _after(value: str | None, changes: list[OwnChange], first: int) -> str | None:
    for change in changes[first:] if first else changes:
        seen = change.seen
        if seen == UNSEEN or (seen == KNOWN and change.before == value):
            value = change.after
    return value
