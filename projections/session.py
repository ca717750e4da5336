"""One session while events are folded: its row, its ended tasks, its waiting events, and what is to be written.

Everything here answers questions. Only `evolve` changes a session.
"""

from typing import Final

from mypy_extensions import mypyc_attr

from projections import ended
from projections.ended import EndedTask
from projections.expectation import is_unknown
from projections.facets import Facets
from projections.rows import (
    FORMAT,
    KNOWN,
    UNKNOWN,
    UNSEEN,
    DispatchOrder,
    ResultDigests,
    RowFields,
    SessionRow,
    Task,
)
from projections.slot_order import is_older, order_of
from projections.task_index import TaskIndex
from projections.text import quoted
from projections.timers import awaits_both_lanes, due_ms, is_timed
from projections.waiting import Arrived
from schemas.fields import Reason
from schemas.wire import fields_of

_fields_of: Final = fields_of

MAX_TASKS_INSIDE = 8
"""Open tasks that are part of the row's own record. When there are more, each has a record of its own until none is
open: an event then rewrites only those that it changes."""


class Parked:
    """Results and proposed effects of one task whose dispatch has not been folded."""

    def __init__(self) -> None:
        self.results: list[Arrived] = []
        self._contents: dict[str, str] = {}
        self._identities: dict[str, str] = {}

    def copy(self) -> "Parked":
        """The same, to be changed."""
        parked = Parked()
        parked.results = list(self.results)
        parked._contents = dict(self._contents)
        parked._identities = dict(self._identities)
        return parked

    def add(self, result: Arrived) -> None:
        """Keep one more result, or a proposed effect, which may come as often as it likes."""
        self.results.append(result)
        if result.is_proposal:
            return
        digests = result.digests
        self._contents[digests.content] = digests.identity
        self._identities[digests.identity] = digests.content

    def is_repeat(self, digests: ResultDigests) -> bool:
        """Whether a result with this content is there."""
        return digests.content in self._contents

    def is_conflict(self, digests: ResultDigests) -> bool:
        """Whether a result with this identity and other content is there."""
        return self._identities.get(digests.identity, digests.content) != digests.content


_NO_WAITING: Final[dict[str, Arrived]] = {}
_NO_PARKED: Final[dict[str, Parked]] = {}
_NO_TASKS: Final[set[str]] = set()
_NONE_INSIDE: Final[dict[str, Task]] = {}
"""Of a row whose tasks have records of their own."""
_NO_QUEUED: Final[dict[bytes, Arrived]] = {}
"""Of a session without events that wait. `evolve` changes copies only, see `Session.owns_waiting`."""


class Noted:
    """What applying facts leads to, besides waiting results that may be decided."""

    def __init__(self) -> None:
        self.outdated: dict[str, list[str]] = {}
        """Watched tasks that have gone stale, with the facets that differ now."""
        self.freed_slots: dict[str, int] = {}
        """Slots of which a task has ended, with the time: the next one's turn may have come."""
        self.forgotten: list[str] = []
        """Tasks that are not remembered any more and whose published status is to be removed."""


@mypyc_attr(acyclic=True)
class Session:
    """What the gate knows of one session."""

    def __init__(self, session_id: str, row: SessionRow) -> None:
        fields: RowFields = _fields_of(row)
        _, last, _, size, facets, tasks, undispatched, slots, cancels, effects, sent_on, replaced, ids, extras = fields
        # What the row says stands here from now on: reading a native attribute costs a tenth.
        # What most events touch comes first, so that it lies together: few sessions are in the processor's cache when
        # their event comes, and fewer lines are loaded (3 to 5 % less CPU for an event).
        self.last_event_at = last
        self.size_estimate = size
        self.facets = Facets(facets)
        self.tasks = tasks
        """The open tasks, in the order in which their dispatches were folded."""
        self.replaced = replaced
        """Values that facets had before: the row's own list."""
        self.replaced_until = 0
        """When the last of them was replaced."""
        self.context_ids = ids
        self.extras = extras
        """What few sessions have."""
        self.index: TaskIndex | None = None
        """Of a session whose tasks have records of their own."""
        self.waiting: dict[str, Arrived] = _NO_WAITING
        """By task, the result of an open task that cannot be decided yet."""
        self.parked: dict[str, Parked] = _NO_PARKED
        """By task, results whose dispatch has not been folded."""
        self.status_due: dict[str, None] | None = None
        """Open tasks whose status is to be published."""
        self.is_timed = False
        """Whether an open task can fall due, or could when it was opened: if not, none of them is asked for it."""
        self.is_listed = False
        """Whether it is among the sessions that the next transaction writes."""
        self.is_changed = False
        """Whether the row is to be written."""
        self.is_erased = False
        self.owns_waiting = False
        """Whether the dictionaries of waiting events are this session's own, and not those of the last commit."""
        self.noted: Noted | None = None
        """What is to be looked at after the facts of a decision have been applied."""
        self.to_reconsider: dict[str, None] | None = None
        """Tasks whose waiting result may be decided now."""
        self.to_judge: list[Arrived] | None = None
        """Events that wait no more: their dispatch has come, or their task was stopped."""

        # What fewer events touch.
        self.id = session_id
        self.key = session_id.encode()
        self._json = ""
        self.undispatched = undispatched
        self.slots = slots
        self.cancels = cancels
        self.effects = effects
        self.forwarded = sent_on
        self.ended = b""
        """Lines of its ended tasks, see `projections.ended`."""
        self.queued: dict[bytes, Arrived] = _NO_QUEUED
        """By changelog key, events that are judged at the next barrier: proposed effects, results of stopped tasks."""
        self.waiting_bytes = 0
        """What waiting, parked and queued events take."""
        self.raw: bytes | None = None
        """The row as last written."""
        self.lines = b""
        """`ended` as last written."""
        self.parked_count = 0
        """How many results are parked."""
        self.owned_parked: set[str] = _NO_TASKS
        """Tasks whose parked results are this session's own, and not those of the last commit."""
        self.changed_tasks: dict[str, None] | None = None
        """Tasks with records of their own that were opened, changed or ended since the row was written."""
        self.records: dict[bytes, bytes | None] | None = None
        """Changelog records other than those of the row and its tasks that are to be written."""

        for task in self.tasks.values():
            self.is_timed = self.is_timed or is_timed(task)
        for each in self.replaced:
            self.replaced_until = max(self.replaced_until, each.until)

    @property
    def json(self) -> str:
        """The session id as JSON."""
        if not self._json:
            self._json = quoted(self.id)
        return self._json

    def ended_task(self, task_id: str) -> EndedTask | None:
        """How a task ended; None if it has not, or longer ago than the horizon."""
        return ended.find(self.ended, task_id) if self.ended else None

    def fields_to_write(self) -> RowFields:
        """The fields of its row, with everything in them; without the tasks if they have records of their own."""
        return (
            FORMAT,
            self.last_event_at,
            len(self.tasks),
            self.size_estimate,
            self.facets.stored,
            self.tasks if self.index is None else _NONE_INSIDE,
            self.undispatched,
            self.slots,
            self.cancels,
            self.effects,
            self.forwarded,
            self.replaced,
            self.context_ids,
            self.extras,
        )

    def row(self) -> SessionRow:
        """Its row, with all of its tasks."""
        row = SessionRow(*self.fields_to_write())
        row.tasks = self.tasks
        return row

    def value_at(self, name: str, timestamp: int) -> tuple[str | None, int]:
        """The value that a facet had at a time, and whether it was known then (`KNOWN`, `UNKNOWN`, `UNSEEN`)."""
        for each in self.replaced:
            if each.until > timestamp:
                if each.name == name:
                    return each.value, each.seen
                if not each.name:
                    return None, UNKNOWN
        facet = self.facets.get(name)
        if facet is None:
            return None, UNSEEN
        return (None, UNKNOWN) if is_unknown(facet) else (facet.value, KNOWN)

    # The tree of tasks

    def ancestors(self, task: Task) -> list[Task]:
        """The open tasks above this one, nearest first: its own changes are theirs."""
        found: list[Task] = []
        tasks = self.tasks
        scope = task.scope
        while scope is not None and scope.parent is not None:
            above = tasks.get(scope.parent)
            if above is None or above is task:
                break
            found.append(above)
            assert len(found) <= len(tasks), "a task is its own ancestor"
            scope = above.scope
        return found

    def readers_above(self, task: Task) -> list[tuple[str, Task]]:
        """The open tasks above this one that its reads count for, nearest first: up to the first independent child."""
        found: list[tuple[str, Task]] = []
        tasks = self.tasks
        each = task
        while True:
            scope = each.scope
            if scope is None or scope.parent is None or (each.policy is not None and each.policy.independent):
                return found
            above = tasks.get(scope.parent)
            if above is None:
                return found
            found.append((scope.parent, above))
            assert len(found) <= len(tasks), "a task is its own ancestor"
            each = above

    def descendants(self, task_id: str) -> list[str]:
        """The open tasks below this one, each after its parent."""
        tasks = self.tasks
        found = [task_id]
        for each in found:
            scope = tasks[each].scope
            if scope is not None:
                found += [child for child in scope.children if child in tasks]
        return found[1:]

    def nearest_open_ancestor(self, task_id: str, parent_id: str | None) -> str | None:
        """The nearest open task above one that is not open; if there is none, None or a task that is not open."""
        tasks = self.tasks
        above, seen = parent_id, {task_id}
        while above is not None and above not in tasks and above not in seen:
            seen.add(above)
            ended_task = self.ended_task(above)
            above = ended_task.parent if ended_task is not None else None
        return above

    def parentless_children(self, task_id: str) -> list[str]:
        """Open tasks whose parent this is, and which were dispatched before it."""
        index = self.index
        if index is not None:
            return index.parentless_children(task_id)
        found: list[str] = []
        for child_id, child in self.tasks.items():
            scope = child.scope
            if scope is not None and scope.parentless_until is not None and scope.parent == task_id:
                found.append(child_id)
        return found

    def pending_cancel(self, task_id: str) -> tuple[Reason, int] | None:
        """Why and since when an open task is to be stopped: it was cancelled, or one above it was; None if neither."""
        cancels, tasks = self.cancels, self.tasks
        if not cancels:
            return None
        at = cancels.get(task_id)
        if at is not None:
            return "cancelled", at
        task = tasks.get(task_id)
        scope = task.scope if task is not None else None
        looked_at = 0
        while scope is not None and scope.parent is not None:
            above = tasks.get(scope.parent)
            if above is None:
                return None
            at = cancels.get(scope.parent)
            if at is not None:
                return "parent_ended", at
            looked_at += 1
            assert looked_at <= len(tasks), "a task is its own ancestor"
            scope = above.scope
        return None

    def first_due(self, now_ms: int, *, hot_only: bool) -> str | None:
        """The task that falls due first, if that is at `now_ms` or before.

        `hot_only`: of those that no record of the cold lane can keep from it.
        """
        if self.index is not None:
            return self.index.first_due(now_ms, hot_only=hot_only)
        first: tuple[int, str] | None = None
        for task_id, task in self.tasks.items():
            if task.policy is None and task.wait is None and task.scope is None:
                continue
            due = due_ms(task)
            if due is None or due > now_ms or (hot_only and awaits_both_lanes(self.tasks, task)):
                continue
            if first is None or (due, task_id) < first:  # as the index has it: of two at one time, by their ids
                first = due, task_id
        return None if first is None else first[1]

    # Finding tasks

    def tasks_expecting(self, facet: str) -> list[tuple[str, Task]]:
        """The open tasks that depend on the facet, in the order of their dispatches."""
        tasks = self.tasks
        index = self.index
        if index is not None:
            return index.expecting(tasks, facet)
        return [(task_id, task) for task_id, task in tasks.items() if facet in task.expected]

    def with_abandoned(self, found: list[tuple[str, Task]], facet: str) -> list[tuple[str, Task]]:
        """These tasks, and those that the facet `session` or `request/<id>` may make work that nobody wants."""
        tasks = self.tasks
        if facet == "session":
            return list(tasks.items())
        found = list(found)
        for task_id in self.tasks_of_request(facet[8:]):
            task = tasks[task_id]
            if facet not in task.expected:
                found.append((task_id, task))
        return found

    def older_in_slot(self, task_id: str, slot: str, order: DispatchOrder, *, protected: bool = True) -> list[str]:
        """Open tasks of the slot that were dispatched before, in the order in which they were folded.

        Without those that are `protected` if these do not count.
        """
        tasks, index = self.tasks, self.index
        if index is not None:
            return index.older_in_slot(tasks, slot, order, protected=protected)
        return [
            other_id
            for other_id, other in tasks.items()
            if other.slot == slot
            and other_id != task_id
            and is_older(order_of(other), order)
            and (protected or other.policy is None or not other.policy.protected)
        ]

    def first_older_in_slot(self, task_id: str, slot: str, order: DispatchOrder) -> str | None:
        """An open task of the slot that was dispatched before; None if there is none.

        Of the same lane the first in the log, or of the other lane any, whichever was folded first.
        """
        tasks, index = self.tasks, self.index
        if index is not None:
            found = index.first_older(tasks, slot, order)
            return found[0] if found else None
        first: str | None = None
        least = 0
        older = self.older_in_slot(task_id, slot, order)
        for each in older:
            of_each = order_of(tasks[each])
            if of_each.is_cold == order.is_cold and (first is None or (of_each.offset, each) < (least, first)):
                first, least = each, of_each.offset
        return next((each for each in older if each == first or order_of(tasks[each]).is_cold != order.is_cold), None)

    def newer_on_other_lane(self, slot: str, order: DispatchOrder) -> list[str]:
        """Open tasks of the slot and the other lane that were dispatched after."""
        if self.index is not None:
            return self.index.newer_on_other_lane(slot, order)
        return [
            task_id
            for task_id, task in self.tasks.items()
            if task.slot == slot and order_of(task).is_cold != order.is_cold and is_older(order, order_of(task))
        ]

    def has_newer_stopping(self, slot: str, order: DispatchOrder, policies: tuple[str, ...]) -> bool:
        """Whether an open task of the slot was dispatched after, and stops older ones by one of these policies."""
        tasks, index = self.tasks, self.index
        for task_id in tasks if index is None else index.in_slot(slot):
            task = tasks[task_id]
            is_stopping = task.slot == slot and task.policy is not None and task.policy.on_newer in policies
            if is_stopping and is_older(order, order_of(task)):
                return True
        return False

    def oldest_in_slot(self, slot: str) -> list[str]:
        """Open tasks of the slot, with those among them that no other was dispatched before."""
        if self.index is not None:
            return self.index.oldest_in_slot(slot)
        return [task_id for task_id, task in self.tasks.items() if task.slot == slot]

    def tasks_of_request(self, request_id: str) -> list[str]:
        """Open tasks that answer the request."""
        if self.index is not None:
            return list(self.index.requests.get(request_id, ()))
        return [task_id for task_id, task in self.tasks.items() if task.request_id == request_id]

    def tasks_minding_presence(self) -> list[str]:
        """Open tasks to which it matters whether the user is there."""
        if self.index is not None:
            return list(self.index.minding_presence)
        return [
            task_id
            for task_id, task in self.tasks.items()
            if task.policy is not None and task.policy.when_absent != "deliver"
        ]

    def has_older_in_slot(self, task_id: str, slot: str, order: DispatchOrder) -> bool:
        """Whether an open task of the slot was dispatched before."""
        index = self.index
        if index is not None:
            return index.has_older_in_slot(slot, order)
        for other_id, other in self.tasks.items():
            if other.slot == slot and other_id != task_id and is_older(order_of(other), order):
                return True
        return False
