"""The sessions of one partition: their committed records as bytes, and the few that are decoded.

Records stay bytes until an event touches their session. `restore` takes what the changelog holds, `write` gives what to
write to it; until that is known to be committed, what it replaced is kept, so that it can be put back. No I/O.
"""

from typing import Final

import orjson

from projections import ended
from projections.budget import MAX_RECORD_BYTES
from projections.keys import (
    ENDED_KEY,
    SESSION_KEY,
    TASK_KEY,
    WAITING_KEY,
    session_record_key,
    task_record_key,
)
from projections.records import (
    head_from_bytes,
    row_from_bytes,
    row_to_bytes,
    task_to_bytes,
)
from projections.rows import RowHead, new_row
from projections.session import Parked, Session
from projections.task_index import TaskIndex
from projections.timers import keeps_session
from projections.waiting import Arrived, WaitingFor, from_bytes

MAX_DECODED: Final = 256
"""Sessions that stay decoded from one transaction to the next: about what fits into a core's cache. Walking through the
objects of one that does not costs several times what it costs to decode its bytes anew."""
MAX_DECODED_INDEXED: Final = 1024
"""Sessions with many tasks that stay decoded, because of them only what changed is encoded."""


class Kept:
    """The events of one session that wait, as committed. Never changed: `evolve` changes copies."""

    def __init__(self) -> None:
        self.waiting: dict[str, Arrived] = {}
        self.parked: dict[str, Parked] = {}
        self.queued: dict[bytes, Arrived] = {}
        self.size_bytes = 0
        self.count = 0
        """Results that wait for their dispatch, other tasks, the context or the user."""


class Store:
    """Everything kept of the sessions of one partition."""

    def __init__(self, number: int) -> None:
        self.row_bytes = 0
        """Of rows, and of tasks with records of their own."""
        self.ended_bytes = 0
        self.waiting_bytes = 0
        self.waiting_count = 0
        """Results that wait: for a dispatch, for other tasks, for the context or for the user."""
        self.loaded: dict[str, Session] = {}
        """Decoded sessions. Those in `changed` differ from their records."""
        self.changed: list[Session] = []
        """Those that are listed, in the order in which they changed first."""
        self._pending: list[Session] = []
        """Changed sessions that are still to be written: a rollback may come in between."""
        self._number = number
        self._rows: dict[str, bytes] = {}
        self._tasks: dict[str, dict[str, bytes]] = {}
        """By session: the records of its open tasks, if they are apart from its row."""
        self._ended: dict[str, bytes] = {}
        self._kept: dict[str, Kept] = {}
        self._restoring: dict[bytes, bytes] = {}
        self._before: list[tuple[str, bytes | None, bytes, Kept | None]] = []
        """Sessions with the row, the ended tasks and the waiting events that the last `write` replaced, until it is
        committed."""
        self._tasks_before: dict[str, dict[str, bytes | None]] = {}
        """The same of tasks with records of their own."""

    @property
    def session_count(self) -> int:
        """Sessions with a row."""
        return len(self._rows)

    def session_ids(self) -> list[str]:
        """Every session with a row."""
        return list(self._rows)

    def raw(self, session_id: str) -> bytes | None:
        """The session's row as last written."""
        return self._rows.get(session_id)

    def is_idle_since(self, session_id: str, oldest_ms: int) -> bool:
        """Whether the session, as last written, had no event since and has no open task."""
        raw = self._rows.get(session_id)
        if raw is None:
            return False
        head = head_from_bytes(raw)
        return head.last_event_at < oldest_ms and not head.open_tasks and not self._keeps_extras(session_id, head)

    def last_event_at(self, session_id: str) -> int:
        """When the session's last event came, as last written; 0 if it has no row."""
        raw = self._rows.get(session_id)
        return 0 if raw is None else head_from_bytes(raw).last_event_at

    def _keeps_extras(self, session_id: str, head: RowHead) -> bool:
        """Whether something of the session will fall due, besides tasks."""
        if not head.has_extras:
            return False
        extras = self.session(session_id).extras
        return extras is not None and keeps_session(extras)

    # Sessions

    def known(self, session_id: str) -> Session | None:
        """The session; None if it has no row."""
        session = self.loaded.get(session_id)
        if session is not None:
            return session
        raw = self._rows.get(session_id)
        return None if raw is None else self._load(session_id, raw)

    def session(self, session_id: str) -> Session:
        """The session; a new one if it has no row."""
        session = self.loaded.get(session_id)
        if session is None:
            session = self._load(session_id, self._rows.get(session_id))
        return session

    def _load(self, session_id: str, raw: bytes | None) -> Session:
        tasks = self._tasks.get(session_id) if self._tasks else None
        row = new_row() if raw is None else row_from_bytes(raw, tasks)
        session = self.loaded[session_id] = Session(session_id, row)
        session.raw = raw
        session.ended = session.lines = self._ended.get(session_id, b"")
        if tasks:
            session.index = TaskIndex(row.tasks)
        kept = self._kept.get(session_id) if self._kept else None
        if kept is not None:
            session.waiting, session.parked, session.queued = kept.waiting, kept.parked, kept.queued
            session.waiting_bytes = kept.size_bytes
            session.parked_count = kept.count - len(kept.waiting)
        return session

    # Writing

    def is_changed(self, session_id: str) -> bool:
        """Whether the session differs from its records."""
        session = self.loaded.get(session_id)
        return session is not None and session.is_listed

    def to_write(self, session: Session) -> None:
        """The session has changed."""
        session.is_listed = True
        self.changed.append(session)

    def begin_write(self) -> list[Session]:
        """The sessions that have changed, the first one last: to be given to `write` and taken off, one by one.

        Then `let_go` has to follow. Where that would keep none of them, nothing else refers to them from now on.
        """
        self._pending = self.changed
        self._pending.reverse()
        self.changed = []
        if len(self.loaded) > MAX_DECODED and not self._tasks and not _has_indexed(self._pending):
            self.loaded = {}
        return self._pending

    def write(self, session: Session, records: dict[bytes, bytes | None]) -> None:
        """Add the changelog records of what has changed of the session; None removes one."""
        session_id, row, lines = session.id, session.raw, session.lines
        kept = self._kept.get(session_id) if self._kept else None
        self._before.append((session_id, row, lines, kept))
        session.is_listed = False
        if session.records is not None:
            records.update(session.records)
            session.records = None
        if session.changed_tasks is not None:
            self._write_tasks(session, session.changed_tasks, records)
        if session.is_changed:
            raw = row_to_bytes(session.fields_to_write())
            assert len(raw) <= MAX_RECORD_BYTES, "a row never exceeds its bound"
            if raw != row:
                self._rows[session_id] = session.raw = raw
                self.row_bytes += len(raw) - (0 if row is None else len(row))
                records[session_record_key(session.key)] = raw
            session.is_changed = False
        elif session.is_erased:
            if row is not None:
                self._set_row(session_id, None)
                session.raw = None
                records[session_record_key(session.key)] = None
            self.loaded.pop(session_id, None)
        session.is_erased = False
        if session.ended is not lines:
            self._set_ended(session_id, session.ended)
            session.lines = session.ended
        if session.owns_waiting:
            self._set_kept(session_id, self._kept_of(session))
            session.owns_waiting = False

    def _write_tasks(self, session: Session, task_ids: dict[str, None], records: dict[bytes, bytes | None]) -> None:
        """The records of tasks that are apart from the row, as far as they have changed."""
        tasks, known = session.tasks, self._tasks.get(session.id, {})
        before = self._tasks_before.setdefault(session.id, {})
        for task_id in task_ids:
            task = tasks.get(task_id) if session.index is not None else None
            raw = task_to_bytes(task) if task is not None else None
            assert raw is None or len(raw) <= MAX_RECORD_BYTES, "a task never exceeds its bound"
            old = known.get(task_id)
            if raw != old:
                before.setdefault(task_id, old)
                records[task_record_key(session.id, task_id)] = raw
                self._set_task(session.id, task_id, raw)
        session.changed_tasks = None

    def _kept_of(self, session: Session) -> Kept | None:
        if not (session.waiting or session.parked or session.queued):
            return None
        kept = Kept()
        kept.waiting, kept.parked, kept.queued = session.waiting, session.parked, session.queued
        kept.size_bytes = session.waiting_bytes
        kept.count = len(session.waiting) + session.parked_count
        return kept

    def let_go(self) -> None:
        """Keep few sessions decoded that have not changed, of those with many tasks more than of others."""
        loaded = self.loaded
        if len(loaded) <= MAX_DECODED or self.changed:
            return
        if not self._tasks:
            self.loaded = {}
            return
        indexed = [session_id for session_id, session in loaded.items() if session.index is not None]
        if len(loaded) - len(indexed) > MAX_DECODED or len(indexed) > MAX_DECODED_INDEXED:
            self.loaded = {session_id: loaded[session_id] for session_id in indexed[-MAX_DECODED_INDEXED:]}

    def committed(self) -> None:
        """What was last written is durable."""
        self._before = []
        self._tasks_before = {}

    def roll_back(self) -> list[str]:
        """Put back what was committed. Returns the sessions that are as they were before."""
        changed = dict.fromkeys([session.id for session in self.changed])
        for session in self._pending:
            changed[session.id] = None
        for session_id, row, lines, kept in reversed(self._before):
            changed[session_id] = None
            self._set_row(session_id, row)
            self._set_ended(session_id, lines)
            self._set_kept(session_id, kept)
        for session_id, tasks in self._tasks_before.items():
            for task_id, raw in tasks.items():
                self._set_task(session_id, task_id, raw)
        for session_id in changed:
            self.loaded.pop(session_id, None)
        self.committed()
        self.changed = []
        self._pending = []
        return list(changed)

    # Records, and what they take

    def _set_row(self, session_id: str, raw: bytes | None) -> None:
        before = self._rows.get(session_id)
        if before is not None:
            self.row_bytes -= len(before)
        if raw is None:
            self._rows.pop(session_id, None)
        else:
            self._rows[session_id] = raw
            self.row_bytes += len(raw)

    def _set_task(self, session_id: str, task_id: str, raw: bytes | None) -> None:
        tasks = self._tasks.get(session_id)
        if tasks is None:
            tasks = self._tasks[session_id] = {}
        before = tasks.pop(task_id, None)
        if before is not None:
            self.row_bytes -= len(before)
        if raw is not None:
            tasks[task_id] = raw
            self.row_bytes += len(raw)
        elif not tasks:
            del self._tasks[session_id]

    def _set_ended(self, session_id: str, lines: bytes) -> None:
        before = self._ended.get(session_id)
        if before is None:
            if not lines:
                return
        else:
            self.ended_bytes -= len(before)
        if lines:
            self._ended[session_id] = lines
            self.ended_bytes += len(lines)
        else:
            self._ended.pop(session_id, None)

    def _set_kept(self, session_id: str, kept: Kept | None) -> None:
        before = self._kept.pop(session_id, None)
        if before is not None:
            self.waiting_bytes -= before.size_bytes
            self.waiting_count -= before.count
        if kept is not None:
            self._kept[session_id] = kept
            self.waiting_bytes += kept.size_bytes
            self.waiting_count += kept.count

    # Restoring

    def restore(self, key: bytes, value: bytes | None) -> None:
        """Take over one changelog record. Later records of a key replace earlier ones; None removes it.

        Raises `UnknownFormatError` for the row of another version.
        """
        kind, name = key[:1], key[1:]
        if kind == SESSION_KEY:
            if value is not None:
                head_from_bytes(value)
            self._set_row(name.decode(), value)
        elif kind == TASK_KEY:
            session_id, task_id = orjson.loads(name)
            self._set_task(session_id, task_id, value)
        elif kind == ENDED_KEY:
            session_id, task_id = orjson.loads(name)
            if value is not None:
                ended.check_format(value)
            lines = ended.without(self._ended.get(session_id, b""), task_id)
            self._set_ended(session_id, lines if value is None else lines + value)
        elif kind == WAITING_KEY:
            if value is None:
                self._restoring.pop(name, None)
            else:
                self._restoring[name] = value

    def settle(self) -> None:
        """Put what waits in its place once everything is restored.

        Raises `ValueError` if a row and the records of its tasks do not belong together.
        """
        found: list[tuple[WaitingFor, Arrived]] = []
        for name, raw in self._restoring.items():
            waiting_for, event = from_bytes(name, raw, self._number)
            event.kept_as = WAITING_KEY + name
            found.append((waiting_for, event))
        self._restoring = {}
        found.sort(key=_time_and_offset)
        for waiting_for, event in found:
            session_id, task_id = event.session_id, event.task_id
            kept = self._kept.get(session_id)
            if kept is None:
                kept = self._kept[session_id] = Kept()
            kept.size_bytes += event.size_bytes
            self.waiting_bytes += event.size_bytes
            if waiting_for == "result" and event.undecided is None:
                kept.waiting[task_id] = event
                kept.count += 1
                self.waiting_count += 1
            elif waiting_for == "unknown" and not self._is_known_task(session_id, task_id):
                kept.parked.setdefault(task_id, Parked()).add(event)
                kept.count += not event.is_proposal
                self.waiting_count += not event.is_proposal
            else:
                kept.queued[event.kept_as or b""] = event
        self.loaded = {}  # they were decoded before all of their events were there

    def session_ids_with_timers(self) -> list[str]:
        """Every session of which something may fall due, as last written."""
        found: list[str] = []
        for session_id, raw in self._rows.items():
            head = head_from_bytes(raw)
            if head.open_tasks or head.has_extras:
                found.append(session_id)
        return found

    def kept_of(self, session_id: str) -> Kept | None:
        """The committed events of a session that wait."""
        return self._kept.get(session_id)

    def sessions_with_waiting(self) -> list[str]:
        """Sessions of which events wait."""
        return list(self._kept)

    def _is_known_task(self, session_id: str, task_id: str) -> bool:
        if ended.find(self._ended.get(session_id, b""), task_id) is not None:
            return True
        session = self.known(session_id)
        return session is not None and task_id in session.tasks


def _time_and_offset(found: tuple[WaitingFor, Arrived]) -> tuple[int, int]:
    return found[1].timestamp, found[1].offset


def _has_indexed(sessions: list[Session]) -> bool:
    return any(session.index is not None for session in sessions)
