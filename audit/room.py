"""Whether a session may have been full, by a count of the audit's own.

The gate takes changes of known facets until a session's row has 1 MiB. It counts at least 128 bytes for a name, and
several times what an event brings. The logs do not show when the records of a task were folded, compared with the
context. So every task counts that had not certainly ended, and an eighth of the limit is enough: below it no row is
full, and from it to the limit the audit takes the gate's word.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from audit.case import Case
from audit.logs import Facet, Facets, Session, Value

MAX_ROW_BYTES: Final = 1024 * 1024
"""The gate's limit."""
NEAR_BYTES: Final = MAX_ROW_BYTES // 8

# An eighth of what the gate counts or keeps.
_NAME_BYTES: Final = 16
"""Of a name, besides its own bytes."""
_TASK_BYTES: Final = 64
"""Of a task, besides its dispatch."""
_STEPS_BYTES: Final = 6 * 1024
"""Of the ids of a task's steps, at most."""
_TEXT_BYTES: Final = 1024
"""Of a message, a checkpoint and what a consumer reports."""
_REST_BYTES: Final = 8 * 1024
"""Of slots, wishes to cancel, and identities of events that were sent on."""

_END: Final = 2**63 - 1


def may_be_unknown(case: Case, name: str, context_offset: int) -> bool:
    """Whether the session may have had no room for the facet's last event below a context offset."""
    offset = max((each.last_before(context_offset) for each in case.session.histories(name)), default=-1)
    return offset >= 0 and most_kept(case, offset) >= NEAR_BYTES


def was_never_near(case: Case) -> bool:
    """Whether the session certainly had room at any time."""
    session = case.session
    if session.most_kept < 0:
        session.most_kept = most_kept(case, _END)
    return session.most_kept < NEAR_BYTES


def most_kept(case: Case, context_offset: int) -> int:
    """An eighth of the bytes that the gate may have counted with the context event at the offset, or somewhat more.

    At an offset beyond all events no task counts as ended.
    """
    session = case.session
    kept = _REST_BYTES
    largest = 0
    for histories in (session.facets, session.perhaps):
        for name, facet in histories.items():
            value_bytes, identity_bytes, event_bytes = _largest(facet, context_offset)
            kept += _NAME_BYTES + _bytes(name) + value_bytes + identity_bytes
            largest = max(largest, event_bytes)
    kept += largest
    for key, proposals in session.proposals.items():
        kept += len(proposals) * (_TASK_BYTES + 2 * _bytes(key) + _bytes(proposals[0].effect))
    for each in case.family.values():
        holders = sum(not _has_ended(above, context_offset) for above in _line(each))
        kept += holders * (_stated_bytes(each) + _own_bytes(session, each.task_id, context_offset))
        if not _has_ended(each, context_offset):
            kept += _work_bytes(each)
    for task_id in session.own.keys() - case.family.keys():
        kept += _own_bytes(session, task_id, context_offset)
    return kept


def _largest(facet: Facet, context_offset: int) -> tuple[int, int, int]:
    """The bytes of the largest value, identity and record of the facet's events up to an offset."""
    count = facet.count_before(context_offset + 1)
    values = max(map(_bytes, facet.values[:count]), default=0)
    identities = max((len(event.source) + len(event.event_id) for event in facet.events[:count]), default=0)
    return values, identities, max((event.size_bytes for event in facet.events[:count]), default=0)


def _has_ended(case: Case, context_offset: int) -> bool:
    """Whether the task had certainly ended when the context event at the offset was folded."""
    ended, task = case.ended_at, case.task
    is_certain = ended is not None and task is not None and not task.again
    return is_certain and ended is not None and ended.context_offset <= context_offset < _END


def _line(case: Case) -> Iterator[Case]:
    """The task and those above it: what it reads and changes is kept for each of them."""
    above: Case | None = case
    seen: set[str] = set()
    while above is not None and above.task_id not in seen:
        seen.add(above.task_id)
        yield above
        parent = above.task.parent if above.task is not None else None
        above = case.family.get(parent) if parent is not None else None


def _stated_bytes(case: Case) -> int:
    """What the task depends on: as it was dispatched, and all it has read since."""
    task, session = case.task, case.session
    total = sum(_facets_bytes(reads) for _, _, reads in session.reads.get(case.task_id, ()))
    total += sum(_facets_bytes(result.reads) for result in case.results)
    for proposals in session.proposals.values():
        total += sum(_facets_bytes(each.reads) for each in proposals if each.task_id == case.task_id)
    if task is not None:
        total += _facets_bytes(task.snapshot)
        for name in task.depends_on:
            taken = max((_largest(each, _END - 1)[0] for each in session.histories(name)), default=0)
            total += _NAME_BYTES + _bytes(name) + taken
    return total


def _own_bytes(session: Session, task_id: str, context_offset: int) -> int:
    """The changes that are the task's own work, up to an offset."""
    total = 0
    for name, changes in session.own.get(task_id, {}).items():
        for offset, before, after in changes:
            if offset <= context_offset:
                total += _NAME_BYTES + _bytes(name) + _bytes(before) + _bytes(after)
    return total


def _work_bytes(case: Case) -> int:
    """The rest of what is kept of an open task."""
    session, task_id = case.session, case.task_id
    total = _NAME_BYTES * len(case.results)
    if case.task is not None:
        total += _TASK_BYTES + case.task.size_bytes
    steps = session.steps.get(task_id)
    if steps:
        total += _TEXT_BYTES + min(
            _STEPS_BYTES, sum(_NAME_BYTES + len(step_id) for step_id, _ in {each[2:] for each in steps})
        )
    return total + (_TEXT_BYTES if task_id in session.acknowledged else 0)


def _facets_bytes(facets: Facets) -> int:
    return sum(_NAME_BYTES + _bytes(name) + _bytes(value) for name, value in facets.items())


def _bytes(text: Value) -> int:
    return len(text.encode()) if isinstance(text, str) else 0
