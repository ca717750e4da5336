"""Compares what is kept of sessions, as it is found quickly and as it is written, with a plain look at them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import msgspec

from projections import evolve
from projections.changes import Changes
from projections.format_1 import is_format_1
from projections.partition import Partition
from projections.records import row_to_bytes, task_to_bytes
from projections.rows import Task, new_row
from projections.session import MAX_TASKS_INSIDE, Session
from projections.slot_order import is_older, order_of
from projections.store import Store
from projections.task_index import TaskIndex
from projections.timers import awaits_both_lanes, due_ms


@contextmanager
def tasks_inside(count: int) -> Iterator[None]:
    """At most so many tasks are inside their row's record."""
    with patch.object(evolve, "MAX_TASKS_INSIDE", count):
        yield


@contextmanager
def checked_at_every_take() -> Iterator[None]:
    """An AssertionError wherever a session was changed and the change was not noted."""
    take = Partition.take

    def checked_take(self: Partition, now_ms: int) -> Changes:
        check_indexes(self.store)
        check_unchanged(self.store)
        changes = take(self, now_ms)
        assert not self.store.changed
        check_indexes(self.store)
        check_unchanged(self.store)
        check_counters(self.store)
        return changes

    with patch.object(Partition, "take", checked_take):
        yield


@contextmanager
def nothing_checked() -> Iterator[None]:
    """As in a worker: for tests that count the work, and take many times."""
    with patch.object(Partition, "take", _TAKE), tasks_inside(_TASKS_INSIDE):
        yield


_TAKE = Partition.take
_TASKS_INSIDE = MAX_TASKS_INSIDE


def check_unchanged(store: Store) -> None:
    """The records of every session that is not called changed are a full encoding of it."""
    for session_id, session in store.loaded.items():
        if not store.is_changed(session_id) and not _is_of_format_1(store, session_id):
            assert kept_in(store, session_id) == kept_of(session)


def _is_of_format_1(store: Store, session_id: str) -> bool:
    """Whether a record of it was written by an older version, and has not changed since."""
    records = [store.raw(session_id) or b"", *store._tasks.get(session_id, {}).values()]
    return any(is_format_1(raw) for raw in records)


def kept_in(store: Store, session_id: str) -> dict[str, Any]:
    """What the store keeps of a session, as it was last written."""
    kept = store.kept_of(session_id)
    return {
        "row": store.raw(session_id),
        "tasks": dict(store._tasks.get(session_id, {})),
        "ended": store._ended.get(session_id, b""),
        **_waiting(kept.waiting if kept else {}, kept.parked if kept else {}, kept.queued if kept else {}),
        "waiting bytes": kept.size_bytes if kept else 0,
    }


def kept_of(session: Session) -> dict[str, Any]:
    """The same of a session, encoded anew."""
    row = session.row()
    is_apart = session.index is not None
    raw = row_to_bytes(msgspec.structs.replace(row, tasks={}) if is_apart else row)
    return {
        "row": None if row == new_row() else raw,
        "tasks": {task_id: task_to_bytes(task) for task_id, task in row.tasks.items()} if is_apart else {},
        "ended": session.ended,
        **_waiting(session.waiting, session.parked, session.queued),
        "waiting bytes": session.waiting_bytes,
    }


def _waiting(waiting: dict[str, Any], parked: dict[str, Any], queued: dict[bytes, Any]) -> dict[str, Any]:
    return {
        "waiting": {task_id: (each.kept_as, each.to_bytes()) for task_id, each in waiting.items()},
        "parked": {
            task_id: [(each.kept_as, each.to_bytes()) for each in results.results]
            for task_id, results in parked.items()
        },
        "queued": {key: (each.kept_as, each.to_bytes()) for key, each in queued.items()},
    }


def check_counters(store: Store) -> None:
    """The store's counters are sums of what it keeps."""
    rows = sum(len(store.raw(session_id) or b"") for session_id in store.session_ids())
    tasks = sum(len(raw) for records in store._tasks.values() for raw in records.values())
    assert store.row_bytes == rows + tasks
    assert store.ended_bytes == sum(map(len, store._ended.values()))
    events, results = 0, 0
    for session_id in store.sessions_with_waiting():
        kept = store.kept_of(session_id)
        assert kept is not None
        assert kept.waiting or kept.parked or kept.queued
        parked = [each for results_of_task in kept.parked.values() for each in results_of_task.results]
        waiting = [*kept.waiting.values(), *parked]
        size_bytes = sum(each.size_bytes for each in [*waiting, *kept.queued.values()])
        assert kept.size_bytes == size_bytes
        events += size_bytes
        results += sum(not each.is_proposal for each in waiting)
    assert (store.waiting_bytes, store.waiting_count) == (events, results)


def check_indexes(store: Store) -> None:
    """Every index says what a look at all tasks says. Only sessions without open tasks may lose theirs."""
    for session in store.loaded.values():
        assert session.is_timed or all(due_ms(task) is None for task in session.tasks.values())
        if session.index is not None:
            check_index(session, session.index)


def check_index(session: Session, index: TaskIndex) -> None:
    """The index says what a look at all tasks says."""
    tasks = session.tasks
    assert tasks, "without open tasks there is no index"
    positions = [task.position for task in tasks.values()]
    assert positions == sorted(set(positions))
    assert index.requests == _by(tasks, lambda task: task.request_id)
    assert dict.fromkeys(sorted(index.minding_presence)) == dict.fromkeys(
        sorted(task_id for task_id, task in tasks.items() if task.policy and task.policy.when_absent != "deliver")
    )
    if index._has_facets:
        for facet in {*session.facets, *(name for task in tasks.values() for name in task.expected)}:
            expecting = [(task_id, task) for task_id, task in tasks.items() if facet in task.expected]
            assert index.expecting(tasks, facet) == expecting
    _check_slots(tasks, index)
    for task_id in {*tasks, *(task.scope.parent for task in tasks.values() if task.scope)}:
        if task_id is not None:
            found = [
                child_id
                for child_id, child in tasks.items()
                if child.scope and child.scope.parent == task_id and child.scope.parentless_until is not None
            ]
            assert sorted(index.parentless_children(task_id)) == sorted(found)
    _check_dues(tasks, index)


def _by(tasks: dict[str, Task], name_of: Any) -> dict[str, dict[str, None]]:
    found: dict[str, dict[str, None]] = {}
    for task_id, task in tasks.items():
        if name_of(task) is not None:
            found.setdefault(name_of(task), {})[task_id] = None
    return found


def _check_slots(tasks: dict[str, Task], index: TaskIndex) -> None:
    by_slot = _by(tasks, lambda task: task.slot)
    assert index.slots.keys() == by_slot.keys()
    open_to_others = {task_id: task for task_id, task in tasks.items() if not (task.policy and task.policy.protected)}
    assert index.unprotected.keys() == _by(open_to_others, lambda task: task.slot).keys()
    for slot, members in by_slot.items():
        for order in [order_of(task) for task in tasks.values()]:
            older = [each for each in members if is_older(order_of(tasks[each]), order)]
            assert index.older_in_slot(tasks, slot, order, protected=True) == older
            unprotected = [each for each in older if each in open_to_others]
            assert index.older_in_slot(tasks, slot, order, protected=False) == unprotected
            assert index.has_older_in_slot(slot, order) == bool(older)
            other_lane = [each for each in members if order_of(tasks[each]).is_cold != order.is_cold]
            in_log = [(order_of(tasks[each]).offset, each) for each in older if each not in other_lane]
            firsts = [each for each in older if each in other_lane or each == min(in_log)[1]]
            assert index.first_older(tasks, slot, order)[:1] == firsts[:1]
            newer = [each for each in other_lane if is_older(order, order_of(tasks[each]))]
            assert sorted(index.slots[slot].newer_on_other_lane(order)) == sorted(newer)
        nothing_before = {each for each in members if not index.has_older_in_slot(slot, order_of(tasks[each]))}
        assert nothing_before <= set(index.oldest_in_slot(slot))


def _check_dues(tasks: dict[str, Task], index: TaskIndex) -> None:
    dues: dict[bool, list[int]] = {False: [], True: []}
    for task in tasks.values():
        due = due_ms(task)
        if due is not None:
            dues[awaits_both_lanes(tasks, task)].append(due)
    assert index.dues() == (min(dues[False], default=None), min(dues[True], default=None))
