"""Rows with many open tasks as records: the row's own, and those of the tasks that have changed.

Of a row with 50 tasks an event changes one or two. Walking through the others again, to encode them, to find out when
they fall due and which of them depend on a facet, was most of what the event cost. Whoever changes a task of a row says
so (`written`, `ends`); under the unit tests what is kept is held against the whole row at every `take`.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import orjson

from projections.row import SessionRow, TaskRow, ancestors, row_to_bytes
from projections.timers import Dues, Timed, dues_of, earliest, timed


class Records(NamedTuple):
    """What of a row has to be written: its own record, those of tasks that have changed (None: not there any more).

    And `dues_of` it.
    """

    row: bytes
    tasks: dict[str, bytes | None]
    dues: Dues


class KeptTasks:
    """What is known of the open tasks of one row beside the row."""

    def __init__(self) -> None:
        self.timed: dict[str, Timed] = {}
        """When it falls due, of those that do."""
        self.changed: dict[str, None] = {}
        """Tasks that were opened or written to since the row was last encoded. Of those nothing here counts."""
        self.facets: dict[str, set[str]] = {}
        """What each task expects; empty until the row is encoded for the second time."""
        self._by_facet: dict[str, dict[str, None]] = {}
        self._is_encoded = False

    def expecting(self, row: SessionRow, facet: str) -> Iterable[tuple[str, TaskRow]]:
        """The open tasks that may depend on the facet, in the row's order: no other does."""
        tasks = row["tasks"]
        if not self.facets:
            return tasks.items()
        expecting = self._by_facet.get(facet)
        if expecting is None and not self.changed:
            return ()
        found = {**self.changed, **(expecting or {})}
        in_order = found if len(found) == 1 else [task_id for task_id in tasks if task_id in found]
        return [(task_id, tasks[task_id]) for task_id in in_order if task_id in tasks]

    def remove(self, task_id: str) -> None:
        """The task is not open any more."""
        self.timed.pop(task_id, None)
        for facet in self.facets.pop(task_id, ()):
            expecting = self._by_facet[facet]
            del expecting[task_id]
            if not expecting:
                del self._by_facet[facet]

    def renew(self, row: SessionRow) -> Dues:
        """Bring it up to date with the row. Returns `dues_of` it.

        A row that is encoded once while it is decoded is walked through: noting what it expects would cost more.
        """
        changed, self.changed = self.changed, {}
        if not self._is_encoded:
            self._is_encoded = True
            return dues_of(row)
        for task_id in changed if self.facets else row["tasks"]:
            task = row["tasks"].get(task_id)
            if task is None:
                self.remove(task_id)
            else:
                self._put(row, task_id, task)
        return earliest(self.timed.values())

    def _put(self, row: SessionRow, task_id: str, task: TaskRow) -> None:
        due = timed(row, task)
        if due is not None:
            self.timed[task_id] = due
        else:
            self.timed.pop(task_id, None)
        facets = self.facets.setdefault(task_id, set())
        for facet in task["expected"].keys() - facets:  # none is taken out: few ever are, and one too many does no harm
            facets.add(facet)
            self._by_facet.setdefault(facet, {})[task_id] = None


class RowEncoder:
    """Encodes the decoded rows of one partition whose tasks are apart, and keeps what it knows of these."""

    def __init__(self) -> None:
        self.kept: dict[str, KeptTasks] = {}
        """By session: of every decoded row whose tasks are apart, or were when it was last encoded."""

    def keep(self, session_id: str, changed: Iterable[str] = ()) -> None:
        """The tasks of the session's row, which is decoded, are apart; those `changed` are yet to be written."""
        kept = self.kept[session_id] = KeptTasks()
        kept.changed.update(dict.fromkeys(changed))

    def written(self, session_id: str, row: SessionRow, task_id: str) -> None:
        """Something of the task changes, or has changed, and perhaps of the tasks above it.

        To be told before the task leaves the row: what is above it is found through it.
        """
        kept = self.kept.get(session_id)
        if kept is None:
            return
        kept.changed[task_id] = None
        task = row["tasks"].get(task_id)
        if task is not None and "parent" in task:
            kept.changed[task["parent"]] = None
            for above in ancestors(row, task):
                if "parent" in above:
                    kept.changed[above["parent"]] = None

    def ends(self, session_id: str, row: SessionRow, task_id: str) -> None:
        """The task is about to leave the row. Another one of its name would stand in another place."""
        kept = self.kept.get(session_id)
        if kept is not None:
            self.written(session_id, row, task_id)
            kept.remove(task_id)

    def encode(self, session_id: str, row: SessionRow, records: Mapping[str, bytes]) -> Records:
        """What to write of a row that is kept. `records` are those that tasks of it have already."""
        kept, tasks = self.kept[session_id], row["tasks"]
        changed: dict[str, bytes | None] = {}
        apart = len(records)
        for task_id in kept.changed:
            task = tasks.get(task_id)
            record = orjson.dumps(task) if task is not None and "apart" in task else None
            before = records.get(task_id)
            if record != before:
                changed[task_id] = record
                apart += (record is not None) - (before is not None)
        dues = kept.renew(row)
        if not apart:
            del self.kept[session_id]
        return Records(row_to_bytes(row, apart), changed, dues)

    def forget(self, session_id: str) -> None:
        """The row is not decoded any more."""
        self.kept.pop(session_id, None)
