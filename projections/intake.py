"""What every record is asked first: is its session at home here, was it sent on twice, is there room for more?"""

from collections.abc import Callable
from typing import Any, Final

import orjson

from projections.row import MAX_ROW_BYTES, SessionRow
from projections.store import Store
from schemas.decode import Batch, Refusal
from schemas.envelope import was_forwarded
from schemas.identity import digest
from schemas.wire import event_type

MAX_FORWARDED_REMEMBERED: Final = 32

Origin = tuple[Batch, int]
"""A record: its batch, and its place in it."""


class Intake:
    """Finds the row of a record, or says why the record is not taken."""

    def __init__(self, store: Store, is_home: Callable[[str], bool]) -> None:
        self._store = store
        self._is_home = is_home

    def row_for(self, batch: Batch, index: int, session_id: str) -> SessionRow | None:
        """The session's row, decoded; None where the record is on the wrong partition. A known session is at home."""
        row = self._store.known_row(session_id)
        if row is None and not self._is_home(session_id):
            self._store.changes.misrouted.append((batch, index))
            return None
        return self._store.row(session_id) if row is None else row

    def admit(self, batch: Batch, index: int, session_id: str) -> SessionRow | None:
        """The row to fold a record into; None where it is on the wrong partition, or was sent on from one twice."""
        row = self.row_for(batch, index, session_id)
        if row is not None and batch.headers[index] and self._is_forwarded_again(batch, index, row):
            return None
        return row

    def _is_forwarded_again(self, batch: Batch, index: int, row: SessionRow) -> bool:
        if not was_forwarded(batch.headers[index]):
            return False
        event = batch.events[index]
        identity = identity_of(event)
        known = row.get("forwarded", [])
        if identity in known:
            self._store.changes.duplicates[event_type(type(event))] += 1
            return True
        row["forwarded"] = [*known, identity][-MAX_FORWARDED_REMEMBERED:]
        self._store.dirty[event.session_id] = None
        return False

    def refuse_full(self, batch: Batch, index: int, session_id: str) -> None:
        """Refuse a record that its session's row has no room for."""
        detail = (
            f"session: the row of {session_id!r} would have more than {MAX_ROW_BYTES} bytes;"
            " use fewer facets and shorter values, or erase the session"
        )
        self._store.changes.refusals.append(Refusal(batch, index, "session_full", detail))


def identity_of(event: Any) -> str:
    """Digest of an event's identity: its source and its id there."""
    return digest(orjson.dumps([event.source, event.event_id]))
