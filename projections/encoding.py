"""Rows as bytes, where of many open tasks few have changed: what a task comes to is kept until somebody writes to it.

The bytes are those of `row_to_bytes`. Of a row with 50 tasks an event changes one or two, and walking through the
others again, to encode them and to find out when they fall due, was most of what the event cost. Whoever changes a task
of a row says so (`written`, `ends`); under the unit tests what is kept is held against the whole row at every `take`.
"""

from collections.abc import Iterable
from typing import Final

import orjson

from projections.row import SessionRow, TaskRow, ancestors, row_to_bytes
from projections.timers import Dues, Timed, dues_of, earliest, timed

KEPT_FROM: Final = 8
"""Rows with fewer open tasks are encoded as they are: that costs less than keeping anything."""


class KeptTasks:
    """What the open tasks of one row come to, as they were when it was last encoded."""

    def __init__(self) -> None:
        self.pieces: dict[str, bytes] = {}
        """Each task as a member of `tasks`, in the row's order."""
        self.timed: dict[str, Timed] = {}
        """When it falls due, of those that do."""
        self.changed: dict[str, None] = {}
        """Tasks that were opened or written to since then. Of those nothing here counts."""
        self._by_facet: dict[str, dict[str, None]] = {}
        self._facets: dict[str, set[str]] = {}

    def expecting(self, row: SessionRow, facet: str) -> Iterable[tuple[str, TaskRow]]:
        """The open tasks that may depend on the facet, in the row's order: no other does."""
        tasks = row["tasks"]
        if not self.pieces:
            return tasks.items()
        expecting = self._by_facet.get(facet)
        if expecting is None and not self.changed:
            return ()
        found = {**self.changed, **(expecting or {})}
        in_order = found if len(found) == 1 else [task_id for task_id in tasks if task_id in found]
        return [(task_id, tasks[task_id]) for task_id in in_order if task_id in tasks]

    def remove(self, task_id: str) -> None:
        """The task is not open any more."""
        self.pieces.pop(task_id, None)
        self.timed.pop(task_id, None)
        for facet in self._facets.pop(task_id, ()):
            expecting = self._by_facet[facet]
            del expecting[task_id]
            if not expecting:
                del self._by_facet[facet]

    def renew(self, row: SessionRow) -> None:
        """Bring it up to date with the row."""
        tasks, pieces = row["tasks"], self.pieces
        is_in_order = True
        for task_id in self.changed:
            task = tasks.get(task_id)
            if task is None:
                self.remove(task_id)
            else:
                is_in_order = is_in_order and task_id in pieces
                self._put(row, task_id, task)
        self.changed.clear()
        if not is_in_order or len(pieces) != len(tasks):
            for task_id, task in tasks.items():
                if task_id not in pieces:
                    self._put(row, task_id, task)
            self.pieces = {task_id: pieces[task_id] for task_id in tasks}

    def _put(self, row: SessionRow, task_id: str, task: TaskRow) -> None:
        self.pieces[task_id] = orjson.dumps({task_id: task})[1:-1]
        due = timed(row, task)
        if due is not None:
            self.timed[task_id] = due
        else:
            self.timed.pop(task_id, None)
        facets = self._facets.setdefault(task_id, set())
        for facet in task["expected"].keys() - facets:  # none is taken out: few ever are, and one too many does no harm
            facets.add(facet)
            self._by_facet.setdefault(facet, {})[task_id] = None


class RowEncoder:
    """Encodes the decoded rows of one partition, and keeps what their tasks come to for as long as they are decoded."""

    def __init__(self) -> None:
        self.kept: dict[str, KeptTasks] = {}
        """By session: of rows that had many tasks when they were encoded."""

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

    def encode(self, session_id: str, row: SessionRow) -> tuple[bytes, Dues]:
        """The row's bytes, exactly those of `row_to_bytes`, and `dues_of` it."""
        kept = self.kept.get(session_id)
        if kept is None:
            if len(row["tasks"]) >= KEPT_FROM:
                self.kept[session_id] = KeptTasks()  # filled if the row is still decoded the next time
            return row_to_bytes(row), dues_of(row)
        kept.renew(row)
        tasks = orjson.Fragment(b"{%s}" % b",".join(kept.pieces.values()))
        return orjson.dumps({**row, "tasks": tasks}), earliest(kept.timed.values())

    def forget(self, session_id: str) -> None:
        """The row is not decoded any more."""
        self.kept.pop(session_id, None)
