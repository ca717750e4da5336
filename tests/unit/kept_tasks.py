"""Holds what is kept of tasks between two encodings of a row against the row itself, at every `take`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import orjson

from projections import encoding, store
from projections.changes import Changes
from projections.encoding import RowEncoder
from projections.row import SessionRow, row_to_bytes
from projections.store import Store
from projections.timers import Dues, dues_of, timed


@contextmanager
def kept_from(tasks: int) -> Iterator[None]:
    """Tasks are kept of rows with at least so many."""
    with patch.object(encoding, "KEPT_FROM", tasks), patch.object(store, "KEPT_FROM", tasks):
        yield


@contextmanager
def held_against_rows() -> Iterator[None]:
    """An AssertionError wherever somebody changed a task and did not say so."""
    encode, take = RowEncoder.encode, Store.take

    def checked_encode(self: RowEncoder, session_id: str, row: SessionRow) -> tuple[bytes, Dues]:
        raw, dues = encode(self, session_id, row)
        assert raw == row_to_bytes(row)
        assert dues == dues_of(row)
        return raw, dues

    def checked_take(self: Store, now_ms: int) -> Changes:
        hold_against_rows(self)
        changes = take(self, now_ms)
        hold_against_rows(self)
        return changes

    with patch.object(RowEncoder, "encode", checked_encode), patch.object(Store, "take", checked_take):
        yield


def hold_against_rows(of: Store) -> None:
    """Also of rows that nobody called changed. The tasks that depend on a facet are found in the order of the row."""
    for session_id, kept in of.encoder.kept.items():
        row = of.decoded[session_id]
        assert not kept.pieces or row["tasks"].keys() <= kept.pieces.keys() | kept.changed.keys()
        for task_id in kept.pieces.keys() - kept.changed.keys():
            task = row["tasks"][task_id]
            assert kept.pieces[task_id] == orjson.dumps({task_id: task})[1:-1]
            assert kept.timed.get(task_id) == timed(row, task)
        for facet in {*row["facets"], *(name for task in row["tasks"].values() for name in task["expected"])}:
            plain = [each for each in row["tasks"].items() if facet in each[1]["expected"]]
            assert [each for each in kept.expecting(row, facet) if facet in each[1]["expected"]] == plain
