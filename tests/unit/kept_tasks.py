"""Holds rows as they are on the changelog, and what is known of their tasks, against the rows, at every `take`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from unittest.mock import patch

import orjson

from projections import row as rows
from projections.changes import Changes
from projections.encoding import Records, RowEncoder
from projections.row import SessionRow, row_to_bytes
from projections.store import Store
from projections.timers import dues_of, timed


@contextmanager
def tasks_inside(count: int) -> Iterator[None]:
    """At most so many tasks are inside their row's record."""
    with patch.object(rows, "MAX_TASKS_INSIDE", count):
        yield


@contextmanager
def held_against_rows() -> Iterator[None]:
    """An AssertionError wherever somebody changed a task and did not say so."""
    encode, take = RowEncoder.encode, Store.take

    def checked_encode(self: RowEncoder, session_id: str, row: SessionRow, records: Mapping[str, bytes]) -> Records:
        before = dict(records)
        found = encode(self, session_id, row, records)
        after = {name: record for name, record in {**before, **found.tasks}.items() if record is not None}
        assert after == tasks_apart(row)
        assert found.row == row_to_bytes(row, len(after))
        assert found.dues == dues_of(row)
        return found

    def checked_take(self: Store, now_ms: int) -> Changes:
        hold_against_rows(self)
        changes = take(self, now_ms)
        hold_against_rows(self)
        assert self.row_bytes == sum(
            len(self.raw(session_id) or b"") + sum(map(len, self.tasks_of(session_id).values()))
            for session_id in self.session_ids()
        )
        return changes

    with patch.object(RowEncoder, "encode", checked_encode), patch.object(Store, "take", checked_take):
        yield


def hold_against_rows(of: Store) -> None:
    """Also of rows that nobody called changed. The tasks that depend on a facet are found in the order of the row."""
    for session_id, row in of.decoded.items():
        apart = tasks_apart(row)
        assert len(apart) in (0, len(row["tasks"]))
        kept = of.encoder.kept.get(session_id)
        if kept is None:
            assert not apart
            continue
        unchanged = row["tasks"].keys() - kept.changed.keys()
        written = of.tasks_of(session_id)
        assert {name: raw for name, raw in apart.items() if name in unchanged} == {
            name: raw for name, raw in written.items() if name not in kept.changed
        }
        if not kept.facets:
            continue
        for task_id in unchanged:
            assert kept.timed.get(task_id) == timed(row, row["tasks"][task_id])
        for facet in {*row["facets"], *(name for task in row["tasks"].values() for name in task["expected"])}:
            plain = [each for each in row["tasks"].items() if facet in each[1]["expected"]]
            assert [each for each in kept.expecting(row, facet) if facet in each[1]["expected"]] == plain


def tasks_apart(row: SessionRow) -> dict[str, bytes]:
    """The records of a row's tasks that stand apart from it."""
    return {task_id: orjson.dumps(task) for task_id, task in row["tasks"].items() if "apart" in task}
