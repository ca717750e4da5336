"""How much is kept of one session: every bound in bytes, and the only place that says whether there is room for more.

- The row and its open tasks: new facets, new dependencies and new tasks are taken up to `MAX_ROW_BYTES`; anything else
  an event adds, such as a longer value of a known facet, up to `MAX_FULL_ROW_BYTES`.
- Events that wait (held results, results of unknown tasks, proposed effects), with their headers: `MAX_WAITING_BYTES`.
- Ended tasks: `projections.ended.MAX_ENDED_BYTES`; beyond it the oldest are forgotten.

The count does not depend on when rows are written: it is what events have added since the row was last measured, and it
is measured only when the count says that there may be too little room.
"""

from typing import Final

from projections.ended import MAX_ENDED_BYTES
from projections.records import row_to_bytes
from projections.rows import SessionRow, Task
from projections.session import Session
from projections.text import json_of

MAX_ROW_BYTES: Final = 512 * 1024
MAX_FULL_ROW_BYTES: Final = 1024 * 1024
MAX_WAITING_BYTES: Final = 4 * 1024 * 1024
MAX_SESSION_BYTES: Final = MAX_FULL_ROW_BYTES + MAX_WAITING_BYTES + MAX_ENDED_BYTES
"""Of one session, everything together."""

MAX_RECORD_BYTES: Final = 2 * MAX_FULL_ROW_BYTES
"""No changelog record of a row or a task is larger: what is not counted event by event (the versions of facets for
whose values there was no room; 128 bytes of heartbeats' identities for each task that has to send them) takes less than
the difference."""

NAME_BYTES: Final = 128
"""What a facet that is known, or that a task depends on, counts at least: it may always get a value that is longer."""

NO_ROOM: Final = -1


def room_for(session: Session, added_bytes: int, *, adds_names: bool) -> int:
    """The session's new size estimate if an event of this size is taken; `NO_ROOM` if it is not.

    `adds_names`: the event adds facets, dependencies or a task.
    """
    estimate = session.size_estimate + added_bytes
    if estimate <= MAX_ROW_BYTES:
        return estimate
    limit = MAX_ROW_BYTES if adds_names else MAX_FULL_ROW_BYTES
    if estimate > limit:
        estimate = measured_bytes(session.row()) + added_bytes
    return estimate if estimate <= limit else NO_ROOM


def measured_bytes(row: SessionRow) -> int:
    """The bytes of the row and its tasks, or what its names count at least.

    Without the former values of facets: they have a bound of their own, and how many are kept depends on when.
    """
    replaced, row.replaced = row.replaced, []
    size_bytes = len(row_to_bytes(row))
    row.replaced = replaced
    names = len(row.facets) + sum(len(task.expected) for task in row.tasks.values())
    return max(size_bytes, names * NAME_BYTES)


def has_room_to_wait(session: Session, size_bytes: int) -> bool:
    """Whether one more event of this size may wait."""
    return session.waiting_bytes + size_bytes <= MAX_WAITING_BYTES


def kept_bytes(session: Session, row_bytes: int) -> int:
    """Everything kept of the session, whose row and tasks take `row_bytes`."""
    return row_bytes + len(session.ended) + session.waiting_bytes


# What events add. Estimates that are never too low: each is what the event brings, for every task that keeps it.


def added_above(task_id: str, count: int, size_bytes: int) -> int:
    """What `count` facets of `size_bytes` that a task states add to a task above: as expected, and as the task's."""
    return 3 * size_bytes + count * (len(task_id) + 16)


def added_by_reads(size_bytes: int, count: int, task_id: str, readers_above: int) -> int:
    """What `count` facets of `size_bytes` that a task read add to it and the tasks above: one that differs, twice."""
    size_bytes = max(size_bytes, count * NAME_BYTES)
    return 2 * size_bytes + readers_above * added_above(task_id, count, size_bytes)


def snapshot_bytes(session: Session, task: Task) -> int:
    """What the snapshots of a task and those above it take a second time, once they expect something else."""
    total = 0
    for each in (task, *(above for _, above in session.readers_above(task))):
        if each.snapshot is None and each.expected:
            total += len(json_of(each.expected).encode())
    return total


def own_bytes(task: Task) -> int:
    """What a task's own changes take."""
    if task.own is None:
        return 0
    total = 0
    for name, changes in task.own.items():
        total += len(name) + 4
        for change in changes:
            total += 16 + len((change.before or "").encode()) + len((change.after or "").encode())
    return total
