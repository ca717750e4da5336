"""Finds tasks of a session that has many open ones, without looking at all of them.

Of a session with 50 tasks an event concerns one or two. Looking at the others, too, was most of what such an event
cost, and made a session with thousands of tasks stop its worker.
"""

from bisect import bisect_left, insort
from typing import Final

from projections.due_queue import DueQueue
from projections.rows import DispatchOrder, Task
from projections.slot_order import order_of
from projections.timers import MAX_WALK, Due, awaits_both_lanes, due_ms, lanes_of

MAX_ATTEMPTS: Final = 17
"""Of one task, which stand in one place: `max_redispatches` is at most 16."""

_LAST: Final = "\U0010ffff"


class SlotTasks:
    """The open tasks of one slot, by lane: in the order of their log, and in the order of the broker's time."""

    def __init__(self) -> None:
        self.by_offset: dict[bool, list[tuple[int, str]]] = {False: [], True: []}
        self.by_time: dict[bool, list[tuple[int, int, str]]] = {False: [], True: []}

    def add(self, task_id: str, task: Task) -> None:
        """One more task."""
        order = order_of(task)
        insort(self.by_offset[order.is_cold], (order.offset, task_id))
        insort(self.by_time[order.is_cold], (order.timestamp, order.offset, task_id))

    @property
    def is_empty(self) -> bool:
        """Whether no task of the slot is open."""
        return not (self.by_offset[False] or self.by_offset[True])

    def remove(self, task_id: str, task: Task) -> None:
        """The task is not open any more."""
        order = order_of(task)
        in_log, in_time = self.by_offset[order.is_cold], self.by_time[order.is_cold]
        del in_log[bisect_left(in_log, (order.offset, task_id))]
        del in_time[bisect_left(in_time, (order.timestamp, order.offset, task_id))]

    def older(self, order: DispatchOrder) -> list[str]:
        """The tasks that were dispatched before."""
        in_log, in_time = self.by_offset[order.is_cold], self.by_time[not order.is_cold]
        same = in_log[: bisect_left(in_log, (order.offset, ""))]
        other = in_time[: self._place_in_time(order)]
        return [each[1] for each in same] + [each[2] for each in other]

    def first_older(self, order: DispatchOrder) -> list[str]:
        """Of the tasks that were dispatched before, the first of the same lane, and all of the other lane."""
        in_log, in_time = self.by_offset[order.is_cold], self.by_time[not order.is_cold]
        first = [in_log[0][1]] if in_log and in_log[0][0] < order.offset else []
        return first + [each[2] for each in in_time[: self._place_in_time(order)]]

    def newer_on_other_lane(self, order: DispatchOrder) -> list[str]:
        """The tasks of the other lane that were dispatched after."""
        return [each[2] for each in self.by_time[not order.is_cold][self._place_in_time(order) :]]

    def has_older(self, order: DispatchOrder) -> bool:
        """Whether a task was dispatched before."""
        in_log = self.by_offset[order.is_cold]
        return bool(in_log and in_log[0][0] < order.offset) or self._place_in_time(order) > 0

    def oldest(self) -> list[str]:
        """The first task of each lane, with attempts in the same place: no other can have nothing before it."""
        logs = self.by_offset.values()
        return [task_id for log in logs for offset, task_id in log[:MAX_ATTEMPTS] if offset == log[0][0]]

    def _place_in_time(self, order: DispatchOrder) -> int:
        """Among the tasks of the other lane. Of two with the same time and offset, the hot lane's is older."""
        tie = _LAST if order.is_cold else ""
        return bisect_left(self.by_time[not order.is_cold], (order.timestamp, order.offset, tie))


class TaskIndex:
    """What is known of the open tasks of one session, next to its row."""

    def __init__(self, tasks: dict[str, Task]) -> None:
        self.slots: dict[str, SlotTasks] = {}
        self.unprotected: dict[str, SlotTasks] = {}
        """The same without the tasks that a newer answer leaves alone."""
        self.requests: dict[str, dict[str, None]] = {}
        self.minding_presence: dict[str, None] = {}
        """Tasks to which it matters whether the user is there."""
        self._parentless: dict[str, dict[str, None]] = {}
        self._by_facet: dict[str, dict[str, None]] = {}
        self._has_facets = False
        self._was_asked = False
        self._dues = DueQueue()
        """Of tasks that nothing on the cold lane's topics can keep from falling due."""
        self._cold_dues = DueQueue()
        self._cold: dict[str, None] = {}
        """Tasks of the cold lane, and those whose parent may be."""
        self._tasks = tasks
        for task_id, task in tasks.items():
            self._add(task_id, task)

    # Kept up to date by `evolve`

    def opened(self, task_id: str, task: Task) -> None:
        """The task was opened, after all the others."""
        self._add(task_id, task)

    def ended(self, task_id: str, task: Task) -> None:
        """The task is not open any more."""
        self._dues.set(task_id, None)
        self._cold_dues.set(task_id, None)
        self._cold.pop(task_id, None)
        if task.slot is not None:
            _leave_slot(self.slots, task.slot, task_id, task)
            if not is_protected(task):
                _leave_slot(self.unprotected, task.slot, task_id, task)
        if task.request_id is not None:
            _discard(self.requests, task.request_id, task_id)
        self.minding_presence.pop(task_id, None)
        self.has_parent(task_id, task)
        if self._has_facets:
            for name in task.expected:
                _discard(self._by_facet, name, task_id)

    def has_parent(self, task_id: str, task: Task) -> None:
        """The task's parent has been dispatched, or the task ends."""
        if task.scope is not None and task.scope.parent is not None:
            _discard(self._parentless, task.scope.parent, task_id)

    def expects(self, task_id: str, name: str) -> None:
        """The task depends on one more facet."""
        if self._has_facets:
            self._by_facet.setdefault(name, {})[task_id] = None

    def set_due(self, task_id: str, task: Task) -> None:
        """Bring the due time of the task up to date, and those of the tasks that wait for it."""
        if lanes_of(task) == "both":
            self._cold[task_id] = None
        else:
            self._cold.pop(task_id, None)
        self._set_due(task_id, task)
        scope = task.scope
        for _ in range(2 * MAX_WALK):
            if scope is None or scope.parent is None:
                return
            above = self._tasks.get(scope.parent)
            if above is None or lanes_of(above) != "children":
                return
            self._set_due(scope.parent, above)
            scope = above.scope

    def _set_due(self, task_id: str, task: Task) -> None:
        due = due_ms(task)
        is_cold = due is not None and bool(self._cold) and awaits_both_lanes(self._tasks, task)
        self._dues.set(task_id, None if is_cold else due)
        self._cold_dues.set(task_id, due if is_cold else None)

    # Asked by others

    def expecting(self, tasks: dict[str, Task], facet: str) -> list[tuple[str, Task]]:
        """The tasks that depend on the facet, in the order of their dispatches."""
        if not self._has_facets:
            if not self._was_asked:  # noting what all depend on costs more than looking once
                self._was_asked = True
                return [(task_id, task) for task_id, task in tasks.items() if facet in task.expected]
            self._has_facets = True
            for task_id, task in tasks.items():
                for name in task.expected:
                    self._by_facet.setdefault(name, {})[task_id] = None
        found = self._by_facet.get(facet)
        if not found:
            return []
        return [(task_id, tasks[task_id]) for task_id in self.in_order(tasks, list(found))]

    def in_order(self, tasks: dict[str, Task], task_ids: list[str]) -> list[str]:
        """The open ones of these tasks, in the order of their dispatches."""
        found = [(tasks[task_id].position, task_id) for task_id in task_ids if task_id in tasks]
        found.sort()
        return [task_id for _, task_id in found]

    def parentless_children(self, task_id: str) -> list[str]:
        """Tasks that were dispatched before this one, their parent."""
        return list(self._parentless.get(task_id, ()))

    def older_in_slot(self, tasks: dict[str, Task], slot: str, order: DispatchOrder, *, protected: bool) -> list[str]:
        """Tasks of the slot that were dispatched before, in the order in which they were folded."""
        found = (self.slots if protected else self.unprotected).get(slot)
        return [] if found is None else self.in_order(tasks, found.older(order))

    def first_older(self, tasks: dict[str, Task], slot: str, order: DispatchOrder) -> list[str]:
        """At most a few of these, the first of all among them and in front."""
        found = self.slots.get(slot)
        return [] if found is None else self.in_order(tasks, found.first_older(order))

    def newer_on_other_lane(self, slot: str, order: DispatchOrder) -> list[str]:
        """Tasks of the slot and the other lane that were dispatched after."""
        found = self.slots.get(slot)
        return [] if found is None else found.newer_on_other_lane(order)

    def oldest_in_slot(self, slot: str) -> list[str]:
        """The first task of each lane in the slot: no other can have nothing before it."""
        found = self.slots.get(slot)
        return [] if found is None else found.oldest()

    def has_older_in_slot(self, slot: str, order: DispatchOrder) -> bool:
        """Whether a task of the slot was dispatched before."""
        found = self.slots.get(slot)
        return found is not None and found.has_older(order)

    def in_slot(self, slot: str) -> list[str]:
        """Every open task of the slot."""
        found = self.slots.get(slot)
        return [] if found is None else [each[1] for log in found.by_offset.values() for each in log]

    def dues(self) -> Due:
        """When the first task falls due, see `timers.Due`."""
        return self._dues.next_due_ms(), self._cold_dues.next_due_ms()

    def first_due(self, now_ms: int, *, hot_only: bool) -> str | None:
        """The task that falls due first, if that is at `now_ms` or before."""
        found = [
            each for each in (self._dues.first(), None if hot_only else self._cold_dues.first()) if each is not None
        ]
        if not found:
            return None
        due, task_id = min(found)
        return task_id if due <= now_ms else None

    def _add(self, task_id: str, task: Task) -> None:
        if task.slot is not None:
            self.slots.setdefault(task.slot, SlotTasks()).add(task_id, task)
            if not is_protected(task):
                self.unprotected.setdefault(task.slot, SlotTasks()).add(task_id, task)
        if task.request_id is not None:
            self.requests.setdefault(task.request_id, {})[task_id] = None
        if task.policy is not None and task.policy.when_absent != "deliver":
            self.minding_presence[task_id] = None
        if task.scope is not None and task.scope.parentless_until is not None and task.scope.parent is not None:
            self._parentless.setdefault(task.scope.parent, {})[task_id] = None
        if self._has_facets:
            for name in task.expected:
                self._by_facet.setdefault(name, {})[task_id] = None
        self.set_due(task_id, task)


def _leave_slot(slots: dict[str, SlotTasks], slot: str, task_id: str, task: Task) -> None:
    found = slots[slot]
    found.remove(task_id, task)
    if found.is_empty:
        del slots[slot]


def is_protected(task: Task) -> bool:
    """Whether newer tasks of its slot leave it alone."""
    return task.policy is not None and task.policy.protected


def _discard(index: dict[str, dict[str, None]], name: str, task_id: str) -> None:
    found = index.get(name)
    if found is not None:
        found.pop(task_id, None)
        if not found:
            del index[name]
